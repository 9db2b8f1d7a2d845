//! What is recorded of threads that wait, beside the samples of CPUs.

use profiler_ebpf::{
    config,
    record::{self, Wait},
    waits::{Thread, in_period},
};

use super::{
    KernelError, Sampler,
    error::from_aya,
    object::Tracepoint,
    sampler::{long, sample, word},
};

/// `BPF_NOEXIST` (`include/uapi/linux/bpf.h`).
const NO_EXIST: u64 = 1;

/// Which waits are recorded, and how many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Those for something else than a CPU, by where threads wait.
    pub block: bool,
    /// Those for a CPU, too.
    pub wall: bool,
    /// Those for a futex, by who ends them.
    pub mutex: bool,
    /// Threads that are started.
    pub spawns: bool,
    /// Waits of this length are all kept, and of shorter ones a share; in nanoseconds.
    pub block_rate_ns: u64,
    /// Of so many ends of waits for a futex one is kept.
    pub mutex_fraction: u32,
    /// So many stacks are taken of a thread in a second; 0: all.
    pub thread_stacks: u32,
    /// The same, on a CPU.
    pub cpu_stacks: u32,
    /// Of this process alone.
    pub pid: Option<u32>,
}

impl Waits {
    /// Whether anything is recorded.
    const fn is_any(&self) -> bool {
        self.has_threads() || self.spawns
    }

    /// Whether anything is kept of threads.
    pub const fn has_threads(&self) -> bool {
        self.block || self.wall || self.mutex
    }

    /// Whether it is of use when a wait's reason was over, and by whom: a wait that is told whole, until
    /// the thread has a CPU again, is spared what that costs. (The scheduler's own count, `sched_info`,
    /// leaves out how long a switch takes to come, and can take a whole sleep for a wait for a CPU.)
    const fn has_wakes(&self) -> bool {
        self.wall || self.mutex
    }

    /// What both ask for.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            block: self.block || other.block,
            wall: self.wall || other.wall,
            mutex: self.mutex || other.mutex,
            spawns: self.spawns || other.spawns,
            pid: if self.is_any() {
                other.pid.filter(|pid| self.pid == Some(*pid))
            } else {
                other.pid
            },
            ..other
        }
    }

    const fn bits(&self) -> u32 {
        let mut bits = 0;
        if self.block {
            bits |= config::waits::BLOCK;
        }
        if self.wall {
            bits |= config::waits::WALL;
        }
        if self.mutex {
            bits |= config::waits::MUTEX;
        }
        bits
    }

    /// Tells the programs.
    pub(super) fn tell(&self, control: &mut config::Control) {
        control.waits = self.bits();
        control.block_rate_ns = self.block_rate_ns;
        control.mutex_fraction = if self.mutex_fraction == 0 { 1 } else { self.mutex_fraction };
        control.thread_pace = in_period(self.thread_stacks);
        control.cpu_pace = in_period(self.cpu_stacks);
        control.followed_pid = self.pid.unwrap_or(0);
    }
}

impl Sampler {
    /// Records these waits from `now_ns` on, on the boot-time clock: attaches what that needs, and
    /// detaches what it does not.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn set_waits(&mut self, waits: Waits, now_ns: u64) -> Result<(), KernelError> {
        let had_threads = self.waits.has_threads();
        let follows_others = self.waits.pid.is_some() && waits.pid != self.waits.pid;
        if waits.has_threads() && (!had_threads || follows_others) {
            self.followed_ns = now_ns;
        }
        let before = std::mem::replace(&mut self.waits, waits);
        self.tell()?;
        self.object.set_attached(Tracepoint::Spawn, waits.spawns)?;
        // Who is woken is known before who waits.
        self.object.set_attached(Tracepoint::Waking, waits.has_wakes())?;
        self.object.set_attached(Tracepoint::Switch, waits.has_threads())?;
        if had_threads && (!waits.has_threads() || waits.pid.is_some() && waits.pid != before.pid) {
            self.forget_threads(waits.pid.filter(|_| waits.has_threads()));
        }
        Ok(())
    }

    /// Forgets all threads but those of one process: what is kept of them would be wrong by the time
    /// that it is looked at again.
    fn forget_threads(&mut self, but_of: Option<u32>) {
        let is_other = |thread: &Thread| but_of != Some(thread.sample.pid);
        let known = self.object.threads.iter().filter_map(Result::ok);
        let tids: Vec<u32> =
            known.filter(|(_, thread)| is_other(thread)).map(|(tid, _)| tid).collect();
        for tid in tids {
            self.forget_thread(tid);
        }
    }

    /// Has the ends of threads told from now on, or not any more.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn tell_ends(&mut self, is_told: bool) -> Result<(), KernelError> {
        self.object.set_attached(Tracepoint::End, is_told)
    }

    /// Forgets a thread: it turned out not to be profiled.
    pub fn forget_thread(&mut self, tid: u32) {
        let _ = self.object.threads.remove(&tid);
    }

    /// Makes a thread known that waits already, unless it is known.
    pub fn seed(&mut self, tid: u32, thread: &Thread) {
        // It may have gone on meanwhile.
        let _ = self.object.threads.insert(tid, thread, NO_EXIST);
    }

    /// What is recorded.
    pub const fn waits(&self) -> Waits {
        self.waits
    }

    /// What is kept of each thread now, by its id.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn threads(&self) -> Result<Vec<(u32, Thread)>, KernelError> {
        if !self.waits.has_threads() {
            return Ok(Vec::new());
        }
        let mut threads = Vec::new();
        for entry in &self.object.threads {
            match entry {
                Ok(entry) => threads.push(entry),
                // It has ended meanwhile.
                Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(from_aya(&error)),
            }
        }
        Ok(threads)
    }
}

/// Decodes a wait.
pub(super) fn decode(bytes: &[u8]) -> Option<Wait> {
    const AT: usize = size_of::<record::Sample>();
    Some(Wait {
        sample: sample(bytes)?,
        begin_ns: long(bytes, AT)?,
        woken_ns: long(bytes, AT + 8)?,
        total_ns: [
            long(bytes, AT + 16)?,
            long(bytes, AT + 24)?,
            long(bytes, AT + 32)?,
            long(bytes, AT + 40)?,
        ],
        unattributed: long(bytes, AT + 48)?,
        unattributed_ns: long(bytes, AT + 56)?,
        rate_ns: long(bytes, AT + 64)?,
        weight: word(bytes, AT + 72)?,
        state: word(bytes, AT + 76)?,
        system_call: word(bytes, AT + 80)?,
        reserved: word(bytes, AT + 84)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_field_by_field() {
        let bytes: Vec<u8> =
            (0..record::WAIT_BYTES as u32 / 4).flat_map(u32::to_ne_bytes).collect();
        let wait = decode(&bytes).unwrap();
        let at = |word: u32| (size_of::<record::Sample>() / 4) as u32 + word;
        assert_eq!((wait.begin_ns as u32, wait.woken_ns as u32), (at(0), at(2)));
        assert_eq!(wait.total_ns.map(|it| it as u32), [at(4), at(6), at(8), at(10)]);
        assert_eq!((wait.unattributed as u32, wait.unattributed_ns as u32), (at(12), at(14)));
        assert_eq!((wait.rate_ns as u32, wait.weight, wait.state), (at(16), at(18), at(19)));
        assert_eq!(wait.system_call, at(20));
        for length in 0..record::WAIT_BYTES {
            assert!(decode(&bytes[..length]).is_none(), "{length}");
        }
    }
}
