//! The sample of a CPU: who runs, and both stacks.

use aya_ebpf::{
    EbpfContext as _,
    bindings::task_struct,
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_get_current_comm, bpf_get_current_task_btf, bpf_ktime_get_boot_ns},
    },
    macros::perf_event,
    programs::PerfEventContext,
};
use profiler_ebpf::{
    config::{Config, Control},
    record::{KERNEL_PID, Kind, Sample},
    unwind::Outcome,
};

use crate::{
    labels,
    maps::{CONTROL, COUNTERS, RECORDS, SCRATCH, Scratch, config, count, is_wanted, submit_flags},
    registers, stack_copy, stacks,
    task::{Flags, Task},
    timing::Run,
};

/// Entered on each CPU at each period of the clock.
#[perf_event]
pub(crate) fn cpu(ctx: PerfEventContext) -> u32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is to this CPU's element.
    let counters = unsafe { &mut *counters };
    counters.entered += 1;
    let run = Run::begin(counters.entered);
    let _ = enter(&ctx);
    run.end(counters);
    0
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
    if !is_wanted(&config, pid, start_ns, exec_id) {
        count!(filtered);
        return None;
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
        stacks::kernel(ctx.as_ptr(), config, control, sample, scratch);
    }
    if let Some(task) = user_task
        && config.user_stacks != 0
        && (!in_kernel || Task(task.cast_const().cast()).has_user_memory(config))
        && user(config, control, sample, task, scratch)
        && sample.outcome != Outcome::Complete as u32
        && stack_copy::send(control, sample, task, Kind::Copy)
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

/// Takes the user stack, and the labels of what it is of; `true`: as [`stacks::user`] has it.
#[inline(always)]
fn user(
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    task: *mut task_struct,
    scratch: &mut Scratch,
) -> bool {
    let lacks_table = stacks::user(config, control, sample, task, scratch);
    labels::take(config, control, sample, task, scratch);
    lacks_table
}
