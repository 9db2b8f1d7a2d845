//! Threads that have a CPU as all are looked at: each is taken as the clock meets it next.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use profiler_ebpf::record::Sample;

use super::Looked;
use crate::{kernel::StackCopy, recorder::SEEK};

/// They are waited for so long at most, however seldom CPUs are sampled.
const PATIENCE: Duration = Duration::from_millis(80);

/// Whether samples that are so late are not waited for any more: by then the clock has ticked on each CPU,
/// `hertz` times a second, and that was fetched.
fn is_over(elapsed: Duration, hertz: u64) -> bool {
    let period = Duration::from_secs(1) / u32::try_from(hertz.max(1)).unwrap_or(u32::MAX);
    elapsed >= (period + SEEK).min(PATIENCE)
}

/// Those that are to be met, by thread, and those that need not be any more.
#[derive(Default)]
pub(super) struct ToMeet {
    sought: BTreeMap<u32, Looked>,
    /// Since when the first of them is sought.
    begun: Option<Instant>,
    done: Vec<Looked>,
}

impl ToMeet {
    pub(super) fn push(&mut self, looked: Looked) {
        self.begun.get_or_insert_with(Instant::now);
        self.sought.insert(looked.thread.sample.tid, looked);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sought.is_empty()
    }

    /// Takes a sample, if it is of a thread that is sought, and of a time since that was looked at.
    pub(super) fn take(&mut self, sample: &Sample, copy: Option<&StackCopy>) {
        let is_later = |looked: &Looked| {
            let before = &looked.thread.sample;
            let who = |it: &Sample| (it.pid, it.start_ns, it.exec_id);
            who(before) == who(sample) && before.time_ns < sample.time_ns
        };
        if !self.sought.get(&sample.tid).is_some_and(is_later) {
            return;
        }
        if let Some(mut looked) = self.sought.remove(&sample.tid) {
            looked.thread.sample = *sample;
            looked.stack = copy.cloned();
            looked.is_met = true;
            self.done.push(looked);
        }
    }

    /// Those that are done with, where CPUs are sampled `hertz` times a second: once it is late, those that
    /// were not met are among them, without a stack.
    pub(super) fn take_done(&mut self, hertz: u64, is_late: bool) -> Vec<Looked> {
        if is_late || self.begun.is_some_and(|begun| is_over(begun.elapsed(), hertz)) {
            self.done.extend(std::mem::take(&mut self.sought).into_values());
        }
        std::mem::take(&mut self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::Snapshot,
        process::{ImageRef, LifeId},
    };

    fn before() -> Sample {
        Sample { pid: 7, tid: 8, start_ns: 5, exec_id: 2, time_ns: 100, ..Sample::default() }
    }

    fn next() -> Sample {
        Sample { time_ns: 101, user_stack: 9, ..before() }
    }

    fn to_meet() -> ToMeet {
        let mut to_meet = ToMeet::default();
        let image = ImageRef { life: LifeId(1), image: 0 };
        to_meet.push(Looked::new(Snapshot::running(before()), image));
        to_meet
    }

    #[test]
    fn a_thread_is_met_by_its_next_sample() {
        let mut to_meet = to_meet();
        to_meet.take(&next(), None);
        to_meet.take(&Sample { user_stack: 10, ..next() }, None);
        assert!(to_meet.is_empty());
        let done = to_meet.take_done(1, false);
        assert_eq!(done.iter().map(|it| it.thread.sample).collect::<Vec<_>>(), [next()]);
        assert!(done[0].is_met && to_meet.take_done(1, true).is_empty());
    }

    #[test]
    fn samples_of_others_and_of_before_do_not_meet_it() {
        let mut to_meet = to_meet();
        for other in [
            before(),
            Sample { tid: 9, ..next() },
            Sample { pid: 8, ..next() },
            Sample { start_ns: 6, ..next() },
            Sample { exec_id: 3, ..next() },
        ] {
            to_meet.take(&other, None);
        }
        assert!(!to_meet.is_empty() && to_meet.take_done(1, false).is_empty());
        let done = to_meet.take_done(1, true);
        assert!(to_meet.is_empty() && done.len() == 1 && !done[0].is_met);
    }

    #[test]
    fn one_period_is_waited_for() {
        let millis = Duration::from_millis;
        assert!(!is_over(millis(72), 19) && is_over(millis(73), 19));
        assert!(!is_over(millis(29), 99) && is_over(millis(31), 99));
        assert!(!is_over(millis(79), 1) && is_over(millis(80), 1));
        assert!(is_over(millis(80), 0));
    }
}
