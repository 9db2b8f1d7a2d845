//! What the machine allows: the kernel, our rights, its settings, who else profiles.

use std::{fs, path::Path};

use rustix::thread::CapabilitySet;

use super::finding::Finding;
use crate::{
    kernel::{
        self, Event, Sampler,
        defects::{self, LeaveOut, Version},
    },
    process::Filter,
    reader::probe,
    rights,
};

/// The oldest kernel that is supported.
const FLOOR: Version = Version(6, 1, 0);

/// Frequencies that are asked for: usually, and at most, in Hz.
const USUAL_HERTZ: u64 = 99;
const HIGHEST_HERTZ: u64 = 10_000;

/// Looks at everything.
pub(super) fn examine(debug_dirs: &[std::path::PathBuf]) -> Vec<Finding> {
    let version = Version::upstream();
    let read = |path: &str| fs::read_to_string(path).ok();
    let number = |path: &str| read(path).and_then(|text| text.trim().parse::<i64>().ok());
    let mut findings = vec![kernel(version)];
    findings.extend(defects::of(version).map(defect));
    findings.push(btf(Path::new("/sys/kernel/btf/vmlinux").exists()));
    findings.push(lockdown(read("/sys/kernel/security/lockdown").as_deref()));
    findings.push(capabilities(rights::held()));
    findings.push(pid_namespace(kernel::is_initial_pid_namespace().unwrap_or(false)));
    findings.extend(paranoid(number("/proc/sys/kernel/perf_event_paranoid"), rights::held()));
    findings.push(kptr_restrict(number("/proc/sys/kernel/kptr_restrict"), rights::held()));
    findings.push(sample_rate(number("/proc/sys/kernel/perf_event_max_sample_rate")));
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    findings.push(clock_source(read(clock).as_deref()));
    findings.push(cycles(kernel::has_cycles()));
    findings.push(debug_directory(debug_dirs));
    findings.push(others(&other_profilers()));
    findings.push(readers(debug_dirs));
    findings.push(sampling());
    findings
}

fn kernel(version: Option<Version>) -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version {
        Some(version) if version < FLOOR => Finding::note(
            "kernel",
            format!("{release}, older than {}.{}", FLOOR.0, FLOOR.1),
            "“sampling” below says whether it has what is needed; if not, update the kernel",
        ),
        Some(version) if !release.starts_with(&version.to_string()) => {
            Finding::ok("kernel", format!("{release} (Linux {version})"))
        }
        Some(_) => Finding::ok("kernel", release),
        None => {
            Finding::ok("kernel", format!("{release}, whose version says nothing of its state"))
        }
    }
}

fn defect(defect: &defects::Defect) -> Finding {
    let without = match defect.leave_out {
        LeaveOut::UserStacks => "user stacks are left out",
        LeaveOut::HighFrequencies => "frequencies near the kernel's limit are lowered",
        LeaveOut::Nothing => "nothing is left out for it",
    };
    Finding::note(
        "known defect",
        format!("{}; {without}", defect.what),
        format!("update to {} or later (“{}”)", defect.fixed(), defect.fix),
    )
}

fn btf(exists: bool) -> Finding {
    if exists {
        return Finding::ok("BTF", "/sys/kernel/btf/vmlinux");
    }
    Finding::bad(
        "BTF",
        "no /sys/kernel/btf/vmlinux",
        "boot a kernel built with CONFIG_DEBUG_INFO_BTF, or mount /sys where rprofd runs",
    )
}

/// `[none] integrity confidentiality`: what is in brackets is in force.
fn lockdown(text: Option<&str>) -> Finding {
    let Some(text) = text else {
        return Finding::ok("lockdown", "not known: no /sys/kernel/security/lockdown");
    };
    let mode = text.split_whitespace().find_map(|it| it.strip_prefix('[')?.strip_suffix(']'));
    match mode {
        Some("confidentiality") => Finding::bad(
            "lockdown",
            "confidentiality: BPF programs may not read the kernel's memory, nor perf sample it",
            "boot without lockdown=confidentiality; lockdown=integrity is enough for most and does \
             not hinder rprofd",
        ),
        Some(mode) => Finding::ok("lockdown", mode),
        None => Finding::ok("lockdown", format!("not known: {}", text.trim())),
    }
}

/// What the lack of each capability costs; the first two are needed.
const COSTS: [(CapabilitySet, &str, &str); 9] = [
    (CapabilitySet::BPF, "CAP_BPF", "nothing can be recorded"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "nothing can be recorded"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "other users' programs have no names"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "files that we may not read have none"),
    (
        CapabilitySet::CHECKPOINT_RESTORE,
        "CAP_CHECKPOINT_RESTORE",
        "files that were deleted or replaced have none",
    ),
    (CapabilitySet::SYSLOG, "CAP_SYSLOG", "the kernel has none where kptr_restrict is 1"),
    (CapabilitySet::SETUID, "CAP_SETUID", "the readers stay the user that rprofd is"),
    (CapabilitySet::SETGID, "CAP_SETGID", "the readers stay in the groups that rprofd is in"),
    (CapabilitySet::CHOWN, "CAP_CHOWN", "files are not handed to the user who called sudo"),
];

fn capabilities(held: CapabilitySet) -> Finding {
    const WHAT: &str = "capabilities";
    let missing: Vec<_> = COSTS.iter().filter(|(one, ..)| !held.contains(*one)).collect();
    if missing.is_empty() {
        return Finding::ok(WHAT, "all");
    }
    let costs: Vec<_> =
        missing.iter().map(|(_, name, cost)| format!("without {name} {cost}")).collect();
    let found = costs.join("; ");
    if rights::may_sample(held) {
        Finding::note(WHAT, found, rights::mend())
    } else {
        Finding::bad(WHAT, found, rights::mend())
    }
}

fn pid_namespace(is_initial: bool) -> Finding {
    if is_initial {
        return Finding::ok("pid namespace", "the initial one");
    }
    Finding::bad(
        "pid namespace",
        "one of its own, where the kernel's pids mean nothing",
        "start rprofd on the host, or its container with --pid=host (Kubernetes: hostPID: true)",
    )
}

fn paranoid(value: Option<i64>, held: CapabilitySet) -> Option<Finding> {
    let value = value?;
    let found = format!("perf_event_paranoid={value}");
    if rights::may_sample(held) {
        return Some(Finding::ok("perf events", format!("{found}, which does not concern us")));
    }
    Some(Finding::note(
        "perf events",
        format!("{found}; a lower value would not do, since samples run a BPF program"),
        rights::mend(),
    ))
}

fn kptr_restrict(value: Option<i64>, held: CapabilitySet) -> Finding {
    const WHAT: &str = "kernel names";
    let sysctl = "sudo sysctl kernel.kptr_restrict=";
    match value {
        Some(2..) => Finding::note(
            WHAT,
            "hidden from everybody: kptr_restrict=2",
            format!("{sysctl}1 shows them to rprofd and root alone"),
        ),
        Some(1) if !held.contains(CapabilitySet::SYSLOG) => Finding::note(
            WHAT,
            "kptr_restrict=1 hides them from who has no CAP_SYSLOG",
            format!("{}, or {sysctl}0", rights::mend()),
        ),
        Some(value) => Finding::ok(WHAT, format!("kptr_restrict={value}")),
        None => Finding::ok(WHAT, "not known"),
    }
}

fn sample_rate(limit: Option<i64>) -> Finding {
    const WHAT: &str = "highest frequency";
    let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()) else {
        return Finding::ok(WHAT, "not known");
    };
    let found = format!("perf_event_max_sample_rate={limit}");
    let mend = |hertz: u64| format!("sudo sysctl kernel.perf_event_max_sample_rate={hertz}");
    if limit < USUAL_HERTZ {
        Finding::bad(WHAT, format!("{found}, less than the usual {USUAL_HERTZ}"), mend(100_000))
    } else if limit < HIGHEST_HERTZ {
        Finding::note(WHAT, format!("{found}, less than -F allows"), mend(100_000))
    } else {
        Finding::ok(WHAT, found)
    }
}

fn clock_source(name: Option<&str>) -> Finding {
    const WHAT: &str = "clock source";
    match name.map(str::trim) {
        Some(name @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies")) => Finding::note(
            WHAT,
            format!("{name}, which is slow to read; each sample reads it"),
            "let the machine use its CPU's counter (tsc), if it is reliable: see `dmesg | grep -i \
             clocksource`",
        ),
        Some(name) => Finding::ok(WHAT, name),
        None => Finding::ok(WHAT, "not known"),
    }
}

fn cycles(there: bool) -> Finding {
    Finding::ok(
        "cycle counter",
        if there { "there, for --event cycles" } else { "none, as on most virtual machines" },
    )
}

fn debug_directory(dirs: &[std::path::PathBuf]) -> Finding {
    const WHAT: &str = "debug files";
    let shown = |dirs: Vec<&std::path::PathBuf>| {
        dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    let there: Vec<_> = dirs.iter().filter(|dir| dir.is_dir()).collect();
    if there.is_empty() {
        return Finding::note(
            WHAT,
            format!("no {}", shown(dirs.iter().collect())),
            "`rprofd doctor --pid PID` says which packages have those of a process",
        );
    }
    Finding::ok(WHAT, shown(there))
}

/// Comms of programs that profile with perf events or BPF.
const PROFILERS: [&str; 12] = [
    "alloy",
    "async-profiler",
    "bpftrace",
    "ebpf-profiler",
    "lightswitch",
    "otel-profiler",
    "otelcol-ebpf-pr",
    "parca-agent",
    "perf",
    "profile-bee",
    "pyroscope",
    "rprofd",
];

/// Processes that are profilers by their name, we left out.
fn other_profilers() -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<(u32, String)> = entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // The kernel's own text of a name, not the process's memory.
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let comm = comm.trim_end().to_owned();
            let is_ours = pid == std::process::id();
            (!is_ours && PROFILERS.contains(&comm.as_str())).then_some((pid, comm))
        })
        .collect();
    found.sort_unstable();
    found
}

fn others(found: &[(u32, String)]) -> Finding {
    const WHAT: &str = "other profilers";
    if found.is_empty() {
        return Finding::ok(WHAT, "none");
    }
    let names: Vec<_> = found.iter().map(|(pid, comm)| format!("{comm} ({pid})")).collect();
    Finding::note(
        WHAT,
        format!(
            "{}; they and rprofd do not disturb each other, but each takes time",
            names.join(", ")
        ),
        "stop what is not needed",
    )
}

fn readers(debug_dirs: &[std::path::PathBuf]) -> Finding {
    const WHAT: &str = "readers";
    match probe::start(debug_dirs) {
        Ok(()) => Finding::ok(WHAT, "start, enter their sandbox and answer"),
        Err(why) => Finding::bad(
            WHAT,
            why,
            "the kernel needs CONFIG_SECCOMP_FILTER, and rprofd /proc and a second process",
        ),
    }
}

/// Loads the programs and opens the events, as a recording does.
fn sampling() -> Finding {
    const WHAT: &str = "sampling";
    let settings = kernel::Settings {
        hertz: USUAL_HERTZ,
        event: Event::CpuClock,
        mode: profiler_ebpf::targets::Mode::Listed,
        follow: Filter::default().follow,
        kernel_stacks: true,
        user_stacks: true,
        unwind_memory_bytes: 1 << 20,
        log: false,
    };
    match Sampler::new(settings) {
        Ok(sampler) => {
            Finding::ok(WHAT, format!("programs load, {} CPUs can be sampled", sampler.cpus()))
        }
        Err(error) if error.is_permission() => {
            Finding::bad(WHAT, error.to_string(), rights::mend())
        }
        Err(error) => Finding::bad(
            WHAT,
            error.to_string(),
            "see docs/troubleshooting.md for this message; if the kernel is 6.1 or later, report it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    #[test]
    fn what_is_in_brackets_is_in_force() {
        let mark = |text| lockdown(Some(text)).mark;
        assert_eq!(mark("[none] integrity confidentiality\n"), Mark::Ok);
        assert_eq!(mark("none [integrity] confidentiality\n"), Mark::Ok);
        assert_eq!(mark("none integrity [confidentiality]\n"), Mark::Bad);
        assert_eq!(lockdown(None).mark, Mark::Ok);
    }

    #[test]
    fn each_missing_capability_has_its_cost() {
        assert_eq!(capabilities(CapabilitySet::all()).mark, Mark::Ok);
        for (one, name, cost) in COSTS {
            // Else CAP_SYS_ADMIN stands for both that sampling needs.
            let held = CapabilitySet::all().difference(one | CapabilitySet::SYS_ADMIN);
            let finding = capabilities(held);
            assert_eq!(finding.found, format!("without {name} {cost}"));
            let needed = one == CapabilitySet::BPF || one == CapabilitySet::PERFMON;
            assert_eq!(finding.mark, if needed { Mark::Bad } else { Mark::Note }, "{name}");
        }
    }

    #[test]
    fn settings_are_judged_by_what_we_hold() {
        let (all, none) = (CapabilitySet::all(), CapabilitySet::empty());
        assert_eq!(kptr_restrict(Some(2), all).mark, Mark::Note);
        assert_eq!(kptr_restrict(Some(1), all).mark, Mark::Ok);
        assert_eq!(kptr_restrict(Some(1), none).mark, Mark::Note);
        assert_eq!(paranoid(Some(4), all).unwrap().mark, Mark::Ok);
        assert_eq!(paranoid(Some(4), none).unwrap().mark, Mark::Note);
        assert_eq!(sample_rate(Some(98)).mark, Mark::Bad);
        assert_eq!(sample_rate(Some(4000)).mark, Mark::Note);
        assert_eq!(sample_rate(Some(100_000)).mark, Mark::Ok);
        assert_eq!(clock_source(Some("hpet\n")).mark, Mark::Note);
        assert_eq!(clock_source(Some("tsc\n")).mark, Mark::Ok);
        assert_eq!(kernel(Some(Version(5, 15, 0))).mark, Mark::Note);
    }
}
