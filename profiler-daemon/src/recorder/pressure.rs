//! The memory limit of our cgroup: near it, what can be made again is given up first.

use std::time::{Duration, Instant};

use crate::cgroup::{ENOUGH_BYTES, LEAST_BYTES, MemoryCgroup};

/// In hundredths of the limit: from here on caches are given up.
const HIGH_PERCENT: u64 = 80;

/// How long until that is done again: it costs time to fill them.
const PAUSE: Duration = Duration::from_secs(10);

/// How near we are to it.
#[derive(Debug)]
pub(super) struct Pressure {
    cgroup: Option<MemoryCgroup>,
    relieved: Option<Instant>,
}

impl Pressure {
    pub(super) fn new() -> Self {
        let cgroup = MemoryCgroup::own();
        if let Some(limit) = cgroup.as_ref().map(|it| it.limit_bytes).filter(|it| *it < LEAST_BYTES)
        {
            tracing::warn!(
                "the cgroup allows {} MiB of memory: the kernel may end rprofd at any time. Give it \
                 {} MiB or more",
                limit >> 20,
                ENOUGH_BYTES >> 20
            );
        }
        Self { cgroup, relieved: None }
    }

    /// Whether memory is to be given up now; says so the first time.
    pub(super) fn is_high(&mut self) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        if self.relieved.is_some_and(|relieved| relieved.elapsed() < PAUSE) {
            return false;
        }
        let Some(used) = cgroup.used_bytes().filter(|used| is_near(*used, cgroup.limit_bytes))
        else {
            return false;
        };
        if self.relieved.is_none() {
            tracing::warn!(
                "memory is short: {} of the {} MiB that the cgroup allows are used; caches are \
                 given up, and names take longer. A higher limit, --no-inlines or a smaller \
                 --unwind-memory helps",
                used >> 20,
                cgroup.limit_bytes >> 20
            );
        }
        self.relieved = Some(Instant::now());
        true
    }
}

fn is_near(used: u64, limit: u64) -> bool {
    used >= limit / 100 * HIGH_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_four_fifths() {
        assert!(is_near(80 << 20, 100 << 20));
        assert!(!is_near(79 << 20, 100 << 20));
    }
}
