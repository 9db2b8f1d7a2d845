//! What was known of a process's mappings ends with its `exec`.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    maps::{PROCESSES, THREADS, config},
    task::Task,
};

/// `sched_process_exec(task, old_pid, binprm)`: runs when the new program is mapped, before its
/// first instruction.
///
/// Until the daemon has said what is mapped now, stacks are copied.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn exec(ctx: RawTracePointContext) -> i32 {
    if let Some(pid) = Task(ctx.arg::<*const u8>(0)).tgid(&config()) {
        // Mostly it is not there: nothing is known of it yet.
        let _ = PROCESSES.remove(pid);
        // A thread that calls `exec` gets the id of its process's first one.
        let tid = ctx.arg::<u32>(1);
        if tid != pid {
            let _ = THREADS.remove(tid);
        }
    }
    0
}
