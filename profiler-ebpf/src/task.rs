//! Fields of the kernel's `task_struct`, at the offsets that the daemon read from BTF.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use profiler_ebpf::config::{Config, Control};

/// `PF_KTHREAD`: a kernel thread (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_IO_WORKER`, and its kin `PF_USER_WORKER` since 6.4: shares a process's memory, but runs no
/// user code.
const PF_USER_WORKER: u32 = 0x0000_4010;

/// `TASK_DEAD`: the thread will not run again (`include/linux/sched.h`).
pub(crate) const TASK_DEAD: u32 = 0x80;

/// A `task_struct`, or another structure of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

impl Task {
    #[inline(always)]
    fn read<T>(self, offset: u32) -> Option<T> {
        // SAFETY: the helper checks the address; a wrong one is an error, not a fault.
        unsafe { bpf_probe_read_kernel(self.0.add(offset as usize).cast::<T>()) }.ok()
    }

    /// Whether user code runs in it, and whether it is a kernel thread.
    #[inline(always)]
    pub(crate) fn flags(self, config: &Config) -> Option<Flags> {
        Some(Flags::of(self.read(config.task_flags)?))
    }

    /// Whether it has its user memory: a task that ends has given it up, and in the middle of an
    /// `exec` it is another one, to which the registers do not belong.
    ///
    /// `exec_mmap` in `fs/exec.c` puts a new `mm_struct` in place, and `load_elf_binary` in
    /// `fs/binfmt_elf.c` sets its `end_code` when all is mapped, right before the new registers.
    #[inline(always)]
    pub(crate) fn has_user_memory(self, config: &Config) -> bool {
        let Some(mm) = self.read::<*const u8>(config.task_mm).filter(|mm| !mm.is_null()) else {
            return false;
        };
        Task(mm).read::<u64>(config.mm_end_code).is_some_and(|end| end != 0)
    }

    #[inline(always)]
    pub(crate) fn tgid(self, config: &Config) -> Option<u32> {
        self.read(config.task_tgid)
    }

    #[inline(always)]
    pub(crate) fn tid(self, config: &Config) -> Option<u32> {
        self.read(config.task_pid)
    }

    #[inline(always)]
    pub(crate) fn comm(self, config: &Config) -> Option<[u8; 16]> {
        self.read(config.task_comm)
    }

    #[inline(always)]
    pub(crate) fn state(self, config: &Config) -> Option<u32> {
        self.read(config.task_state)
    }

    #[inline(always)]
    pub(crate) fn is_on_cpu(self, config: &Config) -> Option<u32> {
        if config.task_on_cpu == 0 {
            return Some(0);
        }
        self.read(config.task_on_cpu)
    }

    /// How often it gave its CPU up, of itself and not.
    #[inline(always)]
    pub(crate) fn switches(self, config: &Config) -> Option<u64> {
        Some(self.read::<u64>(config.task_nvcsw)? + self.read::<u64>(config.task_nivcsw)?)
    }

    /// For how long it had a CPU since it began, and for how long it waited for one, in nanoseconds.
    #[inline(always)]
    pub(crate) fn times_ns(self, config: &Config) -> Option<(u64, u64)> {
        let delayed = if config.task_delayed == 0 { 0 } else { self.read(config.task_delayed)? };
        Some((self.read(config.task_ran)?, delayed))
    }

    /// Its own start: boot-time clock, in nanoseconds.
    #[inline(always)]
    pub(crate) fn start_ns(self, config: &Config) -> Option<u64> {
        self.read(config.task_start_boottime)
    }

    /// `start_boottime` of the process's first thread, in nanoseconds.
    #[inline(always)]
    pub(crate) fn process_start_ns(self, config: &Config) -> Option<u64> {
        let leader: *const u8 = self.read(config.task_group_leader)?;
        Task(leader).read(config.task_start_boottime)
    }

    /// Where what is a thread's own begins, of the user code of the current task; x86_64.
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn thread_pointer(self, config: &Config) -> Option<u64> {
        if config.task_thread_pointer == 0 {
            return None;
        }
        self.read(config.task_thread_pointer)
    }

    #[inline(always)]
    pub(crate) fn exec_id(self, config: &Config) -> Option<u32> {
        self.read(config.task_self_exec_id)
    }
}

/// A `task_struct`, or what one points to, that the verifier knows to be one: what is in it is read
/// without calling anybody.
#[derive(Clone, Copy)]
pub(crate) struct KnownTask(pub(crate) *const u8);

impl KnownTask {
    #[inline(always)]
    fn load<T>(self, offset: u32) -> T {
        // SAFETY: the verifier takes no other pointer, and where it is wrong what is read is 0. The
        // daemon wrote the offset before the program was loaded, so that it is a constant.
        unsafe { core::ptr::read_volatile(self.0.add(offset as usize).cast::<T>()) }
    }

    #[inline(always)]
    fn number(self, offset: u32) -> u32 {
        self.load(offset)
    }

    /// For how long it has had its CPU, in nanoseconds; `None`: the kernel does not tell.
    #[inline(always)]
    pub(crate) fn ran_ns(self, config: &Config) -> Option<u64> {
        if config.rq_clock == 0 {
            return None;
        }
        let since_ns: u64 = self.load(config.task_arrived);
        Some(self.clock_ns(config).saturating_sub(since_ns))
    }

    /// The clock of its CPU, as it is at a switch.
    #[inline(always)]
    fn clock_ns(self, config: &Config) -> u64 {
        let queue = Self(self.load(config.task_cfs_rq));
        Self(queue.load(config.cfs_rq_rq)).load(config.rq_clock)
    }

    /// The queue that its cgroup has on its CPU.
    #[inline(always)]
    pub(crate) fn queue(self, config: &Config) -> Option<Queue> {
        if config.task_cfs_rq == 0 {
            None
        } else {
            Some(Queue(Self(self.load(config.task_cfs_rq))))
        }
    }

    /// Whether user code runs in it, of a process whose threads are followed.
    #[inline(always)]
    pub(crate) fn may_be_followed(self, config: &Config, control: &Control) -> bool {
        Flags::of(self.number(config.task_flags)).user_code && control.follows(self.tgid(config))
    }

    #[inline(always)]
    pub(crate) fn tgid(self, config: &Config) -> u32 {
        self.number(config.task_tgid)
    }

    #[inline(always)]
    pub(crate) fn tid(self, config: &Config) -> u32 {
        self.number(config.task_pid)
    }
}

/// A `cfs_rq`: what is ready of a cgroup on one CPU.
#[derive(Clone, Copy)]
pub(crate) struct Queue(KnownTask);

impl Queue {
    /// What tells it from others.
    #[inline(always)]
    pub(crate) fn id(self) -> u64 {
        self.0.0.addr() as u64
    }

    /// Whether its cgroup, or one above, has used up its quota of CPU time.
    #[inline(always)]
    pub(crate) fn is_throttled(self, config: &Config) -> bool {
        let count = config.cfs_rq_throttle_count;
        count != 0 && self.0.load::<i32>(count) > 0
    }

    /// For how long that was so while there was something in it, up to when it last ended, in
    /// nanoseconds; 0 where the kernel does not count it.
    ///
    /// # Minimum kernel version
    ///
    /// 6.6.
    #[inline(always)]
    pub(crate) fn throttled_ns(self, config: &Config) -> u64 {
        let throttled = config.cfs_rq_throttled_ns;
        if throttled == 0 { 0 } else { self.0.load(throttled) }
    }
}

/// What kind of task it is.
#[derive(Clone, Copy)]
pub(crate) struct Flags {
    pub(crate) kernel_thread: bool,
    pub(crate) user_code: bool,
}

impl Flags {
    #[inline(always)]
    const fn of(flags: u32) -> Self {
        Self {
            kernel_thread: flags & PF_KTHREAD != 0,
            user_code: flags & (PF_KTHREAD | PF_USER_WORKER) == 0,
        }
    }
}
