//! Waits of goroutines, which a Go program's own scheduler ends: what is known of a program, and of
//! each goroutine that waits.

/// What is recorded of a Go program; value of the map `GO_PROGRAMS`, whose key is the pid. Offsets are
/// in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Since when it is watched: boot-time clock, in nanoseconds.
    pub begin_ns: u64,
    /// Bit n: waits for the runtime's reason number n are recorded.
    pub waits: u64,
    /// Bit n: what ends a wait for reason number n has held a lock.
    pub locks: u64,
    /// Times a goroutine began to wait, or was to go on, whatever for.
    pub events: u64,
    /// Of these, those that were not kept for want of room.
    pub lost: u64,
    /// Waits of this length are all kept, and of shorter ones a share; in nanoseconds.
    pub rate_ns: u64,
    /// Stacks that a CPU takes in a period of [`crate::waits::Pace`]; 0: all.
    pub pace: u32,
    /// Tells it from the same process as it was watched before.
    pub generation: u32,
    /// `g.m`
    pub m: u16,
    /// `m.curg`
    pub curg: u16,
    /// `g.sched.sp`; `pc` follows.
    pub sched_sp: u16,
    /// `g.sched.bp`
    pub sched_bp: u16,
}

/// Where something of a process is: key of the maps `GO_PARKED` and `GO_LOCKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// avma of a goroutine's structure, or of what the runtime keeps those in that wait for a lock.
    pub avma: u64,
    /// The process.
    pub pid: u32,
    /// [`Program::generation`]
    pub generation: u32,
}

/// A goroutine that waits; value of the map `GO_PARKED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// Since when: boot-time clock, in nanoseconds.
    pub since_ns: u64,
    /// avma of what the runtime keeps those in that wait for its lock; 0: it waits for none.
    pub lock: u64,
}

/// Those that wait for locks which the runtime keeps in one place; value of the map `GO_LOCKS`. One
/// word, so that it is changed at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiters {
    /// How many they are, in the highest bits, and below it the sum of the times at which each began to
    /// wait, or at which another one went on since then: see [`moment`].
    pub word: u64,
}

/// Bits of the sum.
const SUM_BITS: u32 = 48;

/// More are not believed.
const MOST_WAITERS: u64 = 1 << 15;

/// A time in a sum: since the process is watched, in units of 1,024 ns, so that what many have waited for
/// days is still below the highest bits.
#[inline(always)]
pub const fn moment(program: &Program, now_ns: u64) -> u64 {
    now_ns.wrapping_sub(program.begin_ns) >> 10
}

impl Waiters {
    /// What is added as one begins to wait.
    #[inline(always)]
    pub const fn begin(moment: u64) -> u64 {
        (1 << SUM_BITS) + moment
    }

    /// One goes on: for how long all of them have waited since the last one did, in nanoseconds, and
    /// what is to be added to the word. `None`: it does not fit together.
    #[inline(always)]
    pub const fn release(&self, moment: u64) -> Option<(u64, u64)> {
        let count = self.word >> SUM_BITS;
        let sum = self.word & ((1 << SUM_BITS) - 1);
        if count == 0 || count > MOST_WAITERS {
            return None;
        }
        let Some(delay) = (count * moment).checked_sub(sum) else { return None };
        let after = ((count - 1) << SUM_BITS) + (count - 1) * moment;
        Some((delay << 10, after.wrapping_sub(self.word)))
    }

    /// Whether no other one waits once that one goes on.
    #[inline(always)]
    pub const fn is_last(&self) -> bool {
        self.word >> SUM_BITS <= 1
    }
}

/// A goroutine goes on: for how long it has waited, with its stack; or for how long some have waited
/// for a lock, with the stack that has released it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoWait {
    /// The stack, and when.
    pub sample: crate::record::Sample,
    /// For how long, in nanoseconds.
    pub delay_ns: u64,
    /// The rate by which it was kept: [`crate::waits::is_kept`]; in nanoseconds.
    pub rate_ns: u64,
}

/// Bytes of a [`GoWait`].
pub const GO_WAIT_BYTES: usize = size_of::<GoWait>();

const _: () = assert!(size_of::<Program>() == 64 && GO_WAIT_BYTES == 112);

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT_NS: u64 = 1_024;

    /// Goroutines that begin to wait at these times, and releases at those: what each release has
    /// delayed, in units.
    fn delays(begins: &[u64], releases: &[u64]) -> Vec<u64> {
        let mut waiters = Waiters::default();
        for begin in begins {
            waiters.word += Waiters::begin(*begin);
        }
        let delays = releases.iter().map(|now| {
            let (delay_ns, more) = waiters.release(*now).unwrap();
            waiters.word = waiters.word.wrapping_add(more);
            delay_ns / UNIT_NS
        });
        delays.collect()
    }

    #[test]
    fn a_release_is_charged_with_what_all_have_waited() {
        assert_eq!(delays(&[100], &[150]), [50]);
        // Two wait; who holds it first delays both, who holds it next the other.
        assert_eq!(delays(&[100, 120], &[200, 230]), [100 + 80, 30]);
        let all: u64 = delays(&[1, 2, 3], &[10, 20, 30]).iter().sum();
        assert_eq!(all, 9 + 18 + 27);
        // A thousand, after a day.
        let day = 24 * 3600 * 1_000_000_000 / UNIT_NS;
        assert_eq!(delays(&[day; 1_000], &[day + 7])[0], 7_000);
    }

    #[test]
    fn who_begins_meanwhile_is_counted() {
        let mut waiters = Waiters { word: Waiters::begin(10) };
        let (delay_ns, more) = waiters.release(30).unwrap();
        waiters.word += Waiters::begin(20);
        waiters.word = waiters.word.wrapping_add(more);
        assert_eq!((delay_ns / UNIT_NS, waiters.is_last()), (20, true));
        assert_eq!(waiters.release(50).unwrap().0 / UNIT_NS, 30);
    }

    #[test]
    fn what_does_not_fit_together_is_not_charged() {
        assert_eq!(Waiters::default().release(9), None);
        assert_eq!(Waiters { word: Waiters::begin(50) }.release(9), None);
        assert_eq!(Waiters { word: u64::MAX }.release(9), None);
    }

    #[test]
    fn moments_are_since_the_watch_began() {
        let program = Program { begin_ns: 5_000_000, ..Program::default() };
        assert_eq!(moment(&program, 5_000_000 + 3 * UNIT_NS + 1), 3);
    }
}
