//! What became of each sample: every one that was to be taken is stored, left out or dropped, and
//! counted there.

use std::fmt;

use profiler_ebpf::counters::Counters;

/// Counts of samples on this side of the ring.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// Taken from the ring.
    pub(super) received: u64,
    /// In profiles.
    pub(super) stored: u64,
    /// Of processes that turned out not to be profiled, and of rprofd on its way to the command.
    pub(super) left_out: u64,
}

impl Account {
    /// The account of a recording that has ended; `counters` is the kernel side's part.
    pub(super) fn close(self, counters: Counters) -> Closed {
        Closed { account: self, counters }
    }
}

/// The account of a recording that has ended.
pub(super) struct Closed {
    account: Account,
    counters: Counters,
}

impl Closed {
    /// Samples of which is not known what became of them: a mistake of ours if there are any.
    pub(super) fn unaccounted(&self) -> u64 {
        let Self { account, counters } = self;
        counters.wanted().abs_diff(counters.accounted())
            + counters.sent.abs_diff(account.received)
            + account.received.abs_diff(account.stored + account.left_out)
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, counters } = self;
        write!(
            f,
            "samples: taken={} stored={} left_out={} ring_full={} nested={} unread={} unaccounted={}",
            counters.wanted(),
            account.stored,
            account.left_out,
            counters.ring_full,
            counters.busy,
            counters.unread,
            self.unaccounted(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_that_is_nowhere_is_seen() {
        let counters = Counters {
            entered: 100,
            idle: 10,
            filtered: 20,
            sent: 60,
            busy: 4,
            ring_full: 5,
            unread: 1,
            ..Counters::default()
        };
        let account = Account { received: 60, stored: 50, left_out: 10 };
        assert_eq!(account.close(counters).unaccounted(), 0);
        assert_eq!(account.close(Counters { ring_full: 3, ..counters }).unaccounted(), 2);
        assert_eq!(Account { received: 59, ..account }.close(counters).unaccounted(), 2);
        assert_eq!(Account { stored: 49, ..account }.close(counters).unaccounted(), 1);
    }
}
