//! A copy of the interrupted user code's stack, for the daemon to walk when the unwind tables of a
//! new process's files have come.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_prandom_u32, bpf_loop, bpf_probe_read_user, bpf_ringbuf_output},
};
use profiler_ebpf::{
    config::{self, Control},
    record::{COPY_HEADER_BYTES, COPY_PAGE_BYTES, CopyHeader, Kind, MAX_COPY_BYTES, Sample},
};

use crate::{
    maps::{COPIES, PROCESSES, RECORDS, submit_flags, waiting_bytes},
    registers,
};

/// What may be in use below the stack pointer (x86_64's ABI).
const RED_ZONE_BYTES: u64 = 128;

const PAGES: usize = MAX_COPY_BYTES / COPY_PAGE_BYTES;

/// Where a CPU puts a copy together, and how many it may still make.
#[repr(C)]
pub(crate) struct CopySpace {
    /// The second that `made` is of, on the boot-time clock.
    second: u64,
    /// Copies made in it.
    made: u64,
    /// Sent together with the bytes behind it.
    header: CopyHeader,
    bytes: [u8; MAX_COPY_BYTES],
}

/// What the steps of a copy share.
#[repr(C)]
struct Context {
    space: *mut CopySpace,
    pages: u64,
}

/// Sends `sample`, as a record of this kind, with a copy of the stack of `task`, which must run user code and is the current
/// one. `false`: it was not sent, since too many were or there is no room.
#[inline(always)]
pub(crate) fn send(control: &Control, sample: &Sample, task: *mut task_struct, kind: Kind) -> bool {
    let Some(space) = COPIES.get_ptr_mut(sample.cpu) else { return false };
    // SAFETY: the element is this CPU's, which the scratch space's `busy` keeps for us.
    let copy = unsafe { &mut *space };
    let second = sample.time_ns / 1_000_000_000;
    if copy.second != second {
        copy.second = second;
        copy.made = 0;
    }
    let is_crowded = waiting_bytes() >= u64::from(control.crowded_bytes);
    if is_crowded || copy.made >= config::COPIES_IN_SECOND || !process_may(sample.pid) {
        return false;
    }
    copy.made += 1;
    let user = registers::user(task);
    copy.header.sample = *sample;
    copy.header.sample.kind = kind as u32;
    copy.header.registers = registers::all(task);
    copy.header.start = user.sp.wrapping_sub(RED_ZONE_BYTES) & !(COPY_PAGE_BYTES as u64 - 1);
    let mut context = Context { space, pages: 0 };
    // SAFETY: `page` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(PAGES as u32, page as *mut c_void, (&raw mut context).cast(), 0) };
    let bytes = context.pages * COPY_PAGE_BYTES as u64;
    if bytes == 0 {
        return false;
    }
    copy.header.bytes = bytes;
    // The verifier does not follow the "or" that the compiler makes of this sum.
    let size = core::hint::black_box(COPY_HEADER_BYTES as u64 + bytes);
    if size > (COPY_HEADER_BYTES + MAX_COPY_BYTES) as u64 {
        return false;
    }
    // SAFETY: header and bytes lie behind each other, and `size` is within them.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            (&raw mut copy.header).cast(),
            size,
            submit_flags(control),
        )
    };
    result == 0
}

/// Whether not too many stacks of the process were copied: for some code there will never be a
/// table.
#[inline(always)]
fn process_may(pid: u32) -> bool {
    let Some(process) = PROCESSES.get_ptr_mut(pid) else { return true };
    // SAFETY: the value stays while the program runs; CPUs that race for it count too few.
    let copies = unsafe { &mut (*process).copies };
    if *copies >= config::COPIES_OF_PROCESS {
        return false;
    }
    *copies += 1;
    true
}

/// Copies one page; 1 ends it.
unsafe extern "C" fn page(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `send` passes a `Context`, whose space is this CPU's.
    let context = unsafe { &mut *context.cast::<Context>() };
    if index as usize >= PAGES {
        return 1;
    }
    let into = index as usize * COPY_PAGE_BYTES;
    // SAFETY: as above.
    let copy = unsafe { &mut *context.space };
    let from = copy.header.start.wrapping_add(into as u64);
    // SAFETY: a page fits behind `into`; the helper writes no more, or fails.
    let result = unsafe {
        bpf_probe_read_user(
            copy.bytes.as_mut_ptr().add(into).cast(),
            COPY_PAGE_BYTES as u32,
            from as *const c_void,
        )
    };
    if result != 0 {
        return 1;
    }
    context.pages = u64::from(index) + 1;
    0
}

/// Gives `sample`, which has the user stack of `task` as far as it could be walked, an ID of its own,
/// and sends the stack under that to be walked later; if that cannot be, it stays as it is.
#[inline(always)]
pub(crate) fn send_apart(control: &Control, sample: &mut Sample, task: *mut task_struct) {
    let walked = (sample.user_stack, sample.user_check);
    // SAFETY: the helper has no arguments.
    let random = || unsafe { bpf_get_prandom_u32() };
    sample.user_stack = u64::from(random()) << 32 | u64::from(random()) | 1;
    sample.user_check = random();
    if !send(control, sample, task, Kind::WaitCopy) {
        (sample.user_stack, sample.user_check) = walked;
    }
}
