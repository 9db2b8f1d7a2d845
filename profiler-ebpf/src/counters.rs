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
}

impl Counters {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self { entered, idle, filtered, sent, busy, ring_full, unread, stack_lost, fork_lost } =
            other;
        self.entered += entered;
        self.idle += idle;
        self.filtered += filtered;
        self.sent += sent;
        self.busy += busy;
        self.ring_full += ring_full;
        self.unread += unread;
        self.stack_lost += stack_lost;
        self.fork_lost += fork_lost;
    }

    /// Samples that were to be taken, and of which something became.
    pub fn accounted(&self) -> u64 {
        self.sent + self.busy + self.ring_full + self.unread
    }

    /// Samples that were to be taken: of a process that is profiled, if that was known already.
    pub fn wanted(&self) -> u64 {
        self.entered - self.idle - self.filtered
    }

    /// What was counted on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let Self { entered, idle, filtered, sent, busy, ring_full, unread, stack_lost, fork_lost } =
            *self;
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
        }
    }
}
