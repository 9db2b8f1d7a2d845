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
    /// `task_struct.pid`: what users call tid.
    pub task_pid: u32,
    /// `task_struct.se.cfs_rq`; 0: the kernel has no quotas of CPU time.
    pub task_cfs_rq: u32,
    /// `cfs_rq.throttle_count`; 0: as above.
    pub cfs_rq_throttle_count: u32,
    /// `cfs_rq.throttled_clock_self_time`; 0: the kernel does not count it.
    pub cfs_rq_throttled_ns: u32,
    /// `task_struct.__state`
    pub task_state: u32,
    /// `task_struct.on_cpu`
    pub task_on_cpu: u32,
    /// `task_struct.nvcsw`
    pub task_nvcsw: u32,
    /// `task_struct.nivcsw`
    pub task_nivcsw: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.se.sum_exec_runtime`
    pub task_ran: u32,
    /// `task_struct.sched_info.run_delay`; 0: the kernel does not count it.
    pub task_delayed: u32,
    /// `task_struct.sched_info.last_arrival`
    pub task_arrived: u32,
    /// `cfs_rq.rq`
    pub cfs_rq_rq: u32,
    /// `rq.clock`, which that is of; 0: they are not there.
    pub rq_clock: u32,
    /// `task_struct.thread.fsbase` on x86_64; 0: there is none.
    pub task_thread_pointer: u32,
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
    /// Which kinds of waits are recorded: bits of [`waits`].
    pub waits: u32,
    /// Waits of this length are all kept, and of shorter ones a share; in nanoseconds.
    pub block_rate_ns: u64,
    /// Of so many wakes by a thread that held what was waited for, one is kept; at least 1.
    pub mutex_fraction: u32,
    /// Stacks of waits that are taken in a period of [`crate::waits::Pace`]: of a thread, and on a
    /// CPU. 0: all.
    pub thread_pace: u32,
    /// The same, on a CPU.
    pub cpu_pace: u32,
    /// The one process whose threads are followed; 0: those of all that are wanted.
    pub followed_pid: u32,
    /// Since when threads are followed: boot-time clock, in nanoseconds.
    pub followed_ns: u64,
    /// 1: it is told of which goroutines samples are.
    pub tells_goroutines: u64,
}

impl Control {
    /// Whether threads of a process may be followed.
    #[inline(always)]
    pub const fn follows(&self, pid: u32) -> bool {
        self.followed_pid == 0 || self.followed_pid == pid
    }
}

/// Bits of [`Control::waits`].
pub mod waits {
    /// Stacks of threads that wait for something else than a CPU.
    pub const BLOCK: u32 = 1;
    /// Stacks of threads that wait for a CPU, too.
    pub const WALL: u32 = 2;
    /// Stacks of threads that end the waits of others.
    pub const MUTEX: u32 = 4;
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

/// Elements of the map `THREADS`.
pub const THREADS: u32 = 1 << 17;

/// Elements of the map `GO_PROGRAMS`.
pub const GO_PROGRAMS: u32 = 64;

/// Elements of the map `GO_PARKED`.
pub const GO_PARKED: u32 = 1 << 17;

/// Elements of the map `GO_LOCKS`.
pub const GO_LOCKS: u32 = 1 << 13;

/// Elements of the map `PROCESSES`.
pub const PROCESSES: u32 = 1 << 16;

/// Elements of the map `TABLES`; the first is never used.
pub const TABLES: u32 = 1 << 14;

/// Elements of the map `SLABS`: 4 GiB of blocks.
pub const SLABS: u32 = 1 << 12;
