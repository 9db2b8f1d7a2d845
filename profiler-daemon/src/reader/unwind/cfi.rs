//! Walking a section of call frame information.
//!
//! Entries are found here, by their lengths, and not by gimli's iterator, which ends at the first
//! one it does not understand. What an entry says is gimli's to read.

use std::collections::HashMap;
use std::ops::Range;

use gimli::{BaseAddresses, CommonInformationEntry, UnwindSection};

use super::UnwindError;
use super::evaluate::{Program, Reader, Sink, State, Unsupported};
use super::machine::Machine;
use super::parts::{Part, Source};
use super::sections::FrameSection;

/// The most functions taken from one file.
const MAX_FUNCTIONS: usize = 2_000_000;

/// The most steps that one file's tables may take: instructions run, and bytes of common entries
/// read again. The largest libraries known take a tenth.
const MAX_STEPS: u64 = 1 << 26;

/// The steps that finding an entry counts as.
const STEPS_PER_ENTRY: u64 = 4;

/// The longest common entry that is read, in bytes; compilers write some 20.
const MAX_CIE_BYTES: u64 = 4_096;

/// The most common entries kept.
const MAX_KEPT_CIES: usize = 1_024;

/// The steps a file has taken so far.
#[derive(Default)]
pub(super) struct Work {
    steps: u64,
}

impl Work {
    /// Counts steps.
    ///
    /// # Errors
    ///
    /// [`UnwindError::TooMuch`] after more of them than one file may take.
    pub(super) fn spend(&mut self, steps: u64) -> Result<(), UnwindError> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            return Err(UnwindError::TooMuch { what: "instructions", limit: MAX_STEPS });
        }
        Ok(())
    }
}

/// A common information entry, and the state its program leaves.
#[derive(Clone)]
struct Cie<'a> {
    entry: CommonInformationEntry<Reader<'a>>,
    /// `None`: not known yet. The state is missing if the program is damaged.
    initial: Option<Option<State>>,
}

/// A section of call frame information.
pub(super) struct Cfi<'a, S> {
    section: S,
    bytes: &'a [u8],
    ends_at_zero: bool,
    is_eh_frame: bool,
    bases: BaseAddresses,
    /// By offset; `None`: damaged, or of an unknown kind.
    cies: HashMap<usize, Option<Cie<'a>>>,
}

/// Where an entry is, and what it refers to.
struct Entry {
    offset: usize,
    next: usize,
    /// Of the common entry; a common entry itself has none.
    cie: Option<usize>,
}

impl<'a, S> Cfi<'a, S>
where
    S: UnwindSection<Reader<'a>>,
    S::Offset: Copy,
{
    pub(super) fn new(section: S, of: &FrameSection<'a>, bases: BaseAddresses) -> Self {
        let FrameSection { bytes, is_eh_frame, ends_at_zero, svma: _ } = *of;
        Self { section, bytes, ends_at_zero, is_eh_frame, bases, cies: HashMap::new() }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The functions that lie within `code`, which is sorted.
    pub(super) fn functions(
        &mut self,
        code: &[Range<u64>],
        source: fn(u32) -> Source,
        work: &mut Work,
    ) -> Result<Vec<Part>, UnwindError> {
        let mut functions = Vec::new();
        let mut offset = 0;
        while let Some(entry) = self.entry(offset) {
            offset = entry.next;
            work.spend(STEPS_PER_ENTRY)?;
            let Some(cie) = entry.cie else { continue };
            let Ok(at) = u32::try_from(entry.offset) else { break };
            let Some(cie) = self.cie(cie, work)? else { continue };
            let Some((start, end)) = self.range(&entry, &cie.entry) else { continue };
            let within = code.partition_point(|segment| segment.end <= start);
            let Some(segment) = code.get(within) else { continue };
            if start < segment.start || start >= end {
                continue;
            }
            if functions.len() == MAX_FUNCTIONS {
                return Err(UnwindError::TooMuch {
                    what: "functions",
                    limit: MAX_FUNCTIONS as u64,
                });
            }
            functions.push(Part { start, end: end.min(segment.end), source: source(at) });
        }
        Ok(functions)
    }

    /// Runs the program of the frame description at `offset`.
    pub(super) fn evaluate(
        &mut self,
        offset: u32,
        machine: Machine,
        sink: &mut impl Sink,
        work: &mut Work,
    ) -> Result<(), UnwindError> {
        let Some(entry) = self.entry(offset as usize) else { return Ok(()) };
        let Some(cie_offset) = entry.cie else { return Ok(()) };
        let Some(mut cie) = self.cie(cie_offset, work)? else { return Ok(()) };
        let program = |initial| Program {
            section: &self.section,
            machine,
            encoding: cie.entry.encoding(),
            code_align: cie.entry.code_alignment_factor(),
            data_align: cie.entry.data_alignment_factor(),
            initial,
            in_trampoline: cie.entry.is_signal_trampoline(),
        };
        let initial = match cie.initial {
            Some(initial) => initial,
            None => {
                let instructions = cie.entry.instructions(&self.section, &self.bases);
                let state = program(None).initial_state(instructions, work)?;
                let known = cie.entry.return_address_register() == machine.return_address();
                let state = state.filter(|_| known);
                cie.initial = Some(state);
                if let Some(Some(kept)) = self.cies.get_mut(&cie_offset) {
                    kept.initial = cie.initial;
                }
                state
            }
        };
        let partial = self.section.partial_fde_from_offset(&self.bases, entry.offset.into());
        let fde = partial.and_then(|partial| partial.parse(|_, _, _| Ok(cie.entry.clone())));
        let Ok(fde) = fde else { return Ok(()) };
        let range = (fde.initial_address(), fde.end_address());
        let Some(initial) = initial else {
            return sink.row(range.0, Err(Unsupported::Malformed));
        };
        let program = program(Some(initial));
        program.run(fde.instructions(&self.section, &self.bases), range, sink, work)
    }

    fn range(&self, entry: &Entry, cie: &CommonInformationEntry<Reader<'a>>) -> Option<(u64, u64)> {
        let partial = self.section.partial_fde_from_offset(&self.bases, entry.offset.into());
        let fde = partial.ok()?.parse(|_, _, _| Ok(cie.clone())).ok()?;
        Some((fde.initial_address(), fde.initial_address().checked_add(fde.len())?))
    }

    /// The entry at `offset`, or the next one after lengths of 0.
    fn entry(&self, offset: usize) -> Option<Entry> {
        let mut offset = offset;
        loop {
            let length = self.u32_at(offset)?;
            if length == 0 {
                if self.ends_at_zero {
                    return None;
                }
                // Several terminators: objects were joined that each had one.
                offset = offset.checked_add(4)?;
                continue;
            }
            let (id_at, length, is_wide) = if length == u32::MAX {
                (offset.checked_add(12)?, self.u64_at(offset.checked_add(4)?)?, true)
            } else {
                (offset.checked_add(4)?, u64::from(length), false)
            };
            let next = id_at.checked_add(usize::try_from(length).ok()?)?;
            if next > self.bytes.len() || next < id_at.checked_add(4)? {
                return None;
            }
            let cie = if self.is_eh_frame {
                match self.u32_at(id_at)? {
                    0 => None,
                    back => Some(id_at.checked_sub(back as usize).unwrap_or(usize::MAX)),
                }
            } else if is_wide {
                Some(self.u64_at(id_at)?)
                    .filter(|&id| id != u64::MAX)
                    .map(|id| usize::try_from(id).unwrap_or(usize::MAX))
            } else {
                Some(self.u32_at(id_at)?).filter(|&id| id != u32::MAX).map(|id| id as usize)
            };
            return Some(Entry { offset, next, cie });
        }
    }

    /// The common entry at `offset`.
    fn cie(&mut self, offset: usize, work: &mut Work) -> Result<Option<Cie<'a>>, UnwindError> {
        if let Some(kept) = self.cies.get(&offset) {
            return Ok(kept.clone());
        }
        let length = self.u32_at(offset).map_or(u64::MAX, u64::from);
        let cie = if length <= MAX_CIE_BYTES {
            work.spend(length)?;
            let entry = self.section.cie_from_offset(&self.bases, offset.into());
            entry.ok().map(|entry| Cie { entry, initial: None })
        } else {
            None
        };
        if self.cies.len() < MAX_KEPT_CIES {
            self.cies.insert(offset, cie.clone());
        }
        Ok(cie)
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64_at(&self, at: usize) -> Option<u64> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}
