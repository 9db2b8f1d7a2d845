//! Goroutines that wait: a Go program's scheduler puts them aside and takes them up again without the
//! kernel, so that its own functions have to be watched for it. At their entries alone: a goroutine's
//! stack may move while they run.

use core::arch::asm;

use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_get_smp_processor_id, bpf_probe_read_user,
        generated::{
            bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_prandom_u32,
            bpf_ktime_get_boot_ns,
        },
    },
    macros::uprobe,
    programs::ProbeContext,
};
use profiler_ebpf::{
    config::{Config, Control},
    go_waits::{GoWait, Parked, Place, Program, Waiters, moment},
    record::{Kind, Sample},
    unwind::Registers,
    waits::is_kept,
};

use crate::{
    maps::{
        CONTROL, GO_LOCKS, GO_PARKED, GO_PROGRAMS, GO_SPACE, GoSpace, RECORDS, config_in_place,
        submit_flags, waiting_bytes,
    },
    registers, stacks,
    task::Task,
};

/// What a share of is kept where there is too much for all, is at least so long: the logarithm, base
/// 2, of nanoseconds.
const LEAST_RATE_SHIFT: u32 = 10;

/// `runtime.gopark`: the goroutine that runs begins to wait.
#[uprobe]
pub(crate) fn park(ctx: ProbeContext) -> u32 {
    let _ = parked(&ctx);
    0
}

/// `runtime.ready`: a goroutine is to go on. Runs on the scheduler's stack.
#[uprobe]
pub(crate) fn ready(ctx: ProbeContext) -> u32 {
    let _ = readied(&ctx);
    0
}

/// A watched program that runs.
struct Watched {
    pid: u32,
    program: *mut Program,
}

impl Watched {
    #[inline(always)]
    fn current() -> Option<Self> {
        // SAFETY: the helper has no arguments.
        let pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
        let program = GO_PROGRAMS.get_ptr_mut(pid)?;
        // SAFETY: an aligned word of a value that stays while the program runs.
        unsafe { add_to(&raw mut (*program).events, 1) };
        Some(Self { pid, program })
    }

    #[inline(always)]
    fn program(&self) -> &Program {
        // SAFETY: as above; nobody changes but two counts.
        unsafe { &*self.program }
    }

    #[inline(always)]
    fn place(&self, avma: u64) -> Place {
        Place { avma, pid: self.pid, generation: self.program().generation }
    }

    /// Something was not kept for want of room.
    #[inline(always)]
    fn lose(&self) {
        // SAFETY: as in `current`.
        unsafe { add_to(&raw mut (*self.program).lost, 1) };
    }
}

#[inline(always)]
fn parked(ctx: &ProbeContext) -> Option<()> {
    let watched = Watched::current()?;
    let program = watched.program();
    let call = registers::go_call(ctx);
    let [_, lock, reason] = call.arguments;
    let reason = reason as u8;
    if reason >= 64 || program.waits & 1 << reason == 0 {
        return None;
    }
    // SAFETY: the helper has no arguments.
    let since_ns = unsafe { bpf_ktime_get_boot_ns() };
    let lock = if program.locks & 1 << reason == 0 { 0 } else { lock };
    let place = watched.place(call.g);
    let parked = Parked { since_ns, lock };
    if GO_PARKED.insert(place, parked, NO_EXIST).is_err() {
        // The function begins anew where its stack had no room, or another was to run first.
        // SAFETY: the value is copied before anything can replace it.
        let before = unsafe { GO_PARKED.get(place) }.copied();
        if before.is_some_and(|before| before.lock == lock) {
            return None;
        }
        // It went on unseen.
        if let Some(before) = before {
            let _ = GO_LOCKS.remove(watched.place(before.lock));
        }
        if GO_PARKED.insert(place, parked, 0).is_err() {
            watched.lose();
            return None;
        }
    }
    if lock != 0 {
        let place = watched.place(lock);
        let more = Waiters::begin(moment(program, since_ns));
        if !add(&place, more) && GO_LOCKS.insert(place, Waiters { word: more }, NO_EXIST).is_err() {
            // Another CPU was first.
            add(&place, more);
        }
    }
    Some(())
}

/// `BPF_NOEXIST`
const NO_EXIST: u64 = aya_ebpf::bindings::BPF_NOEXIST as u64;

/// Adds to those that wait for the locks of a place; `false`: none do.
#[inline(always)]
fn add(place: &Place, more: u64) -> bool {
    let Some(waiters) = GO_LOCKS.get_ptr_mut(place) else { return false };
    // SAFETY: an aligned word of a value that stays while the program runs.
    unsafe { add_to(&raw mut (*waiters).word, more) };
    true
}

/// Adds to a word that other CPUs add to. (`core` has no atomic sums for BPF.)
///
/// # Safety
///
/// The pointer must be to an aligned word of a map's value.
#[inline(always)]
unsafe fn add_to(word: *mut u64, more: u64) {
    // SAFETY: one instruction, on the word.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {more}", word = in(reg) word, more = in(reg) more)
    };
}

/// Sets a word that other threads set; what it was.
///
/// # Safety
///
/// As [`add_to`].
#[inline(always)]
unsafe fn exchange(word: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: as above.
    unsafe {
        asm!("{value} = xchg_64({word} + 0, {value})", word = in(reg) word, value = inout(reg) value);
    }
    value
}

#[inline(always)]
fn readied(ctx: &ProbeContext) -> Option<()> {
    let watched = Watched::current()?;
    let call = registers::go_call(ctx);
    let [waiter, ..] = call.arguments;
    let place = watched.place(waiter);
    // SAFETY: the value is copied before anything can replace it.
    let Parked { since_ns, lock } = *unsafe { GO_PARKED.get(place) }?;
    let _ = GO_PARKED.remove(place);
    // SAFETY: the helper has no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let length_ns = now_ns.wrapping_sub(since_ns);
    watched.send(Kind::GoBlock, waiter, length_ns, now_ns);
    if lock != 0 {
        let now = moment(watched.program(), now_ns);
        let delay_ns = released(&watched.place(lock), now).unwrap_or(length_ns);
        // Whoever has released it called the scheduler.
        let Program { m, curg, .. } = *watched.program();
        let m: u64 = read(call.g.wrapping_add(u64::from(m)))?;
        let releaser: u64 = read(m.wrapping_add(u64::from(curg)))?;
        if releaser != 0 {
            watched.send(Kind::GoMutex, releaser, delay_ns, now_ns);
        }
    }
    Some(())
}

/// One that waits for a lock of this place goes on: what all there have waited since the last did, in
/// nanoseconds.
#[inline(always)]
fn released(place: &Place, now: u64) -> Option<u64> {
    // SAFETY: the value is copied before anything can replace it.
    let waiters = *unsafe { GO_LOCKS.get(place) }?;
    let released = waiters.release(now);
    if let Some((_, more)) = released.filter(|_| !waiters.is_last()) {
        add(place, more);
    } else {
        let _ = GO_LOCKS.remove(place);
    }
    released.map(|(delay_ns, _)| delay_ns)
}

impl Watched {
    /// Sends how long it took, with the stack of goroutine `g`, which is not running now, if it is to
    /// be kept.
    #[inline(always)]
    fn send(&self, kind: Kind, g: u64, delay_ns: u64, now_ns: u64) {
        if self.try_send(kind, g, delay_ns, now_ns).is_none() {
            self.lose();
        }
    }

    /// `None`: it was to be kept, and could not be.
    #[inline(always)]
    fn try_send(&self, kind: Kind, g: u64, delay_ns: u64, now_ns: u64) -> Option<()> {
        let program = self.program();
        let control = CONTROL.get(0)?;
        // SAFETY: the pointer is to this CPU's element.
        let space = unsafe { &mut *GO_SPACE.get_ptr_mut(0)? };
        let weight = space.pace.weight(now_ns, program.pace);
        let mut rate_ns = program.rate_ns;
        if weight > 1 {
            rate_ns = rate_ns.max(u64::from(weight) << LEAST_RATE_SHIFT);
        }
        // SAFETY: the helper has no arguments.
        if !is_kept(delay_ns, rate_ns, unsafe { bpf_get_prandom_u32() }) {
            return Some(());
        }
        space.pace.took(program.pace);
        if waiting_bytes() >= u64::from(control.crowded_bytes) {
            return None;
        }
        // SAFETY: the helper has no arguments; its result is the current task.
        let task_btf = unsafe { bpf_get_current_task_btf() };
        let task = Task(task_btf.cast_const().cast());
        let config = config_in_place();
        let start_ns = task.process_start_ns(config)?;
        let exec_id = task.exec_id(config)?;
        // One program at a time has it: another thread's may run here before this is over.
        let busy = &raw mut space.scratch.busy;
        // SAFETY: an aligned word of this CPU's element.
        if unsafe { exchange(busy, 1) } != 0 {
            return None;
        }
        space.wait = GoWait {
            sample: Sample {
                kind: kind as u32,
                epoch: control.epoch,
                time_ns: now_ns,
                start_ns,
                pid: self.pid,
                tid: self.pid,
                exec_id,
                // SAFETY: the helper has no arguments.
                cpu: unsafe { bpf_get_smp_processor_id() },
                ..Sample::default()
            },
            delay_ns,
            rate_ns,
        };
        let sent = take(config, control, program, g, task_btf, space);
        // SAFETY: as above.
        unsafe { exchange(busy, 0) };
        sent
    }
}

/// Takes the stack of a goroutine that does not run, and sends it with what was put together.
#[inline(always)]
fn take(
    config: &Config,
    control: &Control,
    program: &Program,
    g: u64,
    task: *mut task_struct,
    space: &mut GoSpace,
) -> Option<()> {
    let [sp, pc]: [u64; 2] = read(g.wrapping_add(u64::from(program.sched_sp)))?;
    let fp: u64 = read(g.wrapping_add(u64::from(program.sched_bp)))?;
    let registers = Registers { pc, sp, fp, aux: 0 };
    let sample = &mut space.wait.sample;
    stacks::user_from(config, control, sample, &registers, task, &mut space.scratch);
    RECORDS.output::<GoWait>(&space.wait, submit_flags(control)).ok()
}

#[inline(always)]
fn read<T>(at: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a wrong one is an error, not a fault.
    unsafe { bpf_probe_read_user(at as *const T) }.ok()
}
