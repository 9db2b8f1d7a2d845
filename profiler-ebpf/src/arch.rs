//! What differs between x86_64 and aarch64.

#[cfg(any(
    bpf_target_arch = "aarch64",
    all(not(target_arch = "bpf"), target_arch = "aarch64")
))]
pub use aarch64::*;
#[cfg(not(any(
    bpf_target_arch = "aarch64",
    all(not(target_arch = "bpf"), target_arch = "aarch64")
)))]
pub use x86_64::*;

#[cfg(any(bpf_target_arch = "aarch64", all(not(target_arch = "bpf"), target_arch = "aarch64")))]
mod aarch64 {
    use crate::unwind::Registers;

    /// The registers that a copied stack comes with: by DWARF's numbers, and last the program
    /// counter.
    pub const REGISTERS: usize = 33;

    /// Those that a walk begins with.
    pub const fn registers(all: &[u64; REGISTERS]) -> Registers {
        Registers { pc: all[32], sp: all[31], fp: all[29], aux: all[30] }
    }

    /// Number of the system call `futex`.
    pub const FUTEX: u32 = 98;

    /// A call leaves its return address in a register.
    pub const HAS_LINK_REGISTER: bool = true;

    /// The register with a system call's result, by DWARF's number: `x0`.
    pub const SYSTEM_CALL_RESULT: u32 = 0;

    /// Offsets in a signal frame (`struct rt_sigframe`: `siginfo_t` of 128 bytes, then `ucontext`,
    /// whose `uc_mcontext` is at 176), in bytes.
    pub const SIGNAL_FRAME_PC: u64 = SIGNAL_FRAME_REGISTERS + 32 * 8;
    /// `sp`
    pub const SIGNAL_FRAME_SP: u64 = SIGNAL_FRAME_REGISTERS + 31 * 8;
    /// `x29`
    pub const SIGNAL_FRAME_FP: u64 = SIGNAL_FRAME_REGISTERS + 29 * 8;
    /// `x30`
    pub const SIGNAL_FRAME_AUX: u64 = SIGNAL_FRAME_REGISTERS + 30 * 8;
    const SIGNAL_FRAME_REGISTERS: u64 = 128 + 176 + 8;

    /// Where a signal frame has a register, by DWARF's number.
    #[inline(always)]
    pub const fn signal_frame_register(number: u32) -> Option<u64> {
        if number < 32 { Some(SIGNAL_FRAME_REGISTERS + number as u64 * 8) } else { None }
    }

    /// Whether a call need not preserve a register (AAPCS64), by DWARF's number: `x0` to `x17`.
    #[inline(always)]
    pub const fn is_scratch(number: u8) -> bool {
        number < 18
    }

    /// A return address without the bits that are not part of it: pointer authentication signs in
    /// those above the 48 of a user address.
    #[inline(always)]
    pub const fn return_address(word: u64) -> u64 {
        word & 0x0000_ffff_ffff_ffff
    }
}

#[cfg(not(any(
    bpf_target_arch = "aarch64",
    all(not(target_arch = "bpf"), target_arch = "aarch64")
)))]
mod x86_64 {
    use crate::unwind::Registers;

    /// The registers that a copied stack comes with: by DWARF's numbers, and last the program
    /// counter.
    pub const REGISTERS: usize = 17;

    /// Those that a walk begins with.
    pub const fn registers(all: &[u64; REGISTERS]) -> Registers {
        Registers { pc: all[16], sp: all[7], fp: all[6], aux: all[3] }
    }

    /// Number of the system call `futex`.
    pub const FUTEX: u32 = 202;

    /// A call leaves its return address on the stack.
    pub const HAS_LINK_REGISTER: bool = false;

    /// The register with a system call's result, by DWARF's number: `rax`.
    pub const SYSTEM_CALL_RESULT: u32 = 0;

    /// Offsets in a signal frame (`struct rt_sigframe` without the return address, which `ret` has
    /// taken: a `ucontext`, whose `uc_mcontext` is at 40), in bytes.
    pub const SIGNAL_FRAME_PC: u64 = 40 + 16 * 8;
    /// `rsp`
    pub const SIGNAL_FRAME_SP: u64 = 40 + 15 * 8;
    /// `rbp`
    pub const SIGNAL_FRAME_FP: u64 = 40 + 10 * 8;
    /// `rbx`
    pub const SIGNAL_FRAME_AUX: u64 = 40 + 11 * 8;

    /// Where a signal frame has a register, by DWARF's number.
    #[inline(always)]
    pub const fn signal_frame_register(number: u32) -> Option<u64> {
        // DWARF: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 … r15. `struct sigcontext`: r8 … r15,
        // rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp.
        let index = match number {
            0 => 13,
            1 => 12,
            2 => 14,
            3 => 11,
            4 => 9,
            5 => 8,
            6 => 10,
            7 => 15,
            8..=15 => number as u64 - 8,
            _ => return None,
        };
        Some(40 + index * 8)
    }

    /// Whether a call need not preserve a register (System V ABI), by DWARF's number: all but
    /// `rbx`, `rbp`, `rsp` and `r12` to `r15`.
    #[inline(always)]
    pub const fn is_scratch(number: u8) -> bool {
        matches!(number, 0..=2 | 4 | 5 | 8..=11)
    }

    /// A return address without the bits that are not part of it: there are none.
    #[inline(always)]
    pub const fn return_address(word: u64) -> u64 {
        word
    }
}
