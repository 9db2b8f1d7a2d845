//! Counts that the programs keep per CPU; the daemon adds them up.

/// The element of the per-CPU map `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times the sampling program was entered.
    pub entered: u64,
    /// Of these, on the idle task.
    pub idle: u64,
    /// Of these, on a process that is not profiled.
    pub filtered: u64,
    /// Samples put into the ring.
    pub sent: u64,
    /// Samples dropped since the CPU's scratch space was in use.
    pub busy: u64,
    /// Samples dropped since the ring was full.
    pub ring_full: u64,
    /// Samples dropped since the task could not be read.
    pub unread: u64,
    /// Samples sent without a stack since the ring had no room for the stack.
    pub stack_lost: u64,
    /// Children of a target that are not followed since the map was full.
    pub fork_lost: u64,
    /// Threads of which nothing is kept, or told at their end, since the map or the ring was full.
    pub threads_lost: u64,
    /// Waits that were not sent since the ring was full, or the CPU's scratch space in use.
    pub waits_lost: u64,
    /// Times a CPU went from one thread to another while threads were followed.
    pub switches: u64,
    /// Times a thread was woken meanwhile.
    pub wakes: u64,
    /// What those runs of the programs took that were timed, one in [`TIMED`] of each, in
    /// nanoseconds.
    pub timed_ns: u64,
}

/// One run of a program in so many is timed; a power of two.
pub const TIMED: u64 = 64;

impl Counters {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self {
            entered,
            idle,
            filtered,
            sent,
            busy,
            ring_full,
            unread,
            stack_lost,
            fork_lost,
            threads_lost,
            waits_lost,
            switches,
            wakes,
            timed_ns,
        } = other;
        self.entered += entered;
        self.idle += idle;
        self.filtered += filtered;
        self.sent += sent;
        self.busy += busy;
        self.ring_full += ring_full;
        self.unread += unread;
        self.stack_lost += stack_lost;
        self.fork_lost += fork_lost;
        self.threads_lost += threads_lost;
        self.waits_lost += waits_lost;
        self.switches += switches;
        self.wakes += wakes;
        self.timed_ns += timed_ns;
    }

    /// Samples that were to be taken, and of which something became.
    pub fn accounted(&self) -> u64 {
        self.sent + self.busy + self.ring_full + self.unread
    }

    /// Samples that were to be taken: of a process that is profiled, if that was known already.
    pub fn wanted(&self) -> u64 {
        self.entered - self.idle - self.filtered
    }

    /// What all runs of the programs took, in nanoseconds, by those that were timed.
    pub fn time_ns(&self) -> u64 {
        self.timed_ns.saturating_mul(TIMED)
    }

    /// What was counted on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let Self {
            entered,
            idle,
            filtered,
            sent,
            busy,
            ring_full,
            unread,
            stack_lost,
            fork_lost,
            threads_lost,
            waits_lost,
            switches,
            wakes,
            timed_ns,
        } = *self;
        Self {
            entered: entered.saturating_sub(before.entered),
            idle: idle.saturating_sub(before.idle),
            filtered: filtered.saturating_sub(before.filtered),
            sent: sent.saturating_sub(before.sent),
            busy: busy.saturating_sub(before.busy),
            ring_full: ring_full.saturating_sub(before.ring_full),
            unread: unread.saturating_sub(before.unread),
            stack_lost: stack_lost.saturating_sub(before.stack_lost),
            fork_lost: fork_lost.saturating_sub(before.fork_lost),
            threads_lost: threads_lost.saturating_sub(before.threads_lost),
            waits_lost: waits_lost.saturating_sub(before.waits_lost),
            switches: switches.saturating_sub(before.switches),
            wakes: wakes.saturating_sub(before.wakes),
            timed_ns: timed_ns.saturating_sub(before.timed_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_all_runs_is_that_of_those_that_were_timed() {
        let counters = Counters { timed_ns: 500_000, ..Counters::default() };
        assert_eq!(counters.time_ns(), 32_000_000);
        assert_eq!(Counters { entered: 3, ..Counters::default() }.time_ns(), 0);
    }
}
