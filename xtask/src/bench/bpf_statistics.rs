//! What the kernel measures of BPF programs.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::rprofd::Started;

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `BPF_PROG_TYPE_KPROBE` and `BPF_PROG_TYPE_PERF_EVENT` in `include/uapi/linux/bpf.h`.
const KPROBE: u64 = 2;
const PERF_EVENT: u64 = 7;

/// The kernel measures BPF programs while this lives.
pub(super) struct Statistics {
    before: String,
}

impl Statistics {
    pub(super) fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).context(STATISTICS)?;
        fs::write(STATISTICS, "1").context(STATISTICS)?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, &self.before);
    }
}

/// How often programs ran, and how long that took.
#[derive(Clone, Copy, Default)]
pub(super) struct Runs {
    pub(super) time: Duration,
    pub(super) count: u64,
}

impl Runs {
    /// Of all BPF programs that `pid` holds.
    pub(super) fn of_all(pid: u32) -> Result<Self> {
        Self::of(pid, |_| true)
    }

    /// Of those that samples run in a run of rprofd's, from `warm` to `end` after sampling began.
    pub(super) fn of_run(rprofd: &mut Started, warm: Duration, end: Duration) -> Result<Self> {
        rprofd.wait_for_line("sampling");
        let begin = Instant::now();
        thread::sleep(warm);
        let before = Self::of_sampling(rprofd.pid())?;
        thread::sleep(end.saturating_sub(begin.elapsed()));
        Ok(Self::of_sampling(rprofd.pid())?.since(before))
    }

    /// Of those that samples run.
    pub(super) fn of_sampling(pid: u32) -> Result<Self> {
        Self::of(pid, |kind| kind == PERF_EVENT)
    }

    /// Of those that probes in programs run.
    pub(super) fn of_probes(pid: u32) -> Result<Self> {
        Self::of(pid, |kind| kind == KPROBE)
    }

    fn of(pid: u32, is_meant: impl Fn(u64) -> bool) -> Result<Self> {
        // A program may have several descriptors.
        let mut programs = BTreeMap::new();
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            let Ok(text) = fs::read_to_string(file?.path()) else { continue };
            // Only descriptors of programs have them.
            if let (Some(time), Some(count), Some(kind)) =
                (field(&text, "run_time_ns:"), field(&text, "run_cnt:"), field(&text, "prog_type:"))
                && is_meant(kind)
            {
                programs.insert(field(&text, "prog_id:"), (time, count));
            }
        }
        let (time_ns, count) =
            programs.values().fold((0, 0), |sum, program| (sum.0 + program.0, sum.1 + program.1));
        ensure!(count > 0, "no BPF program among rprofd's descriptors has run");
        Ok(Self { time: Duration::from_nanos(time_ns), count })
    }

    /// What came on top of `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self { time: self.time.saturating_sub(before.time), count: self.count - before.count }
    }

    /// Microseconds of a run.
    pub(super) fn mean_us(self) -> f64 {
        self.time.as_secs_f64() * 1e6 / (self.count as f64).max(1.0)
    }
}

/// A number in what `/proc/PID/fdinfo` says of a descriptor.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
