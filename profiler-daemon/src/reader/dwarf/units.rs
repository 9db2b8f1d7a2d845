//! Which unit has which addresses.

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAddrBase, DebugInfoOffset, DebugRngListsBase,
    LittleEndian, RangeListsOffset, Section as _, UnitHeader,
};

use super::{Bytes, Dwarf, DwarfError, Patience, Result, STEPS_PER_TABLE};

/// The most ranges of addresses: some ten times as many as the largest programs have.
const MAX_RANGES: usize = 8 << 20;

/// The most units of one file: some ten times as many as the largest programs have.
const MAX_UNITS: usize = 4 << 20;

/// The longest table of abbreviations, in bytes: decoded, it takes twenty times as much and more.
const MAX_ABBREVIATIONS_BYTES: usize = 1 << 20;

/// How many units are read between two pauses.
const UNITS_BETWEEN_PAUSES: usize = 256;

/// The units of a file.
#[derive(Debug)]
pub(super) struct Units {
    /// Where units begin in `.debug_info`, in order.
    offsets: Vec<usize>,
    /// By their begin, then by their end.
    ranges: Vec<UnitRange>,
    /// Some could not be read.
    is_damaged: bool,
}

/// Addresses that a unit has.
#[derive(Clone, Copy, Debug)]
struct UnitRange {
    begin: u64,
    end: u64,
    /// The largest `end` up to here.
    reach: u64,
    unit: u32,
}

/// The attributes of a unit's first entry that say where its code is.
#[derive(Default)]
struct Extent<'a> {
    low: Option<AttributeValue<Bytes<'a>>>,
    high: Option<AttributeValue<Bytes<'a>>>,
    ranges: Option<AttributeValue<Bytes<'a>>>,
    address_base: usize,
    range_lists_base: Option<usize>,
    is_split: bool,
}

impl Units {
    /// Reads the first entry of each unit. `None`: some have their contents in another file.
    pub(super) fn read(
        dwarf: &Dwarf<'_>,
        patience: &Patience,
        mut pause: impl FnMut(),
    ) -> Result<Option<Self>> {
        let mut offsets = Vec::new();
        let mut ranges = Vec::new();
        let mut is_damaged = false;
        let mut headers = dwarf.units();
        // After a damaged header nobody knows where the next one is.
        while let Some(header) = headers.next().unwrap_or_else(|_| {
            is_damaged = true;
            None
        }) {
            let Some(DebugInfoOffset(offset)) = header.debug_info_offset() else { continue };
            if offsets.len() == MAX_UNITS {
                return Err(DwarfError::TooMuch { what: "units", limit: MAX_UNITS as u64 });
            }
            let unit = offsets.len() as u32;
            offsets.push(offset);
            let first = ranges.len();
            let mut take = |begin, end| {
                patience.spend(1)?;
                if begin < end && !header.is_tombstone_address(begin) {
                    if ranges.len() == MAX_RANGES {
                        let (what, limit) = ("ranges of addresses", MAX_RANGES as u64);
                        return Err(DwarfError::TooMuch { what, limit });
                    }
                    ranges.push(UnitRange { begin, end, reach: 0, unit });
                }
                Ok(())
            };
            let extent = abbreviations(dwarf, &header, patience)
                .and_then(|abbreviations| Ok(Extent::read(&header, &abbreviations)?));
            let outcome = match extent {
                Ok(extent) if extent.is_split => return Ok(None),
                Ok(extent) => extent.for_each_range(dwarf, &header, &mut take),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {}
                // What is wrong with one unit is none of the others' business.
                Err(DwarfError::Damaged(_)) => is_damaged = true,
                Err(error) => return Err(error),
            }
            merge(&mut ranges, first);
            if offsets.len() % UNITS_BETWEEN_PAUSES == 0 {
                pause();
            }
        }
        ranges.sort_unstable_by_key(|range| (range.begin, range.end));
        let mut reach = 0;
        for range in &mut ranges {
            reach = range.end.max(reach);
            range.reach = reach;
        }
        Ok(Some(Self { offsets, ranges, is_damaged }))
    }

    /// Whether some could not be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// The units of `svmas`, each with the index of the address, those of a unit together and in
    /// the order of `svmas`.
    pub(super) fn of(&self, svmas: &[u64], patience: &Patience) -> Result<Vec<(u32, usize)>> {
        let mut units = Vec::with_capacity(svmas.len());
        for (index, svma) in svmas.iter().enumerate() {
            if let Some(unit) = self.find(*svma, patience)? {
                units.push((unit, index));
            }
        }
        units.sort_unstable();
        Ok(units)
    }

    /// Where the last address ends.
    #[cfg(test)]
    pub(super) fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.reach)
    }

    /// Where addresses begin that units have.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn starts(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().map(|range| range.begin)
    }

    fn find(&self, svma: u64, patience: &Patience) -> Result<Option<u32>> {
        let after = self.ranges.partition_point(|range| range.begin <= svma);
        for range in self.ranges[..after].iter().rev().take_while(|range| range.reach > svma) {
            if range.end > svma {
                return Ok(Some(range.unit));
            }
            patience.spend(1)?;
        }
        Ok(None)
    }

    /// The unit's header.
    pub(super) fn header<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        unit: u32,
    ) -> gimli::Result<UnitHeader<Bytes<'a>>> {
        dwarf.unit_header(DebugInfoOffset(self.offsets[unit as usize]))
    }

    /// The unit that holds an offset in `.debug_info`.
    pub(super) fn holding(&self, DebugInfoOffset(offset): DebugInfoOffset) -> Option<u32> {
        let after = self.offsets.partition_point(|begin| *begin <= offset);
        u32::try_from(after.checked_sub(1)?).ok()
    }
}

/// The unit's abbreviations.
pub(super) fn abbreviations(
    dwarf: &Dwarf<'_>,
    header: &UnitHeader<Bytes<'_>>,
    patience: &Patience,
) -> Result<Abbreviations> {
    patience.spend(STEPS_PER_TABLE)?;
    let section = dwarf.debug_abbrev.reader().slice();
    let end = header.debug_abbrev_offset().0.saturating_add(MAX_ABBREVIATIONS_BYTES);
    let cut = DebugAbbrev::new(&section[..end.min(section.len())], LittleEndian);
    Ok(header.abbreviations(&cut)?)
}

/// Joins ranges from `first` on, of one unit, that follow upon each other.
fn merge(ranges: &mut Vec<UnitRange>, first: usize) {
    ranges[first..].sort_unstable_by_key(|range| range.begin);
    let mut kept = first;
    for index in first..ranges.len() {
        let range = ranges[index];
        match ranges[first..kept].last_mut() {
            Some(last) if range.begin <= last.end => last.end = last.end.max(range.end),
            _ => {
                ranges[kept] = range;
                kept += 1;
            }
        }
    }
    ranges.truncate(kept);
}

impl<'a> Extent<'a> {
    fn read(header: &UnitHeader<Bytes<'a>>, abbreviations: &Abbreviations) -> gimli::Result<Self> {
        let mut extent = Self::default();
        let mut entries = header.entries_raw(abbreviations, None)?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(extent) };
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_low_pc, value) => extent.low = Some(value),
                (gimli::DW_AT_high_pc, value) => extent.high = Some(value),
                (gimli::DW_AT_ranges, value) => extent.ranges = Some(value),
                (
                    gimli::DW_AT_addr_base | gimli::DW_AT_GNU_addr_base,
                    AttributeValue::DebugAddrBase(base),
                ) => extent.address_base = base.0,
                (gimli::DW_AT_rnglists_base, AttributeValue::DebugRngListsBase(base)) => {
                    extent.range_lists_base = Some(base.0);
                }
                (
                    gimli::DW_AT_dwo_name | gimli::DW_AT_GNU_dwo_name | gimli::DW_AT_GNU_dwo_id,
                    _,
                ) => extent.is_split = true,
                _ => {}
            }
        }
        Ok(extent)
    }

    fn for_each_range(
        &self,
        dwarf: &Dwarf<'a>,
        header: &UnitHeader<Bytes<'a>>,
        take: &mut impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let address_base = DebugAddrBase(self.address_base);
        let address = |value: &Option<AttributeValue<Bytes<'a>>>| match value {
            Some(AttributeValue::Addr(address)) => Ok(Some(*address)),
            Some(AttributeValue::DebugAddrIndex(index)) => {
                dwarf.debug_addr.get_address(header.address_size(), address_base, *index).map(Some)
            }
            _ => Ok(None),
        };
        let low = address(&self.low)?;
        let lists = &dwarf.ranges;
        let list = match self.ranges {
            Some(AttributeValue::RangeListsRef(offset)) => Some(RangeListsOffset(offset.0)),
            Some(AttributeValue::DebugRngListsIndex(index)) => {
                let base = match self.range_lists_base {
                    Some(base) => DebugRngListsBase(base),
                    None => DebugRngListsBase::default_for_encoding_and_file(
                        header.encoding(),
                        dwarf.file_type,
                    ),
                };
                Some(lists.get_offset(header.encoding(), base, index)?)
            }
            _ => None,
        };
        if let Some(list) = list {
            let (encoding, low) = (header.encoding(), low.unwrap_or(0));
            let mut ranges = lists.ranges(list, encoding, low, &dwarf.debug_addr, address_base)?;
            while let Some(range) = ranges.next()? {
                take(range.begin, range.end)?;
            }
        } else if let Some(low) = low {
            let high = match self.high {
                Some(AttributeValue::Udata(size)) => Some(low.wrapping_add(size)),
                _ => address(&self.high)?,
            };
            take(low, high.unwrap_or(low))?;
        }
        Ok(())
    }
}
