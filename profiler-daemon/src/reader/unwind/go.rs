//! What Go's CFI leaves out.
//!
//! The Go linker (`cmd/link/internal/ld/dwarf.go`, `writeframes`) writes `.debug_frame` from the
//! stack pointer's deltas alone: nothing in it is outermost, the frame pointer is never said to be
//! saved, and functions that switch stacks look like any other. The facts here are of
//! `runtime/asm_amd64.s`, Go 1.21 to 1.26.

use profiler_ebpf::unwind::rule::{Rule, cfa, saved};

use super::UnwindError;
use super::cfi::Work;
use super::machine::Machine;
use super::parts::{Part, Source};
use super::roots::before;
use super::sections::{Elf, Symbol};

/// `push rbp`
const PUSH_RBP: u8 = 0x55;

/// `push rbp; mov rbp, rsp`
const MAKE_FRAME: [u8; 4] = [PUSH_RBP, 0x48, 0x89, 0xe5];

/// How far into a function the stack is switched at most, in bytes: all that do it are short.
const MAX_SWITCH_BYTES: usize = 512;

/// Bytes of a function that looking for that counts as one step.
const BYTES_PER_STEP: usize = 8;

/// Offset of `sched.sp` in the runtime's `g`.
const SCHED_SP: u8 = 0x38;

/// In functions that have made a frame and then switch stacks:
/// `(cfa, rbp) = (rbp + 16, *(cfa - 16))`
const IN_FRAME: Rule =
    Rule { offset: 16, fp: saved::AT_CFA, fp_offset: -16, ..Rule::only(cfa::FP) };

/// What a function of Go's runtime is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing has called it.
    Outermost,
    /// What a signal handler returns into.
    Signal,
    /// It goes over to the thread's own stack and never comes back: what it calls there is
    /// outermost.
    Switch,
}

impl Known {
    /// What a symbol's name says.
    pub(super) fn of(machine: Machine, name: &[u8]) -> Option<Self> {
        match name.strip_suffix(b".abi0").unwrap_or(name) {
            // A goroutine's first function returns into goexit; to threads, mstart is the same.
            b"runtime.goexit" | b"runtime.mstart" | b"runtime.rt0_go" => Some(Self::Outermost),
            // Not `_rt0_amd64_linux_lib`, which the dynamic linker calls.
            name if name.starts_with(b"_rt0_") && !name.ends_with(b"_lib") => Some(Self::Outermost),
            b"runtime.sigreturn" | b"runtime.sigreturn__sigaction" => Some(Self::Signal),
            b"runtime.mcall" | b"runtime.morestack" if machine == Machine::X86_64 => {
                Some(Self::Switch)
            }
            _ => None,
        }
    }

    /// The part of the function that has a rule of its own, if the code shows it.
    pub(super) fn part(self, elf: &Elf<'_>, symbol: &Symbol<'_>, end: u64) -> Option<Part> {
        let (start, rule) = match self {
            Self::Outermost => (symbol.svma, Rule::END),
            Self::Signal => (before(elf.machine, symbol), Rule::SIGNAL),
            Self::Switch => {
                let switch = stack_switch(elf.code_at(symbol.svma, end))?;
                (symbol.svma.saturating_add(switch), Rule::END)
            }
        };
        Some(Part { start, end, source: Source::Fixed(rule) })
    }
}

/// How many bytes into a function the instruction `mov rsp, [register + SCHED_SP]` ends.
fn stack_switch(code: &[u8]) -> Option<u64> {
    let code = &code[..code.len().min(MAX_SWITCH_BYTES)];
    let at = code.windows(4).position(|bytes| {
        matches!(*bytes, [0x48 | 0x49, 0x8b, modrm, SCHED_SP]
            if modrm & 0xf8 == 0x60 && modrm & 7 != 4)
    })?;
    Some(at as u64 + 4)
}

/// Follows the rows of a function for whether it has saved the frame pointer.
pub(super) struct Prologue<'a> {
    start: u64,
    code: &'a [u8],
    has_pushed: bool,
    switches_stacks: bool,
}

impl<'a> Prologue<'a> {
    /// # Errors
    ///
    /// As [`Work::spend`].
    pub(super) fn new(elf: &Elf<'a>, part: &Part, work: &mut Work) -> Result<Self, UnwindError> {
        let code = elf.code_at(part.start, part.end);
        let is_framed = code.starts_with(&MAKE_FRAME);
        if is_framed {
            work.spend((code.len().min(MAX_SWITCH_BYTES) / BYTES_PER_STEP) as u64)?;
        }
        let switches_stacks = is_framed && stack_switch(code).is_some();
        Ok(Self { start: part.start, code, has_pushed: false, switches_stacks })
    }

    /// Adds to a row what the function's code shows: the rule in its place, and one that follows
    /// it at once.
    pub(super) fn amend(&mut self, svma: u64, rule: Rule) -> (Rule, Option<(u64, Rule)>) {
        if rule.cfa != cfa::SP || rule.fp != saved::SAME {
            return (rule, None);
        }
        if rule.offset == 16 && !self.has_pushed {
            let into = svma.checked_sub(self.start).and_then(|into| usize::try_from(into).ok());
            let before = into.and_then(|into| self.code.get(into.checked_sub(1)?));
            self.has_pushed = before == Some(&PUSH_RBP);
        }
        if rule.offset < 16 || !self.has_pushed {
            return (rule, None);
        }
        let rule = Rule { fp: saved::AT_CFA, fp_offset: -16, ..rule };
        let framed = svma.max(self.start.saturating_add(MAKE_FRAME.len() as u64));
        (rule, self.switches_stacks.then_some((framed, IN_FRAME)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_runtime_are_known_by_their_names() {
        let known = |name: &[u8]| Known::of(Machine::X86_64, name);
        assert_eq!(known(b"runtime.goexit.abi0"), Some(Known::Outermost));
        assert_eq!(known(b"_rt0_amd64_linux"), Some(Known::Outermost));
        assert_eq!(known(b"_rt0_amd64_linux_lib"), None);
        assert_eq!(known(b"runtime.sigreturn"), Some(Known::Signal));
        assert_eq!(known(b"runtime.mcall"), Some(Known::Switch));
        assert_eq!(Known::of(Machine::Aarch64, b"runtime.mcall"), None);
        assert_eq!(known(b"main.main"), None);
    }

    #[test]
    fn the_instruction_that_switches_stacks_is_found() {
        // mov rsp, [rdx + 0x38]; mov rsp, [r14 + 0x38]; mov rbx, [rdx + 0x38]; mov rsp, [rsp + …]
        assert_eq!(stack_switch(&[0x90, 0x48, 0x8b, 0x62, 0x38]), Some(5));
        assert_eq!(stack_switch(&[0x49, 0x8b, 0x66, 0x38, 0x90]), Some(4));
        assert_eq!(stack_switch(&[0x48, 0x8b, 0x5a, 0x38]), None);
        assert_eq!(stack_switch(&[0x48, 0x8b, 0x64, 0x38]), None);
        assert_eq!(stack_switch(&[]), None);
    }
}
