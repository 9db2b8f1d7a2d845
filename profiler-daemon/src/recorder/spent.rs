//! For how long threads ran, and waited, as the kernel counts it anyway.

use std::{collections::HashMap, sync::Arc};

use profiler_ebpf::{
    record::{Sample, Wait},
    waits::State,
};

use super::{RecordError, Recorder, clock};
use crate::{kernel::Snapshot, process::LifeId, profile::Spent};

/// How the threads of each process have spent the time.
pub(super) type ByLife = Arc<HashMap<LifeId, Spent>>;

/// A thread that is there, or has ended.
#[derive(Clone, Copy)]
struct Thread {
    tid: u32,
    /// Start of its process, which tells it from another one with its id.
    process_ns: u64,
    begin_ns: u64,
    /// For how long it ran and waited for a CPU since it began.
    times_ns: [u64; 2],
}

impl From<&Snapshot> for Thread {
    fn from(snapshot: &Snapshot) -> Self {
        let Sample { tid, start_ns, .. } = snapshot.sample;
        let Snapshot { begin_ns, times_ns, .. } = *snapshot;
        Self { tid, process_ns: start_ns, begin_ns, times_ns }
    }
}

impl From<&Wait> for Thread {
    fn from(end: &Wait) -> Self {
        let Sample { tid, start_ns, .. } = end.sample;
        let times_ns = [State::Running, State::Runnable].map(|state| end.total_ns[state as usize]);
        Self { tid, process_ns: start_ns, begin_ns: end.begin_ns, times_ns }
    }
}

/// What is known of threads' times since they were last looked at.
pub(super) struct Times {
    /// When that was: boot-time clock.
    since_ns: u64,
    /// What each had by then: its process's start, and its times.
    before: HashMap<u32, (u64, [u64; 2])>,
    /// Of those that have ended since.
    ended: HashMap<LifeId, Spent>,
    /// All there was until then.
    total: Spent,
}

impl Times {
    fn since(threads: &[Snapshot], since_ns: u64) -> Self {
        let before = threads.iter().map(|it| (it.sample.tid, (it.sample.start_ns, it.times_ns)));
        let (before, ended, total) = (before.collect(), HashMap::new(), Spent::default());
        Self { since_ns, before, ended, total }
    }

    /// A thread of a process has ended.
    fn ended(&mut self, life: LifeId, end: &Wait) {
        if self.since_ns <= end.sample.time_ns {
            let spent = self.of(end.into(), end.sample.time_ns);
            *self.ended.entry(life).or_default() += spent;
        }
    }

    /// How a thread spent the time until then.
    fn of(&self, thread: Thread, until_ns: u64) -> Spent {
        let before_ns = match self.before.get(&thread.tid) {
            Some((process_ns, times_ns)) if *process_ns == thread.process_ns => *times_ns,
            _ => [0; 2],
        };
        let length_ns = until_ns.saturating_sub(self.since_ns.max(thread.begin_ns));
        let [ran_ns, waited_ns] = [0, 1].map(|i| thread.times_ns[i].saturating_sub(before_ns[i]));
        let running_ns = ran_ns.min(length_ns);
        let runnable_ns = waited_ns.min(length_ns - running_ns);
        let waiting_ns = length_ns - running_ns - runnable_ns;
        Spent { threads: 1, running_ns, runnable_ns, waiting_ns }
    }
}

impl Recorder {
    /// Begins to look at threads' times, if they are to be told.
    pub(super) fn begin_times(&mut self) -> Result<(), RecordError> {
        if self.settings.tells_times {
            self.times = Some(self.times_from_now()?);
        }
        Ok(())
    }

    fn times_from_now(&mut self) -> Result<Times, RecordError> {
        self.sampler.tell_ends(true)?;
        let threads = self.sampler.snapshot()?;
        Ok(Times::since(&threads, clock::boot_ns()))
    }

    /// The same for what somebody asks for, which goes on without.
    pub(super) fn new_times(&mut self) -> Option<Times> {
        let times = self.times_from_now();
        let failed =
            |error: &_| tracing::warn!("how threads spend their time is not told: {error}");
        times.inspect_err(failed).ok()
    }

    /// Has the ends of threads told while somebody asks how they spend their time.
    pub(super) fn follow_times(&mut self) -> Result<(), RecordError> {
        let is_told = self.settings.tells_times || self.collections.tells_times();
        Ok(self.sampler.tell_ends(is_told)?)
    }

    /// Has the times end as they are now.
    pub(super) fn stop_times(&mut self) -> Result<(), RecordError> {
        if self.times.is_some() {
            self.last_threads = Some((self.sampler.snapshot()?, clock::boot_ns()));
        }
        Ok(())
    }

    /// A thread has ended.
    pub(super) fn thread_ended(&mut self, life: LifeId, end: &Wait) {
        let stopped_ns = self.last_threads.as_ref().map_or(u64::MAX, |(_, at_ns)| *at_ns);
        let own = self.times.as_mut().filter(|_| end.sample.time_ns < stopped_ns);
        let asked = self.collections.times_of(self.table.life(life));
        own.into_iter().chain(asked).for_each(|times| times.ended(life, end));
    }

    /// How the threads of each process have spent the time since the last call.
    pub(super) fn take_spent(&mut self) -> Result<ByLife, RecordError> {
        let Some(times) = self.times.take() else { return Ok(ByLife::default()) };
        let (threads, now_ns) = match self.last_threads.take() {
            Some(last) => last,
            None => (self.sampler.snapshot()?, clock::boot_ns()),
        };
        let mut next = Times::since(&threads, now_ns);
        next.total = times.total;
        let by_life = self.spent_since(times, &threads, now_ns)?;
        for &spent in by_life.values() {
            next.total += spent;
        }
        self.times = Some(next);
        Ok(by_life)
    }

    /// Tells those who asked for it and are over how threads spent their time.
    pub(super) fn tell_spent(&mut self) -> Result<(), RecordError> {
        for (id, times) in self.collections.take_times() {
            let (threads, now_ns) = (self.sampler.snapshot()?, clock::boot_ns());
            let spent = self.spent_since(times, &threads, now_ns)?;
            self.collections.spent(id, spent);
        }
        Ok(())
    }

    /// How the threads of each process have spent the time until they were as in `threads`.
    fn spent_since(
        &mut self,
        times: Times,
        threads: &[Snapshot],
        now_ns: u64,
    ) -> Result<ByLife, RecordError> {
        let mut by_life: HashMap<LifeId, Spent> = HashMap::new();
        for thread in threads {
            if let Some(image) = self.profiled_image(&thread.sample)? {
                *by_life.entry(image.life).or_default() += times.of(thread.into(), now_ns);
            }
        }
        for (life, spent) in times.ended {
            *by_life.entry(life).or_default() += spent;
        }
        Ok(by_life.into())
    }

    /// How the threads of the processes that were asked for by their pids have spent the time, until
    /// it was last looked at.
    pub(super) fn spent(&self) -> Spent {
        let times = self.times.as_ref().filter(|_| self.settings.filter.is_pids());
        times.map(|times| times.total).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_spends_all_its_time() {
        let times = Times {
            since_ns: 1_000,
            before: [(1, (5, [100, 10])), (2, (5, [0, 0])), (3, (4, [70, 70]))].into(),
            ended: HashMap::new(),
            total: Spent::default(),
        };
        let spent = |tid, begin_ns, times_ns, until_ns| {
            let thread = Thread { tid, process_ns: 5, begin_ns, times_ns };
            let Spent { threads, running_ns, runnable_ns, waiting_ns } = times.of(thread, until_ns);
            assert_eq!(threads, 1);
            [running_ns, runnable_ns, waiting_ns]
        };
        assert_eq!(spent(1, 500, [150, 30], 1_100), [50, 20, 30]);
        assert_eq!(spent(2, 500, [150, 30], 1_100), [100, 0, 0], "the clocks differ a little");
        assert_eq!(spent(3, 1_060, [10, 5], 1_100), [10, 5, 25], "another one with its id");
        assert_eq!(spent(4, 1_200, [10, 5], 1_100), [0, 0, 0]);
    }
}
