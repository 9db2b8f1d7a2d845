//! The oracle: the caller of a frame as call frame information states it.
//!
//! framehop judges wherever it can. It knows three registers, `rip`, `rsp` and `rbp`, and reads no
//! memory in an expression; where a row needs more, gimli's row is evaluated with all registers.
//! That is done for each frame, to keep the registers that framehop does not, and framehop begins
//! each of its frames with them: where both judge, they must agree on `rip`, `rsp` and `rbp`.

use framehop::x86_64::UnwindRegsX86_64;
use gimli::{
    CfaRule, EvaluationResult, Location, Register, RegisterRule, UnwindExpression, Value, X86_64,
};

use super::{
    cfi::{Cfi, Row},
    file::File,
    recording::Sample,
    stack::Stack,
};

const RBP: usize = X86_64::RBP.0 as usize;
const RSP: usize = X86_64::RSP.0 as usize;

/// What the oracle says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its caller's return address.
    Caller(u64),
    /// It is the outermost.
    End,
    /// The copy of the stack does not reach to the return address.
    Unreadable,
    /// framehop and gimli's row contradict each other: framehop's caller, 0 without one.
    Contradiction(u64),
    /// Nothing.
    Unjudged(Reason),
}

/// Why nothing can be said of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Code that is in no file: a process has made it itself.
    NoFile,
    /// No call frame information covers the code: framehop follows the frame pointer, as we do.
    NoCfi,
    /// The CFA needs a register or memory that the sample does not carry. In an epilogue gcc's CFI
    /// still has `rbp` where it was popped from, below the stack pointer, and the copy begins there.
    NoCfa,
    /// Go's CFI does not say that the function is outermost: see [`File::is_go_root`].
    GoRoot,
    /// Go's CFI does not say that the function has gone over to another stack.
    GoStack,
    /// It is behind one of which nothing can be said.
    Behind,
}

impl Reason {
    /// In words.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::NoFile => "code of no file",
            Self::NoCfi => "no call frame information",
            Self::NoCfa => "a register or memory that the sample lacks",
            Self::GoRoot => "an outermost function, which Go's CFI does not know",
            Self::GoStack => "another stack, of which Go's CFI says nothing",
            Self::Behind => "behind a frame that is not judged",
        }
    }
}

/// Who has judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    Framehop,
    /// A row of gimli's, evaluated with all registers.
    Row,
}

/// The registers of a frame.
pub(super) struct State {
    pc: u64,
    /// By DWARF's numbers; those that are known.
    registers: [Option<u64>; 16],
    is_interrupted: bool,
}

impl State {
    pub(super) fn new(sample: &Sample) -> Self {
        Self { pc: sample.pc, registers: sample.registers.map(Some), is_interrupted: true }
    }

    /// Where its row is looked up.
    pub(super) const fn avma(&self) -> u64 {
        if self.is_interrupted { self.pc } else { self.pc.wrapping_sub(1) }
    }

    /// What is said of this frame; goes to its caller if there is one.
    pub(super) fn judge(
        &mut self,
        file: Option<(&File, u64)>,
        stack: &Stack<'_>,
    ) -> (Verdict, Judge) {
        let unjudged = |reason| (Verdict::Unjudged(reason), Judge::Row);
        let Some((file, bias)) = file else { return unjudged(Reason::NoFile) };
        let svma = self.avma().wrapping_sub(bias);
        let mut sections = file.cfi.borrow_mut();
        let found = sections.iter_mut().find_map(|cfi| Some((cfi.row(svma)?, cfi)));
        let Some((row, cfi)) = found else { return unjudged(Reason::NoCfi) };
        if file.leaves_go_stack(row.function, svma) {
            return unjudged(Reason::GoStack);
        }
        let frame = Evaluation { cfi, state: self, stack, bias };
        let (verdict, caller, is_known_to_framehop) = frame.row(&row);
        if matches!(verdict, Verdict::Caller(_)) && file.is_go_root(row.function) {
            return unjudged(Reason::GoRoot);
        }
        let judged = match verdict {
            Verdict::Caller(_) | Verdict::End if is_known_to_framehop => {
                self.ask_framehop(cfi, bias, stack, verdict, &caller)
            }
            _ => (verdict, Judge::Row),
        };
        if matches!(judged.0, Verdict::Caller(_)) {
            *self = caller;
        }
        judged
    }

    /// framehop's verdict, if it is the row's too.
    fn ask_framehop(
        &self,
        cfi: &mut Cfi,
        bias: u64,
        stack: &Stack<'_>,
        verdict: Verdict,
        caller: &Self,
    ) -> (Verdict, Judge) {
        let known = |number: usize| self.registers[number].unwrap_or_default();
        let mut registers =
            UnwindRegsX86_64::new(self.pc.wrapping_sub(bias), known(RSP), known(RBP));
        let found = cfi.framehop(self.is_interrupted, &mut registers, |avma| stack.copied(avma));
        let agrees = match (verdict, found) {
            (Verdict::Caller(pc), Ok(Some(found))) => {
                found == pc
                    && caller.registers[RSP] == Some(registers.sp())
                    && caller.registers[RBP].is_none_or(|rbp| rbp == registers.bp())
            }
            (Verdict::End, Ok(None)) => true,
            _ => false,
        };
        let contradiction = || Verdict::Contradiction(found.ok().flatten().unwrap_or_default());
        (if agrees { verdict } else { contradiction() }, Judge::Framehop)
    }

    /// Follows the frame pointer of a frame of which nothing is said, if that leads to the caller
    /// `pc`, too.
    pub(super) fn follow_fp(&mut self, pc: u64, stack: &Stack<'_>) -> bool {
        let Some(rbp) = self.registers[RBP] else { return false };
        let (fp, top) = (stack.copied(rbp), stack.copied(rbp.wrapping_add(8)));
        let (Some(fp), true) = (fp, top == Some(pc)) else { return false };
        self.registers = [None; 16];
        self.registers[RBP] = Some(fp);
        self.registers[RSP] = Some(rbp.wrapping_add(16));
        self.pc = pc;
        self.is_interrupted = false;
        true
    }
}

/// The evaluation of a row in a frame.
struct Evaluation<'a> {
    cfi: &'a Cfi,
    state: &'a State,
    stack: &'a Stack<'a>,
    bias: u64,
}

/// What an expression gave, and whether it needed no more than framehop knows.
type Evaluated = (Option<u64>, bool);

impl Evaluation<'_> {
    /// The verdict, the caller's registers, and whether framehop can judge the row, too.
    fn row(&self, row: &Row) -> (Verdict, State, bool) {
        let nobody = State { pc: 0, registers: [None; 16], is_interrupted: row.is_signal };
        let rule = |number: Register| {
            row.registers.iter().find(|(register, _)| *register == number).map(|(_, rule)| rule)
        };
        let ra = rule(X86_64::RA);
        if matches!(ra, None | Some(RegisterRule::Undefined)) {
            return (Verdict::End, nobody, true);
        }
        let (cfa, cfa_is_known) = self.cfa(row);
        let Some(cfa) = cfa else {
            return (Verdict::Unjudged(Reason::NoCfa), nobody, false);
        };
        let (pc, ra_is_known) = self.register(row, ra, cfa, None);
        let Some(pc) = pc else { return (Verdict::Unreadable, nobody, false) };
        let mut registers = [None; 16];
        let mut fp_is_known = false;
        for (number, value) in registers.iter_mut().enumerate() {
            let now = self.state.registers[number];
            // Without a rule a register keeps its value, as libgcc has it (`REG_UNSAVED`): libcrypto
            // calls its own assembly with the CFA in `rax`, which that leaves alone.
            let unchanged = if number == RSP { Some(cfa) } else { now };
            let (found, is_known) =
                self.register(row, rule(Register(number as u16)), cfa, unchanged);
            *value = found;
            if number == RBP {
                fp_is_known = is_known;
            }
        }
        // framehop takes a stack that goes down for an error, other than in the first frame.
        let goes_up =
            self.state.is_interrupted || self.state.registers[RSP].is_some_and(|sp| cfa >= sp);
        let is_known = cfa_is_known && ra_is_known && fp_is_known && goes_up;
        if pc == 0 {
            return (Verdict::End, nobody, is_known);
        }
        (Verdict::Caller(pc), State { pc, registers, ..nobody }, is_known)
    }

    fn cfa(&self, row: &Row) -> Evaluated {
        match &row.cfa {
            CfaRule::RegisterAndOffset { register, offset } => {
                let base = self.state.registers.get(usize::from(register.0)).copied().flatten();
                let is_known = [X86_64::RSP, X86_64::RBP].contains(register);
                (base.map(|base| base.wrapping_add_signed(*offset)), is_known)
            }
            CfaRule::Expression(expression) => self.expression(row, expression, None),
        }
    }

    /// A register of the caller's; `unchanged`: what it is without a rule.
    fn register(
        &self,
        row: &Row,
        rule: Option<&RegisterRule<usize>>,
        cfa: u64,
        unchanged: Option<u64>,
    ) -> Evaluated {
        let read = |avma: Option<u64>| avma.and_then(|avma| self.stack.copied(avma));
        match rule {
            None | Some(RegisterRule::SameValue) => (unchanged, true),
            Some(RegisterRule::Offset(offset)) => {
                (read(Some(cfa.wrapping_add_signed(*offset))), true)
            }
            Some(RegisterRule::ValOffset(offset)) => (Some(cfa.wrapping_add_signed(*offset)), true),
            Some(RegisterRule::Register(register)) => {
                let is_known = [X86_64::RSP, X86_64::RBP].contains(register);
                (self.state.registers.get(usize::from(register.0)).copied().flatten(), is_known)
            }
            // framehop begins with an empty stack, DWARF (6.4.2.3) with the CFA on it.
            Some(RegisterRule::Expression(expression)) => {
                let (avma, is_known) = self.expression(row, expression, Some(cfa));
                (read(avma), is_known)
            }
            Some(RegisterRule::ValExpression(expression)) => {
                self.expression(row, expression, Some(cfa))
            }
            Some(_) => (None, false),
        }
    }

    fn expression(
        &self,
        row: &Row,
        expression: &UnwindExpression<usize>,
        cfa: Option<u64>,
    ) -> Evaluated {
        let mut is_known = true;
        (self.evaluate(row, expression, cfa, &mut is_known), is_known)
    }

    fn evaluate(
        &self,
        row: &Row,
        expression: &UnwindExpression<usize>,
        cfa: Option<u64>,
        is_known: &mut bool,
    ) -> Option<u64> {
        let mut evaluation = self.cfi.expression(expression)?.evaluation(row.encoding);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = if register == X86_64::RA {
                        self.state.pc.wrapping_sub(self.bias)
                    } else {
                        *is_known &= [X86_64::RSP, X86_64::RBP].contains(&register);
                        self.state.registers.get(usize::from(register.0)).copied()??
                    };
                    evaluation.resume_with_register(Value::Generic(value)).ok()?
                }
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    *is_known = false;
                    let value = self.stack.copied(address)?;
                    evaluation.resume_with_memory(Value::Generic(value)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().last()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    }
}
