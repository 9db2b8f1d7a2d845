//! What `/proc` says of a process.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// Processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_ascii_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    children
}

/// The readers of the rprofd whose core is `core`: its children that run the same executable.
pub fn readers(core: u32) -> Vec<u32> {
    let Ok(exe) = fs::read_link(format!("/proc/{core}/exe")) else { return Vec::new() };
    let is_reader =
        |child: &u32| fs::read_link(format!("/proc/{child}/exe")).is_ok_and(|path| path == exe);
    children(core).into_iter().filter(is_reader).collect()
}

/// Proportional set size, in bytes; 0 once the process has ended.
pub fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|n| n.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// CPU time that the threads alive have used, in nanoseconds; 0 once the process has ended.
pub fn cpu_time_ns(pid: u32) -> u64 {
    cpu_time_of_threads_ns(pid, |_| true)
}

/// CPU time that those of its threads have used whose comm `is_meant`, in nanoseconds.
pub fn cpu_time_of_threads_ns(pid: u32, is_meant: impl Fn(&str) -> bool) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            if !is_meant(comm.trim_end()) {
                return None;
            }
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_ascii_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

/// What `/proc/PID/comm` says.
pub fn comm(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Looks every 2 ms until `probe` finds something; for what announces itself nowhere.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        thread::sleep(Duration::from_millis(2));
    }
}
