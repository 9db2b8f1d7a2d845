//! A CPU goes from one thread to another: where the one waits from now on, and for how long the
//! other did.

use aya_ebpf::{
    EbpfContext as _,
    bindings::task_struct,
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_get_current_comm, bpf_get_prandom_u32, bpf_ktime_get_boot_ns},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_ebpf::{
    config::{Config, Control, waits},
    record::{Kind, Sample, Wait},
    waits::{State, Thread, is_kept},
};

use crate::{
    maps::{
        CONTROL, COUNTERS, CpuPace, PACES, RECORDS, SCRATCH, THREADS, WAIT_SPACE, config_in_place,
        count, is_wanted, submit_flags,
    },
    registers, stacks,
    task::{KnownTask, TASK_DEAD, Task},
    timing::Run,
};

/// `sched_switch(preempt, prev, next, prev_state)` (`include/trace/events/sched.h`): runs in the
/// thread that gives the CPU up.
///
/// # Minimum kernel version
///
/// 5.18 (`prev_state`).
#[btf_tracepoint(function = "sched_switch")]
pub(crate) fn switch(ctx: BtfTracePointContext) -> i32 {
    let (Some(control), Some(counters)) = (CONTROL.get(0), COUNTERS.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: the pointer is to this CPU's element.
    let counters = unsafe { &mut *counters };
    counters.switches += 1;
    let run = Run::begin(counters.switches);
    let config = config_in_place();
    // SAFETY: the helper has no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let _ = leave(&ctx, config, control, now_ns);
    let _ = enter(&ctx, config, control, now_ns);
    run.end(counters);
    0
}

/// The current thread gives its CPU up.
#[inline(always)]
fn leave(
    ctx: &BtfTracePointContext,
    config: &Config,
    control: &Control,
    now_ns: u64,
) -> Option<()> {
    // The current one: to ask for it takes a call.
    let task_btf = ctx.arg::<*const task_struct>(1).cast_mut();
    let known = KnownTask(task_btf.cast_const().cast());
    if !known.may_be_followed(config, control) {
        return None;
    }
    let (pid, tid) = (known.tgid(config), known.tid(config));
    let prev_state = ctx.arg::<u32>(3);
    let is_preempted = ctx.arg::<u8>(0) != 0;
    let task = Task(task_btf.cast_const().cast());
    let thread = THREADS.get_ptr_mut(tid).or_else(|| first_seen(task, tid, config, control))?;
    // SAFETY: the value stays while the program runs. Others change single words of it at most.
    let thread = unsafe { &mut *thread };
    if thread.sample.pid != pid {
        // It was another one's id, whose end was not seen.
        let _ = THREADS.remove(tid);
        return None;
    }
    if thread.state != State::Running as u32 {
        let ran_ns = known.ran_ns(config).unwrap_or_default();
        let arrival_ns = thread.unseen_arrival(ran_ns, now_ns);
        arrive(config, control, thread, known, arrival_ns);
    }
    thread.total_ns[State::Running as usize] += now_ns.wrapping_sub(thread.since_ns);
    if prev_state & TASK_DEAD != 0 {
        send(control, thread, Kind::Gone, now_ns);
        let _ = THREADS.remove(tid);
        return None;
    }
    let is_waiting = !is_preempted && prev_state != 0;
    let state = if is_waiting {
        State::Waiting
    } else {
        match known.queue(config) {
            Some(queue) if queue.is_throttled(config) => {
                thread.queue = queue.id();
                thread.queue_throttled_ns = queue.throttled_ns(config);
                State::Throttled
            }
            _ => State::Runnable,
        }
    };
    thread.since_ns = now_ns;
    thread.woken_ns = 0;
    thread.weight = 0;
    let is_charged = is_waiting && control.waits & waits::MUTEX != 0;
    if is_waiting {
        let system_call = if is_charged { Some(registers::system_call(task_btf)) } else { None };
        thread.wait(system_call, now_ns);
    }
    // Last: who wakes it, on another CPU, looks at this first.
    // SAFETY: an aligned word of the map's value.
    unsafe { core::ptr::write_volatile(&raw mut thread.state, state as u32) };
    let wanted = if is_waiting { waits::BLOCK | waits::WALL } else { waits::WALL };
    if control.waits & wanted == 0 {
        return None;
    }
    // SAFETY: the pointer is to this CPU's element.
    let CpuPace { pace: cpu_pace, random } = unsafe { &mut *PACES.get_ptr_mut(0)? };
    let of_thread = thread.pace.weight(now_ns, control.thread_pace);
    let of_cpu = cpu_pace.weight(now_ns, control.cpu_pace);
    let weight = if of_thread > of_cpu { of_thread } else { of_cpu };
    // SAFETY: the helper has no arguments.
    if weight > 1 && random.next(|| unsafe { bpf_get_prandom_u32() }) & (weight - 1) != 0 {
        return None;
    }
    thread.pace.took(control.thread_pace);
    cpu_pace.took(control.cpu_pace);
    // SAFETY: the pointer is to this CPU's element, which `busy` gives to one program at a time.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    if scratch.busy != 0 {
        count!(waits_lost);
        return None;
    }
    scratch.busy = 1;
    if is_waiting && !is_charged {
        (thread.system_call, thread.argument) = registers::system_call(task_btf);
    }
    let sample = &mut thread.sample;
    sample.exec_id = task.exec_id(config).unwrap_or_default();
    sample.epoch = control.epoch;
    sample.time_ns = now_ns;
    // SAFETY: the helper has no arguments.
    sample.cpu = unsafe { bpf_get_smp_processor_id() };
    sample.user_stack = 0;
    sample.kernel_stack = 0;
    sample.outcome = 0;
    sample.stack_lost = 0;
    // SAFETY: the buffer is 16 bytes long.
    unsafe { bpf_get_current_comm(sample.comm.as_mut_ptr().cast(), 16) };
    if config.kernel_stacks != 0 {
        stacks::kernel(ctx.as_ptr(), config, control, sample, scratch);
    }
    if config.user_stacks != 0 && task.has_user_memory(config) {
        stacks::user_of_wait(config, control, sample, task_btf, scratch);
    }
    thread.weight = weight;
    scratch.busy = 0;
    Some(())
}

/// Begins to keep something of a thread, if it is to be profiled.
#[inline(always)]
fn first_seen(task: Task, tid: u32, config: &Config, control: &Control) -> Option<*mut Thread> {
    // SAFETY: the pointer is to this CPU's element, and nothing of ours interrupts us here.
    let thread = unsafe { &mut (*WAIT_SPACE.get_ptr_mut(0)?).thread };
    *thread = Thread::default();
    let sample = &mut thread.sample;
    sample.tid = tid;
    sample.pid = task.tgid(config)?;
    sample.start_ns = task.process_start_ns(config)?;
    sample.exec_id = task.exec_id(config)?;
    // It ran until now, as far as is known. (What the scheduler counts it to have run leaves out what
    // a hypervisor took.)
    thread.since_ns = task.start_ns(config)?.max(control.followed_ns);
    let Sample { pid, start_ns, exec_id, .. } = thread.sample;
    if !is_wanted(config, pid, start_ns, exec_id) {
        return None;
    }
    if THREADS.insert(tid, &*thread, 0).is_err() {
        count!(threads_lost);
    }
    THREADS.get_ptr_mut(tid)
}

/// The next thread gets the CPU.
#[inline(always)]
fn enter(
    ctx: &BtfTracePointContext,
    config: &Config,
    control: &Control,
    now_ns: u64,
) -> Option<()> {
    let next = KnownTask(ctx.arg::<*const u8>(2));
    if !next.may_be_followed(config, control) {
        return None;
    }
    // SAFETY: as in `leave`.
    let thread = unsafe { &mut *THREADS.get_ptr_mut(next.tid(config))? };
    arrive(config, control, thread, next, now_ns);
    Some(())
}

/// The thread, whose task is `task`, has the CPU since `now_ns`: sends what ended then.
#[inline(always)]
fn arrive(config: &Config, control: &Control, thread: &mut Thread, task: KnownTask, now_ns: u64) {
    if thread.state == State::Throttled as u32
        && config.cfs_rq_throttled_ns != 0
        && let Some(queue) = task.queue(config)
    {
        thread.may_run_again(queue.id(), queue.throttled_ns(config));
    }
    let length_ns = now_ns.wrapping_sub(thread.since_ns);
    thread.arrive(now_ns);
    // SAFETY: the helper has no arguments.
    if thread.weight != 0
        && is_kept(length_ns, control.block_rate_ns, unsafe { bpf_get_prandom_u32() })
    {
        send(control, thread, Kind::Wait, now_ns);
    }
    thread.state = State::Running as u32;
    thread.since_ns = now_ns;
    thread.weight = 0;
}

/// Sends what is kept of a thread.
#[inline(always)]
fn send(control: &Control, thread: &Thread, kind: Kind, now_ns: u64) {
    let Some(space) = WAIT_SPACE.get_ptr_mut(0) else { return };
    // SAFETY: as in `first_seen`.
    let wait = unsafe { &mut (*space).wait };
    *wait = Wait {
        sample: thread.sample,
        begin_ns: thread.since_ns,
        woken_ns: thread.woken_ns,
        total_ns: thread.total_ns,
        unattributed: thread.unattributed,
        unattributed_ns: thread.unattributed_ns,
        rate_ns: control.block_rate_ns,
        weight: thread.weight,
        state: thread.state,
        system_call: thread.system_call,
        reserved: 0,
    };
    wait.sample.kind = kind as u32;
    wait.sample.time_ns = now_ns;
    if RECORDS.output::<Wait>(&*wait, submit_flags(control)).is_err() {
        count!(waits_lost);
    }
}
