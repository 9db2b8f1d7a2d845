//! The stacks that start threads.

use aya_ebpf::{
    helpers::{
        bpf_get_smp_processor_id,
        generated::{
            bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
            bpf_ktime_get_boot_ns,
        },
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use profiler_ebpf::record::{Kind, Sample};

use crate::{
    maps::{CONTROL, RECORDS, SCRATCH, config_in_place, count, is_wanted, submit_flags},
    stacks,
    task::Task,
};

/// `sched_process_fork(parent, child)`: runs in the parent, before the child does.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub(crate) fn spawn(ctx: RawTracePointContext) -> i32 {
    let _ = started(&ctx);
    0
}

#[inline(always)]
fn started(ctx: &RawTracePointContext) -> Option<()> {
    let config = config_in_place();
    // SAFETY: the helper has no arguments.
    let current = unsafe { bpf_get_current_pid_tgid() };
    let (pid, tid) = ((current >> 32) as u32, current as u32);
    let control = CONTROL.get(0)?;
    if !control.follows(pid) {
        return None;
    }
    let child = Task(ctx.arg::<*const u8>(1));
    if child.tgid(config)? != pid || !child.flags(config)?.user_code {
        return None;
    }
    // SAFETY: the helper has no arguments; its result is the current task.
    let task_btf = unsafe { bpf_get_current_task_btf() };
    let task = Task(task_btf.cast_const().cast());
    let start_ns = task.process_start_ns(config)?;
    let exec_id = task.exec_id(config)?;
    if !is_wanted(config, pid, start_ns, exec_id) {
        return None;
    }
    // SAFETY: the pointer is to this CPU's element, which `busy` gives to one program at a time.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    if scratch.busy != 0 {
        count!(waits_lost);
        return None;
    }
    scratch.busy = 1;
    let mut sample = Sample {
        kind: Kind::Spawn as u32,
        epoch: control.epoch,
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
    // SAFETY: the buffer is 16 bytes long.
    unsafe { bpf_get_current_comm(sample.comm.as_mut_ptr().cast(), 16) };
    if config.user_stacks != 0 && task.has_user_memory(config) {
        stacks::user_of_wait(config, control, &mut sample, task_btf, scratch);
    }
    scratch.busy = 0;
    if RECORDS.output::<Sample>(&sample, submit_flags(control)).is_err() {
        count!(waits_lost);
    }
    Some(())
}
