//! Source lines of addresses.

use std::collections::HashMap;
use std::rc::Rc;

use gimli::{LineProgramHeader, UnitRef};

use super::Bytes;

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
) -> gimli::Result<Vec<Option<Row>>> {
    let mut found = vec![None; addresses.len()];
    let Some(program) = unit.line_program.clone() else { return Ok(found) };
    let mut rows = program.rows();
    // The row before, and the first address that is not below it; `None` before a sequence.
    let mut before: Option<(Row, usize)> = None;
    while let Some((_, row)) = rows.next_row()? {
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
    path.push_str(&String::from_utf8_lossy(part));
}
