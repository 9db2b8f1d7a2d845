//! The records in the ring buffer. Each begins with its [`Kind`] as a `u32`.

use crate::{arch::REGISTERS, waits::STATES};

/// What a record is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`Sample`].
    Sample = 1,
    /// A [`StackHeader`] and its frames.
    Stack = 2,
    /// A [`CopyHeader`] and the bytes of a stack.
    Copy = 3,
    /// A [`Wait`]: it is over.
    Wait = 4,
    /// A [`Wait`]: it is over, by the thread whose stack it has.
    Wake = 5,
    /// A [`Wait`]: the thread has ended. It has no stack.
    Gone = 6,
    /// A [`Sample`] of a thread that starts another.
    Spawn = 7,
    /// A [`SnapshotHeader`], and frames.
    Snapshot = 8,
    /// A [`CopyHeader`] and the bytes of a stack, whose ID stands for nothing else: a [`Wait`] or a
    /// [`Kind::Spawn`] with it follows.
    WaitCopy = 9,
    /// A [`Wait`]: the thread ends. Its times are since it began, at `begin_ns`; it has no stack.
    End = 10,
    /// A [`StackHeader`] and, in the place of frames, the words of [`crate::go::Label`]s.
    Labels = 11,
    /// A [`crate::go_waits::GoWait`]: where a goroutine has waited.
    GoBlock = 12,
    /// A [`crate::go_waits::GoWait`]: where a goroutine has released what others waited for.
    GoMutex = 13,
    /// A [`RunningGoroutine`].
    RunningGoroutine = 14,
}

/// The goroutine that a sample is of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningGoroutine {
    /// [`Kind::RunningGoroutine`]
    pub kind: u32,
    /// As [`Sample::epoch`].
    pub epoch: u32,
    /// Its number: `g.goid`.
    pub goid: u64,
    /// As [`Sample::start_ns`].
    pub start_ns: u64,
    /// As [`Sample::user_stack`].
    pub user_stack: u64,
    /// As [`Sample::pid`].
    pub pid: u32,
    /// As [`Sample::user_check`].
    pub user_check: u32,
    /// As [`Sample::outcome`].
    pub outcome: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
}

/// What a thread waited for and for how long, and the stack that it belongs to: where it waits, or
/// where another thread ended it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// The stack; its time is that of the end.
    pub sample: Sample,
    /// When it began: boot-time clock, in nanoseconds.
    pub begin_ns: u64,
    /// When what it waited for was there, and it for a CPU; 0: then it got one.
    pub woken_ns: u64,
    /// For how long the thread was in each [`crate::waits::State`] since it was first seen, in
    /// nanoseconds.
    pub total_ns: [u64; STATES],
    /// How often the thread waited for a futex and was not woken by one that held it, since it was
    /// first seen.
    pub unattributed: u64,
    /// For how long, in nanoseconds.
    pub unattributed_ns: u64,
    /// The rate by which it was kept: [`crate::waits::is_kept`]; in nanoseconds.
    pub rate_ns: u64,
    /// It stands for so many.
    pub weight: u32,
    /// A [`crate::waits::State`] as a number.
    pub state: u32,
    /// The system call that it waited in.
    pub system_call: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
}

/// What a thread does at a moment: [`MAX_SNAPSHOT_FRAMES`] avmas of its kernel stack follow, leaf
/// first, of which `frames` count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Who it is, and when; its stacks have no IDs.
    pub sample: Sample,
    /// Registers of its user code as it last left that.
    pub registers: [u64; REGISTERS],
    /// Number of frames.
    pub frames: u64,
    /// How often it gave its CPU up since it began.
    pub switches: u64,
    /// For how long it had a CPU since it began, in nanoseconds.
    pub ran_ns: u64,
    /// For how long it was ready and waited for one, in nanoseconds.
    pub delayed_ns: u64,
    /// Its own start: boot-time clock, in nanoseconds.
    pub begin_ns: u64,
    /// First argument of the system call that it is in.
    pub argument: u64,
    /// `task_struct.__state`: 0 is running or runnable.
    pub state: u32,
    /// 1: it had a CPU.
    pub is_on_cpu: u32,
    /// The system call that it is in.
    pub system_call: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
}

/// The most kernel frames of a thread in a snapshot.
pub const MAX_SNAPSHOT_FRAMES: usize = 64;

/// Bytes of a [`SnapshotHeader`].
pub const SNAPSHOT_HEADER_BYTES: usize = size_of::<SnapshotHeader>();

/// The most user frames of a stack.
pub const MAX_USER_FRAMES: usize = 1024;

/// The most kernel frames of a stack: `PERF_MAX_STACK_DEPTH` of the kernel.
pub const MAX_KERNEL_FRAMES: usize = 127;

/// IDs of user stacks begin with the seed, exclusive-or this, those of kernel stacks with the seed.
pub const USER_SEED: u64 = 1;

/// IDs of labels begin with the seed, exclusive-or this.
pub const LABELS_SEED: u64 = 2;

/// The pid under which all kernel threads are counted.
pub const KERNEL_PID: u32 = 2;

/// One sample. Its stacks are named by their IDs; they come in records of their own, earlier.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The [`Kind`] of the record that it is, or begins.
    pub kind: u32,
    /// The epoch in which its stacks were sent.
    pub epoch: u32,
    /// Boot-time clock, in nanoseconds.
    pub time_ns: u64,
    /// `start_boottime` of the process's first thread, in nanoseconds; 0 for kernel threads.
    pub start_ns: u64,
    /// ID of the user stack; 0: none.
    pub user_stack: u64,
    /// ID of the kernel stack; 0: none.
    pub kernel_stack: u64,
    /// Process; [`KERNEL_PID`] for kernel threads.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// How often the process has called `exec`, of itself and its ancestors.
    pub exec_id: u32,
    /// Second sum of the user stack.
    pub user_check: u32,
    /// Second sum of the kernel stack.
    pub kernel_check: u32,
    /// CPU it was taken on.
    pub cpu: u32,
    /// Name of the thread, NUL-padded.
    pub comm: [u8; 16],
    /// How the walk of the user stack ended: an [`Outcome`](crate::unwind::Outcome) as its number.
    pub outcome: u32,
    /// 1: a stack was not sent for want of room, its ID stands for nothing.
    pub stack_lost: u32,
    /// ID of the labels of the goroutine that ran; 0: none.
    pub labels: u64,
}

/// What precedes the frames of a stack: `frames` avmas of 8 bytes, leaf first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackHeader {
    /// [`Kind::Stack`]
    pub kind: u32,
    /// The epoch in which it is sent.
    pub epoch: u32,
    /// Its ID.
    pub id: u64,
    /// Second sum of its frames.
    pub check: u32,
    /// Number of frames that follow.
    pub frames: u32,
}

/// A sample whose user stack could not be walked, since the unwind table of a file on the way was
/// not there yet, with what is needed to walk it once it is: `bytes` of the stack follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyHeader {
    /// The sample, with the stack as far as it was walked.
    pub sample: Sample,
    /// The interrupted code's registers.
    pub registers: [u64; REGISTERS],
    /// avma of the first byte.
    pub start: u64,
    /// Number of bytes that follow.
    pub bytes: u64,
}

/// The most bytes of a stack that are copied: whole pages.
pub const MAX_COPY_BYTES: usize = 17 * COPY_PAGE_BYTES;

/// A stack is copied by so many bytes at once, from a multiple of them on.
pub const COPY_PAGE_BYTES: usize = 4096;

/// Bytes of a [`CopyHeader`].
pub const COPY_HEADER_BYTES: usize = size_of::<CopyHeader>();

/// Bytes of a [`StackHeader`].
pub const STACK_HEADER_BYTES: usize = size_of::<StackHeader>();

/// Bytes of a [`Wait`].
pub const WAIT_BYTES: usize = size_of::<Wait>();

const _: () = assert!(size_of::<Sample>() == 96 && STACK_HEADER_BYTES == 24 && WAIT_BYTES == 184);
