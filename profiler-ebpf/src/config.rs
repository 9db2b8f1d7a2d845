//! What the daemon tells the programs: once at load ([`Config`]), and while they run ([`Control`]).

/// Constants of a run, written into the object before it is loaded.
///
/// Offsets are in bytes, from the running kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.tgid`: what users call pid.
    pub task_tgid: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.self_exec_id`
    pub task_self_exec_id: u32,
    /// Which samples are taken: a [`crate::targets::Mode`] as its number.
    pub mode: u32,
    /// 1: children of a target are targets.
    pub follow: u32,
    /// 1: kernel stacks are taken.
    pub kernel_stacks: u32,
    /// 1: user stacks are taken.
    pub user_stacks: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.end_code`
    pub mm_end_code: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
    /// Random start value of stack IDs, so that no program can aim for a collision.
    pub seed: u64,
}

/// What the daemon changes during a run; the only element of the map `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Number of the current epoch: a stack is sent once per epoch, and the daemon may forget those
    /// of an epoch that has ended.
    pub epoch: u32,
    /// Bytes waiting in the ring at which the daemon is woken before its time.
    pub wake_bytes: u32,
    /// Bytes waiting in the ring beyond which no stack is copied, so that samples find room.
    pub crowded_bytes: u32,
}

/// How many stacks of a process are copied for want of a table before its mappings change again.
pub const COPIES_OF_PROCESS: u32 = 512;

/// How many stacks a CPU copies in a second.
pub const COPIES_IN_SECOND: u64 = 512;

/// Elements of the map `RANGES`.
pub const RANGES: u32 = 1 << 16;

/// Elements of the map `SENT`: as many stacks are remembered as sent.
pub const SENT: u32 = 1 << 14;

/// Elements of the map `TARGETS`.
pub const TARGETS: u32 = 1 << 16;

/// Elements of the map `PROCESSES`.
pub const PROCESSES: u32 = 1 << 16;

/// Elements of the map `TABLES`; the first is never used.
pub const TABLES: u32 = 1 << 14;

/// Elements of the map `SLABS`: 4 GiB of blocks.
pub const SLABS: u32 = 1 << 12;
