//! Which function, and which functions inlined in it, hold an address.

use gimli::{AttributeValue, DwTag, EntriesRaw, UnitOffset, UnitRef};

use super::{Bytes, Patience, Result};

/// The most functions at one address.
const MAX_CALLS: usize = 256;

/// A function's code, or that of an inlined one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Its entry in the unit.
    pub(super) entry: UnitOffset,
    /// Of an inlined function: the file it was called from, as the line program counts.
    pub(super) file: Option<u64>,
    /// Of an inlined function: the line it was called from; 0 if unknown.
    pub(super) line: u32,
    depth: isize,
}

/// What an entry with code says.
#[derive(Default)]
struct Code<'a> {
    low: Option<u64>,
    high: Option<AttributeValue<Bytes<'a>>>,
    ranges: Option<AttributeValue<Bytes<'a>>>,
    sibling: Option<UnitOffset>,
    call_file: Option<u64>,
    call_line: u32,
}

/// The functions at each of `addresses`, which are in order: the one that was called first, then
/// those inlined in it, each in the one before.
pub(super) fn find(
    unit: UnitRef<'_, Bytes<'_>>,
    addresses: &[u64],
    patience: &Patience,
) -> Result<Vec<Vec<Call>>> {
    let mut search = Search { unit, addresses, patience, calls: vec![Vec::new(); addresses.len()] };
    search.run(false)?;
    // A function may be inside another's entry and outside its code.
    let missed = |calls: &Vec<Call>| calls.is_empty();
    if search.calls.iter().any(missed) {
        let (indexes, addresses): (Vec<usize>, Vec<u64>) =
            addresses.iter().enumerate().filter(|(index, _)| missed(&search.calls[*index])).unzip();
        let calls = vec![Vec::new(); addresses.len()];
        let mut rest = Search { unit, addresses: &addresses, patience, calls };
        rest.run(true)?;
        for (index, calls) in indexes.into_iter().zip(rest.calls) {
            search.calls[index] = calls;
        }
    }
    Ok(search.calls)
}

struct Search<'s, 'a> {
    unit: UnitRef<'s, Bytes<'a>>,
    addresses: &'s [u64],
    patience: &'s Patience,
    calls: Vec<Vec<Call>>,
}

impl<'s, 'a> Search<'s, 'a> {
    /// Goes over the unit's entries. Unless `thorough`, leaves out what is inside types, and inside
    /// functions and blocks that hold none of the addresses.
    fn run(&mut self, thorough: bool) -> Result<()> {
        let mut entries = self.unit.entries_raw(None)?;
        // A reader that begins in the middle counts depths from there.
        let mut base = 0;
        while !entries.is_empty() {
            let entry = entries.next_offset();
            let depth = base + entries.next_depth();
            self.patience.spend(1)?;
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            self.patience.spend(abbreviation.attributes().len() as u64)?;
            let tag = abbreviation.tag();
            if !may_be_left_out(tag) {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let mut code = Code::default();
            for specification in abbreviation.attributes() {
                let attribute = entries.read_attribute_inline(*specification)?;
                code.take(self.unit, attribute.name(), attribute.value())?;
            }
            let hit = self.hit(tag, &code, entry, depth)?;
            if hit || thorough || !abbreviation.has_children() {
                continue;
            }
            match code.sibling.filter(|sibling| *sibling > entry) {
                Some(sibling) => {
                    entries = self.unit.entries_raw(Some(sibling))?;
                    base = depth;
                }
                None => skip_children(&mut entries, depth - base, self.patience)?,
            }
        }
        Ok(())
    }

    /// Notes the addresses that an entry's code holds; whether there are any.
    fn hit(
        &mut self,
        tag: DwTag,
        code: &Code<'a>,
        entry: UnitOffset,
        depth: isize,
    ) -> Result<bool> {
        let mut any = false;
        let (addresses, calls) = (self.addresses, &mut self.calls);
        code.for_each_range(self.unit, |begin, end| {
            self.patience.spend(1)?;
            let first = addresses.partition_point(|address| *address < begin);
            let count = addresses[first..].partition_point(|address| *address < end);
            self.patience.spend(count as u64)?;
            any |= count > 0;
            let call = Call { entry, file: code.call_file, line: code.call_line, depth };
            for calls in &mut calls[first..first + count] {
                match tag {
                    gimli::DW_TAG_subprogram => {
                        calls.clear();
                        calls.push(call);
                    }
                    gimli::DW_TAG_inlined_subroutine => {
                        while calls.last().is_some_and(|last| last.depth >= depth) {
                            calls.pop();
                        }
                        if !calls.is_empty() && calls.len() < MAX_CALLS {
                            calls.push(call);
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        Ok(any)
    }
}

/// Whether what is inside such an entry is left out if it holds none of the addresses.
fn may_be_left_out(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_subprogram
            | gimli::DW_TAG_inlined_subroutine
            | gimli::DW_TAG_lexical_block
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_class_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_enumeration_type
    )
}

/// Reads on until the next entry is as deep as its parent, at `depth`.
fn skip_children(
    entries: &mut EntriesRaw<'_, Bytes<'_>>,
    depth: isize,
    patience: &Patience,
) -> Result<()> {
    while entries.next_depth() > depth && !entries.is_empty() {
        patience.spend(1)?;
        if let Some(abbreviation) = entries.read_abbreviation()? {
            patience.spend(abbreviation.attributes().len() as u64)?;
            entries.skip_attributes(abbreviation.attributes())?;
        }
    }
    Ok(())
}

impl<'a> Code<'a> {
    fn take(
        &mut self,
        unit: UnitRef<'_, Bytes<'a>>,
        name: gimli::DwAt,
        value: AttributeValue<Bytes<'a>>,
    ) -> gimli::Result<()> {
        match name {
            gimli::DW_AT_low_pc => self.low = unit.attr_address(value)?,
            gimli::DW_AT_high_pc => self.high = Some(value),
            gimli::DW_AT_ranges => self.ranges = Some(value),
            gimli::DW_AT_sibling => {
                if let AttributeValue::UnitRef(offset) = value {
                    self.sibling = Some(offset);
                }
            }
            gimli::DW_AT_call_file => {
                if let AttributeValue::FileIndex(file) = value {
                    // Before DWARF 5, 0 means that there is none.
                    self.call_file =
                        Some(file).filter(|file| *file > 0 || unit.header.version() >= 5);
                }
            }
            gimli::DW_AT_call_line => {
                self.call_line = value.udata_value().map_or(0, |line| line.try_into().unwrap_or(0));
            }
            _ => {}
        }
        Ok(())
    }

    fn for_each_range(
        &self,
        unit: UnitRef<'_, Bytes<'a>>,
        mut take: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        if let Some(value) = self.ranges {
            if let Some(offset) = unit.attr_ranges_offset(value)? {
                let mut ranges = unit.ranges(offset)?;
                while let Some(range) = ranges.next()? {
                    take(range.begin, range.end)?;
                }
            }
        } else if let (Some(low), Some(high)) = (self.low, self.high) {
            let high = match high {
                AttributeValue::Udata(size) => low.wrapping_add(size),
                value => unit.attr_address(value)?.unwrap_or(low),
            };
            take(low, high)?;
        }
        Ok(())
    }
}
