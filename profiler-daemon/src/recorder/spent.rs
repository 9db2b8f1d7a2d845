//! For how long threads ran, and waited, as the kernel counts it anyway.

use std::{collections::HashMap, time::Instant};

use super::{RecordError, Recorder};

/// Threads as they were at one time: for how long each ran and waited for a CPU, in nanoseconds.
pub(super) struct Times {
    at: Instant,
    of_thread: HashMap<u32, [u64; 2]>,
}

/// How the time of some threads was spent, in nanoseconds, added up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How many threads.
    pub threads: usize,
    /// On a CPU.
    pub running_ns: u64,
    /// Waiting for one.
    pub runnable_ns: u64,
    /// Waiting for something else.
    pub waiting_ns: u64,
}

impl Recorder {
    /// The threads of the processes that were asked for by their pids; `None`: none were.
    pub(super) fn times(&mut self) -> Result<Option<Times>, RecordError> {
        if !self.settings.filter.is_pids() {
            return Ok(None);
        }
        let threads = self.sampler.snapshot()?.into_iter();
        let of_thread = threads.map(|thread| (thread.sample.tid, thread.times_ns)).collect();
        Ok(Some(Times { at: Instant::now(), of_thread }))
    }

    /// How those that are there still have spent the time since the begin.
    pub(super) fn spent(&mut self) -> Result<Spent, RecordError> {
        let (Some(begin), Some(now)) = (self.begin.take(), self.times()?) else {
            return Ok(Spent::default());
        };
        let length_ns = now.at.duration_since(begin.at).as_nanos() as u64;
        Ok(spent(&begin.of_thread, &now.of_thread, length_ns))
    }
}

fn spent(before: &HashMap<u32, [u64; 2]>, now: &HashMap<u32, [u64; 2]>, length_ns: u64) -> Spent {
    let mut spent = Spent::default();
    for (tid, [ran, waited]) in now {
        let Some([ran_before, waited_before]) = before.get(tid) else { continue };
        let running_ns = ran.saturating_sub(*ran_before).min(length_ns);
        let runnable_ns = waited.saturating_sub(*waited_before).min(length_ns - running_ns);
        spent.threads += 1;
        spent.running_ns += running_ns;
        spent.runnable_ns += runnable_ns;
        spent.waiting_ns += length_ns - running_ns - runnable_ns;
    }
    spent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_spends_all_its_time() {
        let before = [(1, [100, 10]), (2, [0, 0]), (3, [0, 0])].into();
        let now = [(1, [150, 30]), (2, [0, 5]), (4, [9, 9])].into();
        let spent = spent(&before, &now, 100);
        let whole = Spent { threads: 2, running_ns: 50, runnable_ns: 25, waiting_ns: 125 };
        assert_eq!(spent, whole);
    }
}
