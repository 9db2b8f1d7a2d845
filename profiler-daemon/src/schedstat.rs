//! For how long threads ran, and waited, as the kernel counts it anyway.

use std::{collections::HashMap, fs, time::Instant};

/// The most threads that are looked at.
const MOST: usize = 20_000;

/// Threads as they were at one time: for how long each ran and waited for a CPU, in nanoseconds.
pub(crate) struct Threads {
    pids: Vec<u32>,
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

impl Threads {
    /// The threads of these processes now.
    pub(crate) fn now(pids: Vec<u32>) -> Self {
        let of_thread = pids.iter().flat_map(|&pid| read(pid)).take(MOST).collect();
        Self { pids, at: Instant::now(), of_thread }
    }

    /// How those that are there still have spent the time since then.
    pub(crate) fn since(&self) -> Spent {
        let now = Self::now(self.pids.clone());
        let length_ns = now.at.duration_since(self.at).as_nanos() as u64;
        spent(&self.of_thread, &now.of_thread, length_ns)
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

/// A process's threads. These files are the kernel's own figures: nobody can make them wait.
fn read(pid: u32) -> Vec<(u32, [u64; 2])> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let tids = tasks.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let times = tids.filter_map(|tid| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
        Some((tid, parse(&text)?))
    });
    times.collect()
}

/// `schedstat` (`Documentation/scheduler/sched-stats.rst`): on a CPU, waiting for one, turns.
fn parse(text: &str) -> Option<[u64; 2]> {
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next()?.parse().ok();
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_spend_all_their_time() {
        assert_eq!(parse("12 34 5\n"), Some([12, 34]));
        assert_eq!(parse("12"), None);
        let before = [(1, [100, 10]), (2, [0, 0]), (3, [0, 0])].into();
        let now = [(1, [150, 30]), (2, [0, 5]), (4, [9, 9])].into();
        let spent = spent(&before, &now, 100);
        let whole = Spent { threads: 2, running_ns: 50, runnable_ns: 25, waiting_ns: 125 };
        assert_eq!(spent, whole);
        let threads = Threads::now(vec![std::process::id()]);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(threads.since().waiting_ns > 10_000_000);
    }
}
