//! Running the CFI program of one function.
//!
//! Of DWARF's table (DWARF 5, 6.4) only the columns that a walk needs are kept, which is several
//! times as fast as gimli's `UnwindTable`; that one is what the tests compare with.

use gimli::{CallFrameInstruction as Instruction, CallFrameInstructionIter, Encoding};
use gimli::{EndianSlice, LittleEndian, Register, UnwindExpression, UnwindSection};
use profiler_ebpf::unwind::rule::{Rule, cfa, saved};

use super::UnwindError;
use super::cfi::Work;
use super::expression::Shape;
use super::machine::Machine;

/// How many states a program may remember.
const MAX_REMEMBERED: usize = 64;

/// Offset of the stack pointer in x86_64's signal frame: `uc_mcontext.gregs[REG_RSP]` of the
/// `ucontext_t` that the stack pointer points to in a trampoline.
const SIGNAL_SP_OFFSET: i64 = 160;

pub(super) type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// Why a row of CFI is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unsupported {
    /// The CFA is an expression of another shape.
    #[error("CFA expression")]
    CfaExpression,
    /// The CFA is relative to something that is no general register, or by too much.
    #[error("CFA register or offset")]
    CfaRegister,
    /// The return address is not where it always is.
    #[error("return address")]
    ReturnAddress,
    /// A signal trampoline whose frame is not the kernel's.
    #[error("signal trampoline")]
    Signal,
    /// The program is damaged, or uses an unknown instruction.
    #[error("malformed program")]
    Malformed,
    /// The file has more different rules than a row can number.
    #[error("too many rules")]
    TooManyRules,
}

impl Unsupported {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 6] = [
        Self::CfaExpression,
        Self::CfaRegister,
        Self::ReturnAddress,
        Self::Signal,
        Self::Malformed,
        Self::TooManyRules,
    ];
}

/// Takes rows.
pub(super) trait Sink {
    /// From `svma` on this rule is in force.
    fn row(&mut self, svma: u64, rule: Result<Rule, Unsupported>) -> Result<(), UnwindError>;
}

/// Where a register's value in the caller is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nothing is said.
    #[default]
    Unset,
    /// There is none.
    Undefined,
    /// In the register.
    Same,
    /// At the CFA plus this.
    AtCfa(i64),
    /// At this frame's frame pointer plus this.
    AtFp(i64),
    /// In this other register.
    In(Register),
    /// Anywhere else.
    Elsewhere,
}

/// How the CFA is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// Nothing is said.
    Unset,
    /// As a known shape.
    Shape(Shape),
    /// By an expression of another shape.
    Unknown,
}

/// The columns of DWARF's table that a walk needs, at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    cfa: Base,
    fp: Place,
    aux: Place,
    return_address: Place,
}

impl State {
    pub(super) const NEW: Self = Self {
        cfa: Base::Unset,
        fp: Place::Unset,
        aux: Place::Unset,
        return_address: Place::Unset,
    };

    fn set(&mut self, machine: Machine, register: Register, place: Place) {
        if register == machine.fp() {
            self.fp = place;
        }
        if register == machine.aux() {
            self.aux = place;
        }
        if register == machine.return_address() {
            self.return_address = place;
        }
    }

    fn restore(&mut self, machine: Machine, register: Register, initial: &Self) {
        if register == machine.fp() {
            self.fp = initial.fp;
        }
        if register == machine.aux() {
            self.aux = initial.aux;
        }
        if register == machine.return_address() {
            self.return_address = initial.return_address;
        }
    }

    fn rule(&self, machine: Machine, in_trampoline: bool) -> Result<Rule, Unsupported> {
        if self.return_address == Place::Undefined {
            return Ok(Rule::END);
        }
        if in_trampoline {
            return self.trampoline(machine);
        }
        if machine == Machine::X86_64
            && let Place::In(register) = self.return_address
        {
            return self.return_register(machine, register);
        }
        let (aux, aux_offset) = match machine {
            Machine::X86_64 if self.return_address != Place::AtCfa(-8) => {
                return Err(Unsupported::ReturnAddress);
            }
            Machine::X86_64 => place(self.aux),
            Machine::Aarch64 => match place(self.return_address) {
                (saved::LOST, _) => return Err(Unsupported::ReturnAddress),
                known => known,
            },
        };
        let (fp, fp_offset) = place(self.fp);
        Ok(Rule { fp, fp_offset, aux, aux_offset, ..self.base(machine)? })
    }

    /// The return address is in a register: `vfork` takes it from the stack, which the child uses.
    fn return_register(&self, machine: Machine, register: Register) -> Result<Rule, Unsupported> {
        let is_same = |place: Place| matches!(place, Place::Unset | Place::Same);
        match (self.base(machine)?, u8::try_from(register.0)) {
            (base, Ok(number))
                if base.cfa == cfa::SP
                    && register <= machine.last_general()
                    && is_same(self.fp)
                    && is_same(self.aux) =>
            {
                Ok(Rule { cfa: cfa::RETURN_REGISTER, register: number, ..base })
            }
            _ => Err(Unsupported::ReturnAddress),
        }
    }

    fn base(&self, machine: Machine) -> Result<Rule, Unsupported> {
        let shape = match self.cfa {
            Base::Shape(shape) => shape,
            Base::Unset => return Err(Unsupported::Malformed),
            Base::Unknown => return Err(Unsupported::CfaExpression),
        };
        let narrow = |wide: i64| i32::try_from(wide).map_err(|_| Unsupported::CfaRegister);
        let general = |register: Register| {
            if register > machine.last_general() {
                return Err(Unsupported::CfaRegister);
            }
            u8::try_from(register.0).map_err(|_| Unsupported::CfaRegister)
        };
        match shape {
            Shape::Sum { register, offset } => {
                let offset = narrow(offset)?;
                let (kind, register) = match register {
                    it if it == machine.sp() => (cfa::SP, 0),
                    it if it == machine.fp() => (cfa::FP, 0),
                    it if it == machine.aux() => (cfa::AUX, 0),
                    it => (cfa::REGISTER, general(it)?),
                };
                Ok(Rule { register, offset, ..Rule::only(kind) })
            }
            Shape::Deref { register, offset, extra } => {
                let (offset, extra) = (narrow(offset)?, narrow(extra)?);
                let (kind, register) = match register {
                    it if it == machine.sp() => (cfa::SP_DEREF, 0),
                    it if it == machine.fp() => (cfa::FP_DEREF, 0),
                    it => (cfa::REGISTER_DEREF, general(it)?),
                };
                Ok(Rule { register, offset, extra, ..Rule::only(kind) })
            }
            Shape::IndexedDeref { register, index, offset, extra } if register == machine.sp() => {
                let (offset, extra) = (narrow(offset)?, narrow(extra)?);
                let register = general(index)?;
                Ok(Rule { register, offset, extra, ..Rule::only(cfa::SP_INDEXED_DEREF) })
            }
            Shape::IndexedDeref { .. } => Err(Unsupported::CfaExpression),
            Shape::Plt { register, offset, threshold } if register == machine.sp() => {
                let (offset, extra) = (narrow(offset)?, narrow(threshold)?);
                Ok(Rule { offset, extra, ..Rule::only(cfa::PLT) })
            }
            Shape::Plt { .. } => Err(Unsupported::CfaExpression),
        }
    }

    fn trampoline(&self, machine: Machine) -> Result<Rule, Unsupported> {
        let sp = Shape::Deref { register: machine.sp(), offset: SIGNAL_SP_OFFSET, extra: 0 };
        match machine {
            Machine::X86_64 if self.cfa != Base::Shape(sp) => Err(Unsupported::Signal),
            // Only the kernel's vDSO has one, and other frames are not marked like that.
            Machine::X86_64 | Machine::Aarch64 => Ok(Rule::SIGNAL),
        }
    }
}

/// As numbers of [`saved`].
fn place(place: Place) -> (u8, i16) {
    let near =
        |kind, offset| i16::try_from(offset).map_or((saved::LOST, 0), |offset| (kind, offset));
    match place {
        Place::Unset | Place::Same => (saved::SAME, 0),
        Place::AtCfa(offset) => near(saved::AT_CFA, offset),
        Place::AtFp(offset) => near(saved::AT_FP, offset),
        Place::Undefined | Place::In(_) | Place::Elsewhere => (saved::LOST, 0),
    }
}

/// The parameters of a program.
pub(super) struct Program<'a, S> {
    pub(super) section: &'a S,
    pub(super) machine: Machine,
    pub(super) encoding: Encoding,
    pub(super) code_align: u64,
    pub(super) data_align: i64,
    /// The state `DW_CFA_restore` goes back to; none in the program that makes it.
    pub(super) initial: Option<State>,
    pub(super) in_trampoline: bool,
}

/// A damaged program ends here.
struct Damaged;

/// What a program's end leads to.
enum End {
    Damaged,
    Error(UnwindError),
}

impl From<Damaged> for End {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

impl<'a, S: UnwindSection<Reader<'a>>> Program<'_, S> {
    /// Runs a program for `start..end`. Rows come with rising addresses, none at or above `end`.
    ///
    /// # Errors
    ///
    /// Those of `sink`, and those of `work`.
    pub(super) fn run(
        &self,
        instructions: CallFrameInstructionIter<'_, Reader<'a>>,
        (start, end): (u64, u64),
        sink: &mut impl Sink,
        work: &mut Work,
    ) -> Result<(), UnwindError> {
        let mut svma = start;
        let mut state = self.initial.unwrap_or(State::NEW);
        match self.rows(instructions, (&mut svma, end), &mut state, sink, work) {
            Ok(()) if svma < end => sink.row(svma, state.rule(self.machine, self.in_trampoline)),
            Ok(()) => Ok(()),
            Err(End::Damaged) => sink.row(svma, Err(Unsupported::Malformed)),
            Err(End::Error(error)) => Err(error),
        }
    }

    /// The state after a program that is to make no rows: that of a CIE.
    pub(super) fn initial_state(
        &self,
        instructions: CallFrameInstructionIter<'_, Reader<'a>>,
        work: &mut Work,
    ) -> Result<Option<State>, UnwindError> {
        struct Nowhere;
        impl Sink for Nowhere {
            fn row(&mut self, _: u64, _: Result<Rule, Unsupported>) -> Result<(), UnwindError> {
                Ok(())
            }
        }
        let mut state = State::NEW;
        match self.rows(instructions, (&mut 0, u64::MAX), &mut state, &mut Nowhere, work) {
            Ok(()) => Ok(Some(state)),
            Err(End::Damaged) => Ok(None),
            Err(End::Error(error)) => Err(error),
        }
    }

    fn rows(
        &self,
        mut instructions: CallFrameInstructionIter<'_, Reader<'a>>,
        (svma, end): (&mut u64, u64),
        state: &mut State,
        sink: &mut impl Sink,
        work: &mut Work,
    ) -> Result<(), End> {
        let mut remembered: Vec<State> = Vec::new();
        while let Some(instruction) = instructions.next().map_err(|_| Damaged)? {
            work.spend(1).map_err(End::Error)?;
            let to = match instruction {
                Instruction::AdvanceLoc { delta } => {
                    svma.saturating_add(u64::from(delta).saturating_mul(self.code_align))
                }
                Instruction::SetLoc { address } if address >= *svma => address,
                Instruction::RememberState if remembered.len() < MAX_REMEMBERED => {
                    remembered.push(*state);
                    continue;
                }
                Instruction::RestoreState => {
                    *state = remembered.pop().ok_or(Damaged)?;
                    continue;
                }
                other => {
                    self.apply(&other, state)?;
                    continue;
                }
            };
            if to > *svma {
                let rule = state.rule(self.machine, self.in_trampoline);
                sink.row(*svma, rule).map_err(End::Error)?;
                *svma = to;
                if to >= end {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn apply(&self, instruction: &Instruction<usize>, state: &mut State) -> Result<(), Damaged> {
        let machine = self.machine;
        let sum = |register, offset| Base::Shape(Shape::Sum { register, offset });
        let factored = |offset: i64| offset.wrapping_mul(self.data_align);
        let at = |offset: i64| Place::AtCfa(factored(offset));
        match *instruction {
            Instruction::DefCfa { register, offset } => {
                state.cfa = sum(register, offset.cast_signed());
            }
            Instruction::DefCfaSf { register, factored_offset } => {
                state.cfa = sum(register, factored(factored_offset));
            }
            Instruction::DefCfaRegister { register } => {
                state.cfa = sum(register, state.cfa.offset()?);
            }
            Instruction::DefCfaOffset { offset } => {
                state.cfa = sum(state.cfa.register()?, offset.cast_signed());
            }
            Instruction::DefCfaOffsetSf { factored_offset } => {
                state.cfa = sum(state.cfa.register()?, factored(factored_offset));
            }
            Instruction::DefCfaExpression { expression } => {
                state.cfa = self.shape(&expression).map_or(Base::Unknown, Base::Shape);
            }
            Instruction::Undefined { register } => state.set(machine, register, Place::Undefined),
            Instruction::SameValue { register } => state.set(machine, register, Place::Same),
            Instruction::Offset { register, factored_offset } => {
                state.set(machine, register, at(factored_offset.cast_signed()));
            }
            Instruction::OffsetExtendedSf { register, factored_offset } => {
                state.set(machine, register, at(factored_offset));
            }
            Instruction::Expression { register, expression } => {
                let place = match self.shape(&expression) {
                    Some(Shape::Sum { register, offset }) if register == machine.fp() => {
                        Place::AtFp(offset)
                    }
                    _ => Place::Elsewhere,
                };
                state.set(machine, register, place);
            }
            Instruction::Register { dest_register, src_register } => {
                state.set(machine, dest_register, Place::In(src_register));
            }
            Instruction::ValOffset { register, .. }
            | Instruction::ValOffsetSf { register, .. }
            | Instruction::ValExpression { register, .. } => {
                state.set(machine, register, Place::Elsewhere);
            }
            Instruction::Restore { register } => {
                state.restore(machine, register, &self.initial.ok_or(Damaged)?);
            }
            Instruction::ArgsSize { .. } | Instruction::NegateRaState | Instruction::Nop => {}
            _ => return Err(Damaged),
        }
        Ok(())
    }

    fn shape(&self, expression: &UnwindExpression<usize>) -> Option<Shape> {
        let expression = expression.get(self.section).ok()?;
        Shape::of(expression, self.encoding, self.machine.return_address())
    }
}

impl Base {
    fn offset(self) -> Result<i64, Damaged> {
        match self {
            Self::Shape(Shape::Sum { offset, .. }) => Ok(offset),
            _ => Err(Damaged),
        }
    }

    fn register(self) -> Result<Register, Damaged> {
        match self {
            Self::Shape(Shape::Sum { register, .. }) => Ok(register),
            _ => Err(Damaged),
        }
    }
}
