//! What all threads do at a moment.

use profiler_ebpf::{
    arch::{self, REGISTERS},
    record::{MAX_SNAPSHOT_FRAMES, SNAPSHOT_HEADER_BYTES, Sample},
    waits::{State, Thread},
};

use super::{
    KernelError, Sampler,
    sampler::{long, sample, word},
    stack_copy::StackCopy,
};

/// What may be in use below the stack pointer (x86_64's ABI).
const RED_ZONE_BYTES: u64 = 128;

/// A thread at a moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Who it is, and when.
    pub sample: Sample,
    /// What it did.
    pub state: State,
    /// Whether it had a CPU: its registers are then those of some time before.
    pub is_on_cpu: bool,
    /// How often it had given its CPU up.
    pub switches: u64,
    /// For how long it had a CPU since it began, and waited for one, in nanoseconds.
    pub times_ns: [u64; 2],
    /// Its own start: boot-time clock.
    pub begin_ns: u64,
    /// The system call that it was in, and its first argument.
    pub system_call: (u32, u64),
    /// Its kernel stack, leaf first.
    pub kernel: Vec<u64>,
    registers: [u64; REGISTERS],
}

impl Snapshot {
    /// The avma from which its stack is to be read.
    pub fn stack_start(&self) -> u64 {
        arch::registers(&self.registers).sp.wrapping_sub(RED_ZONE_BYTES) & !7
    }

    /// Its stack, as it was read from [`Self::stack_start`] on.
    pub fn stack(&self, bytes: Vec<u8>) -> StackCopy {
        StackCopy::new(self.registers, self.stack_start(), bytes.into())
    }

    /// What is kept of it while it waits on, since a time on the boot-time clock; `sample` has its
    /// stacks.
    pub fn waiting(&self, sample: Sample, since_ns: u64) -> Thread {
        let (system_call, argument) = self.system_call;
        Thread {
            sample,
            since_ns,
            argument,
            system_call,
            state: State::Waiting as u32,
            weight: 1,
            ..Thread::default()
        }
    }

    /// A thread that has a CPU.
    #[cfg(test)]
    pub fn running(sample: Sample) -> Self {
        Self {
            sample,
            state: State::Running,
            is_on_cpu: true,
            switches: 0,
            times_ns: [0; 2],
            begin_ns: 0,
            system_call: (0, 0),
            kernel: Vec::new(),
            registers: [0; REGISTERS],
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut at = size_of::<Sample>();
        let mut next = || {
            at += 8;
            long(bytes, at - 8)
        };
        let mut registers = [0; REGISTERS];
        for register in &mut registers {
            *register = next()?;
        }
        let frames = (next()? as usize).min(MAX_SNAPSHOT_FRAMES);
        let switches = next()?;
        let times_ns = [next()?, next()?];
        let begin_ns = next()?;
        let argument = next()?;
        let (state, is_on_cpu, system_call) =
            (word(bytes, at)?, word(bytes, at + 4)?, word(bytes, at + 8)?);
        let frames = bytes.get(SNAPSHOT_HEADER_BYTES..)?.chunks_exact(8).take(frames);
        Some(Self {
            sample: sample(bytes)?,
            state: match (state, is_on_cpu) {
                (0, 0) => State::Runnable,
                (0, _) => State::Running,
                _ => State::Waiting,
            },
            is_on_cpu: is_on_cpu != 0,
            switches,
            times_ns,
            begin_ns,
            system_call: (system_call, argument),
            kernel: frames.filter_map(|frame| long(frame, 0)).collect(),
            registers,
        })
    }
}

impl Sampler {
    /// Gets ready for [`Self::snapshot`], which is not to take long.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn prepare_snapshot(&mut self) -> Result<(), KernelError> {
        self.object.thread_iterator().map(|_| ())
    }

    /// What all threads of processes that are profiled do now.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn snapshot(&mut self) -> Result<Vec<Snapshot>, KernelError> {
        const RECORD_BYTES: usize = SNAPSHOT_HEADER_BYTES + MAX_SNAPSHOT_FRAMES * 8;
        let bytes = self.object.read_threads()?;
        Ok(bytes.chunks_exact(RECORD_BYTES).filter_map(Snapshot::decode).collect())
    }
}
