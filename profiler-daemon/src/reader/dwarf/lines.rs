//! Source lines of addresses.

use std::collections::HashMap;
use std::rc::Rc;

use gimli::{
    Abbreviations, AttributeValue, DebugLineOffset, LineProgramHeader, Section as _, UnitHeader,
    UnitRef,
};

use super::{Bytes, Dwarf, DwarfError, Patience, Result};

/// The longest header of a line program, in bytes: decoded, its list of files takes up to a hundred
/// times as much.
const MAX_HEADER_BYTES: u64 = 2 << 20;

/// The longest line program, in bytes.
const MAX_PROGRAM_BYTES: u64 = 256 << 20;

/// The longest path taken, in bytes; names are cut where a reply is made of them anyhow.
const MAX_PATH_BYTES: usize = 4_096;

/// A row of a line program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The source file, as the line program counts.
    pub(super) file: u64,
    /// 0 if unknown.
    pub(super) line: u32,
}

/// The row in force at each of `addresses`, which are in order.
pub(super) fn find(
    unit: UnitRef<'_, Bytes<'_>>,
    addresses: &[u64],
    patience: &Patience,
) -> Result<Vec<Option<Row>>> {
    let mut found = vec![None; addresses.len()];
    let Some(program) = unit.line_program.clone() else { return Ok(found) };
    if program.header().raw_program_buf().len() as u64 > MAX_PROGRAM_BYTES {
        let what = "bytes in a line program";
        return Err(DwarfError::TooMuch { what, limit: MAX_PROGRAM_BYTES });
    }
    let mut rows = program.rows();
    // The row before, and the first address that is not below it; `None` before a sequence.
    let mut before: Option<(Row, usize)> = None;
    while let Some((_, row)) = rows.next_row()? {
        patience.spend(1)?;
        let address = row.address();
        let next = match before {
            // A row in force from 0 on belongs to code that the linker dropped.
            None if address == 0 => addresses.len(),
            None => addresses.partition_point(|wanted| *wanted < address),
            Some((before, mut next)) => {
                while addresses.get(next).is_some_and(|wanted| *wanted < address) {
                    found[next] = Some(before);
                    next += 1;
                }
                next
            }
        };
        let line = row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or(0));
        let this = Row { file: row.file_index(), line };
        before = (!row.end_sequence()).then_some((this, next));
    }
    Ok(found)
}

/// Looks at how long the header of a unit's line program is, before it is decoded.
///
/// # Errors
///
/// [`DwarfError::TooMuch`].
pub(super) fn check_header(
    dwarf: &Dwarf<'_>,
    header: &UnitHeader<Bytes<'_>>,
    abbreviations: &Abbreviations,
) -> Result<()> {
    let mut entries = header.entries_raw(abbreviations, None)?;
    let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(()) };
    for specification in abbreviation.attributes() {
        let attribute = entries.read_attribute(*specification)?;
        if let (gimli::DW_AT_stmt_list, AttributeValue::DebugLineRef(DebugLineOffset(offset))) =
            (attribute.name(), attribute.value())
            && header_bytes(dwarf.debug_line.reader().slice(), offset)
                .is_some_and(|bytes| bytes > MAX_HEADER_BYTES)
        {
            let what = "bytes in the header of a line program";
            return Err(DwarfError::TooMuch { what, limit: MAX_HEADER_BYTES });
        }
    }
    Ok(())
}

/// How long the header of a line program says that it is (DWARF 5, 6.2.4).
fn header_bytes(section: &[u8], offset: usize) -> Option<u64> {
    let mut rest = section.get(offset..)?;
    let mut take = |count: usize| {
        let (number, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(number.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let word = if take(4)? == 0xffff_ffff {
        take(8)?;
        8
    } else {
        4
    };
    if take(2)? >= 5 {
        take(2)?;
    }
    take(word)
}

/// Paths of a unit's source files.
pub(super) struct Files<'s, 'a> {
    unit: UnitRef<'s, Bytes<'a>>,
    paths: HashMap<u64, Rc<str>>,
}

impl<'s, 'a> Files<'s, 'a> {
    /// None is known yet.
    pub(super) fn new(unit: UnitRef<'s, Bytes<'a>>) -> Self {
        Self { unit, paths: HashMap::new() }
    }

    /// The path of a file, as the line program counts; empty if there is none.
    pub(super) fn path(&mut self, file: u64) -> Rc<str> {
        let unit = self.unit;
        Rc::clone(self.paths.entry(file).or_insert_with(|| {
            let header = unit.line_program.as_ref().map(gimli::IncompleteLineProgram::header);
            header.and_then(|header| path(unit, header, file)).unwrap_or_default().into()
        }))
    }
}

fn path<'a>(
    unit: UnitRef<'_, Bytes<'a>>,
    header: &LineProgramHeader<Bytes<'a>>,
    file: u64,
) -> Option<String> {
    let file = header.file(file)?;
    let mut path = String::new();
    if let Some(directory) = &unit.comp_dir {
        push(&mut path, directory.slice());
    }
    // Directory 0 is the unit's own.
    if file.directory_index() != 0
        && let Some(directory) = file.directory(header)
    {
        push(&mut path, unit.attr_string(directory).ok()?.slice());
    }
    push(&mut path, unit.attr_string(file.path_name()).ok()?.slice());
    Some(path)
}

/// Goes on from a path to another, which may be absolute.
fn push(path: &mut String, part: &[u8]) {
    if part.starts_with(b"/") {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    let room = MAX_PATH_BYTES.saturating_sub(path.len());
    path.push_str(&String::from_utf8_lossy(&part[..part.len().min(room)]));
}
