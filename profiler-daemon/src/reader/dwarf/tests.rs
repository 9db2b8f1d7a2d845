use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use gimli::Section as _;

use super::*;
use crate::reader::elf::Image;
use crate::reader::file_pages::FilePages;
use crate::reader::tests::Random;

const PROGRAM: &str = "/proc/self/exe";

fn forever() -> Patience {
    Patience::of(Duration::MAX)
}

fn debug_info(file: &File) -> DebugInfo {
    let size_bytes = file.metadata().unwrap().len();
    let bytes = Arc::new(FilePages::default()).map(file, size_bytes).unwrap();
    DebugInfo::read(bytes, &forever(), || {}).unwrap().unwrap()
}

/// Addresses of code that units have, in order. (Functions that the linker left out begin at 0.)
fn addresses(file: &File, debug_info: &DebugInfo, count: usize) -> Vec<u64> {
    let mut random = Random::new(3);
    let segments = Image::read(file).unwrap().unwrap().segments;
    let code = |address: &u64| {
        let mut segments = segments.iter();
        segments.any(|segment| address.wrapping_sub(segment.svma) < segment.size_bytes)
    };
    let end = debug_info.units.end();
    let mut addresses: Vec<u64> = std::iter::repeat_with(|| random.below(end))
        .filter(code)
        .filter(|address| !debug_info.units.of(&[*address], &forever()).unwrap().is_empty())
        .take(count)
        .collect();
    addresses.sort_unstable();
    addresses
}

type Shown = Vec<(String, String, u32)>;

fn ours(debug_info: &DebugInfo, addresses: &[u64]) -> HashMap<u64, Shown> {
    let mut places = HashMap::new();
    let take = |index: usize, place: Place| {
        let frames = place.frames.iter().map(|frame| {
            let line = frame.line.as_ref();
            let file = line.map_or(String::new(), |line| line.file.to_string());
            (frame.function.to_string(), file, line.map_or(0, |line| line.number))
        });
        places.insert(addresses[index], frames.collect());
    };
    assert_eq!(debug_info.look_up(addresses, &forever(), &Demangler::default(), take, || {}), 0);
    places
}

/// What blazesym says of the same addresses.
fn theirs(path: &str, addresses: &[u64]) -> HashMap<u64, Shown> {
    let symbolizer = Symbolizer::new();
    let source = Source::Elf(Elf::new(path));
    let symbols = symbolizer.symbolize(&source, Input::VirtOffset(addresses)).unwrap();
    let shown = |symbol: &Symbolized<'_>| {
        let Some(symbol) = symbol.as_sym() else { return Vec::new() };
        let inlined = symbol.inlined.iter().rev();
        let inlined = inlined.map(|inlined| (&inlined.name, inlined.code_info.as_ref()));
        inlined
            .chain(std::iter::once((&symbol.name, symbol.code_info.as_deref())))
            .map(|(name, code)| {
                let file = code.map(|code| code.to_path().to_string_lossy().into_owned());
                let line = code.and_then(|code| code.line).unwrap_or_default();
                (name.to_string(), file.unwrap_or_default(), line)
            })
            .collect()
    };
    addresses.iter().copied().zip(symbols.iter().map(shown)).collect()
}

#[test]
fn functions_and_lines_are_those_that_blazesym_finds() {
    let file = File::open(PROGRAM).unwrap();
    let debug_info = debug_info(&file);
    let addresses = addresses(&file, &debug_info, 4_000);
    let (ours, theirs) = (ours(&debug_info, &addresses), theirs(PROGRAM, &addresses));
    let mut inlined = 0;
    let mut differ = Vec::new();
    for (address, ours) in ours.iter().filter(|(_, ours)| !ours.is_empty()) {
        let theirs = &theirs[address];
        inlined += usize::from(ours.len() > 1);
        if ours != theirs {
            differ.push(format!("{address:#x}\n ours   {ours:?}\n theirs {theirs:?}"));
        }
    }
    let named = ours.values().filter(|ours| !ours.is_empty()).count();
    assert!(named > 2_000 && inlined > 500, "{named} named, {inlined} with inlined functions");
    assert!(
        differ.is_empty(),
        "{} of {named}:\n{}",
        differ.len(),
        differ[..differ.len().min(20)].join("\n")
    );
}

#[test]
fn damage_gives_errors_and_never_panics() {
    let file = File::open(PROGRAM).unwrap();
    let whole = debug_info(&file);
    let addresses = addresses(&file, &whole, 1);
    let unit = whole.units.of(&addresses, &forever()).unwrap()[0].0;
    let dwarf = || whole.sections.borrow(|section| section.bytes(&whole.bytes));
    let copy = |section: &Bytes<'_>| section.slice().to_vec();
    let mut copies = [
        copy(dwarf().debug_info.reader()),
        copy(dwarf().debug_abbrev.reader()),
        copy(dwarf().debug_line.reader()),
    ];
    let look = |copies: &[Vec<u8>; 3]| {
        let mut dwarf = dwarf();
        let [info, abbreviations, line] = copies;
        dwarf.debug_info = gimli::DebugInfo::new(info, LittleEndian);
        dwarf.debug_abbrev = gimli::DebugAbbrev::new(abbreviations, LittleEndian);
        dwarf.debug_line = gimli::DebugLine::new(line, LittleEndian);
        let header = whole.units.header(&dwarf, unit)?;
        let starts = [
            header.debug_info_offset().unwrap().0,
            header.debug_abbrev_offset().0,
            dwarf.unit(header)?.line_program.map_or(0, |program| program.header().offset().0),
        ];
        let patience = forever();
        let demangler = Demangler::default();
        let mut functions = Functions::new(&dwarf, &whole.units, &patience, &demangler);
        places(&dwarf, header, &addresses, &mut functions, &patience).map(|_| starts)
    };
    let starts = look(&copies).unwrap();
    let mut random = Random::new(11);
    let mut failed = 0;
    for _ in 0..2_000 {
        let section = random.below(3) as usize;
        let last = copies[section].len() - 1;
        let at = (starts[section] + random.below(2_048) as usize).min(last);
        let was = std::mem::replace(&mut copies[section][at], random.next() as u8);
        failed += usize::from(look(&copies).is_err());
        copies[section][at] = was;
    }
    assert!((10..2_000).contains(&failed), "{failed} of 2,000 failed");
    assert!(look(&copies).is_ok());
}
