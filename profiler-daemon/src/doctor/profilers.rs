//! Other profilers that run.

use std::{fs, path::Path};

use super::finding::Finding;

/// File names of programs that profile others.
const PROFILERS: [&str; 15] = [
    "alloy",
    "asprof",
    "async-profiler",
    "bpftrace",
    "ebpf-profiler",
    "lightswitch",
    "opentelemetry-ebpf-profiler",
    "otel-profiler",
    "otelcol-ebpf-profiler",
    "parca-agent",
    "perf",
    "profile-bee",
    "pyroscope",
    "rprofd",
    "samply",
];

/// As many bytes of a name does the kernel keep (`TASK_COMM_LEN` without the zero at its end).
const COMM_BYTES: usize = 15;

/// The comm of rprofd's helper processes, which are not told of beside rprofd.
const HELPER: &str = "rprofd-reader";

/// The profiler that a process is, by its comm and the file name of its program, which is empty where
/// it is not known.
fn profiler(comm: &str, program: &str) -> Option<&'static str> {
    if comm == HELPER {
        return None;
    }
    // A comm that was cut stands for its program's name alone, if that is known.
    let is_cut = comm.len() == COMM_BYTES;
    let says_more = is_cut && program.starts_with(comm);
    let is = |name: &&&str| {
        let by_comm = comm == **name || is_cut && name.starts_with(comm);
        program == **name || by_comm && !says_more
    };
    PROFILERS.iter().find(is).copied()
}

/// Processes that are profilers by their names, we left out.
pub(super) fn running() -> Vec<(u32, &'static str)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            if pid == std::process::id() {
                return None;
            }
            // Both are the kernel's own text: no file and no memory of the process is touched.
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let program = file_name(&program.to_string_lossy());
            Some((pid, profiler(comm.trim_end_matches('\n'), &program)?))
        })
        .collect();
    found.sort_unstable();
    found
}

/// The file name of a program, which may have been deleted.
fn file_name(path: &str) -> String {
    let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(path));
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn finding(found: &[(u32, &str)]) -> Finding {
    const WHAT: &str = "other profilers";
    if found.is_empty() {
        return Finding::ok(WHAT, "none");
    }
    let names: Vec<_> = found.iter().map(|(pid, name)| format!("{name} ({pid})")).collect();
    let pids: Vec<_> = found.iter().map(|(pid, _)| pid.to_string()).collect();
    Finding::note(
        WHAT,
        format!(
            "{}; they and rprofd do not disturb each other, but each takes time",
            names.join(", ")
        ),
        format!("sudo kill {} ends them, if they are not needed", pids.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    #[test]
    fn profilers_are_known_by_comm_and_by_program() {
        assert_eq!(profiler("perf", ""), Some("perf"));
        assert_eq!(profiler("worker-1", "asprof"), Some("asprof"));
        assert_eq!(profiler("parca-agent", "app"), Some("parca-agent"));
        for none in
            [("perfect", "perfect"), ("bash", "bash"), ("", ""), ("rprofd-reader", "rprofd")]
        {
            assert_eq!(profiler(none.0, none.1), None, "{none:?}");
        }
    }

    #[test]
    fn a_comm_that_is_cut_is_not_taken_for_another() {
        let name = "opentelemetry-ebpf-profiler";
        assert_eq!(&name[..COMM_BYTES], "opentelemetry-e");
        assert_eq!(profiler("opentelemetry-e", ""), Some(name));
        assert_eq!(profiler("opentelemetry-e", name), Some(name));
        assert_eq!(profiler("opentelemetry-e", "opentelemetry-exporter"), None);
        assert_eq!(profiler("opentelemetry-e", "main"), Some(name));
        assert_eq!(profiler("otelcol-ebpf-pr", ""), Some("otelcol-ebpf-profiler"));
        assert_eq!(profiler("opentelemetry", ""), None, "it is not cut");
    }

    #[test]
    fn names_of_programs() {
        assert_eq!(file_name("/opt/x/asprof"), "asprof");
        assert_eq!(file_name("/opt/x/perf (deleted)"), "perf");
        assert_eq!(file_name(""), "");
    }

    #[test]
    fn those_that_are_found_are_named_with_what_ends_them() {
        assert_eq!(finding(&[]).mark, Mark::Ok);
        let two = finding(&[(7, "perf"), (9, "asprof")]);
        assert!(two.found.starts_with("perf (7), asprof (9);"), "{}", two.found);
        assert!(two.mend.unwrap().starts_with("sudo kill 7 9 "));
    }
}
