//! Functions, inlined functions and source lines of addresses, from a file's DWARF.
//!
//! A unit is read when an address in it is asked for, and only as far as that takes: the entries of
//! functions that hold one of the addresses, and the line program once. Nothing of a unit is kept,
//! so that memory does not grow with a file's debug information. What is kept is which unit has
//! which addresses ([`units`]).
//!
//! Not read: split DWARF, supplementary files (`.gnu_debugaltlink`) and 32-bit ELF, which blazesym
//! does.

use std::rc::Rc;

use gimli::{DwarfSections, EndianSlice, LittleEndian, SectionId, UnitHeader, UnitRef};

use super::file_pages::FileBytes;
use super::unwind::sections::Elf;
use functions::Call;
use lines::Files;
use names::Functions;
use units::Units;

mod functions;
mod lines;
mod names;
mod units;

/// What one compressed section may take, in bytes.
const MAX_SECTION_BYTES: u64 = 1 << 30;

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
    /// What says which units there are is damaged beyond use.
    pub(super) fn read(bytes: FileBytes, pause: impl FnMut()) -> gimli::Result<Option<Self>> {
        let Ok(elf) = Elf::parse(&bytes) else { return Ok(None) };
        let start = bytes.as_ptr() as usize;
        let sections = DwarfSections::load(|id: SectionId| {
            let section = match elf.section_bytes(id.name().as_bytes(), MAX_SECTION_BYTES) {
                None => Section::Mapped { offset: 0, size: 0 },
                Some(std::borrow::Cow::Borrowed(part)) => {
                    Section::Mapped { offset: part.as_ptr() as usize - start, size: part.len() }
                }
                Some(std::borrow::Cow::Owned(inflated)) => Section::Inflated(inflated),
            };
            gimli::Result::Ok(section)
        })?;
        let dwarf = sections.borrow(|section| section.bytes(&bytes));
        let Some(units) = Units::read(&dwarf, pause)? else { return Ok(None) };
        Ok(Some(Self { bytes, sections, units }))
    }

    /// Looks up `svmas`, which are in order. Calls `take` with an index into them and what is
    /// there, for each that a unit has, and `pause` after each unit. Returns how many are, or may
    /// be, in units that are damaged.
    pub(super) fn look_up(
        &self,
        svmas: &[u64],
        mut take: impl FnMut(usize, Place),
        mut pause: impl FnMut(),
    ) -> usize {
        let dwarf = self.sections.borrow(|section| section.bytes(&self.bytes));
        let mut functions = Functions::new(&dwarf, &self.units);
        let found = self.units.of(svmas);
        let mut failed = if self.units.is_damaged() { svmas.len() - found.len() } else { 0 };
        for of_unit in found.chunk_by(|(unit, _), (other, _)| unit == other) {
            let indexes: Vec<usize> = of_unit.iter().map(|(_, index)| *index).collect();
            let addresses: Vec<u64> = indexes.iter().map(|index| svmas[*index]).collect();
            let places = self
                .units
                .header(&dwarf, of_unit[0].0)
                .and_then(|header| places(&dwarf, header, &addresses, &mut functions));
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
) -> gimli::Result<Vec<Place>> {
    let unit = dwarf.unit(header)?;
    let unit = UnitRef::new(dwarf, &unit);
    let mut files = Files::new(unit);
    let rows = lines::find(unit, addresses)?;
    let calls = functions::find(unit, addresses)?;
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

#[cfg(test)]
mod tests;
