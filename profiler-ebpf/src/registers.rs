//! The registers of the interrupted user code, whose names differ by architecture.

use aya_ebpf::{
    bindings::{pt_regs, task_struct},
    helpers::generated::bpf_task_pt_regs,
    programs::PerfEventContext,
};
use profiler_ebpf::unwind::Registers;

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
    return Registers { pc: regs.rip, sp: regs.rsp, fp: regs.rbp };
    #[cfg(bpf_target_arch = "aarch64")]
    return Registers { pc: regs.pc, sp: regs.sp, fp: regs.regs[29] };
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
