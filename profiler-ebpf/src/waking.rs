//! A thread ends the wait of another: since when that may run, and who held what it waited for.

use aya_ebpf::{
    helpers::{
        bpf_get_smp_processor_id,
        generated::{
            bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
            bpf_get_prandom_u32, bpf_ktime_get_boot_ns,
        },
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_ebpf::{
    config::waits,
    record::{Kind, Sample, Wait},
    waits::{Chain, State, may_wait_for_futex, may_wake_by_futex},
};

use crate::{
    maps::{
        CONTROL, COUNTERS, PACES, RECORDS, SCRATCH, THREADS, config_in_place, count, submit_flags,
    },
    registers, stacks,
    task::{KnownTask, Task},
    timing::Run,
};

/// `sched_waking(task)`: runs in the thread that wakes, or in what interrupts it.
#[btf_tracepoint(function = "sched_waking")]
pub(crate) fn waking(ctx: BtfTracePointContext) -> i32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is to this CPU's element.
    let counters = unsafe { &mut *counters };
    counters.wakes += 1;
    let run = Run::begin(counters.wakes);
    let _ = wake(&ctx);
    run.end(counters);
    0
}

#[inline(always)]
fn wake(ctx: &BtfTracePointContext) -> Option<()> {
    let config = config_in_place();
    let control = CONTROL.get(0)?;
    let woken = KnownTask(ctx.arg::<*const u8>(0));
    if !woken.may_be_followed(config, control) {
        return None;
    }
    // SAFETY: the value stays while the program runs. Others change single words of it at most.
    let thread = unsafe { &mut *THREADS.get_ptr_mut(woken.tid(config))? };
    if thread.state != State::Waiting as u32 || thread.woken_ns != 0 {
        return None;
    }
    // SAFETY: the helper has no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    thread.woken_ns = now_ns;
    if control.waits & waits::MUTEX == 0 || !may_wait_for_futex(thread.system_call) {
        return None;
    }
    // SAFETY: the helper has no arguments.
    let current = unsafe { bpf_get_current_pid_tgid() };
    if (current >> 32) as u32 != thread.sample.pid {
        return None;
    }
    // SAFETY: the helper has no arguments; its result is the current task.
    let task_btf = unsafe { bpf_get_current_task_btf() };
    let task = Task(task_btf.cast_const().cast());
    let (system_call, argument) = registers::system_call(task_btf);
    // An interrupt, a timeout or a signal ends a wait, too, in whatever runs there.
    if !may_wake_by_futex(system_call) || argument != thread.argument {
        return None;
    }
    thread.is_attributed = 1;
    let Chain { length_ns, count, .. } = thread.chain;
    thread.unattributed = thread.unattributed.saturating_sub(u64::from(count));
    thread.unattributed_ns = thread.unattributed_ns.saturating_sub(length_ns);
    // SAFETY: the pointer is to this CPU's element.
    let pace = unsafe { &mut (*PACES.get_ptr_mut(0)?).pace };
    let weight = pace.weight(now_ns, control.cpu_pace);
    let one_of = weight.saturating_mul(control.mutex_fraction);
    // SAFETY: the helper has no arguments.
    if one_of > 1 && unsafe { bpf_get_prandom_u32() } % one_of != 0 {
        return None;
    }
    pace.took(control.cpu_pace);
    // SAFETY: the pointer is to this CPU's element, which `busy` gives to one program at a time.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    if scratch.busy != 0 {
        count!(waits_lost);
        return None;
    }
    scratch.busy = 1;
    let mut wait = Wait {
        sample: Sample {
            kind: Kind::Wake as u32,
            epoch: control.epoch,
            time_ns: now_ns,
            start_ns: thread.sample.start_ns,
            pid: thread.sample.pid,
            tid: current as u32,
            exec_id: task.exec_id(config).unwrap_or_default(),
            // SAFETY: the helper has no arguments.
            cpu: unsafe { bpf_get_smp_processor_id() },
            ..Sample::default()
        },
        begin_ns: thread.since_ns.saturating_sub(length_ns),
        woken_ns: now_ns,
        weight: one_of,
        state: State::Waiting as u32,
        system_call: thread.system_call,
        ..Wait::default()
    };
    let sample = &mut wait.sample;
    // SAFETY: the buffer is 16 bytes long.
    unsafe { bpf_get_current_comm(sample.comm.as_mut_ptr().cast(), 16) };
    if config.user_stacks != 0 && task.has_user_memory(config) {
        stacks::user_of_wait(config, control, sample, task_btf, scratch);
    }
    scratch.busy = 0;
    if RECORDS.output::<Wait>(&wait, submit_flags(control)).is_err() {
        count!(waits_lost);
    }
    Some(())
}
