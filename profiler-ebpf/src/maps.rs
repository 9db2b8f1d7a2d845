//! The maps, and the run's constants.

use aya_ebpf::{
    helpers::generated::bpf_ringbuf_query,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use profiler_ebpf::{
    config::{self, Config, Control},
    counters::Counters,
    mappings::{Process, Range},
    record::{MAX_USER_FRAMES, StackHeader},
    targets::Target,
};

/// Written by the daemon before the object is loaded. Read it by [`config`] alone.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    task_flags: 0,
    task_pid: 0,
    task_tgid: 0,
    task_group_leader: 0,
    task_start_boottime: 0,
    task_self_exec_id: 0,
    mode: 0,
    follow: 0,
    kernel_stacks: 0,
    user_stacks: 0,
    seed: 0,
};

/// The run's constants.
#[inline(always)]
pub(crate) fn config() -> Config {
    // SAFETY: CONFIG is initialized; the volatile read keeps the compiler from folding in the
    // zeroes that the daemon replaces.
    unsafe { core::ptr::read_volatile(&raw const CONFIG) }
}

/// Space for one stack on its way into the ring: too big for the BPF stack.
#[repr(C)]
pub(crate) struct Scratch {
    /// 1 while a program on this CPU uses it: programs nest.
    pub(crate) busy: u64,
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
#[map]
pub(crate) static SENT: Array<u64> = Array::with_max_entries(config::SENT, 0);
#[map]
pub(crate) static TARGETS: HashMap<u32, Target> =
    HashMap::with_max_entries(config::TARGETS, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> =
    HashMap::with_max_entries(config::PROCESSES, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
#[map]
pub(crate) static RANGES: Array<Range> =
    Array::with_max_entries(config::RANGES, aya_ebpf::bindings::BPF_F_MMAPABLE);
/// Sized by the daemon.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// How to submit to `RECORDS`: the daemon comes by itself in its time, unless much waits for it.
#[inline(always)]
pub(crate) fn submit_flags(control: &Control) -> u64 {
    const AVAILABLE_DATA: u64 = aya_ebpf::bindings::BPF_RB_AVAIL_DATA as u64;
    // SAFETY: RECORDS is a ring buffer map.
    let waiting =
        unsafe { bpf_ringbuf_query((&raw const RECORDS).cast_mut().cast(), AVAILABLE_DATA) };
    if waiting >= u64::from(control.wake_bytes) {
        u64::from(aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP)
    }
}
