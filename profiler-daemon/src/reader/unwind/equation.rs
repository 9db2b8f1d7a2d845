//! Rules as a reader of DWARF would write them.

use std::fmt;

use gimli::Register;
use profiler_ebpf::unwind::rule::{Rule, cfa, saved};

use super::machine::Machine;

/// Shows a rule as equations: `cfa = rsp + 16, rbp = *(cfa - 16)`. What stays the same is left out.
#[derive(Clone, Copy, Debug)]
pub struct Equation {
    /// The rule.
    pub rule: Rule,
    /// Whose registers it speaks of.
    pub machine: Machine,
}

impl fmt::Display for Equation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, machine } = *self;
        let sp = machine.name(machine.sp()).to_lowercase();
        let fp = machine.name(machine.fp()).to_lowercase();
        let aux = machine.name(machine.aux()).to_lowercase();
        let other = machine.name(Register(u16::from(rule.register))).to_lowercase();
        let offset = Plus(rule.offset);
        match rule.cfa {
            cfa::END => return write!(f, "end"),
            cfa::SIGNAL => return write!(f, "signal frame at {sp}"),
            cfa::UNSUPPORTED => return write!(f, "unsupported"),
            cfa::GAP => return write!(f, "no rule"),
            cfa::SP => write!(f, "cfa = {sp}{offset}")?,
            cfa::FP => write!(f, "cfa = {fp}{offset}")?,
            cfa::AUX => write!(f, "cfa = {aux}{offset}")?,
            cfa::REGISTER => write!(f, "cfa = {other}{offset}")?,
            cfa::SP_DEREF => write!(f, "cfa = *({sp}{offset}){}", Plus(rule.extra))?,
            cfa::FP_DEREF => write!(f, "cfa = *({fp}{offset}){}", Plus(rule.extra))?,
            cfa::REGISTER_DEREF => write!(f, "cfa = *({other}{offset}){}", Plus(rule.extra))?,
            cfa::SP_INDEXED_DEREF => {
                write!(f, "cfa = *({sp} + 8 * {other}{offset}){}", Plus(rule.extra))?;
            }
            cfa::CLONE => return write!(f, "end in a new thread, else cfa = {sp}{offset}"),
            cfa::RETURN_REGISTER => {
                return write!(f, "cfa = {sp}{offset}, return address in {other}");
            }
            cfa::PLT => write!(f, "cfa = {sp}{offset} + (pc % 16 >= {} ? 8 : 0)", rule.extra)?,
            number => return write!(f, "rule of unknown kind {number}"),
        }
        for (name, place, offset) in
            [(&fp, rule.fp, rule.fp_offset), (&aux, rule.aux, rule.aux_offset)]
        {
            match place {
                saved::SAME => {}
                saved::AT_FP => write!(f, ", {name} = *({fp}{})", Plus(i32::from(offset)))?,
                saved::AT_CFA => write!(f, ", {name} = *(cfa{})", Plus(i32::from(offset)))?,
                _ => write!(f, ", {name} lost")?,
            }
        }
        Ok(())
    }
}

/// A term to be added; nothing if it is 0.
struct Plus(i32);

impl fmt::Display for Plus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            term if term < 0 => write!(f, " - {}", term.unsigned_abs()),
            term => write!(f, " + {term}"),
        }
    }
}
