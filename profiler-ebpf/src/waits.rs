//! What is kept of each thread to know for how long it ran and waited.

use crate::{arch::FUTEX, record::Sample};

/// Numbers of the system calls `futex_wake` and `futex_wait` on both architectures, since Linux 6.7.
const FUTEX_WAKE: u32 = 454;
const FUTEX_WAIT: u32 = 455;

/// What stands for the number of a system call that nobody has asked for.
pub const NO_SYSTEM_CALL: u32 = u32::MAX;

/// Whether a system call may wait for a futex, which its first argument points to.
#[inline(always)]
pub const fn may_wait_for_futex(system_call: u32) -> bool {
    matches!(system_call, FUTEX | FUTEX_WAIT)
}

/// Whether a system call may wake who waits for a futex, which its first argument points to.
#[inline(always)]
pub const fn may_wake_by_futex(system_call: u32) -> bool {
    matches!(system_call, FUTEX | FUTEX_WAKE)
}

/// What a thread does.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It has a CPU.
    Running = 0,
    /// It waits for one.
    Runnable = 1,
    /// It waits for one that its cgroup may not take: its quota is used up.
    Throttled = 2,
    /// It waits for something else.
    Waiting = 3,
}

impl State {
    /// The state with a number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Running),
            1 => Some(Self::Runnable),
            2 => Some(Self::Throttled),
            3 => Some(Self::Waiting),
            _ => None,
        }
    }
}

/// Number of states.
pub const STATES: usize = 4;

/// Value of the map `THREADS`, whose key is the thread's id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// The stack where it last gave its CPU up, and whose it is; without a stack where that was not
    /// taken.
    pub sample: Sample,
    /// When its state began: boot-time clock, in nanoseconds.
    pub since_ns: u64,
    /// When it was woken, or its cgroup was allowed CPU time again; 0: that was not, or is not known.
    pub woken_ns: u64,
    /// First argument of the system call that it waits in, if the number is there.
    pub argument: u64,
    /// Its cgroup's queue where it is [`State::Throttled`].
    pub queue: u64,
    /// For how long that was throttled before, in nanoseconds.
    pub queue_throttled_ns: u64,
    /// For how long it was in each [`State`], in nanoseconds, up to `since_ns`.
    pub total_ns: [u64; STATES],
    /// Times it waited for a futex and was not woken by a thread that held it, since it was first
    /// seen.
    pub unattributed: u64,
    /// For how long, in nanoseconds.
    pub unattributed_ns: u64,
    /// Its [`State`] as a number.
    pub state: u32,
    /// Number of the system call that it waits in; [`NO_SYSTEM_CALL`] where neither its stack nor who ends
    /// the wait is asked for.
    pub system_call: u32,
    /// The stack stands for so many; 0: none was taken.
    pub weight: u32,
    /// 1: whoever woke it was charged, or that is not to be known.
    pub is_attributed: u32,
    /// How many of its stacks are taken.
    pub pace: Pace,
    /// Waits that nobody ended, each for the same futex as the next one.
    pub chain: Chain,
}

impl Thread {
    /// When it got the CPU that it has at `now_ns`, and had for `ran_ns`, where nobody told: a kernel may
    /// leave a switch out, as that from a thread that it hides. What ended then is told late: a recording
    /// may be over that it was of.
    #[inline(always)]
    pub const fn unseen_arrival(&self, ran_ns: u64, now_ns: u64) -> u64 {
        let arrival_ns = now_ns.saturating_sub(ran_ns);
        if arrival_ns > self.since_ns { arrival_ns } else { self.since_ns }
    }

    /// It begins to wait: in which system call, and with which first argument, if who ends the wait is
    /// to be known.
    #[inline(always)]
    pub const fn wait(&mut self, system_call: Option<(u32, u64)>, now_ns: u64) {
        let Some((number, argument)) = system_call else {
            self.system_call = NO_SYSTEM_CALL;
            self.is_attributed = 1;
            return;
        };
        self.is_attributed = 0;
        let is_same = number == self.system_call && argument == self.argument;
        self.chain.go_on(is_same, now_ns);
        self.system_call = number;
        self.argument = argument;
    }

    /// It was throttled, and gets a CPU from `queue`, which was throttled for `throttled_ns` up to now.
    /// If it was moved from one CPU to another meanwhile, nobody knows since when it may run.
    #[inline(always)]
    pub const fn may_run_again(&mut self, queue: u64, throttled_ns: u64) {
        if queue == self.queue {
            let length_ns = throttled_ns.wrapping_sub(self.queue_throttled_ns);
            self.woken_ns = self.since_ns.wrapping_add(length_ns);
        }
    }

    /// It waited, or was ready, and gets the CPU at `now_ns`: adds to what that was.
    #[inline(always)]
    pub const fn arrive(&mut self, now_ns: u64) {
        let is_waiting = self.state == State::Waiting as u32;
        if !is_waiting && self.state != State::Throttled as u32 {
            let length_ns = now_ns.wrapping_sub(self.since_ns);
            self.total_ns[self.state as usize & (STATES - 1)] += length_ns;
            return;
        }
        if !self.is_woken(now_ns) {
            self.woken_ns = now_ns;
        }
        let waited_ns = self.woken_ns.wrapping_sub(self.since_ns);
        self.total_ns[self.state as usize & (STATES - 1)] += waited_ns;
        self.total_ns[State::Runnable as usize] += now_ns.wrapping_sub(self.woken_ns);
        if !is_waiting {
            return;
        }
        if self.is_attributed == 0 && may_wait_for_futex(self.system_call) {
            self.unattributed += 1;
            self.unattributed_ns += waited_ns;
            self.chain.add(waited_ns, now_ns);
        } else {
            self.chain = Chain { length_ns: 0, end_ns: 0, count: 0, reserved: 0 };
        }
    }

    /// Whether it was woken since it waits.
    const fn is_woken(&self, now_ns: u64) -> bool {
        self.woken_ns >= self.since_ns && self.woken_ns <= now_ns
    }
}

/// Waits for one futex, one right after the other, that nobody ended: the waiter gave each up after a
/// while, looked, and waited on. Whoever ends the last one held what all of them were for. (A thread
/// that waits for a monitor of HotSpot's does so.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// For how long they were, in nanoseconds.
    pub length_ns: u64,
    /// When the last one was over: boot-time clock, in nanoseconds.
    pub end_ns: u64,
    /// How many they are.
    pub count: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
}

/// The longest time between two waits of a [`Chain`], in nanoseconds.
const CHAIN_GAP_NS: u64 = 10_000_000;

impl Chain {
    /// Adds a wait that was over at `end_ns`.
    #[inline(always)]
    pub const fn add(&mut self, length_ns: u64, end_ns: u64) {
        self.length_ns += length_ns;
        self.end_ns = end_ns;
        self.count += 1;
    }

    /// A wait begins; `is_same`: in the system call and for what the last one was. If it is not right
    /// behind, the chain ends.
    #[inline(always)]
    pub const fn go_on(&mut self, is_same: bool, now_ns: u64) {
        if !is_same || now_ns.wrapping_sub(self.end_ns) > CHAIN_GAP_NS {
            self.length_ns = 0;
            self.count = 0;
        }
    }
}

/// One of how many is taken, so that about as many are taken in each period whatever comes.
///
/// What is taken depends on what came before alone: whoever weighs each that was taken with
/// [`Self::weight`] as it was then gets the sum right on average.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The period that it is of: its number.
    period: u32,
    /// Taken in it.
    taken: u16,
    /// One of so many is taken: its logarithm, base 2.
    shift: u16,
}

/// Length of a period of a [`Pace`], as the logarithm, base 2, of nanoseconds: 134 ms.
const PERIOD_SHIFT: u32 = 27;

/// One of at most so many is taken: the logarithm, base 2.
const MAX_SHIFT: u16 = 16;

impl Pace {
    /// One of how many is to be taken now: a power of two. `most`: how many may be in a period; 0:
    /// all.
    #[inline(always)]
    pub const fn weight(&mut self, now_ns: u64, most: u32) -> u32 {
        if most == 0 {
            return 1;
        }
        let period = (now_ns >> PERIOD_SHIFT) as u32;
        let passed = period.wrapping_sub(self.period);
        if passed != 0 {
            let mut less = if passed > MAX_SHIFT as u32 { MAX_SHIFT } else { passed as u16 - 1 };
            if (self.taken as u32) < most / 4 {
                less += 1;
            }
            self.shift = self.shift.saturating_sub(less);
            self.period = period;
            self.taken = 0;
        }
        1 << (self.shift & 31)
    }

    /// Notes that one was taken.
    #[inline(always)]
    pub const fn took(&mut self, most: u32) {
        if most == 0 {
            return;
        }
        self.taken = self.taken.saturating_add(1);
        if self.taken as u32 >= most && self.shift < MAX_SHIFT {
            self.shift += 1;
            self.taken = (most / 2) as u16;
        }
    }
}

/// Random numbers without a call: Marsaglia's xorshift of 32 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random(u32);

impl Random {
    /// The next one. `seed` is called for the first, and is to be even over all numbers.
    #[inline(always)]
    pub fn next(&mut self, seed: impl FnOnce() -> u32) -> u32 {
        // 0 would stay 0.
        let mut number = if self.0 == 0 { seed() | 1 } else { self.0 };
        number ^= number << 13;
        number ^= number >> 17;
        number ^= number << 5;
        self.0 = number;
        number
    }
}

/// How many a [`Pace`] takes in a period so that it takes `in_second` of them; 0: all.
pub const fn in_period(in_second: u32) -> u32 {
    if in_second == 0 {
        return 0;
    }
    let most = (in_second as u64) << PERIOD_SHIFT;
    let most = most / 1_000_000_000;
    // Four, so that less than a quarter is something.
    if most < 4 {
        4
    } else if most > u16::MAX as u64 {
        u16::MAX as u32
    } else {
        most as u32
    }
}

/// Whether a wait of `length_ns` is kept, if `random` is even over all numbers: each that is as long
/// as `rate_ns`, and of shorter ones a share, as Go's `SetBlockProfileRate` has it.
#[inline(always)]
pub const fn is_kept(length_ns: u64, rate_ns: u64, random: u32) -> bool {
    // The rate is at most some seconds: the product fits.
    length_ns >= rate_ns || (random as u64 * (rate_ns >> 8)) >> 24 < length_ns
}

const _: () = assert!(size_of::<Thread>() == 232);

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random: xorshift of 64 bits.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 32) as u32
        }
    }

    /// What comes every `gap_ns` for a second: how many are taken, and what they stand for.
    fn second(
        pace: &mut Pace,
        from_ns: u64,
        gap_ns: u64,
        most: u32,
        random: &mut Random,
    ) -> [u64; 2] {
        let (mut taken, mut sum) = (0, 0);
        for n in 0..1_000_000_000 / gap_ns {
            let weight = pace.weight(from_ns + n * gap_ns, most);
            if random.next() & (weight - 1) == 0 {
                pace.took(most);
                taken += 1;
                sum += u64::from(weight);
            }
        }
        [taken, sum]
    }

    #[test]
    fn one_of_a_power_of_two_comes_as_often_as_it_should() {
        for seed in [0, 1, 0x8000_0000, u32::MAX] {
            let mut random = super::Random::default();
            for weight in [2_u32, 8, 64] {
                let hits =
                    (0..1 << 16).filter(|_| random.next(|| seed) & (weight - 1) == 0).count();
                let wanted = f64::from(1 << 16) / f64::from(weight);
                let off = (hits as f64 - wanted).abs();
                assert!(off < 5.0 * wanted.sqrt(), "{seed:#x}: {hits} of one in {weight}");
            }
        }
    }

    #[test]
    fn waits_that_follow_each_other_are_one() {
        let mut chain = Chain::default();
        chain.add(1_000, 5_000);
        chain.go_on(true, 6_000);
        chain.add(8_000, 14_000);
        chain.go_on(true, 14_000 + CHAIN_GAP_NS);
        assert_eq!((chain.length_ns, chain.count), (9_000, 2));
        let mut late = chain;
        late.go_on(true, 14_001 + CHAIN_GAP_NS);
        assert_eq!((late.length_ns, late.count), (0, 0));
        chain.go_on(false, 15_000);
        assert_eq!((chain.length_ns, chain.count), (0, 0));
    }

    /// A thread that waits since 1,000.
    fn waiting(woken_ns: u64) -> Thread {
        let state = State::Waiting as u32;
        Thread { state, since_ns: 1_000, woken_ns, system_call: FUTEX, ..Thread::default() }
    }

    #[test]
    fn who_was_woken_is_ready_until_it_arrives() {
        for (woken_ns, totals) in
            [(1_600, [0, 400, 0, 600]), (0, [0, 0, 0, 1_000]), (2_001, [0, 0, 0, 1_000])]
        {
            let mut thread = waiting(woken_ns);
            thread.arrive(2_000);
            assert_eq!(thread.total_ns, totals, "{woken_ns}");
            assert_eq!((thread.unattributed, thread.unattributed_ns), (1, totals[3]));
        }
        let mut thread = Thread { is_attributed: 1, ..waiting(1_600) };
        thread.arrive(2_000);
        assert_eq!((thread.unattributed, thread.chain.count), (0, 0));
        let mut thread = Thread { state: State::Runnable as u32, ..waiting(0) };
        thread.arrive(2_000);
        assert_eq!(thread.total_ns, [0, 1_000, 0, 0]);
    }

    #[test]
    fn waits_that_nobody_asks_about_are_no_chain() {
        let mut thread = waiting(0);
        for (asked, count) in [(None, 0), (None, 0), (Some((FUTEX, 7)), 1), (Some((FUTEX, 7)), 2)] {
            thread.wait(asked, thread.since_ns);
            // Where its stack was taken, it is known what it is in.
            (thread.system_call, thread.argument) = (FUTEX, 7);
            thread.arrive(thread.since_ns + 500);
            assert_eq!((thread.chain.count, thread.unattributed), (count, count.into()));
            (thread.since_ns, thread.woken_ns) = (thread.since_ns + 500, 0);
        }
    }

    #[test]
    fn who_was_throttled_is_ready_once_its_queue_is_not() {
        let throttled = Thread {
            state: State::Throttled as u32,
            queue: 1,
            queue_throttled_ns: 50,
            ..waiting(0)
        };
        for (queue, throttled_ns, totals) in [
            (1, 650, [0, 400, 600, 0]),
            (1, 50, [0, 1_000, 0, 0]),
            // What cannot be.
            (1, 1_051, [0, 0, 1_000, 0]),
            (1, 40, [0, 0, 1_000, 0]),
            // Another CPU's.
            (2, 650, [0, 0, 1_000, 0]),
        ] {
            let mut thread = throttled;
            thread.may_run_again(queue, throttled_ns);
            thread.arrive(2_000);
            assert_eq!(thread.total_ns, totals, "{queue} {throttled_ns}");
            assert_eq!(thread.unattributed, 0);
        }
    }

    #[test]
    fn an_arrival_that_was_not_told_is_found_out() {
        assert_eq!(waiting(0).unseen_arrival(500, 2_000), 1_500);
        assert_eq!(waiting(0).unseen_arrival(0, 2_000), 2_000);
        assert_eq!(waiting(0).unseen_arrival(1_500, 2_000), 1_000, "what cannot be");
    }

    #[test]
    fn as_many_are_taken_whatever_comes() {
        let most = in_period(200);
        let mut random = Random(88_172_645_463_325_252);
        let mut pace = Pace::default();
        for (second_number, gap_ns) in
            [1_000_000, 5_000, 5_000, 5_000, 5_000].into_iter().enumerate()
        {
            let from_ns = second_number as u64 * 1_000_000_000;
            let [taken, sum] = second(&mut pace, from_ns, gap_ns, most, &mut random);
            let all = 1_000_000_000 / gap_ns;
            assert!((100..600).contains(&taken), "{taken} of {all}");
            let off = sum as f64 / all as f64 - 1.0;
            assert!(off.abs() < 0.35, "{sum} for {all}");
        }
    }

    #[test]
    fn on_average_the_sum_is_right() {
        let most = in_period(200);
        let mut random = Random(42);
        let (mut sum, mut all) = (0, 0);
        for _ in 0..200 {
            let mut pace = Pace::default();
            sum += second(&mut pace, 0, 20_000, most, &mut random)[1];
            all += 50_000;
        }
        let off = sum as f64 / f64::from(all) - 1.0;
        assert!(off.abs() < 0.01, "{off}");
    }

    #[test]
    fn few_are_all_taken() {
        let mut random = Random(1);
        for most in [0, in_period(200)] {
            let mut pace = Pace::default();
            let [taken, sum] = second(&mut pace, 0, 10_000_000, most, &mut random);
            assert_eq!((taken, sum), (100, 100));
        }
        let mut pace = Pace::default();
        assert_eq!(second(&mut pace, 0, 10_000, 0, &mut random), [100_000, 100_000]);
    }

    #[test]
    fn a_quiet_second_after_a_busy_one_is_taken_whole() {
        let most = in_period(200);
        let mut random = Random(9);
        let mut pace = Pace::default();
        second(&mut pace, 0, 2_000, most, &mut random);
        assert!(pace.weight(1_000_000_000, most) > 100);
        assert_eq!(pace.weight(5_000_000_000, most), 1);
    }

    #[test]
    fn short_waits_are_kept_by_their_share() {
        let mut random = Random(7);
        for (length_ns, rate_ns) in
            [(1_000, 1_000_000), (250_000, 1_000_000), (1_000_000, 1_000_000)]
        {
            let kept = (0..100_000).filter(|_| is_kept(length_ns, rate_ns, random.next())).count();
            let share = length_ns as f64 / rate_ns as f64;
            assert!((kept as f64 / 1e5 - share).abs() < 0.01, "{kept} of {length_ns}");
        }
        assert!(is_kept(0, 0, 5) && is_kept(1, 1, u32::MAX));
    }
}
