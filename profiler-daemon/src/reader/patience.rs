//! How long a file may keep the reader busy.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Steps between two looks at the clock: at most some milliseconds.
const STEPS: u64 = 1 << 14;

/// Is over once this thread has been busy for so long. What it waits for, a disk or another process
/// on its CPU, is not the file's doing; who asks for names has a deadline for that.
pub(super) struct Patience {
    until: Duration,
    steps: Cell<u64>,
    is_over: Cell<bool>,
}

/// Patience is over.
#[derive(Debug)]
pub(super) struct Over;

impl Patience {
    /// Begins now.
    pub(super) fn of(time: Duration) -> Self {
        Self { until: busy().saturating_add(time), steps: Cell::new(0), is_over: Cell::new(false) }
    }

    /// Counts steps, each of which takes no longer than some hundred instructions.
    ///
    /// # Errors
    ///
    /// [`Over`], now and ever after.
    pub(super) fn spend(&self, steps: u64) -> Result<(), Over> {
        let sum = self.steps.get().saturating_add(steps);
        self.steps.set(sum);
        if sum >= STEPS || self.is_over.get() {
            return self.look();
        }
        Ok(())
    }

    #[cold]
    fn look(&self) -> Result<(), Over> {
        self.steps.set(0);
        if self.is_over() { Err(Over) } else { Ok(()) }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        if !self.is_over.get() {
            self.is_over.set(busy() >= self.until);
        }
        self.is_over.get()
    }
}

/// The time that this thread has run.
pub(super) fn busy() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(now.tv_sec.try_into().unwrap_or_default());
    seconds + Duration::from_nanos(now.tv_nsec.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_and_stays_at_its_end() {
        let patience = Patience::of(Duration::from_millis(20));
        let mut steps = 0_u64;
        while patience.spend(1).is_ok() {
            steps += 1;
        }
        assert!(steps > STEPS);
        assert!(patience.is_over() && patience.spend(1).is_err());
        assert!(Patience::of(Duration::MAX).spend(u64::MAX).is_ok());
    }
}
