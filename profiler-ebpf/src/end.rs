//! A thread ends: for how long it ran, as the kernel has counted it anyway.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_boot_ns,
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use profiler_ebpf::{
    record::{Kind, Sample, Wait},
    waits::State,
};

use crate::{
    maps::{CONTROL, RECORDS, config_in_place, count, is_wanted, submit_flags},
    task::Task,
};

/// `sched_process_exit(task)`: runs in the thread that ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn end(_ctx: RawTracePointContext) -> i32 {
    let _ = ends();
    0
}

#[inline(always)]
fn ends() -> Option<()> {
    let config = config_in_place();
    // SAFETY: the helper has no arguments; its result is the current task.
    let task = Task(unsafe { bpf_get_current_task_btf() }.cast_const().cast());
    if !task.flags(config)?.user_code {
        return None;
    }
    // SAFETY: the helper has no arguments.
    let current = unsafe { bpf_get_current_pid_tgid() };
    let (pid, tid) = ((current >> 32) as u32, current as u32);
    let start_ns = task.process_start_ns(config)?;
    let exec_id = task.exec_id(config)?;
    if !is_wanted(config, pid, start_ns, exec_id) {
        return None;
    }
    let control = CONTROL.get(0)?;
    let (ran_ns, delayed_ns) = task.times_ns(config)?;
    let mut wait = Wait {
        sample: Sample {
            kind: Kind::End as u32,
            // SAFETY: the helper has no arguments.
            time_ns: unsafe { bpf_ktime_get_boot_ns() },
            start_ns,
            pid,
            tid,
            exec_id,
            ..Sample::default()
        },
        begin_ns: task.start_ns(config)?,
        ..Wait::default()
    };
    wait.total_ns[State::Running as usize] = ran_ns;
    wait.total_ns[State::Runnable as usize] = delayed_ns;
    if RECORDS.output::<Wait>(&wait, submit_flags(control)).is_err() {
        count!(threads_lost);
    }
    Some(())
}
