//! How long after an `exec` the kernel side knows the new program's mappings.

use std::collections::HashMap;

use super::clock::boot_ns;

/// The most that are kept.
const MOST: usize = 100_000;

/// Times from `exec` to published mappings.
#[derive(Debug)]
pub(super) struct Latencies {
    /// When sampling began: before that nobody takes records, and nobody needs them.
    from_ns: u64,
    /// When a process called `exec`, and whether a mapping came since.
    pending: HashMap<u32, (u64, bool)>,
    taken_ns: Vec<u64>,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self { from_ns: u64::MAX, pending: HashMap::new(), taken_ns: Vec::new() }
    }

    /// Sampling begins.
    pub(super) fn begin(&mut self) {
        self.from_ns = boot_ns();
    }

    pub(super) fn exec(&mut self, pid: u32, time_ns: u64) {
        if time_ns >= self.from_ns && self.pending.len() < MOST {
            self.pending.insert(pid, (time_ns, false));
        }
    }

    pub(super) fn mapped(&mut self, pid: u32) {
        if let Some((_, mapped)) = self.pending.get_mut(&pid) {
            *mapped = true;
        }
    }

    pub(super) fn published(&mut self, pid: u32) {
        if let Some(&(time_ns, true)) = self.pending.get(&pid) {
            self.pending.remove(&pid);
            if self.taken_ns.len() < MOST {
                self.taken_ns.push(boot_ns().saturating_sub(time_ns));
            }
        }
    }

    /// Quantiles in milliseconds; `None` without any.
    pub(super) fn text(&self) -> Option<String> {
        let mut sorted = self.taken_ns.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let quantile = |q: usize| sorted[last * q / 1000] as f64 / 1e6;
        Some(format!(
            "p50 {:.2} p99 {:.2} max {:.2} ms over {} execs",
            quantile(500),
            quantile(990),
            quantile(1000),
            sorted.len()
        ))
    }
}
