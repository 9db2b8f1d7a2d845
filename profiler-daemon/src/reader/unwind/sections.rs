//! The parts of an ELF file that tables are made from.
//!
//! Structures are those of the System V ABI, chapters "Object Files" and "Program Loading".

use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;

use flate2::bufread::ZlibDecoder;
use gimli::BaseAddresses;

use super::UnwindError;
use super::machine::Machine;
use crate::reader::elf::{CLASS_64, LITTLE_ENDIAN, u32_at};

/// The most program headers looked at.
const MAX_PROGRAM_HEADERS: usize = 4_096;
/// The most loaded segments, and the most executable ones, that are looked at: they are gone through
/// for each function.
const MAX_LOADS: usize = 64;
/// The most entries of the dynamic section looked at; files have some dozens.
const MAX_DYNAMIC: usize = 1_024;
/// The most sections looked at: as many as a header can state.
const MAX_SECTIONS: usize = 0xffff;
/// The most symbols looked at in one table.
const MAX_SYMBOLS: usize = 4 << 20;
/// The longest symbol name looked at, in bytes: longer than any that means something here.
const MAX_NAME_BYTES: usize = 48;
/// How much of a section of call frame information is looked at, in bytes: some times what the
/// largest programs have.
const MAX_FRAME_BYTES: usize = 256 << 20;
/// What a compressed `.debug_frame` may take, in bytes.
const MAX_DEBUG_FRAME_BYTES: u64 = 64 << 20;
/// How many bytes one byte of deflate can become (RFC 1951: 258 from two bits).
const MOST_DEFLATED: u64 = 1_032;
/// The addresses a row can hold.
const MAX_SVMA: u64 = 1 << 48;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const SHF_COMPRESSED: u64 = 1 << 11;
const ELFCOMPRESS_ZLIB: u32 = 1;
const DT_NULL: u64 = 0;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;

const ELF_HEADER_BYTES: u64 = 64;
const SECTION_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SYMBOL_BYTES: usize = 24;
const DYNAMIC_BYTES: usize = 16;
const RELOCATION_BYTES: usize = 24;
const COMPRESSION_HEADER_BYTES: usize = 24;

/// A 64-bit, little-endian ELF file.
pub(in crate::reader) struct Elf<'a> {
    bytes: &'a [u8],
    pub(super) machine: Machine,
    /// svmas of the executable segments: sorted, free of overlap.
    pub(super) code: Vec<Range<u64>>,
    /// svma at which it is started; not of a library.
    pub(super) entry: u64,
    loads: Vec<Load>,
    eh_frame_header: Option<u64>,
    dynamic: Option<u64>,
    sections: Vec<Section<'a>>,
}

/// A loaded segment.
struct Load {
    svma: u64,
    offset: u64,
    size: u64,
    /// One past the last svma, of what is not in the file, too.
    end: u64,
    is_writable: bool,
}

/// What is in the file of a loaded segment.
pub(in crate::reader) struct Loaded<'a> {
    pub(in crate::reader) svma: u64,
    /// One past the last svma, of what is not in the file, too.
    pub(in crate::reader) end: u64,
    pub(in crate::reader) bytes: &'a [u8],
    pub(in crate::reader) is_writable: bool,
}

/// A word that the dynamic linker sets to an address of the file itself.
pub(in crate::reader) struct Relocated {
    /// Where the word is.
    pub(in crate::reader) svma: u64,
    /// The svma that it then points to.
    pub(in crate::reader) value: u64,
}

struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    flags: u64,
    svma: u64,
    offset: u64,
    size: u64,
    link: usize,
}

/// A section of call frame information.
pub(super) struct FrameSection<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) svma: u64,
    /// It is `.eh_frame`, whose entries refer to each other in another way than others do.
    pub(super) is_eh_frame: bool,
    /// A length of 0 ends it: where it does is not known otherwise.
    pub(super) ends_at_zero: bool,
}

/// A function's symbol.
pub(super) struct Symbol<'a> {
    pub(super) name: &'a [u8],
    pub(super) svma: u64,
    /// In bytes; 0: not known.
    pub(super) size: u64,
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    pub(in crate::reader) fn parse(bytes: &'a [u8]) -> Result<Self, UnwindError> {
        let is_known = bytes.starts_with(b"\x7fELF")
            && bytes.get(4) == Some(&CLASS_64)
            && bytes.get(5) == Some(&LITTLE_ENDIAN);
        let machine = u16_at(bytes, 18).and_then(Machine::from_elf);
        let machine = machine.filter(|_| is_known).ok_or(UnwindError::NotElf)?;
        let mut elf = Self {
            bytes,
            machine,
            code: Vec::new(),
            entry: u64_at(bytes, 24).unwrap_or_default(),
            loads: Vec::new(),
            eh_frame_header: None,
            dynamic: None,
            sections: Vec::new(),
        };
        elf.read_program_headers()?;
        // Files are stripped of them, which leaves what is needed at run time.
        elf.sections = elf.read_sections().unwrap_or_default();
        Ok(elf)
    }

    fn read_program_headers(&mut self) -> Result<(), UnwindError> {
        const CUT: UnwindError = UnwindError::Malformed("program headers");
        let offset = u64_at(self.bytes, 32).ok_or(CUT)?;
        let count = usize::from(u16_at(self.bytes, 56).ok_or(CUT)?);
        if u16_at(self.bytes, 54) != Some(PROGRAM_HEADER_BYTES as u16) {
            return Err(CUT);
        }
        let size = (count * PROGRAM_HEADER_BYTES) as u64;
        let headers = slice(self.bytes, offset, size).ok_or(CUT)?;
        for header in headers.chunks_exact(PROGRAM_HEADER_BYTES).take(MAX_PROGRAM_HEADERS) {
            let word = |at| u64_at(header, at).unwrap_or_default();
            let half = |at| u32_at(header, at).unwrap_or_default();
            let (kind, flags, svma) = (half(0), half(4), word(16));
            match kind {
                PT_LOAD if self.loads.len() < MAX_LOADS => {
                    let is_writable = flags & PF_W != 0;
                    let end = svma.saturating_add(word(40)).min(MAX_SVMA);
                    let (offset, size) = (word(8), word(32));
                    self.loads.push(Load { svma, offset, size, end, is_writable });
                    if flags & PF_X != 0 && svma < end {
                        self.code.push(svma..end);
                    }
                }
                PT_DYNAMIC => self.dynamic = Some(svma),
                PT_GNU_EH_FRAME => self.eh_frame_header = Some(svma),
                _ => {}
            }
        }
        self.code.sort_by_key(|range| range.start);
        let mut covered = 0;
        self.code.retain_mut(|range| {
            range.start = range.start.max(covered);
            covered = covered.max(range.end);
            range.start < range.end
        });
        Ok(())
    }

    /// The ELF header and the program headers.
    pub(super) fn headers(&self) -> [&'a [u8]; 2] {
        let header = slice(self.bytes, 0, ELF_HEADER_BYTES).unwrap_or_default();
        let offset = u64_at(self.bytes, 32).unwrap_or_default();
        let count = usize::from(u16_at(self.bytes, 56).unwrap_or_default());
        let size = (count * PROGRAM_HEADER_BYTES) as u64;
        [header, slice(self.bytes, offset, size).unwrap_or_default()]
    }

    /// The sections of call frame information, as they are in the file; empty where there is none.
    pub(super) fn frame_sections(&self) -> [&'a [u8]; 2] {
        let names: [&[u8]; 2] = [b".debug_frame", b".zdebug_frame"];
        let debug = names.iter().find_map(|name| self.contents(self.section(name)?));
        let parts =
            [self.eh_frame().map_or(&[][..], |section| section.bytes), debug.unwrap_or_default()];
        parts.map(|part| &part[..part.len().min(MAX_FRAME_BYTES)])
    }

    fn read_sections(&self) -> Option<Vec<Section<'a>>> {
        let offset = u64_at(self.bytes, 40)?;
        if offset == 0 || u16_at(self.bytes, 58)? != SECTION_BYTES as u16 {
            return None;
        }
        let headers = slice(self.bytes, offset, SECTION_BYTES as u64)?;
        // What does not fit the header's 16 bits is in the first section header.
        let count = match u16_at(self.bytes, 60)? {
            0 => usize::try_from(u64_at(headers, 32)?).ok()?,
            count => usize::from(count),
        };
        let names = match u16_at(self.bytes, 62)? {
            0xffff => u32_at(headers, 40)? as usize,
            index => usize::from(index),
        };
        let count = count.min(MAX_SECTIONS);
        let headers = slice(self.bytes, offset, (count * SECTION_BYTES) as u64)?;
        let parse = |bytes: &[u8], names: &'a [u8]| {
            Some(Section {
                name: name_at(names, u32_at(bytes, 0)? as usize),
                kind: u32_at(bytes, 4)?,
                flags: u64_at(bytes, 8)?,
                svma: u64_at(bytes, 16)?,
                offset: u64_at(bytes, 24)?,
                size: u64_at(bytes, 32)?,
                link: u32_at(bytes, 40)? as usize,
            })
        };
        let names = headers.chunks_exact(SECTION_BYTES).nth(names)?;
        let names = self.contents(&parse(names, &[])?)?;
        headers.chunks_exact(SECTION_BYTES).map(|bytes| parse(bytes, names)).collect()
    }

    fn contents(&self, section: &Section<'_>) -> Option<&'a [u8]> {
        if section.kind == SHT_NOBITS {
            return None;
        }
        slice(self.bytes, section.offset, section.size)
    }

    fn section(&self, name: &[u8]) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether Go's linker made its tables.
    pub(super) fn is_go(&self) -> bool {
        self.sections.iter().any(|section| section.name.ends_with(b".gopclntab"))
    }

    /// Whether it has `.debug_frame`, compressed or not.
    pub(super) fn has_debug_frame(&self) -> bool {
        let names: [&[u8]; 2] = [b".debug_frame", b".zdebug_frame"];
        self.sections.iter().any(|section| names.contains(&section.name))
    }

    /// The table of functions that Go's linker makes, with its svma, where a section is called so.
    pub(in crate::reader) fn go_table(&self) -> Option<(u64, &'a [u8])> {
        let section = self.sections.iter().find(|section| section.name.ends_with(b".gopclntab"))?;
        Some((section.svma, self.contents(section)?))
    }

    /// The loaded segments, as far as they are in the file.
    pub(in crate::reader) fn segments(&self) -> impl Iterator<Item = Loaded<'a>> {
        self.loads.iter().filter_map(|load| {
            let Load { svma, offset, size, end, is_writable } = *load;
            let rest = self.bytes.get(usize::try_from(offset).ok()?..)?;
            let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
            Some(Loaded { svma, end, bytes: &rest[..size], is_writable })
        })
    }

    /// Words that are relative to where the file is loaded (`DT_RELA`), in the order of the file.
    pub(in crate::reader) fn relocated(&self) -> impl Iterator<Item = Relocated> {
        let relative = self.machine.relative_relocation();
        let relocations = self.relocations().unwrap_or_default();
        relocations.chunks_exact(RELOCATION_BYTES).filter_map(move |relocation| {
            (u64_at(relocation, 8)? == relative).then_some(())?;
            Some(Relocated { svma: u64_at(relocation, 0)?, value: u64_at(relocation, 16)? })
        })
    }

    fn relocations(&self) -> Option<&'a [u8]> {
        let entries = self.loaded(self.dynamic?)?.chunks_exact(DYNAMIC_BYTES).take(MAX_DYNAMIC);
        let (mut svma, mut size) = (None, None);
        for entry in entries {
            match u64_at(entry, 0)? {
                DT_NULL => break,
                DT_RELA => svma = u64_at(entry, 8),
                DT_RELASZ => size = u64_at(entry, 8),
                _ => {}
            }
        }
        let bytes = self.loaded(svma?)?;
        Some(&bytes[..usize::try_from(size?).unwrap_or(usize::MAX).min(bytes.len())])
    }

    /// `.eh_frame`, by its section or by where the program header says that its index is.
    pub(super) fn eh_frame(&self) -> Option<FrameSection<'a>> {
        let mut found = self.whole_eh_frame()?;
        found.bytes = &found.bytes[..found.bytes.len().min(MAX_FRAME_BYTES)];
        Some(found)
    }

    fn whole_eh_frame(&self) -> Option<FrameSection<'a>> {
        let section = self.section(b".eh_frame").and_then(|section| {
            let bytes = self.contents(section)?;
            Some(FrameSection { bytes, svma: section.svma, is_eh_frame: true, ends_at_zero: false })
        });
        section.or_else(|| {
            let header_svma = self.eh_frame_header?;
            let header = gimli::EhFrameHdr::new(self.loaded(header_svma)?, gimli::LittleEndian);
            let bases = BaseAddresses::default().set_eh_frame_hdr(header_svma);
            let svma = header.parse(&bases, 8).ok()?.eh_frame_ptr().direct().ok()?;
            Some(FrameSection {
                bytes: self.loaded(svma)?,
                svma,
                is_eh_frame: true,
                ends_at_zero: true,
            })
        })
    }

    /// `.debug_frame`, decompressed.
    pub(super) fn debug_frame(&self) -> Option<Cow<'a, [u8]>> {
        match self.section_bytes(b".debug_frame", MAX_DEBUG_FRAME_BYTES)? {
            Cow::Borrowed(bytes) => Some(Cow::Borrowed(&bytes[..bytes.len().min(MAX_FRAME_BYTES)])),
            inflated => Some(inflated),
        }
    }

    /// What a section holds; decompressed, as far as `most_bytes` go.
    pub(in crate::reader) fn section_bytes(
        &self,
        name: &[u8],
        most_bytes: u64,
    ) -> Option<Cow<'a, [u8]>> {
        if let Some(section) = self.section(name) {
            let bytes = self.contents(section)?;
            if section.flags & SHF_COMPRESSED == 0 {
                return Some(Cow::Borrowed(bytes));
            }
            // `Elf64_Chdr`.
            if u32_at(bytes, 0)? != ELFCOMPRESS_ZLIB {
                return None;
            }
            let stated_bytes = u64_at(bytes, 8)?;
            let bytes = bytes.get(COMPRESSION_HEADER_BYTES..)?;
            return inflate(bytes, stated_bytes, most_bytes).map(Cow::Owned);
        }
        // What came before `SHF_COMPRESSED`: ".zdebug_…", with "ZLIB" and the size, 8 bytes.
        let name = [b".z", name.strip_prefix(b".")?].concat();
        let bytes = self.contents(self.section(&name)?)?.strip_prefix(b"ZLIB")?;
        let (stated, bytes) = bytes.split_first_chunk()?;
        inflate(bytes, u64::from_be_bytes(*stated), most_bytes).map(Cow::Owned)
    }

    /// What pointers in the frame section at `svma` may be relative to.
    pub(super) fn bases(&self, svma: u64) -> BaseAddresses {
        let mut bases = BaseAddresses::default().set_eh_frame(svma);
        if let Some(section) = self.section(b".text") {
            bases = bases.set_text(section.svma);
        }
        if let Some(section) = self.section(b".got") {
            bases = bases.set_got(section.svma);
        }
        bases
    }

    /// What is loaded at `svma`, to the end of its segment.
    pub(in crate::reader) fn loaded(&self, svma: u64) -> Option<&'a [u8]> {
        self.loads.iter().find_map(|load| {
            let into = svma.checked_sub(load.svma).filter(|into| *into < load.size)?;
            let offset = load.offset.checked_add(into)?;
            let rest = self.bytes.get(usize::try_from(offset).ok()?..)?;
            let size = usize::try_from(load.size - into).ok()?;
            Some(&rest[..size.min(rest.len())])
        })
    }

    /// The code of `start..end`, as far as it is in the file.
    pub(super) fn code_at(&self, start: u64, end: u64) -> &'a [u8] {
        let bytes = self.loaded(start).unwrap_or_default();
        let size = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        &bytes[..size.min(bytes.len())]
    }

    /// Where the executable segment around `svma` ends; 0 if there is none.
    pub(super) fn code_end(&self, svma: u64) -> u64 {
        self.code.iter().find(|range| range.contains(&svma)).map_or(0, |range| range.end)
    }

    /// Calls `take` with the symbols of functions, or what could be functions.
    pub(super) fn for_each_function(&self, mut take: impl FnMut(Symbol<'a>)) {
        // The complete table contains what the other has.
        let tables = [SHT_SYMTAB, SHT_DYNSYM];
        let table = tables
            .into_iter()
            .find_map(|kind| self.sections.iter().find(|section| section.kind == kind));
        let Some(table) = table else { return };
        let symbols = self.contents(table).unwrap_or_default();
        let names = self.sections.get(table.link).and_then(|names| self.contents(names));
        let Some(names) = names else { return };
        for symbol in symbols.chunks_exact(SYMBOL_BYTES).take(MAX_SYMBOLS) {
            let kind = symbol[4] & 0xf;
            let is_defined = symbol[6..8] != [0, 0];
            if !is_defined || kind != STT_FUNC && kind != STT_NOTYPE {
                continue;
            }
            let name = u32_at(symbol, 0).unwrap_or_default() as usize;
            // Most names are mangled.
            if matches!(names.get(name..name.saturating_add(2)), None | Some(b"_Z" | b"_R")) {
                continue;
            }
            take(Symbol {
                name: name_at(names, name),
                svma: u64_at(symbol, 8).unwrap_or_default(),
                size: u64_at(symbol, 16).unwrap_or_default(),
            });
        }
    }
}

/// Decompresses a section, or as much of it as is taken. The size that is stated is believed as far
/// as room is made for it.
fn inflate(bytes: &[u8], stated_bytes: u64, most_bytes: u64) -> Option<Vec<u8>> {
    let possible_bytes = (bytes.len() as u64).saturating_mul(MOST_DEFLATED);
    let room = stated_bytes.min(possible_bytes).min(most_bytes);
    let mut inflated = Vec::with_capacity(usize::try_from(room).ok()?);
    // What was decompressed before an error is as good as any other damaged section.
    let _ = ZlibDecoder::new(bytes).take(most_bytes).read_to_end(&mut inflated);
    (!inflated.is_empty()).then_some(inflated)
}

/// The string at `offset` of a table, cut off where it gets too long.
fn name_at(names: &[u8], offset: usize) -> &[u8] {
    let rest = names.get(offset..).unwrap_or_default();
    let rest = &rest[..rest.len().min(MAX_NAME_BYTES)];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    &rest[..end]
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let offset = usize::try_from(offset).ok()?;
    bytes.get(offset..offset.checked_add(usize::try_from(size).ok()?)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

pub(in crate::reader) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
