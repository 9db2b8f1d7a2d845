//! Functions, inlined functions and source lines of addresses, from a file's DWARF.
//!
//! A unit is read when an address in it is asked for, and only as far as that takes: the entries of
//! functions that hold one of the addresses, and the line program once. Nothing of a unit is kept,
//! so that memory does not grow with a file's debug information. What is kept is which unit has
//! which addresses ([`units`]).
//!
//! Files are hostile: entries refer to each other, tables are shared by any number of units, and a
//! list may be as long as its section. So all that goes over something counts its steps
//! ([`Patience`]), and what is kept is bounded.
//!
//! Not read: split DWARF, supplementary files (`.gnu_debugaltlink`) and 32-bit ELF, which blazesym
//! does.

use std::rc::Rc;

use gimli::{DwarfSections, EndianSlice, LittleEndian, SectionId, Unit, UnitHeader, UnitRef};

use super::demangle::Demangler;
use super::file_pages::FileBytes;
use super::patience::{Over, Patience};
use super::unwind::sections::Elf;
use functions::Call;
use lines::Files;
use names::Functions;
use units::Units;

mod functions;
mod lines;
mod names;
mod units;

/// What the compressed sections of a file may take together, in bytes: half of what the reader may
/// allocate.
const MAX_INFLATED_BYTES: u64 = 512 << 20;

/// Sections that nothing here looks at.
const UNREAD: [SectionId; 5] = [
    SectionId::DebugAranges,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugMacinfo,
    SectionId::DebugMacro,
];

/// The steps that a table counts as which gimli reads in one go.
const STEPS_PER_TABLE: u64 = 1 << 12;

/// Why DWARF could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DwarfError {
    /// It is damaged.
    #[error(transparent)]
    Damaged(#[from] gimli::Error),
    /// It keeps the reader busy for longer than a file may.
    #[error("it takes too long to read")]
    TooLong,
    /// More of something than is taken from one file.
    #[error("it has more than {limit} {what}")]
    TooMuch {
        /// Of what there is too much.
        what: &'static str,
        /// How much is taken.
        limit: u64,
    },
}

impl From<Over> for DwarfError {
    fn from(_: Over) -> Self {
        Self::TooLong
    }
}

type Result<T> = std::result::Result<T, DwarfError>;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Dwarf<'a> = gimli::Dwarf<Bytes<'a>>;

/// A file's DWARF.
pub(super) struct DebugInfo {
    bytes: FileBytes,
    sections: DwarfSections<Section>,
    units: Units,
}

/// The bytes of a section.
#[derive(Debug)]
enum Section {
    /// Where they are in the file.
    Mapped { offset: usize, size: usize },
    /// Decompressed.
    Inflated(Vec<u8>),
}

/// What an address is in.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Innermost inlined function first. Empty: DWARF knows no function there.
    pub(super) frames: Vec<Frame>,
    /// The source line, which the first of `frames` has, too.
    pub(super) line: Option<Line>,
}

/// A function, and the line in it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Demangled; empty if unknown.
    pub(super) function: Rc<str>,
    /// The line where the function begins; 0 if unknown.
    pub(super) start_line: u32,
    /// The line in it.
    pub(super) line: Option<Line>,
}

/// A line of a source file.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The file's path.
    pub(super) file: Rc<str>,
    /// From 1; 0 if unknown.
    pub(super) number: u32,
}

impl DebugInfo {
    /// Finds which units have which addresses. `pause` is called between units, now and then.
    ///
    /// `None`: not a file whose DWARF is read here, see the module.
    ///
    /// # Errors
    ///
    /// What says which units there are is damaged beyond use, or too much.
    pub(super) fn read(
        bytes: FileBytes,
        patience: &Patience,
        pause: impl FnMut(),
    ) -> Result<Option<Self>> {
        let Ok(elf) = Elf::parse(&bytes) else { return Ok(None) };
        let start = bytes.as_ptr() as usize;
        let mut left = MAX_INFLATED_BYTES;
        let sections = DwarfSections::load(|id: SectionId| {
            let is_read = !UNREAD.contains(&id);
            let contents = is_read.then(|| elf.section_bytes(id.name().as_bytes(), left)).flatten();
            let section = match contents {
                None => Section::Mapped { offset: 0, size: 0 },
                Some(std::borrow::Cow::Borrowed(part)) => {
                    Section::Mapped { offset: part.as_ptr() as usize - start, size: part.len() }
                }
                Some(std::borrow::Cow::Owned(inflated)) => {
                    left = left.saturating_sub(inflated.len() as u64);
                    if left == 0 {
                        let (what, limit) = ("bytes in compressed sections", MAX_INFLATED_BYTES);
                        return Err(DwarfError::TooMuch { what, limit });
                    }
                    Section::Inflated(inflated)
                }
            };
            Ok(section)
        })?;
        let dwarf = sections.borrow(|section| section.bytes(&bytes));
        let Some(units) = Units::read(&dwarf, patience, pause)? else { return Ok(None) };
        Ok(Some(Self { bytes, sections, units }))
    }

    /// Where code begins that units have.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn starts(&self) -> impl Iterator<Item = u64> {
        self.units.starts()
    }

    /// Looks up `svmas`, which are in order. Calls `take` with an index into them and what is
    /// there, for each that a unit has, and `pause` after each unit. Returns how many are, or may
    /// be, in units that are damaged; those that patience did not last for are among them.
    pub(super) fn look_up(
        &self,
        svmas: &[u64],
        patience: &Patience,
        demangler: &Demangler,
        mut take: impl FnMut(usize, Place),
        mut pause: impl FnMut(),
    ) -> usize {
        let dwarf = self.sections.borrow(|section| section.bytes(&self.bytes));
        let mut functions = Functions::new(&dwarf, &self.units, patience, demangler);
        let Ok(found) = self.units.of(svmas, patience) else { return svmas.len() };
        let mut failed = if self.units.is_damaged() { svmas.len() - found.len() } else { 0 };
        for of_unit in found.chunk_by(|(unit, _), (other, _)| unit == other) {
            let indexes: Vec<usize> = of_unit.iter().map(|(_, index)| *index).collect();
            let addresses: Vec<u64> = indexes.iter().map(|index| svmas[*index]).collect();
            let places =
                self.units.header(&dwarf, of_unit[0].0).map_err(DwarfError::from).and_then(
                    |header| places(&dwarf, header, &addresses, &mut functions, patience),
                );
            match places {
                Ok(places) => {
                    indexes.into_iter().zip(places).for_each(|(index, place)| take(index, place));
                }
                Err(_) => failed += indexes.len(),
            }
            pause();
        }
        failed
    }
}

impl Section {
    fn bytes<'a>(&'a self, file: &'a [u8]) -> Bytes<'a> {
        let bytes = match self {
            Self::Mapped { offset, size } => &file[*offset..*offset + *size],
            Self::Inflated(bytes) => bytes,
        };
        EndianSlice::new(bytes, LittleEndian)
    }
}

/// What is at addresses of one unit, which are in order.
fn places<'a>(
    dwarf: &Dwarf<'a>,
    header: UnitHeader<Bytes<'a>>,
    addresses: &[u64],
    functions: &mut Functions<'_, 'a>,
    patience: &Patience,
) -> Result<Vec<Place>> {
    let unit = unit(dwarf, header, patience)?;
    let unit = UnitRef::new(dwarf, &unit);
    let mut files = Files::new(unit);
    let rows = lines::find(unit, addresses, patience)?;
    let calls = functions::find(unit, addresses, patience)?;
    let places = rows.into_iter().zip(calls).map(|(row, calls)| {
        let line = row.map(|row| Line { file: files.path(row.file), number: row.line });
        let mut next = line.clone();
        let frame = |call: &Call| {
            let function = functions.get(unit, call.entry);
            let called_from =
                call.file.map(|file| Line { file: files.path(file), number: call.line });
            Frame {
                function: function.name,
                start_line: function.start_line,
                line: std::mem::replace(&mut next, called_from),
            }
        };
        Place { frames: calls.iter().rev().map(frame).collect(), line }
    });
    Ok(places.collect())
}

/// Reads what all entries of a unit need.
fn unit<'a>(
    dwarf: &Dwarf<'a>,
    header: UnitHeader<Bytes<'a>>,
    patience: &Patience,
) -> Result<Unit<Bytes<'a>>> {
    let abbreviations = units::abbreviations(dwarf, &header, patience)?;
    lines::check_header(dwarf, &header, &abbreviations)?;
    let unit = Unit::new_with_abbreviations(dwarf, header, abbreviations.into())?;
    patience.spend(STEPS_PER_TABLE)?;
    Ok(unit)
}

#[cfg(test)]
mod tests;
