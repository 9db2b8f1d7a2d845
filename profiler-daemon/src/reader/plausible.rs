//! Whether blazesym may be given a file.
//!
//! It believes what a file states: names may be as long as the file, a search goes over all symbols
//! of one address, and what is decompressed has no bound. So files that would make it costly, as no
//! compiler and no linker makes them, are not given to it.

use std::io::Read as _;

use xz2::read::XzDecoder;
use xz2::stream::Stream;

use super::elf::{CLASS_64, LITTLE_ENDIAN, u32_at, word_at};

/// The most sections and program headers.
const MAX_HEADERS: u64 = 0xffff;
/// The most bytes of section names.
const MAX_SECTION_NAMES_BYTES: usize = 16 << 20;
/// The longest name of a section, in bytes.
const MAX_SECTION_NAME_BYTES: usize = 4 << 10;
/// The most symbols of a table.
const MAX_SYMBOLS: usize = 4 << 20;
/// The most bytes of symbols' names.
const MAX_NAMES_BYTES: usize = 1 << 30;
/// The longest name of a symbol, in bytes.
const MAX_NAME_BYTES: usize = 256 << 10;
/// What one request may have a search go over: addresses times the symbols that one of them may
/// have.
const MAX_SEARCHED: usize = 1 << 28;
/// What `.gnu_debugdata` may take once decompressed, and the memory that decompressing it may, in
/// bytes.
const MAX_DEBUG_DATA_BYTES: u64 = 64 << 20;
/// The largest file whose debug information is blazesym's to read, in bytes: nothing bounds what it
/// does with it.
const MAX_DEBUG_FILE_BYTES: usize = 64 << 20;
/// What compressed debug information of such a file may say that it takes, in bytes.
const MAX_STATED_BYTES: u64 = 256 << 20;

const SHT_NOBITS: u32 = 8;
const SHF_COMPRESSED: u64 = 1 << 11;
/// `PN_XNUM` and `SHN_XINDEX`: the number is in the first section header.
const ELSEWHERE: u64 = 0xffff;

/// What makes a file costly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is too costly to read: {0}")]
pub(super) struct Costly(&'static str);

/// The symbols of a file that blazesym may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbols {
    /// The most that have one address.
    most_at_one: usize,
}

impl Symbols {
    /// Looks at the symbols of a file.
    ///
    /// # Errors
    ///
    /// [`Costly`]. What is malformed is no error: blazesym says so.
    pub(super) fn of(elf: &[u8]) -> Result<Self, Costly> {
        let Some(file) = Headers::of(elf)? else { return Ok(Self::default()) };
        let mut found = Self::default();
        for (symbols, names) in [(".symtab", ".strtab"), (".dynsym", ".dynstr")] {
            let symbols = file.contents(symbols);
            let names = file.contents(names);
            if symbols.is_empty() {
                continue;
            }
            found.most_at_one = found.most_at_one.max(file.most_at_one(symbols)?);
            if names.len() > MAX_NAMES_BYTES || longest(names) > MAX_NAME_BYTES {
                return Err(Costly("names of symbols"));
            }
        }
        if file.contents(".symtab").is_empty() {
            let inside = Self::of_debug_data(file.contents(".gnu_debugdata"))?;
            found.most_at_one = found.most_at_one.max(inside.most_at_one);
        }
        Ok(found)
    }

    /// The same of an ELF file that is compressed.
    fn of_debug_data(compressed: &[u8]) -> Result<Self, Costly> {
        if compressed.is_empty() {
            return Ok(Self::default());
        }
        let too_large = Costly("size of .gnu_debugdata");
        let stream = Stream::new_stream_decoder(MAX_DEBUG_DATA_BYTES, 0).map_err(|_| too_large)?;
        let mut inflated = Vec::new();
        let decoder = XzDecoder::new_stream(compressed, stream);
        let read = decoder.take(MAX_DEBUG_DATA_BYTES).read_to_end(&mut inflated);
        if read.is_err() || inflated.len() as u64 == MAX_DEBUG_DATA_BYTES {
            return Err(too_large);
        }
        // Nobody packs it twice.
        match Headers::of(&inflated)? {
            Some(inner) if !inner.contents(".gnu_debugdata").is_empty() => Err(too_large),
            _ => Self::of(&inflated),
        }
    }

    /// Whether so many addresses may be looked up in one request.
    pub(super) fn allow(self, addresses: usize) -> Result<(), Costly> {
        if self.most_at_one.saturating_mul(addresses) > MAX_SEARCHED {
            return Err(Costly("symbols of one address"));
        }
        Ok(())
    }
}

/// Looks at a file whose debug information blazesym is to read.
///
/// # Errors
///
/// [`Costly`].
pub(super) fn check_debug(elf: &[u8]) -> Result<(), Costly> {
    if elf.len() > MAX_DEBUG_FILE_BYTES {
        return Err(Costly("size of debug information of this kind"));
    }
    let Some(file) = Headers::of(elf)? else { return Ok(()) };
    let stated = file.sections().filter(|section| section.flags & SHF_COMPRESSED != 0);
    let stated = stated.map(|section| {
        // `Elf32_Chdr` and `Elf64_Chdr`.
        word_at(section.bytes(elf), file.is_64, 4, 8).unwrap_or_default()
    });
    if stated.fold(0, u64::saturating_add) > MAX_STATED_BYTES {
        return Err(Costly("size of compressed sections"));
    }
    Ok(())
}

/// What leads to the sections.
struct Headers<'a> {
    elf: &'a [u8],
    is_64: bool,
    sections: &'a [u8],
    names: &'a [u8],
}

struct Section {
    name: usize,
    kind: u32,
    flags: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
}

impl<'a> Headers<'a> {
    /// `None`: it has none that could be read.
    fn of(elf: &'a [u8]) -> Result<Option<Self>, Costly> {
        let is_known = elf.starts_with(b"\x7fELF") && elf.get(5) == Some(&LITTLE_ENDIAN);
        let is_64 = elf.get(4) == Some(&CLASS_64);
        let half = |narrow: usize, wide: usize| {
            let at = if is_64 { wide } else { narrow };
            let bytes: Option<&[u8; 2]> = elf.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| u64::from(u16::from_le_bytes(*bytes)))
        };
        let numbers = (half(44, 56), half(48, 60), half(50, 62), word_at(elf, is_64, 32, 40));
        let (Some(programs), Some(count), Some(names), Some(offset)) = numbers else {
            return Ok(None);
        };
        if !is_known {
            return Ok(None);
        }
        let mut file = Self { elf, is_64, sections: &[], names: &[] };
        let size = file.section_bytes() as u64;
        let Some(first) = slice(elf, offset, size).and_then(|bytes| file.section(bytes)) else {
            return Ok(None);
        };
        let programs = if programs == ELSEWHERE { u64::from(first.info) } else { programs };
        let count = if count == 0 { first.size } else { count };
        if programs > MAX_HEADERS || count > MAX_HEADERS {
            return Err(Costly("number of its headers"));
        }
        let Some(sections) = slice(elf, offset, count * size) else { return Ok(None) };
        file.sections = sections;
        let names = if names == ELSEWHERE { first.link as usize } else { names as usize };
        let names = file.sections().nth(names);
        file.names = names.map_or(&[][..], |names| names.bytes(elf));
        if file.names.len() > MAX_SECTION_NAMES_BYTES
            || longest(file.names) > MAX_SECTION_NAME_BYTES
        {
            return Err(Costly("names of sections"));
        }
        Ok(Some(file))
    }

    fn section_bytes(&self) -> usize {
        if self.is_64 { 64 } else { 40 }
    }

    fn section(&self, bytes: &[u8]) -> Option<Section> {
        let word = |narrow, wide| word_at(bytes, self.is_64, narrow, wide);
        let half = |narrow, wide| u32_at(bytes, if self.is_64 { wide } else { narrow });
        Some(Section {
            name: u32_at(bytes, 0)? as usize,
            kind: u32_at(bytes, 4)?,
            flags: word(8, 8)?,
            offset: word(16, 24)?,
            size: word(20, 32)?,
            link: half(24, 40)?,
            info: half(28, 44)?,
        })
    }

    fn sections(&self) -> impl Iterator<Item = Section> {
        let headers = self.sections.chunks_exact(self.section_bytes());
        headers.filter_map(|bytes| self.section(bytes))
    }

    /// What the first section of a name holds, as blazesym finds it: the first header is none.
    fn contents(&self, name: &str) -> &'a [u8] {
        let is_named = |section: &Section| {
            let rest = self.names.get(section.name..).unwrap_or_default();
            rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        };
        let section = self.sections().skip(1).find(is_named);
        section.map_or(&[][..], |section| section.bytes(self.elf))
    }

    /// The most symbols that have one address.
    fn most_at_one(&self, symbols: &[u8]) -> Result<usize, Costly> {
        let size = if self.is_64 { 24 } else { 16 };
        if symbols.len() / size > MAX_SYMBOLS {
            return Err(Costly("number of symbols"));
        }
        let addresses = symbols.chunks_exact(size);
        let mut addresses: Vec<u64> =
            addresses.filter_map(|symbol| word_at(symbol, self.is_64, 4, 8)).collect();
        addresses.sort_unstable();
        Ok(addresses.chunk_by(|one, other| one == other).map(<[u64]>::len).max().unwrap_or(0))
    }
}

impl Section {
    fn bytes<'a>(&self, elf: &'a [u8]) -> &'a [u8] {
        if self.kind == SHT_NOBITS {
            return &[];
        }
        slice(elf, self.offset, self.size).unwrap_or_default()
    }
}

/// The longest run without a zero byte.
fn longest(names: &[u8]) -> usize {
    names.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let offset = usize::try_from(offset).ok()?;
    bytes.get(offset..offset.checked_add(usize::try_from(size).ok()?)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A file of these sections.
    fn elf(sections: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let with_names = sections.iter().copied().chain([(".shstrtab", 0, &[][..])]);
        for (name, flags, bytes) in with_names {
            headers.extend((names.len() as u32).to_le_bytes());
            headers.extend(1_u32.to_le_bytes());
            names.extend(name.as_bytes());
            names.push(0);
            let bytes = if name == ".shstrtab" { &names } else { bytes };
            for word in [flags, 0, elf.len() as u64, bytes.len() as u64, 0, 1, 0] {
                headers.extend(word.to_le_bytes());
            }
            elf.extend(bytes);
        }
        let sections_at = elf.len() as u64;
        elf[40..48].copy_from_slice(&sections_at.to_le_bytes());
        elf[58] = 64;
        elf[60] = sections.len() as u8 + 2;
        elf[62] = sections.len() as u8 + 1;
        elf.extend(headers);
        elf
    }

    fn symbols(addresses: impl Iterator<Item = u64>) -> Vec<u8> {
        addresses.flat_map(|address| [1, address, 0].map(u64::to_le_bytes).concat()).collect()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 6);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn what(elf: &[u8]) -> &'static str {
        Symbols::of(elf).map_or_else(|costly| costly.0, |_| "")
    }

    #[test]
    fn programs_of_this_machine_are_plausible() {
        for program in ["/proc/self/exe", "/bin/sh", "/lib64/ld-linux-x86-64.so.2"] {
            let Ok(bytes) = std::fs::read(program) else { continue };
            Symbols::of(&bytes).unwrap().allow(16_384).unwrap();
        }
        assert_eq!(Symbols::of(b""), Ok(Symbols::default()));
        assert_eq!(Symbols::of(&elf(&[])), Ok(Symbols::default()));
    }

    #[test]
    fn symbols_of_one_address_bound_how_many_are_asked_for() {
        let table = symbols((0..30_000).map(|n| if n < 20_000 { 7 } else { n }));
        let found = Symbols::of(&elf(&[(".symtab", 0, &table)])).unwrap();
        assert_eq!(found.most_at_one, 20_000);
        assert_eq!(found.allow(13_421), Ok(()));
        assert_eq!(found.allow(13_422), Err(Costly("symbols of one address")));
    }

    #[test]
    fn long_names_and_many_symbols_are_costly() {
        let table = symbols(0..2);
        let long = vec![b'a'; MAX_NAME_BYTES + 1];
        for names in [".strtab", ".dynstr"] {
            let symbols = if names == ".strtab" { ".symtab" } else { ".dynsym" };
            let file = elf(&[(symbols, 0, &table), (names, 0, &long)]);
            assert_eq!(what(&file), "names of symbols");
            let file = elf(&[(symbols, 0, &table), (names, 0, &long[1..])]);
            assert_eq!(what(&file), "");
        }
        let many = vec![0; (MAX_SYMBOLS + 1) * 24];
        assert_eq!(what(&elf(&[(".dynsym", 0, &many)])), "number of symbols");
        let name = "n".repeat(MAX_SECTION_NAME_BYTES + 1);
        assert_eq!(what(&elf(&[(&name, 0, &[])])), "names of sections");
    }

    #[test]
    fn headers_that_are_counted_elsewhere_are_counted() {
        let mut file = elf(&[]);
        file[56..58].fill(0xff);
        let sections_at = file.len() - 2 * 64;
        assert_eq!(what(&file), "");
        file[sections_at + 44..sections_at + 48].fill(0xff);
        assert_eq!(what(&file), "number of its headers");
        let mut file = elf(&[]);
        file[60] = 0;
        file[sections_at + 32..sections_at + 40].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        assert_eq!(what(&file), "number of its headers");
    }

    #[test]
    fn compressed_symbols_are_looked_at_too() {
        let table = symbols((0..3).map(|_| 7));
        let small = xz(&elf(&[(".symtab", 0, &table)]));
        let found = Symbols::of(&elf(&[(".gnu_debugdata", 0, &small)])).unwrap();
        assert_eq!(found.most_at_one, 3);
        let bomb = xz(&vec![0; MAX_DEBUG_DATA_BYTES as usize + 1]);
        assert!(bomb.len() < 100_000);
        let file = elf(&[(".gnu_debugdata", 0, &bomb)]);
        assert_eq!(what(&file), "size of .gnu_debugdata");
        let twice = xz(&elf(&[(".gnu_debugdata", 0, &small)]));
        assert_eq!(what(&elf(&[(".gnu_debugdata", 0, &twice)])), "size of .gnu_debugdata");
        // With a symbol table of its own blazesym does not look there.
        assert_eq!(what(&elf(&[(".symtab", 0, &table), (".gnu_debugdata", 0, &bomb)])), "");
    }

    #[test]
    fn sizes_that_compressed_sections_state_are_bounded() {
        let chdr = |size: u64| [2, size, 1].map(u64::to_le_bytes).concat();
        let (small, half) = (chdr(1 << 20), chdr(MAX_STATED_BYTES / 2 + 1));
        let file = |a: &[u8], b: &[u8]| {
            let flags = SHF_COMPRESSED;
            elf(&[(".debug_info", flags, a), (".debug_line", flags, b)])
        };
        assert_eq!(check_debug(&file(&small, &half)), Ok(()));
        let costly = Err(Costly("size of compressed sections"));
        assert_eq!(check_debug(&file(&half, &half)), costly);
        assert_eq!(check_debug(&file(&chdr(1 << 60), &small)), costly);
    }
}
