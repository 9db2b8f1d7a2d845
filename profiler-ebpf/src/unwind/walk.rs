//! The walk of a user stack, one frame a step: by the rule in force in the frame, or along the
//! saved frame pointer where there is none.
//!
//! Without a rule: a function that keeps a frame pointer has stored its caller's at `fp`, and its
//! return address right above it, `(pc, fp, sp) = (*(fp + 8), *fp, fp + 16)`. The System V ABIs of
//! x86_64 and aarch64 agree on this, and both mark the outermost frame by a frame pointer of 0.

use super::{
    Memory, Outcome, Registers, Step,
    rule::{Rule, cfa, saved},
};
use crate::arch;

/// How often a stack may go down instead of up: each time it is left for another one (a signal's
/// alternate stack, a coroutine's, Go's system stack).
const MAX_STACK_SWITCHES: u32 = 4;

/// The program counter is where the frame was interrupted, not a return address.
const INTERRUPTED: u32 = 1;
/// A frame pointer was followed where no rule was known.
const GUESSED: u32 = 2;
/// The frame pointer's value is not known.
const FP_LOST: u32 = 4;
/// The value of `aux` is not known.
const AUX_LOST: u32 = 8;

/// The state of a walk between two frames.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    registers: Registers,
    /// Where a signal's handler was called from has its registers in memory: here; 0: no signal was
    /// met, they are those that the walk began with.
    signal_frame: u64,
    flags: u32,
    switches: u32,
}

impl Walk {
    /// A walk from the innermost frame.
    #[inline(always)]
    pub const fn new(registers: &Registers) -> Self {
        Self { registers: *registers, signal_frame: 0, flags: INTERRUPTED, switches: 0 }
    }

    /// The avma whose rule is in force: a return address is behind its call, which may be the last
    /// instruction of its function.
    #[inline(always)]
    pub const fn avma(&self) -> u64 {
        if self.is_interrupted() { self.registers.pc } else { self.registers.pc.wrapping_sub(1) }
    }

    /// Whether the frame was interrupted, by the sample or by a signal.
    #[inline(always)]
    pub const fn is_interrupted(&self) -> bool {
        self.flags & INTERRUPTED != 0
    }

    /// Goes to the caller. `is_generated`: the code was made by its process, and is known to keep
    /// frame pointers.
    #[inline(always)]
    pub fn step(&mut self, memory: &impl Memory, rule: &Rule, is_generated: bool) -> Step {
        let Registers { pc, sp, fp, aux } = self.registers;
        let offset = i64::from(rule.offset) as u64;
        let extra = i64::from(rule.extra) as u64;
        let mut may_switch = false;
        let cfa = match rule.cfa {
            cfa::SP => sp.wrapping_add(offset),
            cfa::FP if self.flags & FP_LOST == 0 => {
                may_switch = true;
                fp.wrapping_add(offset)
            }
            cfa::GAP => return self.follow_fp(memory, is_generated),
            cfa::PLT => {
                let pushed = if (pc as u32 & 15) >= rule.extra as u32 { 8 } else { 0 };
                sp.wrapping_add(offset).wrapping_add(pushed)
            }
            cfa::END => {
                let guessed = self.flags & GUESSED != 0;
                return Step::End(if guessed { Outcome::Guessed } else { Outcome::Complete });
            }
            cfa::SIGNAL => return self.leave_signal(memory),
            cfa::RETURN_REGISTER => return self.return_to(memory, rule),
            cfa::CLONE => match self.system_call_result(memory) {
                Some(0) => return Step::End(Outcome::Complete),
                Some(_) => sp.wrapping_add(offset),
                None => return Step::End(Outcome::UnsupportedRule),
            },
            cfa::AUX if self.flags & AUX_LOST == 0 => {
                may_switch = true;
                aux.wrapping_add(offset)
            }
            kind => {
                may_switch = true;
                let base = match kind {
                    cfa::SP_DEREF => Some(sp),
                    cfa::FP_DEREF if self.flags & FP_LOST == 0 => Some(fp),
                    // What a call need not preserve no rule restores: it keeps its value, and who
                    // makes it the base in a function that calls, calls what leaves it alone.
                    cfa::REGISTER | cfa::REGISTER_DEREF | cfa::SP_INDEXED_DEREF
                        if self.is_interrupted() || arch::is_scratch(rule.register) =>
                    {
                        let value = self.register(memory, u32::from(rule.register));
                        value.map(|value| match kind {
                            cfa::SP_INDEXED_DEREF => sp.wrapping_add(value.wrapping_mul(8)),
                            _ => value,
                        })
                    }
                    _ => None,
                };
                let Some(base) = base else { return Step::End(Outcome::UnsupportedRule) };
                let at = base.wrapping_add(offset);
                if kind == cfa::REGISTER {
                    at
                } else {
                    let Some(word) = memory.word(at) else {
                        return Step::End(Outcome::Unreadable);
                    };
                    word.wrapping_add(extra)
                }
            }
        };
        if cfa <= sp && !(cfa == sp && arch::HAS_LINK_REGISTER && self.is_interrupted()) {
            if !may_switch || self.switches >= MAX_STACK_SWITCHES {
                return Step::End(Outcome::NoRule);
            }
            self.switches += 1;
        }
        if cfa & 7 != 0 {
            return Step::End(Outcome::NoRule);
        }
        self.restore(memory, rule, cfa)
    }

    /// Gives the registers the values they had in the caller.
    #[inline(always)]
    fn restore(&mut self, memory: &impl Memory, rule: &Rule, cfa: u64) -> Step {
        // Most often the frame pointer is saved right below the return address.
        let Some([below, top]) = memory.pair(cfa.wrapping_sub(16)) else {
            return Step::End(Outcome::Unreadable);
        };
        let mut flags = self.flags & GUESSED;
        let fp = if rule.fp == saved::SAME {
            flags |= self.flags & FP_LOST;
            self.registers.fp
        } else if rule.fp == saved::AT_CFA && rule.fp_offset == -16 {
            below
        } else if let Some(at) = self.saved_at(rule.fp, rule.fp_offset, cfa) {
            let Some(fp) = memory.word(at) else {
                return Step::End(Outcome::Unreadable);
            };
            fp
        } else {
            flags |= FP_LOST;
            0
        };
        let aux = if rule.aux == saved::SAME {
            flags |= self.flags & AUX_LOST;
            self.registers.aux
        } else if let Some(at) = self.saved_at(rule.aux, rule.aux_offset, cfa) {
            let Some(aux) = memory.word(at) else {
                return Step::End(Outcome::Unreadable);
            };
            aux
        } else {
            flags |= AUX_LOST;
            0
        };
        let return_address = if arch::HAS_LINK_REGISTER {
            if flags & AUX_LOST != 0 {
                return Step::End(Outcome::UnsupportedRule);
            }
            // A function that calls has saved it; what it is in the caller is not known.
            flags |= AUX_LOST;
            aux
        } else {
            top
        };
        let pc = arch::return_address(return_address);
        if pc == 0 {
            return Step::End(Outcome::Guessed);
        }
        if arch::HAS_LINK_REGISTER
            && !self.is_interrupted()
            && pc == self.registers.pc
            && cfa == self.registers.sp
        {
            return Step::End(Outcome::NoRule);
        }
        self.registers = Registers { pc, sp: cfa, fp, aux };
        self.flags = flags;
        Step::Caller(pc)
    }

    /// Goes to where a register says, in the frame that was interrupted.
    #[inline(always)]
    fn return_to(&mut self, memory: &impl Memory, rule: &Rule) -> Step {
        if !self.is_interrupted() {
            return Step::End(Outcome::UnsupportedRule);
        }
        match self.register(memory, u32::from(rule.register)) {
            Some(0) | None => Step::End(Outcome::UnsupportedRule),
            Some(pc) => {
                self.flags &= !INTERRUPTED;
                self.registers.pc = pc;
                self.registers.sp = self.registers.sp.wrapping_add(i64::from(rule.offset) as u64);
                Step::Caller(pc)
            }
        }
    }

    /// What the system call returned in which, or behind which, the frame was interrupted.
    #[inline(always)]
    fn system_call_result(&self, memory: &impl Memory) -> Option<u64> {
        if !self.is_interrupted() {
            return None;
        }
        self.register(memory, arch::SYSTEM_CALL_RESULT)
    }

    /// Where a register was saved; none: it is lost.
    #[inline(always)]
    const fn saved_at(&self, place: u8, offset: i16, cfa: u64) -> Option<u64> {
        let base = match place {
            saved::AT_CFA => cfa,
            saved::AT_FP if self.flags & FP_LOST == 0 => self.registers.fp,
            _ => return None,
        };
        Some(base.wrapping_add(offset as i64 as u64))
    }

    #[inline(always)]
    fn follow_fp(&mut self, memory: &impl Memory, is_generated: bool) -> Step {
        let Registers { sp, fp, .. } = self.registers;
        if self.flags & FP_LOST != 0 {
            return Step::End(Outcome::NoRule);
        }
        if fp == 0 {
            return Step::End(Outcome::Guessed);
        }
        if fp & 7 != 0 {
            return Step::End(Outcome::NoRule);
        }
        if fp < sp {
            if self.switches >= MAX_STACK_SWITCHES {
                return Step::End(Outcome::NoRule);
            }
            self.switches += 1;
        }
        let Some([caller_fp, return_address]) = memory.pair(fp) else {
            return Step::End(Outcome::Unreadable);
        };
        let pc = arch::return_address(return_address);
        if pc == 0 {
            return Step::End(Outcome::Guessed);
        }
        let guessed = if is_generated { 0 } else { GUESSED };
        self.flags = self.flags & GUESSED | guessed | AUX_LOST;
        self.registers = Registers { pc, sp: fp.wrapping_add(16), fp: caller_fp, aux: 0 };
        Step::Caller(pc)
    }

    /// Goes to what a signal interrupted.
    #[inline(always)]
    fn leave_signal(&mut self, memory: &impl Memory) -> Step {
        let frame = self.registers.sp;
        let at = |offset: u64| memory.word(frame.wrapping_add(offset));
        let (Some(pc), Some(sp), Some(fp), Some(aux)) = (
            at(arch::SIGNAL_FRAME_PC),
            at(arch::SIGNAL_FRAME_SP),
            at(arch::SIGNAL_FRAME_FP),
            at(arch::SIGNAL_FRAME_AUX),
        ) else {
            return Step::End(Outcome::Unreadable);
        };
        if sp <= frame {
            if self.switches >= MAX_STACK_SWITCHES {
                return Step::End(Outcome::NoRule);
            }
            self.switches += 1;
        }
        if pc == 0 {
            return Step::End(Outcome::Guessed);
        }
        self.registers = Registers { pc, sp, fp, aux };
        self.signal_frame = frame;
        self.flags = self.flags & GUESSED | INTERRUPTED;
        Step::Caller(pc)
    }

    /// A register of an interrupted frame, by DWARF's number.
    #[inline(always)]
    fn register(&self, memory: &impl Memory, number: u32) -> Option<u64> {
        if self.signal_frame == 0 {
            return memory.register(number);
        }
        memory.word(self.signal_frame.wrapping_add(arch::signal_frame_register(number)?))
    }
}

#[cfg(test)]
mod tests;
