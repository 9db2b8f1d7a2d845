//! Children of a target become targets before they run.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use aya_log_ebpf::{debug, warn};
use profiler_ebpf::targets::Target;

use crate::{
    maps::{COUNTERS, TARGETS, config},
    task::Task,
};

/// `sched_process_fork(parent, child)`: runs in the parent, before the child does.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub(crate) fn fork(ctx: RawTracePointContext) -> i32 {
    let _ = follow(&ctx);
    0
}

#[inline(always)]
fn follow(ctx: &RawTracePointContext) -> Option<()> {
    let config = config();
    if config.follow == 0 {
        return None;
    }
    let parent = Task(ctx.arg::<*const u8>(0));
    let child = Task(ctx.arg::<*const u8>(1));
    let parent_pid = parent.tgid(&config)?;
    let child_pid = child.tgid(&config)?;
    if parent_pid == child_pid {
        return None;
    }
    // SAFETY: the value is copied; a torn read of a verdict under change is one of the two.
    let target = unsafe { TARGETS.get(parent_pid) }?;
    if target.profiled == 0
        || target.inherited == 0
        || !target.is_of(parent.process_start_ns(&config)?)
    {
        return None;
    }
    let verdict = Target {
        start_ns: child.process_start_ns(&config)?,
        exec_id: child.exec_id(&config)?,
        profiled: 1,
        inherited: 1,
    };
    if TARGETS.insert(child_pid, verdict, 0).is_err() {
        if let Some(counters) = COUNTERS.get_ptr_mut(0) {
            // SAFETY: the pointer is to this CPU's element.
            unsafe { (*counters).fork_lost += 1 };
        }
        warn!(ctx, "no room to follow process {}, a child of {}", child_pid, parent_pid);
    } else {
        debug!(ctx, "following process {}, a child of {}", child_pid, parent_pid);
    }
    Some(())
}
