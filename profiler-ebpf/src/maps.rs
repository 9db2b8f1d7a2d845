//! The maps, and the run's constants.

use aya_ebpf::{
    bindings::bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS},
    helpers::generated::bpf_ringbuf_query,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use profiler_ebpf::{
    config::{self, Config, Control},
    counters::Counters,
    go_waits::{self, GoWait, Parked, Place, Waiters},
    mappings::{Process, Range},
    record::{MAX_USER_FRAMES, StackHeader, Wait},
    targets::{self, Mode, Target, Verdict},
    unwind::table::{BLOCK_BYTES, SLAB_BLOCKS, Table},
    waits::{Pace, Random, Thread},
};

use crate::{
    snapshot::SnapshotSpace, stack_copy::CopySpace, user_memory::Window, user_stack::UserWalk,
};

/// Written by the daemon before the object is loaded. Read it by [`config`] alone.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    task_flags: 0,
    task_tgid: 0,
    task_group_leader: 0,
    task_start_boottime: 0,
    task_self_exec_id: 0,
    mode: 0,
    follow: 0,
    kernel_stacks: 0,
    user_stacks: 0,
    task_mm: 0,
    mm_end_code: 0,
    task_pid: 0,
    task_cfs_rq: 0,
    cfs_rq_throttle_count: 0,
    cfs_rq_throttled_ns: 0,
    task_state: 0,
    task_on_cpu: 0,
    task_nvcsw: 0,
    task_nivcsw: 0,
    task_comm: 0,
    task_ran: 0,
    task_delayed: 0,
    task_arrived: 0,
    cfs_rq_rq: 0,
    rq_clock: 0,
    task_thread_pointer: 0,
    seed: 0,
};

/// The run's constants.
#[inline(always)]
pub(crate) fn config() -> Config {
    // SAFETY: CONFIG is initialized; the volatile read keeps the compiler from folding in the
    // zeroes that the daemon replaces.
    unsafe { core::ptr::read_volatile(&raw const CONFIG) }
}

/// The run's constants where they are: a copy would be too big for the stack of some programs.
#[inline(always)]
pub(crate) fn config_in_place() -> &'static Config {
    // SAFETY: CONFIG is initialized, and nobody writes to it while programs run. The compiler is not to
    // know what it was before the daemon replaced it.
    unsafe { &*core::hint::black_box(&raw const CONFIG) }
}

/// Whether something of the process is wanted.
#[inline(always)]
pub(crate) fn is_wanted(config: &Config, pid: u32, start_ns: u64, exec_id: u32) -> bool {
    if config.mode == Mode::All as u32 {
        return true;
    }
    // SAFETY: the value is looked at before anything can replace it.
    let target = unsafe { TARGETS.get(pid) };
    targets::decide(config.mode, target, start_ns, exec_id) == Verdict::Take
}

/// Space for one stack while it is walked and on its way into the ring: too big for the BPF stack.
#[repr(C)]
pub(crate) struct Scratch {
    /// 1 while a program on this CPU uses it: programs nest.
    pub(crate) busy: u64,
    pub(crate) user: UserWalk,
    pub(crate) memory: Window,
    /// Sent together with the frames behind it.
    pub(crate) header: StackHeader,
    /// Frames, leaf first.
    pub(crate) frames: [u64; MAX_USER_FRAMES],
}

#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// One for each CPU: too big for a per-CPU array. Sized by the daemon.
#[map]
pub(crate) static COPIES: Array<CopySpace> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SENT: Array<u64> = Array::with_max_entries(config::SENT, 0);
#[map]
pub(crate) static TARGETS: HashMap<u32, Target> =
    HashMap::with_max_entries(config::TARGETS, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> =
    HashMap::with_max_entries(config::PROCESSES, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
/// What is kept of each thread where waits are recorded. Sized by the daemon.
#[map]
pub(crate) static THREADS: HashMap<u32, Thread> =
    HashMap::with_max_entries(1, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
/// What is too big for the BPF stack beside the walk of a user's: where a CPU puts it together.
#[repr(C)]
pub(crate) struct WaitSpace {
    pub(crate) wait: Wait,
    pub(crate) thread: Thread,
}

#[map]
pub(crate) static WAIT_SPACE: PerCpuArray<WaitSpace> = PerCpuArray::with_max_entries(1, 0);
/// Where records of a snapshot are put together.
#[map]
pub(crate) static SNAPSHOTS: PerCpuArray<SnapshotSpace> = PerCpuArray::with_max_entries(1, 0);
/// Go programs whose goroutines are watched as they wait.
#[map]
pub(crate) static GO_PROGRAMS: HashMap<u32, go_waits::Program> =
    HashMap::with_max_entries(config::GO_PROGRAMS, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
/// Their goroutines that wait.
#[map]
pub(crate) static GO_PARKED: HashMap<Place, Parked> =
    HashMap::with_max_entries(config::GO_PARKED, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
/// Those that wait for locks, by where the runtime keeps them.
#[map]
pub(crate) static GO_LOCKS: HashMap<Place, Waiters> =
    HashMap::with_max_entries(config::GO_LOCKS, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
/// Where a CPU puts a goroutine's wait together. It is not [`SCRATCH`]: what uses this may be
/// interrupted for long.
#[repr(C)]
pub(crate) struct GoSpace {
    pub(crate) wait: GoWait,
    pub(crate) pace: Pace,
    pub(crate) scratch: Scratch,
}

#[map]
pub(crate) static GO_SPACE: PerCpuArray<GoSpace> = PerCpuArray::with_max_entries(1, 0);
/// How many stacks of waits a CPU takes, and which.
#[repr(C)]
pub(crate) struct CpuPace {
    pub(crate) pace: Pace,
    pub(crate) random: Random,
}

#[map]
pub(crate) static PACES: PerCpuArray<CpuPace> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static RANGES: Array<Range> =
    Array::with_max_entries(config::RANGES, aya_ebpf::bindings::BPF_F_MMAPABLE);
#[map]
pub(crate) static TABLES: Array<Table> =
    Array::with_max_entries(config::TABLES, aya_ebpf::bindings::BPF_F_MMAPABLE);

/// Definitions that BTF describes: a number is the length of an array that a pointer is to.
#[repr(C)]
pub(crate) struct Slab {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; 4],
    value_size: *const [i32; BLOCK_BYTES],
    max_entries: *const [i32; SLAB_BLOCKS as usize],
    map_flags: *const [i32; aya_ebpf::bindings::BPF_F_MMAPABLE as usize],
}

#[repr(C)]
pub(crate) struct Slabs {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY_OF_MAPS as usize],
    key_size: *const [i32; 4],
    value_size: *const [i32; 4],
    max_entries: *const [i32; config::SLABS as usize],
    values: [*const Slab; 0],
}

// SAFETY: nothing is behind the pointers.
unsafe impl Sync for Slabs {}

/// The blocks of unwind tables, in slabs that the daemon adds as it needs them. Declared by hand:
/// aya-ebpf has no type for an array of maps.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
pub(crate) static SLABS: Slabs = Slabs {
    r#type: core::ptr::null(),
    key_size: core::ptr::null(),
    value_size: core::ptr::null(),
    max_entries: core::ptr::null(),
    values: [],
};

/// Adds one to a count of this CPU's.
macro_rules! count {
    ($field:ident) => {
        if let Some(counters) = $crate::maps::COUNTERS.get_ptr_mut(0) {
            // SAFETY: the pointer is to this CPU's element.
            unsafe { (*counters).$field += 1 };
        }
    };
}
pub(crate) use count;

/// Sized by the daemon.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// How to submit to `RECORDS`: the daemon comes by itself in its time, unless much waits for it.
#[inline(always)]
pub(crate) fn submit_flags(control: &Control) -> u64 {
    if waiting_bytes() >= u64::from(control.wake_bytes) {
        u64::from(aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP)
    }
}

/// How much waits in `RECORDS`, in bytes.
#[inline(always)]
pub(crate) fn waiting_bytes() -> u64 {
    const AVAILABLE_DATA: u64 = aya_ebpf::bindings::BPF_RB_AVAIL_DATA as u64;
    // SAFETY: RECORDS is a ring buffer map.
    unsafe { bpf_ringbuf_query((&raw const RECORDS).cast_mut().cast(), AVAILABLE_DATA) }
}
