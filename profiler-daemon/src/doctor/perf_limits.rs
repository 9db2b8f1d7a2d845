//! The kernel's limits on perf events: how often they sample, and how much memory they lock.

use rustix::{
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};

use super::finding::Finding;
use crate::kernel;

/// Frequencies that are asked for: usually, and at most, in Hz.
pub(super) const USUAL_HERTZ: u64 = 99;
const HIGHEST_HERTZ: u64 = 10_000;

/// The kernel's own default of `perf_cpu_time_max_percent`.
const DEFAULT_PERCENT: i64 = 25;

/// What the highest frequency takes where a sample takes 10 µs, as one with a deep stack does.
const HIGHEST_PERCENT: i64 = 10;

/// What is asked for where the limit is too low, in Hz: the kernel's own default.
const DEFAULT_LIMIT_HERTZ: u64 = 100_000;

/// Whether the kernel leaves `perf_event_max_sample_rate` alone, and refuses to have it changed
/// (`perf_event_max_sample_rate_handler`, `kernel/events/core.c`).
fn is_unwatched(percent: i64) -> bool {
    matches!(percent, 0 | 100)
}

/// `kernel.perf_event_max_sample_rate`, and what raises it where `kernel.perf_cpu_time_max_percent`
/// is `percent`.
pub(super) fn sample_rate(limit: Option<i64>, percent: Option<i64>) -> Finding {
    const WHAT: &str = "highest frequency";
    let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()) else {
        return Finding::ok(WHAT, "not known");
    };
    let found = format!("perf_event_max_sample_rate={limit}");
    let first = if percent.is_some_and(is_unwatched) {
        format!(" kernel.perf_cpu_time_max_percent={DEFAULT_PERCENT}")
    } else {
        String::new()
    };
    let mend =
        format!("sudo sysctl{first} kernel.perf_event_max_sample_rate={DEFAULT_LIMIT_HERTZ}");
    if limit < USUAL_HERTZ {
        Finding::bad(WHAT, format!("{found}, less than the usual {USUAL_HERTZ}"), mend)
    } else if limit < HIGHEST_HERTZ {
        Finding::note(WHAT, format!("{found}, less than -F allows"), mend)
    } else {
        Finding::ok(WHAT, found)
    }
}

/// `kernel.perf_cpu_time_max_percent`: the share of a CPU's time that samples of hardware events may
/// take before the kernel lowers the highest frequency, for all events (`perf_sample_event_took`,
/// `kernel/events/core.c`).
pub(super) fn cpu_time(percent: Option<i64>) -> Finding {
    const WHAT: &str = "time for samples";
    let Some(percent) = percent else { return Finding::ok(WHAT, "not known") };
    let found = format!("perf_cpu_time_max_percent={percent}");
    if is_unwatched(percent) {
        return Finding::ok(WHAT, format!("{found}: the kernel does not limit it"));
    }
    if percent >= HIGHEST_PERCENT {
        return Finding::ok(WHAT, found);
    }
    Finding::note(
        WHAT,
        format!(
            "{found}: where samples of --event cycles, or another profiler's, take more of a CPU's \
             time, the kernel lowers the highest frequency, and samples beyond it are missed"
        ),
        format!("sudo sysctl kernel.perf_cpu_time_max_percent={DEFAULT_PERCENT}"),
    )
}

/// What the kernel says of memory that is locked for perf events' rings.
pub(super) struct LockedMemory {
    /// `kernel.perf_event_mlock_kb`: for each CPU and user, in KiB.
    pub(super) mlock_kib: Option<i64>,
    /// `kernel.perf_event_paranoid`.
    pub(super) paranoid: Option<i64>,
    /// `RLIMIT_MEMLOCK`, which is drawn on beyond that, in bytes; `None`: there is none.
    pub(super) limit_bytes: Option<u64>,
    pub(super) cpus: u64,
}

impl LockedMemory {
    pub(super) fn new(mlock_kib: Option<i64>, paranoid: Option<i64>) -> Self {
        let limit_bytes = getrlimit(Resource::Memlock).current;
        let cpus = kernel::online_cpus().unwrap_or(1) as u64;
        Self { mlock_kib, paranoid, limit_bytes, cpus }
    }

    /// Whether a ring for each CPU fits (`perf_mmap`, `kernel/events/core.c`). Memory of BPF maps is
    /// no matter of it since Linux 5.11, which charges it to the cgroup.
    pub(super) fn judge(&self, held: CapabilitySet) -> Finding {
        const WHAT: &str = "locked memory";
        let Some(mlock_kib) = self.mlock_kib.and_then(|kib| u64::try_from(kib).ok()) else {
            return Finding::ok(WHAT, "not known");
        };
        let ring_kib = (kernel::ring_bytes() as u64).div_ceil(1024);
        let found =
            format!("rprofd takes {ring_kib} KiB for each CPU; perf_event_mlock_kb={mlock_kib}");
        let beyond_kib = ring_kib.saturating_sub(mlock_kib).saturating_mul(self.cpus);
        let Some(limit_kib) = self.limit_bytes.map(|bytes| bytes / 1024) else {
            return Finding::ok(WHAT, format!("{found}, and there is no memory lock limit"));
        };
        if beyond_kib == 0 {
            return Finding::ok(WHAT, found);
        }
        if held.contains(CapabilitySet::IPC_LOCK) || self.paranoid.is_some_and(|value| value < 0) {
            return Finding::ok(WHAT, format!("{found}, which does not bind us"));
        }
        if beyond_kib <= limit_kib {
            let found = format!("{found}, and {limit_kib} KiB by the memory lock limit");
            return Finding::ok(WHAT, found);
        }
        Finding::bad(
            WHAT,
            format!(
                "{found}, and the memory lock limit of {limit_kib} KiB does not make up for it"
            ),
            format!(
                "sudo sysctl kernel.perf_event_mlock_kb={}; or run rprofd as root (sudo)",
                ring_kib.next_multiple_of(4)
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    #[test]
    fn frequencies() {
        assert_eq!(sample_rate(Some(98), None).mark, Mark::Bad);
        assert_eq!(sample_rate(Some(4000), Some(25)).mark, Mark::Note);
        assert_eq!(sample_rate(Some(100_000), Some(25)).mark, Mark::Ok);
        assert_eq!(sample_rate(None, None).mark, Mark::Ok);
        let mend = |percent| sample_rate(Some(98), Some(percent)).mend.unwrap();
        assert_eq!(mend(25), "sudo sysctl kernel.perf_event_max_sample_rate=100000");
        let both = "sudo sysctl kernel.perf_cpu_time_max_percent=25 \
                    kernel.perf_event_max_sample_rate=100000";
        assert_eq!((mend(0).as_str(), mend(100).as_str()), (both, both));
    }

    #[test]
    fn time_that_is_too_short_is_said() {
        for (percent, mark) in
            [(0, Mark::Ok), (1, Mark::Note), (9, Mark::Note), (10, Mark::Ok), (100, Mark::Ok)]
        {
            assert_eq!(cpu_time(Some(percent)).mark, mark, "{percent}");
        }
        let mend = cpu_time(Some(1)).mend.unwrap();
        assert_eq!(mend, "sudo sysctl kernel.perf_cpu_time_max_percent=25");
        assert_eq!(cpu_time(None).mark, Mark::Ok);
    }

    #[test]
    fn rings_that_do_not_fit_are_bad() {
        let none = CapabilitySet::empty();
        let ring_kib = (kernel::ring_bytes() as u64).div_ceil(1024);
        let mark = |mlock_kib: u64, limit_kib: Option<u64>, paranoid, held| {
            let mlock_kib = i64::try_from(mlock_kib).ok();
            let limit_bytes = limit_kib.map(|kib| kib * 1024);
            LockedMemory { mlock_kib, paranoid: Some(paranoid), limit_bytes, cpus: 4 }
                .judge(held)
                .mark
        };
        assert_eq!(mark(ring_kib, Some(0), 2, none), Mark::Ok);
        assert_eq!(mark(ring_kib - 4, Some(15), 2, none), Mark::Bad);
        assert_eq!(mark(ring_kib - 4, Some(16), 2, none), Mark::Ok);
        assert_eq!(mark(0, None, 2, none), Mark::Ok);
        assert_eq!(mark(0, Some(0), -1, none), Mark::Ok);
        assert_eq!(mark(0, Some(0), 2, CapabilitySet::IPC_LOCK), Mark::Ok);
        let unknown = LockedMemory { mlock_kib: None, paranoid: None, limit_bytes: None, cpus: 1 };
        assert_eq!(unknown.judge(none).mark, Mark::Ok);
        let little =
            LockedMemory { mlock_kib: Some(0), paranoid: None, limit_bytes: Some(0), cpus: 1 };
        let mend = little.judge(none).mend.unwrap();
        assert!(mend.starts_with(&format!("sudo sysctl kernel.perf_event_mlock_kb={ring_kib}")));
    }
}
