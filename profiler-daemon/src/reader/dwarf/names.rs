//! Names of functions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use gimli::{AttributeValue, DebugInfoOffset, DwLang, Unit, UnitOffset, UnitRef};

use super::units::Units;
use super::{Bytes, Dwarf, Patience, Result, unit};
use crate::reader::demangle::{Demangler, MAX_WRITTEN_BYTES};

/// How often an entry may refer to another for what it does not say itself.
const MAX_REFERENCES: usize = 16;

/// Units kept that functions of other units come from.
const MAX_OTHER_UNITS: usize = 8;

/// Bytes of a string that going over them counts as one step.
const BYTES_PER_STEP: usize = 64;

/// A function's name, and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Function {
    /// Demangled; empty if unknown.
    pub(super) name: Rc<str>,
    /// Line; 0 if unknown.
    pub(super) start_line: u32,
}

/// Functions that were looked up.
pub(super) struct Functions<'s, 'a> {
    dwarf: &'s Dwarf<'a>,
    units: &'s Units,
    patience: &'s Patience,
    demangler: &'s Demangler,
    known: HashMap<DebugInfoOffset, Function>,
    others: HashMap<u32, Unit<Bytes<'a>>>,
}

/// What entries say of a function.
#[derive(Default)]
struct Said<'a> {
    linkage_name: Option<Bytes<'a>>,
    name: Option<Bytes<'a>>,
    line: Option<u32>,
    language: Option<DwLang>,
}

impl<'s, 'a> Functions<'s, 'a> {
    /// None is known yet.
    pub(super) fn new(
        dwarf: &'s Dwarf<'a>,
        units: &'s Units,
        patience: &'s Patience,
        demangler: &'s Demangler,
    ) -> Self {
        Self { dwarf, units, patience, demangler, known: HashMap::new(), others: HashMap::new() }
    }

    /// The function of an entry, which may be one of an inlined function.
    pub(super) fn get(&mut self, unit: UnitRef<'_, Bytes<'a>>, entry: UnitOffset) -> Function {
        let Some(offset) = entry.to_debug_info_offset(&unit.header) else {
            return Function { name: "".into(), start_line: 0 };
        };
        if let Some(function) = self.known.get(&offset) {
            return function.clone();
        }
        let mut said = Said::default();
        // What an entry says counts, even if what it refers to is damaged.
        let _ = self.collect(unit, entry, &mut said);
        let name = match (said.linkage_name, said.name) {
            (Some(mangled), _) => self.demangler.demangle(&text(mangled), said.language),
            (None, Some(name)) => text(name).into_owned(),
            (None, None) => String::new(),
        };
        let function = Function { name: name.into(), start_line: said.line.unwrap_or(0) };
        self.known.insert(offset, function.clone());
        function
    }

    fn collect(
        &mut self,
        unit: UnitRef<'_, Bytes<'a>>,
        entry: UnitOffset,
        said: &mut Said<'a>,
    ) -> Result<()> {
        said.language = language(unit, self.patience)?;
        let mut next = said.take(unit, entry, self.patience)?;
        for _ in 0..MAX_REFERENCES {
            next = match next {
                Some(AttributeValue::UnitRef(entry)) => said.take(unit, entry, self.patience)?,
                Some(AttributeValue::DebugInfoRef(offset)) => {
                    return self.collect_elsewhere(offset, said);
                }
                _ => break,
            };
        }
        Ok(())
    }

    /// The same from an entry of any unit.
    fn collect_elsewhere(
        &mut self,
        mut offset: DebugInfoOffset,
        said: &mut Said<'a>,
    ) -> Result<()> {
        for _ in 0..MAX_REFERENCES {
            let Some(index) = self.units.holding(offset) else { break };
            if self.others.len() >= MAX_OTHER_UNITS && !self.others.contains_key(&index) {
                self.others.clear();
            }
            let unit = match self.others.entry(index) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(vacant) => {
                    let header = self.units.header(self.dwarf, index)?;
                    vacant.insert(unit(self.dwarf, header, self.patience)?)
                }
            };
            let unit = UnitRef::new(self.dwarf, unit);
            let Some(entry) = offset.to_unit_offset(&unit.header) else { break };
            said.language = language(unit, self.patience)?;
            match said.take(unit, entry, self.patience)? {
                Some(AttributeValue::UnitRef(entry)) => {
                    let Some(next) = entry.to_debug_info_offset(&unit.header) else { break };
                    offset = next;
                }
                Some(AttributeValue::DebugInfoRef(next)) => offset = next,
                _ => break,
            }
        }
        Ok(())
    }
}

impl<'a> Said<'a> {
    /// Takes what an entry says, as far as nothing before has said it. Returns the reference to
    /// the entry that says the rest, if that is missed.
    fn take(
        &mut self,
        unit: UnitRef<'_, Bytes<'a>>,
        entry: UnitOffset,
        patience: &Patience,
    ) -> Result<Option<AttributeValue<Bytes<'a>>>> {
        let mut entries = unit.entries_raw(Some(entry))?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(None) };
        patience.spend(1 + abbreviation.attributes().len() as u64)?;
        let is_inlined = abbreviation.tag() == gimli::DW_TAG_inlined_subroutine;
        let mut reference = None;
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            match attribute.name() {
                gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                    self.linkage_name =
                        self.linkage_name.or(unit.attr_string(attribute.value()).ok());
                }
                gimli::DW_AT_name => {
                    self.name = self.name.or(unit.attr_string(attribute.value()).ok());
                }
                gimli::DW_AT_decl_line if !is_inlined => {
                    let line = attribute.udata_value().and_then(|line| line.try_into().ok());
                    self.line = self.line.or(line);
                }
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                    reference = Some(attribute.value());
                }
                _ => {}
            }
        }
        let read = [self.linkage_name, self.name].into_iter().flatten();
        patience.spend(read.map(|name| name.len() / BYTES_PER_STEP).sum::<usize>() as u64)?;
        let is_complete = self.linkage_name.is_some() && self.line.is_some();
        Ok(reference.filter(|_| !is_complete))
    }
}

fn language(unit: UnitRef<'_, Bytes<'_>>, patience: &Patience) -> Result<Option<DwLang>> {
    let root = unit.entry(unit.header.root_offset())?;
    patience.spend(root.attrs().len() as u64)?;
    Ok(match root.attr_value(gimli::DW_AT_language) {
        Some(AttributeValue::Language(language)) => Some(language),
        _ => None,
    })
}

/// What of a string is taken.
fn text(bytes: Bytes<'_>) -> Cow<'_, str> {
    let bytes = bytes.slice();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_WRITTEN_BYTES)])
}
