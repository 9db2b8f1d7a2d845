//! What the machine allows: the kernel, our rights, its settings, who else profiles.

use std::{fs, path::Path};

use rustix::thread::CapabilitySet;

use super::{
    access,
    finding::Finding,
    perf_limits::{self, LockedMemory, USUAL_HERTZ},
    profilers,
};
use crate::{
    cgroup::{self, MemoryCgroup},
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

/// Looks at everything.
pub(super) fn examine(debug_dirs: &[std::path::PathBuf]) -> Vec<Finding> {
    let version = Version::upstream();
    let read = |path: &str| fs::read_to_string(path).ok();
    let number = |path: &str| read(path).and_then(|text| text.trim().parse::<i64>().ok());
    let held = rights::held();
    let mut findings = vec![kernel(version)];
    findings.extend(known_defects(version));
    findings.push(btf(Path::new("/sys/kernel/btf/vmlinux").exists()));
    findings.push(lockdown(read("/sys/kernel/security/lockdown").as_deref()));
    findings.push(capabilities(held));
    findings.push(pid_namespace(kernel::is_initial_pid_namespace().unwrap_or(false)));
    findings.push(access::yama(number("/proc/sys/kernel/yama/ptrace_scope")));
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    findings.push(access::hidden_processes(&mounts, held));
    findings.push(access::map_files(&access::open_own_mapping(), held));
    let paranoid_level = number("/proc/sys/kernel/perf_event_paranoid");
    findings.extend(paranoid(paranoid_level, held));
    findings.push(kptr_restrict(number("/proc/sys/kernel/kptr_restrict"), held));
    let percent = number("/proc/sys/kernel/perf_cpu_time_max_percent");
    let sample_rate = number("/proc/sys/kernel/perf_event_max_sample_rate");
    findings.push(perf_limits::sample_rate(sample_rate, percent));
    findings.push(perf_limits::cpu_time(percent));
    let mlock_kib = number("/proc/sys/kernel/perf_event_mlock_kb");
    findings.push(LockedMemory::new(mlock_kib, paranoid_level).judge(held));
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    findings.push(clock_source(read(clock).as_deref()));
    findings.push(cycles(kernel::has_cycles()));
    findings.push(debug_directory(debug_dirs));
    findings.push(memory(MemoryCgroup::own().map(|own| own.limit_bytes)));
    findings.push(profilers::finding(&profilers::running()));
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

const DEFECTS: &str = "known defects";

/// A line for each that the kernel has, whatever is left out for it; one that says there is none.
fn known_defects(version: Option<Version>) -> Vec<Finding> {
    let Some(kernel) = version else {
        let why = "not judged: the vendor of this kernel takes changes from all later ones";
        return vec![Finding::ok(DEFECTS, why)];
    };
    let found: Vec<_> = defects::of(version).map(defect).collect();
    if found.is_empty() {
        return vec![Finding::ok(DEFECTS, format!("none in Linux {kernel}"))];
    }
    found
}

fn defect(defect: &defects::Defect) -> Finding {
    let without = match defect.leave_out {
        LeaveOut::UserStacks => "user stacks are left out",
        LeaveOut::HighFrequencies => "frequencies near the kernel's limit are lowered",
        LeaveOut::Nothing => "nothing is left out for it",
    };
    let (fixed, fix, commit) = (defect.fixed(), defect.fix, defect.commit);
    Finding::note(
        DEFECTS,
        format!("{}; {without}", defect.what),
        format!(
            "update the kernel to {fixed} or later, or one with the change “{fix}” ({commit}): \
             --ignore-defects says that it has it"
        ),
    )
}

fn btf(exists: bool) -> Finding {
    if exists {
        return Finding::ok("BTF", "/sys/kernel/btf/vmlinux");
    }
    Finding::bad(
        "BTF",
        "no /sys/kernel/btf/vmlinux",
        "mount /sys where rprofd runs, or boot a kernel built with CONFIG_DEBUG_INFO_BTF=y: `grep \
         BTF= /boot/config-*` says which are",
    )
}

/// What rprofd may have in memory, by its own cgroup.
fn memory(limit_bytes: Option<u64>) -> Finding {
    const WHAT: &str = "memory";
    let Some(limit) = limit_bytes else {
        return Finding::ok(WHAT, "no limit of a cgroup");
    };
    let found = format!("the cgroup that this runs in allows {} MiB", limit >> 20);
    if limit >= cgroup::ENOUGH_BYTES {
        return Finding::ok(WHAT, found);
    }
    let fewest = cgroup::LEAST_BYTES >> 20;
    let found = format!("{found}: below {fewest} the kernel ends it, below 128 names come late");
    let mend = "raise memory.max of that cgroup (systemd: MemoryMax=, Kubernetes: limits.memory) to \
                128 MiB or more";
    Finding::note(WHAT, found, mend)
}

/// `[none] integrity confidentiality`: what is in brackets is in force.
fn lockdown(text: Option<&str>) -> Finding {
    let Some(text) = text else {
        return Finding::ok("lockdown", "none in this kernel, or securityfs is not mounted");
    };
    let mode = text.split_whitespace().find_map(|it| it.strip_prefix('[')?.strip_suffix(']'));
    match mode {
        Some("confidentiality") => Finding::bad(
            "lockdown",
            "confidentiality: BPF programs may not read the kernel's memory, nor perf sample it",
            "take lockdown=confidentiality off the kernel's command line (`cat /proc/cmdline`; with \
             GRUB: edit /etc/default/grub, then sudo update-grub) and reboot; lockdown=integrity does \
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
        may_wait: false,
        hertz: USUAL_HERTZ,
        most_hertz: USUAL_HERTZ,
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
    fn little_memory_is_said() {
        let mark = |mebibytes: Option<u64>| memory(mebibytes.map(|it| it << 20)).mark;
        assert_eq!((mark(None), mark(Some(128))), (Mark::Ok, Mark::Ok));
        assert_eq!(mark(Some(127)), Mark::Note);
    }

    #[test]
    fn what_stops_recording_names_what_to_do() {
        assert_eq!(btf(true).mark, Mark::Ok);
        let missing = btf(false);
        assert_eq!(missing.mark, Mark::Bad);
        assert!(missing.mend.unwrap().contains("CONFIG_DEBUG_INFO_BTF=y"));
        let locked = lockdown(Some("none integrity [confidentiality]\n"));
        assert!(locked.mend.unwrap().contains("take lockdown=confidentiality off"));
        assert!(pid_namespace(false).mend.unwrap().contains("--pid=host"));
    }

    #[test]
    fn each_defect_has_a_line_with_the_version_and_the_change() {
        let lines = known_defects(Some(Version(6, 17, 6)));
        assert_eq!(lines.len(), 2);
        let mends: Vec<_> = lines.into_iter().map(|line| line.mend.unwrap()).collect();
        assert!(mends[0].contains("6.17.8") && mends[0].contains("eb3182ef0405"), "{mends:?}");
        assert!(mends[1].contains("6.17.10") && mends[1].contains("f1f96511b1c4"), "{mends:?}");
        let stacks = &known_defects(Some(Version(6, 1, 35)))[0];
        assert!(stacks.found.ends_with("; user stacks are left out"), "{}", stacks.found);
        for version in [None, Some(Version(6, 18, 44))] {
            let lines = known_defects(version);
            assert_eq!((lines.len(), lines[0].mark), (1, Mark::Ok));
        }
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
        assert_eq!(clock_source(Some("hpet\n")).mark, Mark::Note);
        assert_eq!(clock_source(Some("tsc\n")).mark, Mark::Ok);
        assert_eq!(kernel(Some(Version(5, 15, 0))).mark, Mark::Note);
    }
}
