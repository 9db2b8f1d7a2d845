//! The sample of a CPU: who runs, and both stacks.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::task_struct,
    helpers::{
        bpf_get_smp_processor_id,
        generated::{
            bpf_get_current_comm, bpf_get_current_task_btf, bpf_get_stack, bpf_ktime_get_boot_ns,
            bpf_ktime_get_ns, bpf_loop, bpf_ringbuf_output,
        },
    },
    macros::perf_event,
    programs::PerfEventContext,
};
use profiler_ebpf::{
    config::{self, Config, Control},
    counters,
    record::{
        self, KERNEL_PID, Kind, MAX_KERNEL_FRAMES, MAX_USER_FRAMES, STACK_HEADER_BYTES, Sample,
    },
    stack_id::StackId,
    targets::{self, Mode, Verdict},
    unwind::Outcome,
};

use crate::{
    maps::{CONTROL, COUNTERS, RECORDS, SCRATCH, SENT, Scratch, TARGETS, config, submit_flags},
    registers, stack_copy,
    task::{Flags, Task},
    user_stack,
};

/// Entered on each CPU at each period of the clock.
#[perf_event]
pub(crate) fn cpu(ctx: PerfEventContext) -> u32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is to this CPU's element.
    let entered = unsafe {
        (*counters).entered += 1;
        (*counters).entered
    };
    let is_timed = entered % counters::TIMED == 0;
    // SAFETY: the helper has no arguments.
    let begin_ns = if is_timed { unsafe { bpf_ktime_get_ns() } } else { 0 };
    let _ = enter(&ctx);
    if is_timed {
        // SAFETY: the helper has no arguments, and the pointer is to this CPU's element.
        unsafe {
            (*counters).timed_ns += bpf_ktime_get_ns() - begin_ns;
        }
    }
    0
}

macro_rules! count {
    ($field:ident) => {
        if let Some(counters) = COUNTERS.get_ptr_mut(0) {
            // SAFETY: the pointer is to this CPU's element.
            unsafe { (*counters).$field += 1 };
        }
    };
}

/// Who runs, and whether a sample of it is wanted.
#[inline(always)]
fn enter(ctx: &PerfEventContext) -> Option<()> {
    let pid = ctx.tgid();
    let tid = ctx.pid();
    if tid == 0 {
        count!(idle);
        return None;
    }
    let config = config();
    // SAFETY: the helper has no arguments; its result is the current task.
    let task_btf = unsafe { bpf_get_current_task_btf() };
    let task = Task(task_btf.cast_const().cast());
    let Some((flags, start_ns, exec_id)) = who(task, &config) else {
        count!(unread);
        return None;
    };
    let pid = if flags.kernel_thread { KERNEL_PID } else { pid };
    if config.mode != Mode::All as u32 {
        // SAFETY: the value is looked at before anything can replace it.
        let target = unsafe { TARGETS.get(pid) };
        if targets::decide(config.mode, target, start_ns, exec_id) == Verdict::Leave {
            count!(filtered);
            return None;
        }
    }
    let (Some(scratch), Some(control)) = (SCRATCH.get_ptr_mut(0), CONTROL.get(0).copied()) else {
        count!(unread);
        return None;
    };
    // SAFETY: the pointer is to this CPU's element, which `busy` gives to one program at a time.
    let scratch = unsafe { &mut *scratch };
    if scratch.busy != 0 {
        count!(busy);
        return None;
    }
    scratch.busy = 1;
    let mut sample = Sample {
        kind: Kind::Sample as u32,
        // SAFETY: the helper has no arguments.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        start_ns,
        pid,
        tid,
        exec_id,
        // SAFETY: as above.
        cpu: unsafe { bpf_get_smp_processor_id() },
        ..Sample::default()
    };
    let user_task = if flags.user_code { Some(task_btf) } else { None };
    send(ctx, &config, &control, &mut sample, user_task, scratch);
    scratch.busy = 0;
    Some(())
}

/// What kind of task runs, when its process started, and how often that called `exec`.
#[inline(always)]
fn who(task: Task, config: &Config) -> Option<(Flags, u64, u32)> {
    let flags = task.flags(config)?;
    if flags.kernel_thread {
        return Some((flags, 0, 0));
    }
    Some((flags, task.process_start_ns(config)?, task.exec_id(config)?))
}

/// Takes both stacks and sends the sample.
#[inline(always)]
fn send(
    ctx: &PerfEventContext,
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    user_task: Option<*mut task_struct>,
    scratch: &mut Scratch,
) {
    sample.epoch = control.epoch;
    // SAFETY: the buffer is 16 bytes long.
    unsafe { bpf_get_current_comm(sample.comm.as_mut_ptr().cast(), 16) };
    let in_kernel = !registers::in_user_mode(ctx);
    if config.kernel_stacks != 0 && in_kernel {
        kernel_stack(ctx, config, control, sample, scratch);
    }
    if let Some(task) = user_task
        && config.user_stacks != 0
        && (!in_kernel || Task(task.cast_const().cast()).has_user_memory(config))
        && user_stack(config, control, sample, task, scratch)
        && stack_copy::send(control, sample, task)
    {
        count!(sent);
        return;
    }
    if RECORDS.output::<Sample>(&*sample, submit_flags(control)).is_err() {
        count!(ring_full);
    } else {
        count!(sent);
    }
}

#[inline(always)]
fn kernel_stack(
    ctx: &PerfEventContext,
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    scratch: &mut Scratch,
) {
    // SAFETY: the buffer holds as many bytes as the helper may write.
    let bytes = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            scratch.frames.as_mut_ptr().cast(),
            (MAX_KERNEL_FRAMES * 8) as u32,
            0,
        )
    };
    if bytes <= 0 {
        return;
    }
    let frames = (bytes as usize / 8).min(MAX_KERNEL_FRAMES);
    let mut context = HashContext { id: StackId::new(config.seed), scratch: &raw const *scratch };
    // SAFETY: `hash` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(frames as u32, hash as *mut c_void, (&raw mut context).cast(), 0) };
    sample.kernel_stack = context.id.id();
    sample.kernel_check = context.id.check();
    send_stack(control, &context.id, frames, sample, scratch);
}

/// What the steps of a hash share.
#[repr(C)]
struct HashContext {
    id: StackId,
    scratch: *const Scratch,
}

/// Hashes one frame of a kernel stack.
unsafe extern "C" fn hash(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `kernel_stack` passes a `HashContext`.
    let context = unsafe { &mut *context.cast::<HashContext>() };
    // SAFETY: `scratch` is this CPU's element, which `busy` keeps for us.
    let frame = unsafe { (*context.scratch).frames[index as usize & (MAX_USER_FRAMES - 1)] };
    context.id.push(frame);
    0
}

/// Takes the user stack; `true`: it may be a better one when there are tables of its files.
#[inline(always)]
fn user_stack(
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    task: *mut task_struct,
    scratch: &mut Scratch,
) -> bool {
    let process = (sample.pid, sample.start_ns);
    let found = user_stack::take(scratch, task, process, config.seed ^ record::USER_SEED);
    sample.outcome = found.outcome;
    sample.user_stack = found.id.id();
    sample.user_check = found.id.check();
    send_stack(control, &found.id, found.frames, sample, scratch);
    found.lacks_table && found.outcome != Outcome::Complete as u32
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
    let mark = id.id().wrapping_add(u64::from(control.epoch) << 32);
    let slot = (id.id() >> 32) as u32 & (config::SENT - 1);
    let Some(sent) = SENT.get_ptr_mut(slot) else { return };
    // SAFETY: the element is one aligned word; CPUs that race for it send a stack twice.
    if unsafe { core::ptr::read_volatile(sent) } == mark {
        return;
    }
    scratch.header.kind = Kind::Stack as u32;
    scratch.header.epoch = control.epoch;
    scratch.header.id = id.id();
    scratch.header.check = id.check();
    scratch.header.frames = frames as u32;
    let bytes = STACK_HEADER_BYTES + frames * 8;
    if bytes > STACK_HEADER_BYTES + MAX_USER_FRAMES * 8 {
        return;
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
    } else {
        sample.stack_lost = 1;
        count!(stack_lost);
    }
}
