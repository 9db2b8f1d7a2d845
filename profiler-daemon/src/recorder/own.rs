//! What rprofd itself takes and has done: figures for those who watch it.

use std::fs;

/// Hundredths of a second: the unit of times in `/proc/PID/stat` (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// Figures of a recording, since it began unless something else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// CPU time of the core and of readers, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time of the BPF program that takes samples, in nanoseconds: one run in 64 is timed.
    pub bpf_ns: u64,
    /// What the core and its readers have in memory now and share with nobody, in bytes: BPF maps,
    /// which the kernel has, and files that are mapped are not in it.
    pub memory_bytes: u64,
    /// Readers that were started.
    pub readers: u32,
    /// Processes that are known now.
    pub processes: usize,
    /// Files that are not read any more, now: they cost readers their lives or time.
    pub refused_files: usize,
    /// Addresses that were named.
    pub named: u64,
    /// Unwind tables that came from the cache.
    pub tables_cached: u64,
    /// Unwind tables that were made.
    pub tables_made: u64,
    /// Unwind tables that were dropped for want of room.
    pub tables_dropped: u64,
    /// What is set aside for unwind tables in the kernel now, in bytes.
    pub tables_bytes: u64,
    /// The rate in force now, in Hz.
    pub hertz: u64,
    /// What is given up now, to keep a limit: 0 is nothing.
    pub shed: u32,
}

/// What some processes take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) cpu_ns: u64,
    pub(super) memory_bytes: u64,
}

impl Usage {
    /// That of this process, of its children that have ended, and of `readers`.
    pub(super) fn now(readers: impl Iterator<Item = u32>) -> Self {
        let of = |process: &str| {
            let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).ok();
            let cpu_ns = read("stat").and_then(|text| cpu_ns(&text)).unwrap_or_default();
            let memory_bytes = read("status").and_then(|text| anonymous_bytes(&text));
            Self { cpu_ns, memory_bytes: memory_bytes.unwrap_or_default() }
        };
        readers.map(|pid| of(&pid.to_string())).fold(of("self"), |sum, reader| Self {
            cpu_ns: sum.cpu_ns + reader.cpu_ns,
            memory_bytes: sum.memory_bytes + reader.memory_bytes,
        })
    }
}

/// The CPU time in `/proc/PID/stat`, that of children which have ended included: `proc_pid_stat(5)`.
fn cpu_ns(text: &str) -> Option<u64> {
    // The name, which may be anything, ends at the last parenthesis; the state is field 3.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks: u64 = (14..=17).map(field).sum::<Option<u64>>()?;
    Some(ticks * TICK_NS)
}

/// Memory that no file is behind, in `/proc/PID/status`.
fn anonymous_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_of_a_process() {
        let text = "7 (a) b)) S 1 7 7 0 -1 4194560 9 0 0 0 11 12 13 14 20 0 1 0 5 99 3 1 1\n";
        assert_eq!(cpu_ns(text), Some(50 * TICK_NS));
        assert_eq!(cpu_ns("7 (a) S 1"), None);
        let text = "Name:\tx\nVmRSS:\t    9000 kB\nRssAnon:\t    5120 kB\nRssFile:\t 1 kB\n";
        assert_eq!(anonymous_bytes(text), Some(5 << 20));
        assert!(Usage::now(std::iter::empty()).memory_bytes > 0);
    }
}
