//! The registers of the interrupted user code, whose names differ by architecture.

#[cfg(bpf_target_arch = "x86_64")]
use crate::task::Task;
use aya_ebpf::{
    bindings::{pt_regs, task_struct},
    helpers::generated::bpf_task_pt_regs,
    programs::{PerfEventContext, ProbeContext},
};
use profiler_ebpf::{arch::REGISTERS, config::Config, unwind::Registers};

/// User registers of `task`, which must run user code, as they were when it last left user mode.
///
/// # Minimum kernel version
///
/// 5.15 (`bpf_task_pt_regs`).
#[inline(always)]
pub(crate) fn user(task: *mut task_struct) -> Registers {
    // SAFETY: the verifier knows the helper's result as a `struct pt_regs`.
    let regs = unsafe { &*(bpf_task_pt_regs(task) as *const pt_regs) };
    #[cfg(bpf_target_arch = "x86_64")]
    return Registers { pc: regs.rip, sp: regs.rsp, fp: regs.rbp, aux: regs.rbx };
    #[cfg(bpf_target_arch = "aarch64")]
    return Registers { pc: regs.pc, sp: regs.sp, fp: regs.regs[29], aux: regs.regs[30] };
}

/// Where the goroutine is that `task`, which must be the current one, runs: on x86_64 `g` bytes from
/// its thread pointer.
#[inline(always)]
pub(crate) fn goroutine(config: &Config, task: *mut task_struct, g: i32) -> Option<u64> {
    #[cfg(bpf_target_arch = "x86_64")]
    {
        use aya_ebpf::helpers::bpf_probe_read_user;
        let thread = Task(task.cast_const().cast()).thread_pointer(config)?;
        let at = thread.wrapping_add(i64::from(g) as u64);
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(at as *const u64) }.ok()
    }
    #[cfg(bpf_target_arch = "aarch64")]
    {
        let _ = (config, g);
        // SAFETY: as in `user`.
        let regs = unsafe { &*(bpf_task_pt_regs(task) as *const pt_regs) };
        Some(regs.regs[28])
    }
}

/// A call of a Go function, at its entry.
pub(crate) struct GoCall {
    /// The first arguments.
    pub(crate) arguments: [u64; 3],
    /// What runs: a goroutine, or the scheduler.
    pub(crate) g: u64,
}

/// The call at whose entry a probe is: as Go's own calling convention has it (`abi-internal.md`), since
/// Go 1.17 on x86_64, and 1.18 on aarch64.
#[inline(always)]
pub(crate) fn go_call(ctx: &ProbeContext) -> GoCall {
    // SAFETY: the context of a probe is the registers that it met.
    let regs = unsafe { &*ctx.regs };
    #[cfg(bpf_target_arch = "x86_64")]
    return GoCall { arguments: [regs.rax, regs.rbx, regs.rcx], g: regs.r14 };
    #[cfg(bpf_target_arch = "aarch64")]
    return GoCall { arguments: [regs.regs[0], regs.regs[1], regs.regs[2]], g: regs.regs[28] };
}

/// Number and first argument of the system call that `task`, as above, is in; if it came into the
/// kernel by something else, the number may be that of none.
#[inline(always)]
pub(crate) fn system_call(task: *mut task_struct) -> (u32, u64) {
    // SAFETY: as above.
    let regs = unsafe { &*(bpf_task_pt_regs(task) as *const pt_regs) };
    #[cfg(bpf_target_arch = "x86_64")]
    return (regs.orig_rax as u32, regs.rdi);
    #[cfg(bpf_target_arch = "aarch64")]
    {
        use aya_ebpf::helpers::bpf_probe_read_kernel;
        // `orig_x0` and `syscallno` of `struct pt_regs` (`arch/arm64/include/asm/ptrace.h`) are
        // behind what `struct user_pt_regs` has.
        let behind = core::ptr::from_ref(regs).cast::<u8>().wrapping_add(size_of::<pt_regs>());
        // SAFETY: the helper checks the addresses.
        let (argument, number) = unsafe {
            (
                bpf_probe_read_kernel(behind.cast::<u64>()),
                bpf_probe_read_kernel(behind.wrapping_add(8).cast::<u32>()),
            )
        };
        (number.unwrap_or(u32::MAX), argument.unwrap_or_default())
    }
}

/// All of them, by DWARF's numbers, and last the program counter.
#[inline(always)]
pub(crate) fn all(task: *mut task_struct) -> [u64; REGISTERS] {
    // SAFETY: as above.
    let regs = unsafe { &*(bpf_task_pt_regs(task) as *const pt_regs) };
    #[cfg(bpf_target_arch = "x86_64")]
    return [
        regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
    ];
    #[cfg(bpf_target_arch = "aarch64")]
    {
        let mut all = [0; REGISTERS];
        let mut number = 0;
        while number < 31 {
            all[number] = regs.regs[number];
            number += 1;
        }
        all[31] = regs.sp;
        all[32] = regs.pc;
        all
    }
}

/// Where `struct pt_regs` has a register, by DWARF's number, in bytes.
#[inline(always)]
pub(crate) const fn offset(number: u32) -> Option<u64> {
    #[cfg(bpf_target_arch = "x86_64")]
    {
        // DWARF: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 … r15. `pt_regs`: r15 … r12, rbp, rbx,
        // r11 … r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp.
        let index = match number {
            0 => 10,
            1 => 12,
            2 => 11,
            3 => 5,
            4 => 13,
            5 => 14,
            6 => 4,
            7 => 19,
            8..=11 => 17 - number as u64,
            12..=15 => 15 - number as u64,
            _ => return None,
        };
        Some(index * 8)
    }
    #[cfg(bpf_target_arch = "aarch64")]
    if number < 32 { Some(number as u64 * 8) } else { None }
}

/// Whether the sample hit user code.
#[inline(always)]
pub(crate) fn in_user_mode(ctx: &PerfEventContext) -> bool {
    // SAFETY: the context of a perf-event program holds the interrupted registers.
    let regs = unsafe { &(*ctx.ctx).regs };
    #[cfg(bpf_target_arch = "x86_64")]
    return regs.cs & 3 != 0;
    #[cfg(bpf_target_arch = "aarch64")]
    return regs.pstate & 0xf == 0;
}
