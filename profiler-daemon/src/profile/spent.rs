//! How threads spent their time.

use std::ops::AddAssign;

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

impl Spent {
    /// All of it, in nanoseconds.
    pub const fn all_ns(&self) -> u64 {
        self.running_ns + self.runnable_ns + self.waiting_ns
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        let Self { threads, running_ns, runnable_ns, waiting_ns } = other;
        self.threads += threads;
        self.running_ns += running_ns;
        self.runnable_ns += runnable_ns;
        self.waiting_ns += waiting_ns;
    }
}
