//! What all threads do at a moment: each one's registers, kernel stack and state.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{seq_file, task_struct},
    helpers::generated::{bpf_get_task_stack, bpf_ktime_get_boot_ns, bpf_seq_write},
};
use profiler_ebpf::record::{Kind, MAX_SNAPSHOT_FRAMES, SNAPSHOT_HEADER_BYTES, SnapshotHeader};

use crate::{
    maps::{SNAPSHOTS, config, is_wanted},
    registers,
    task::{TASK_DEAD, Task},
};

/// `struct bpf_iter__task` (`kernel/bpf/task_iter.c`).
#[repr(C)]
pub(crate) struct Context {
    meta: *const Meta,
    /// Null: there is no further one.
    task: *mut task_struct,
}

/// `struct bpf_iter_meta` (`include/linux/bpf.h`).
#[repr(C)]
struct Meta {
    file: *mut seq_file,
}

/// Where a thread's record is put together.
#[repr(C)]
pub(crate) struct SnapshotSpace {
    header: SnapshotHeader,
    frames: [u64; MAX_SNAPSHOT_FRAMES],
}

/// Called for each thread as the iterator is read; aya-ebpf has no macro for it.
///
/// # Minimum kernel version
///
/// 5.8 (`iter/task`), 5.9 (`bpf_get_task_stack`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub(crate) extern "C" fn snapshot(context: *mut Context) -> i32 {
    // SAFETY: the kernel passes its `bpf_iter__task`.
    let (meta, task) = unsafe { ((*context).meta, (*context).task) };
    if task.is_null() {
        return 0;
    }
    // SAFETY: as above; a `bpf_iter__task` has its `bpf_iter_meta`.
    let file = unsafe { (*meta).file };
    let _ = write(file, task);
    0
}

#[inline(always)]
fn write(file: *mut seq_file, task_btf: *mut task_struct) -> Option<()> {
    let config = config();
    let task = Task(task_btf.cast_const().cast());
    if !task.flags(&config)?.user_code {
        return None;
    }
    // It has ended; somebody is still to ask how.
    let state = task.state(&config)?;
    if state & TASK_DEAD != 0 {
        return None;
    }
    let pid = task.tgid(&config)?;
    let start_ns = task.process_start_ns(&config)?;
    let exec_id = task.exec_id(&config)?;
    if !is_wanted(&config, pid, start_ns, exec_id) {
        return None;
    }
    // SAFETY: the pointer is to this CPU's element, and nobody else reads the iterator.
    let space = unsafe { &mut *SNAPSHOTS.get_ptr_mut(0)? };
    let header = &mut space.header;
    header.sample.kind = Kind::Snapshot as u32;
    // SAFETY: the helper has no arguments.
    header.sample.time_ns = unsafe { bpf_ktime_get_boot_ns() };
    header.sample.start_ns = start_ns;
    header.sample.pid = pid;
    header.sample.tid = task.tid(&config)?;
    header.sample.exec_id = exec_id;
    header.sample.comm = task.comm(&config)?;
    header.state = state;
    header.is_on_cpu = task.is_on_cpu(&config)?;
    header.switches = task.switches(&config)?;
    (header.ran_ns, header.delayed_ns) = task.times_ns(&config)?;
    header.begin_ns = task.start_ns(&config)?;
    header.registers = registers::all(task_btf);
    (header.system_call, header.argument) = registers::system_call(task_btf);
    // SAFETY: the buffer holds as many bytes as the helper may write; the task is the iterator's.
    let bytes = unsafe {
        bpf_get_task_stack(
            task_btf,
            space.frames.as_mut_ptr().cast(),
            (MAX_SNAPSHOT_FRAMES * 8) as u32,
            0,
        )
    };
    let frames = if bytes > 0 { bytes as usize / 8 } else { 0 };
    header.frames = frames as u64;
    if frames > MAX_SNAPSHOT_FRAMES {
        return None;
    }
    // All of it, whatever is used: the reader knows how much that is.
    // SAFETY: header and frames lie behind each other; the file is the iterator's.
    unsafe {
        bpf_seq_write(
            file,
            (&raw const space.header).cast::<c_void>(),
            (SNAPSHOT_HEADER_BYTES + MAX_SNAPSHOT_FRAMES * 8) as u32,
        );
    }
    Some(())
}
