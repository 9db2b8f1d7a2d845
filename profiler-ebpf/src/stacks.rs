//! Both stacks of a thread: taken, and sent once in each epoch.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_stack, bpf_loop, bpf_ringbuf_output},
};
use profiler_ebpf::{
    config::{self, Config, Control},
    record::{self, Kind, MAX_KERNEL_FRAMES, MAX_USER_FRAMES, STACK_HEADER_BYTES, Sample},
    stack_id::StackId,
    unwind::{Outcome, Registers},
};

use crate::{
    maps::{RECORDS, SENT, Scratch, count, submit_flags},
    registers, stack_copy, user_stack,
};

/// Takes the kernel stack. `ctx`: the program's context.
#[inline(always)]
pub(crate) fn kernel(
    ctx: *mut c_void,
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    scratch: &mut Scratch,
) {
    // SAFETY: the buffer holds as many bytes as the helper may write.
    let bytes = unsafe {
        bpf_get_stack(ctx, scratch.frames.as_mut_ptr().cast(), (MAX_KERNEL_FRAMES * 8) as u32, 0)
    };
    if bytes <= 0 {
        return;
    }
    let frames = (bytes as usize / 8).min(MAX_KERNEL_FRAMES);
    let id = hash_frames(config.seed, frames, scratch);
    sample.kernel_stack = id.id();
    sample.kernel_check = id.check();
    send_stack(control, &id, frames, sample, scratch);
}

/// Hashes so many frames.
#[inline(always)]
pub(crate) fn hash_frames(seed: u64, frames: usize, scratch: &Scratch) -> StackId {
    let mut context = HashContext { id: StackId::new(seed), scratch: &raw const *scratch };
    // SAFETY: `hash` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(frames as u32, hash as *mut c_void, (&raw mut context).cast(), 0) };
    context.id
}

/// What the steps of a hash share.
#[repr(C)]
struct HashContext {
    id: StackId,
    scratch: *const Scratch,
}

/// Hashes one of them.
unsafe extern "C" fn hash(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `hash_frames` passes a `HashContext`.
    let context = unsafe { &mut *context.cast::<HashContext>() };
    // SAFETY: `scratch` is this CPU's element, which `busy` keeps for us.
    let frame = unsafe { (*context.scratch).frames[index as usize & (MAX_USER_FRAMES - 1)] };
    context.id.push(frame);
    0
}

/// Takes the user stack of `task`, as [`user`] does, of a wait: where a table is lacking, it is copied.
#[inline(always)]
pub(crate) fn user_of_wait(
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    task: *mut task_struct,
    scratch: &mut Scratch,
) {
    if user(config, control, sample, task, scratch) && sample.outcome != Outcome::Complete as u32 {
        stack_copy::send_apart(control, sample, task);
    }
}

/// Takes the user stack of `task`, which must run user code and is the current one; `true`: it may
/// be a better one when there are tables of its files.
#[inline(always)]
pub(crate) fn user(
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    task: *mut task_struct,
    scratch: &mut Scratch,
) -> bool {
    let registers = registers::user(task);
    user_from(config, control, sample, &registers, task, scratch)
}

/// The same from other registers on than the task's own.
#[inline(always)]
pub(crate) fn user_from(
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    registers: &Registers,
    task: *mut task_struct,
    scratch: &mut Scratch,
) -> bool {
    let process = (sample.pid, sample.start_ns);
    let seed = config.seed ^ record::USER_SEED;
    let found = user_stack::take(scratch, registers, task, process, seed);
    sample.outcome = found.outcome;
    sample.user_stack = found.id.id();
    sample.user_check = found.id.check();
    send_stack(control, &found.id, found.frames, sample, scratch);
    found.lacks_table
}

/// Sends the `frames` in `scratch` unless they were sent in this epoch already.
#[inline(always)]
fn send_stack(
    control: &Control,
    id: &StackId,
    frames: usize,
    sample: &mut Sample,
    scratch: &mut Scratch,
) {
    if !send(control, Kind::Stack, id, frames, scratch) {
        sample.stack_lost = 1;
        count!(stack_lost);
    }
}

/// Where it is noted that something of this ID was sent, and what is noted.
#[inline(always)]
fn note_of(control: &Control, id: &StackId) -> Option<(*mut u64, u64)> {
    let mark = id.id().wrapping_add(u64::from(control.epoch) << 32);
    let slot = (id.id() >> 32) as u32 & (config::SENT - 1);
    Some((SENT.get_ptr_mut(slot)?, mark))
}

/// Whether what this ID stands for was sent in this epoch already.
#[inline(always)]
pub(crate) fn is_sent(control: &Control, id: &StackId) -> bool {
    let Some((sent, mark)) = note_of(control, id) else { return false };
    // SAFETY: the element is one aligned word; CPUs that race for it send a stack twice.
    unsafe { core::ptr::read_volatile(sent) == mark }
}

/// Sends so many words where the frames are, unless they were sent in this epoch already; `false`:
/// there was no room.
#[inline(always)]
pub(crate) fn send(
    control: &Control,
    kind: Kind,
    id: &StackId,
    words: usize,
    scratch: &mut Scratch,
) -> bool {
    let Some((sent, mark)) = note_of(control, id) else { return false };
    // SAFETY: as in `is_sent`.
    if unsafe { core::ptr::read_volatile(sent) } == mark {
        return true;
    }
    scratch.header.kind = kind as u32;
    scratch.header.epoch = control.epoch;
    scratch.header.id = id.id();
    scratch.header.check = id.check();
    scratch.header.frames = words as u32;
    // The verifier is to see the sum bounded that is passed on, and not another copy of it.
    let bytes = core::hint::black_box(STACK_HEADER_BYTES + words * 8);
    if bytes > STACK_HEADER_BYTES + MAX_USER_FRAMES * 8 {
        return false;
    }
    // SAFETY: header and frames lie behind each other, and `bytes` is within them.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            (&raw mut scratch.header).cast(),
            bytes as u64,
            submit_flags(control),
        )
    };
    if result == 0 {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(sent, mark) };
    }
    result == 0
}
