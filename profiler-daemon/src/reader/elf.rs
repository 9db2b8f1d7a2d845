//! What the reader wants to know of an ELF file, read in bounded pieces by `pread`: a file that
//! is cut short meanwhile gives an error here, where a mapping would give SIGBUS.
//!
//! Structures are those of the System V ABI, chapters "Object Files" and "Program Loading".

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::protocol::Segment;

mod notes;

/// The most executable segments reported of one file.
const MAX_SEGMENTS: usize = 64;
/// The most program headers looked at.
const MAX_PROGRAM_HEADERS: u64 = 4_096;
/// The most bytes of notes read of one file: segments may overlap.
const MAX_NOTE_BYTES: u64 = 1 << 20;
/// The most bytes of section names read.
const MAX_SECTION_NAME_BYTES: u64 = 1 << 20;
/// The longest section name looked at, in bytes: longer than any that means something here.
const MAX_SECTION_NAME: usize = 32;

pub(super) const CLASS_64: u8 = 2;
pub(super) const LITTLE_ENDIAN: u8 = 1;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
const PT_TLS: u64 = 7;
const PF_X: u64 = 1;
const SHT_SYMTAB: u64 = 2;
const SHT_NOBITS: u64 = 8;
const SHT_DYNSYM: u64 = 11;
const SHF_COMPRESSED: u64 = 1 << 11;

/// Why an ELF file could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    /// Bytes that a header promises are not there.
    #[error("the ELF file is cut short")]
    Cut,
    /// A header contradicts itself.
    #[error("the ELF file is malformed: {0}")]
    Malformed(&'static str),
    /// Reading failed.
    #[error("pread: {0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for ElfError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Io(error),
        }
    }
}

/// An ELF file, as far as naming and mapping need it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Image {
    /// Executable load segments.
    pub(super) segments: Vec<Segment>,
    /// GNU build ID; empty without one.
    pub(super) build_id: Vec<u8>,
    /// Go build ID; empty without one.
    pub(super) go_build_id: String,
    /// What of its variables each thread has, in bytes, rounded up to its alignment; 0: nothing.
    pub(super) thread_bytes: u64,
    /// What its sections say of debug information; all off if they cannot be read.
    pub(super) debug: DebugSections,
}

/// What a file's sections say of debug information.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct DebugSections {
    /// It holds debug information itself.
    pub(super) own: bool,
    /// Some of it is compressed, and takes several times its size once read.
    pub(super) compressed: bool,
    /// It names another file that holds (part of) its debug information.
    pub(super) refers_elsewhere: bool,
    /// `.gnu_debuglink`.
    pub(super) link: Option<DebugLink>,
    /// It holds a symbol table, which linking does not need.
    pub(super) symbols: bool,
    /// It holds symbols for linking at run time.
    pub(super) dynamic_symbols: bool,
    /// It is a Go program.
    pub(super) go: bool,
    /// `.go.buildinfo`.
    pub(super) go_build: Option<SectionRange>,
    /// It has more sections than any sensible file, and none was looked at.
    pub(super) too_many: bool,
}

/// Where a section's bytes are in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SectionRange {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// The contents of `.gnu_debuglink`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DebugLink {
    /// File name, without a directory.
    pub(super) name: Vec<u8>,
    /// CRC-32 of the debug file.
    pub(super) crc: u32,
}

impl Image {
    /// Reads an ELF file; `None` if it is none that this machine could run (or no ELF file at
    /// all).
    ///
    /// # Errors
    ///
    /// [`ElfError`].
    pub(super) fn read(file: &File) -> Result<Option<Self>, ElfError> {
        let Some(header) = Header::read(file)? else { return Ok(None) };
        let mut image = Self::default();
        let mut note_bytes = MAX_NOTE_BYTES;
        for program in header.program_headers(file)? {
            match program.kind {
                PT_LOAD if program.flags & PF_X != 0 && image.segments.len() < MAX_SEGMENTS => {
                    image.segments.push(program.segment());
                }
                PT_NOTE => {
                    let size = program.file_size.min(note_bytes);
                    note_bytes -= size;
                    image.read_notes(file, &program, size);
                }
                PT_TLS => {
                    let size = program.memory_size.checked_next_multiple_of(program.align.max(1));
                    image.thread_bytes = size.unwrap_or_default();
                }
                _ => {}
            }
        }
        image.debug = header.debug_sections(file).unwrap_or_default();
        Ok(Some(image))
    }

    /// Whether Go's linker made it.
    pub(super) fn is_go(&self) -> bool {
        self.debug.go || !self.go_build_id.is_empty()
    }
}

pub(super) struct Header {
    is_64: bool,
    /// avma of the program's first instruction, without its bias.
    pub(super) entry: u64,
    program_offset: u64,
    program_size: u64,
    program_count: u64,
    section_offset: u64,
    section_size: u64,
    section_count: u64,
    names_index: u64,
}

struct ProgramHeader {
    kind: u64,
    flags: u64,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

struct Section {
    name: usize,
    kind: u64,
    flags: u64,
    offset: u64,
    size: u64,
    link: u64,
}

impl Header {
    pub(super) fn read(file: &File) -> Result<Option<Self>, ElfError> {
        let mut bytes = [0; 64];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        let bytes = &bytes[..filled];
        if !bytes.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        let (Some(&class), Some(&order)) = (bytes.get(4), bytes.get(5)) else {
            return Err(ElfError::Cut);
        };
        if order != LITTLE_ENDIAN || !(1..=CLASS_64).contains(&class) {
            return Ok(None);
        }
        let is_64 = class == CLASS_64;
        let word = |narrow: usize, wide: usize| word_at(bytes, is_64, narrow, wide);
        let half = |narrow: usize, wide: usize| {
            let at = if is_64 { wide } else { narrow };
            let bytes = bytes.get(at..at + 2).ok_or(ElfError::Cut)?;
            Ok::<_, ElfError>(u64::from(u16::from_le_bytes([bytes[0], bytes[1]])))
        };
        Ok(Some(Self {
            is_64,
            entry: word(24, 24).ok_or(ElfError::Cut)?,
            program_offset: word(28, 32).ok_or(ElfError::Cut)?,
            section_offset: word(32, 40).ok_or(ElfError::Cut)?,
            program_size: half(42, 54)?,
            program_count: half(44, 56)?,
            section_size: half(46, 58)?,
            section_count: half(48, 60)?,
            names_index: half(50, 62)?,
        }))
    }

    fn program_headers(&self, file: &File) -> Result<Vec<ProgramHeader>, ElfError> {
        if self.program_count == 0 {
            return Ok(Vec::new());
        }
        if self.program_size != if self.is_64 { 56 } else { 32 } {
            return Err(ElfError::Malformed("size of a program header"));
        }
        if self.program_count > MAX_PROGRAM_HEADERS {
            return Err(ElfError::Malformed("too many program headers"));
        }
        let size = self.program_size * self.program_count;
        let bytes = read_range(file, self.program_offset, size)?;
        let headers = bytes.chunks_exact(self.program_size as usize).map(|bytes| {
            let word = |narrow, wide| word_at(bytes, self.is_64, narrow, wide).unwrap_or_default();
            let flags = if self.is_64 { u32_at(bytes, 4) } else { u32_at(bytes, 24) };
            ProgramHeader {
                kind: u64::from(u32_at(bytes, 0).unwrap_or_default()),
                flags: u64::from(flags.unwrap_or_default()),
                offset: word(4, 8),
                address: word(8, 16),
                file_size: word(16, 32),
                memory_size: word(20, 40),
                align: word(28, 48),
            }
        });
        Ok(headers.collect())
    }

    fn debug_sections(&self, file: &File) -> Result<DebugSections, ElfError> {
        let mut found = DebugSections::default();
        if self.section_offset == 0 || self.section_size != if self.is_64 { 64 } else { 40 } {
            return Ok(found);
        }
        let mut count = self.section_count;
        let mut names_index = self.names_index;
        if count == 0 || names_index == 0xffff {
            // What does not fit the header's 16 bits is in the first section header.
            let first = self.sections(file, 1)?;
            let first = first.first().ok_or(ElfError::Cut)?;
            count = if count == 0 { first.size } else { count };
            names_index = if names_index == 0xffff { first.link } else { names_index };
        }
        if count > u64::from(u16::MAX) {
            return Ok(DebugSections { too_many: true, ..found });
        }
        let sections = self.sections(file, count)?;
        let names = usize::try_from(names_index).ok().and_then(|index| sections.get(index));
        let names = names.ok_or(ElfError::Malformed("no section names"))?;
        if names.size > MAX_SECTION_NAME_BYTES {
            return Err(ElfError::Malformed("section names are too long"));
        }
        let names = read_range(file, names.offset, names.size)?;
        let mut has_link = false;
        for section in &sections {
            let name = names.get(section.name..).unwrap_or_default();
            let name = &name[..name.len().min(MAX_SECTION_NAME)];
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let is_debug = name.starts_with(b".debug_");
            found.compressed |= name.starts_with(b".zdebug_")
                || name == b".gnu_debugdata"
                || is_debug && section.flags & SHF_COMPRESSED != 0;
            found.symbols |= section.kind == SHT_SYMTAB;
            found.dynamic_symbols |= section.kind == SHT_DYNSYM;
            match name {
                b".debug_info" | b".zdebug_info" => found.own |= section.kind != SHT_NOBITS,
                b".gnu_debuglink" if !has_link => {
                    has_link = true;
                    found.refers_elsewhere = true;
                    let bytes = read_range(file, section.offset, section.size.min(4_096))?;
                    found.link = split_debug_link(&bytes);
                }
                b".gnu_debugaltlink" | b".debug_sup" => found.refers_elsewhere = true,
                // A part of the symbol table, of programs that Fedora strips.
                b".gnu_debugdata" => found.symbols = true,
                name if name.ends_with(b".gopclntab") => found.go = true,
                b".go.buildinfo" if section.kind != SHT_NOBITS => {
                    found.go = true;
                    let Section { offset, size, .. } = *section;
                    found.go_build.get_or_insert(SectionRange { offset, size });
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Where the symbol table is, and where the names of its symbols are.
    pub(super) fn symbol_table(
        &self,
        file: &File,
    ) -> Result<Option<(SectionRange, SectionRange)>, ElfError> {
        if self.section_size != 64 || self.section_count > u64::from(u16::MAX) {
            return Ok(None);
        }
        let sections = self.sections(file, self.section_count)?;
        let range = |it: &Section| SectionRange { offset: it.offset, size: it.size };
        let table = sections.iter().find(|it| it.kind == SHT_SYMTAB);
        let names = table.and_then(|it| sections.get(usize::try_from(it.link).ok()?));
        Ok(table.zip(names).map(|(table, names)| (range(table), range(names))))
    }

    fn sections(&self, file: &File, count: u64) -> Result<Vec<Section>, ElfError> {
        let bytes = read_range(file, self.section_offset, count * self.section_size)?;
        let sections = bytes.chunks_exact(self.section_size as usize).map(|bytes| {
            let word = |narrow, wide| word_at(bytes, self.is_64, narrow, wide).unwrap_or_default();
            let link = if self.is_64 { u32_at(bytes, 40) } else { u32_at(bytes, 24) };
            Section {
                name: u32_at(bytes, 0).unwrap_or_default() as usize,
                kind: u64::from(u32_at(bytes, 4).unwrap_or_default()),
                flags: word(8, 8),
                offset: word(16, 24),
                size: word(20, 32),
                link: u64::from(link.unwrap_or_default()),
            }
        });
        Ok(sections.collect())
    }
}

impl ProgramHeader {
    fn segment(&self) -> Segment {
        Segment { file_offset: self.offset, svma: self.address, size_bytes: self.file_size }
    }
}

fn split_debug_link(bytes: &[u8]) -> Option<DebugLink> {
    let length = bytes.iter().position(|&byte| byte == 0)?;
    let name = bytes[..length].to_vec();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return None;
    }
    let crc = u32_at(bytes, (length + 1).next_multiple_of(4))?;
    Some(DebugLink { name, crc })
}

pub(super) fn read_range(file: &File, offset: u64, size: u64) -> Result<Vec<u8>, ElfError> {
    let size = usize::try_from(size).map_err(|_| ElfError::Malformed("size of a range"))?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The word of a structure that lies at `narrow` in 32-bit files and at `wide` in 64-bit ones.
pub(super) fn word_at(bytes: &[u8], is_64: bool, narrow: usize, wide: usize) -> Option<u64> {
    if is_64 {
        bytes.get(wide..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    } else {
        u32_at(bytes, narrow).map(u64::from)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::tests::Random;
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn this_program() -> Vec<u8> {
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        // Headers and notes are at the head; sections, at the tail, are then found missing.
        bytes.truncate(256 << 10);
        bytes
    }

    #[test]
    fn segments_and_build_id_are_read() {
        let image = Image::read(&File::open("/proc/self/exe").unwrap()).unwrap().unwrap();
        assert!(image.debug.own && !image.debug.refers_elsewhere);
        let head = Image::read(&file(&this_program())).unwrap().unwrap();
        assert_eq!(head.segments, image.segments);
        assert_eq!(head.build_id, image.build_id);
        assert_eq!(head.debug, DebugSections::default());
        assert!(!image.segments.is_empty());
    }

    #[test]
    fn damage_gives_errors_and_never_panics() {
        assert!(Image::read(&file(b"")).unwrap().is_none());
        assert!(Image::read(&file(b"no ELF file at all")).unwrap().is_none());
        let whole = this_program();
        for length in 4..64 {
            assert!(matches!(Image::read(&file(&whole[..length])), Err(ElfError::Cut)), "{length}");
        }
        let mut random = Random::new(7);
        for _ in 0..1_000 {
            let mut bytes = whole[..4_096].to_vec();
            for _ in 0..8 {
                let at = 6 + random.below(1_000) as usize;
                let value = if random.below(2) == 0 { u64::MAX } else { random.next() };
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            let _ = Image::read(&file(&bytes));
        }
    }

    /// A file of so many program headers of one kind, the rest of it `rest`.
    fn with_programs(count: u16, kind: u64, offset: u64, size: u64, rest: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56..58].copy_from_slice(&count.to_le_bytes());
        for _ in 0..count {
            for word in [kind, offset, 0, 0, size, size, 4] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes.extend(rest);
        bytes
    }

    /// What a hostile file may cost, in a debug build.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

    #[test]
    fn notes_of_many_segments_are_read_once() {
        let at = 64 + 4_096 * 56;
        let bytes = with_programs(4_096, PT_NOTE, at, 1 << 20, &vec![0; 1 << 20]);
        let begun = std::time::Instant::now();
        assert_eq!(Image::read(&file(&bytes)).unwrap().unwrap(), Image::default());
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }

    #[test]
    fn names_of_many_sections_that_never_end_cost_little() {
        let mut bytes = with_programs(0, 0, 0, 0, &[]);
        let names = vec![b'a'; 1 << 20];
        let (names_at, sections_at) = (bytes.len() as u64, (bytes.len() + names.len()) as u64);
        bytes.extend(&names);
        bytes[40..48].copy_from_slice(&sections_at.to_le_bytes());
        bytes[58] = 64;
        bytes[60..62].copy_from_slice(&u16::MAX.to_le_bytes());
        let mut section = [0; 64];
        section[24..32].copy_from_slice(&names_at.to_le_bytes());
        section[32..40].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        bytes.extend(section.repeat(usize::from(u16::MAX)));
        let begun = std::time::Instant::now();
        assert_eq!(Image::read(&file(&bytes)).unwrap().unwrap(), Image::default());
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_debug_link_cannot_lead_elsewhere() {
        let link = |name: &[u8]| {
            let mut bytes = name.to_vec();
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(7_u32.to_le_bytes());
            split_debug_link(&bytes)
        };
        assert_eq!(link(b"a.debug").unwrap(), DebugLink { name: b"a.debug".to_vec(), crc: 7 });
        for name in [&b""[..], b".", b"..", b"/dev/watchdog", b"../x"] {
            assert_eq!(link(name), None);
        }
        assert_eq!(split_debug_link(b"abc\0"), None);
    }
}
