//! How threads spent their time.

use std::ops::AddAssign;

/// Bytes of [`Spent::to_bytes`].
pub const SPENT_BYTES: usize = 32;

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
    /// How it is sent to another rprofd: four numbers, least significant byte first.
    pub fn to_bytes(self) -> [u8; SPENT_BYTES] {
        let Self { threads, running_ns, runnable_ns, waiting_ns } = self;
        let mut bytes = [0; SPENT_BYTES];
        let numbers = [threads as u64, running_ns, runnable_ns, waiting_ns];
        for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// What [`Self::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; SPENT_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let [threads, running_ns, runnable_ns, waiting_ns] =
            [0, 1, 2, 3].map(|word| u64::from_le_bytes(words[word]));
        let threads = usize::try_from(threads).unwrap_or(usize::MAX);
        Self { threads, running_ns, runnable_ns, waiting_ns }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read() {
        let spent = Spent { threads: 3, running_ns: 1 << 40, runnable_ns: 5, waiting_ns: u64::MAX };
        assert_eq!(Spent::from_bytes(&spent.to_bytes()), spent);
    }
}
