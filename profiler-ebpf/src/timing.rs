//! What the programs take: one run in so many is timed.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_ebpf::counters::{Counters, TIMED};

/// A run of a program.
pub(crate) struct Run {
    /// Monotonic clock, in nanoseconds; 0: it is not timed.
    begin_ns: u64,
}

impl Run {
    /// It begins, as the CPU's `number`th.
    #[inline(always)]
    pub(crate) fn begin(number: u64) -> Self {
        let is_timed = number % TIMED == 0;
        // SAFETY: the helper has no arguments.
        Self { begin_ns: if is_timed { unsafe { bpf_ktime_get_ns() } } else { 0 } }
    }

    /// It ends.
    #[inline(always)]
    pub(crate) fn end(self, counters: &mut Counters) {
        if self.begin_ns != 0 {
            // SAFETY: the helper has no arguments.
            counters.timed_ns += unsafe { bpf_ktime_get_ns() } - self.begin_ns;
        }
    }
}
