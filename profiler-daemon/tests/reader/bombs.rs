//! Files that are made to be expensive, given to the real reader: each may cost little time and
//! little memory, ends in a clear error or without names, and leaves the reader as it was.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use profiler_daemon::reader::protocol::{
    FileInfo, NameFile, NamePerfMap, Reply, Request, Unwind, UnwindDigest, reply, request,
};
use profiler_daemon::reader::wire::{read_message, write_message};

use super::support::{Removed, Session};

/// What a file may cost, with all that is asked about it: five seconds. A debug build takes several
/// times as long for the same, and the machine may have other work.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 300 } else { 5 });

/// What the reader may allocate (`RLIMIT_DATA`), in KiB: a bomb is to stay below that, and not to
/// end there.
const MEMORY_KIB: u64 = (1 << 20) - (64 << 10);

/// svma at which the code of a bomb is.
const CODE: u64 = 0x40_0000;

/// Bytes of code.
const CODE_BYTES: u64 = 0x10_0000;

const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_PROGBITS: u32 = 1;
const SHF_COMPRESSED: u64 = 1 << 11;

/// A section of a bomb.
struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    svma: u64,
    bytes: Vec<u8>,
    /// If it is said to be of another size than its bytes.
    stated: Option<u64>,
}

fn section(name: &'static str, bytes: Vec<u8>) -> Section {
    Section { name, kind: SHT_PROGBITS, flags: 0, svma: 0, bytes, stated: None }
}

/// A little-endian ELF file of 64 bits, as it is put together.
struct Elf {
    sections: Vec<Section>,
    /// Type, flags, offset, svma, size of further program headers.
    programs: Vec<(u32, u32, u64, u64, u64)>,
}

impl Elf {
    fn of(sections: Vec<Section>) -> Self {
        Self { sections, programs: Vec::new() }
    }

    fn bytes(self) -> Vec<u8> {
        let Self { sections, mut programs } = self;
        programs.insert(0, (1, 5, 0, CODE, CODE_BYTES));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64 + programs.len() * 56, 0);
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56..58].copy_from_slice(&(programs.len() as u16).to_le_bytes());
        elf[58] = 64;
        elf[60..62].copy_from_slice(&(sections.len() as u16 + 2).to_le_bytes());
        elf[62..64].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
        for (n, (kind, flags, offset, svma, size)) in programs.into_iter().enumerate() {
            let mut header = [kind, flags].map(u32::to_le_bytes).concat();
            header.extend([offset, svma, svma, size, size, 1].map(u64::to_le_bytes).concat());
            elf[64 + n * 56..64 + (n + 1) * 56].copy_from_slice(&header);
        }
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let last = Section { kind: SHT_STRTAB, ..section(".shstrtab", Vec::new()) };
        let count = sections.len();
        for (n, section) in sections.into_iter().chain([last]).enumerate() {
            let Section { name, kind, flags, svma, mut bytes, stated } = section;
            headers.extend([names.len() as u32, kind].map(u32::to_le_bytes).concat());
            names.extend(name.as_bytes());
            names.push(0);
            if n == count {
                bytes.clone_from(&names);
            }
            let size = stated.unwrap_or(bytes.len() as u64);
            headers.extend([flags, svma, elf.len() as u64, size].map(u64::to_le_bytes).concat());
            // A symbol table's names are in the next section.
            headers.extend([n as u32 + 2, 0].map(u32::to_le_bytes).concat());
            headers.extend([1_u64, 0].map(u64::to_le_bytes).concat());
            elf.extend(bytes);
        }
        let sections_at = elf.len() as u64;
        elf[40..48].copy_from_slice(&sections_at.to_le_bytes());
        elf.extend(headers);
        elf
    }
}

/// What a bomb came to.
#[derive(Debug, Default)]
struct Outcome {
    /// Why it was not opened.
    refused: String,
    /// What was said with its names.
    warning: String,
    /// Names, of the addresses that have one.
    named: Vec<String>,
    /// Why it has no unwind table; empty if it has one.
    no_table: String,
}

/// A figure of the reader's, in KiB.
fn memory_kib(session: &Session, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", session.reader.child.id()));
    let status = status.expect("the reader runs");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The most memory that the reader had allocated, seen from outside, while this lives.
struct Watch {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Watch {
    fn start(session: &Session) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_over = std::sync::Arc::clone(&stop);
        let path = format!("/proc/{}/status", session.reader.child.id());
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let status = fs::read_to_string(&path).unwrap_or_default();
                let line = status.lines().find(|line| line.starts_with("VmData:"));
                let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
                most = number.unwrap_or(0).max(most);
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        Self { stop, thread: Some(thread) }
    }

    fn most_kib(mut self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn ask_tables(session: &mut Session, kind: request::Kind) -> reply::Kind {
    let lane = &mut session.reader.tables;
    lane.set_read_timeout(Some(PATIENCE)).unwrap();
    write_message(lane, &Request { id: 1, kind: Some(kind) }).unwrap();
    let reply: Reply = read_message(lane).unwrap().expect("the reader has ended");
    reply.kind.unwrap()
}

/// Asks all that the core would about a file, and sees what that costs. Twice: what was found to be
/// expensive is remembered.
fn explode(path: &Path) -> Outcome {
    let mut session = Session::start(&[]);
    let data_before = memory_kib(&session, "VmData:");
    let watch = Watch::start(&session);
    let begun = Instant::now();
    let outcome = ask_all(&mut session, path);
    let took = begun.elapsed();
    let again = Instant::now();
    let second = ask_all(&mut session, path);
    let took_again = again.elapsed();
    let data = watch.most_kib();
    let resident = memory_kib(&session, "VmHWM:");
    println!(
        "{:<28} {:>6} ms, again {:>6} ms, {:>4} MiB allocated (of these {} at rest), {:>4} MiB resident",
        path.file_name().unwrap().to_string_lossy(),
        took.as_millis(),
        took_again.as_millis(),
        data >> 10,
        data_before >> 10,
        resident >> 10,
    );
    assert!(took <= PATIENCE, "{took:?}: {outcome:?}");
    assert!(took_again <= PATIENCE, "{took_again:?} the second time: {outcome:?}");
    assert!(data <= MEMORY_KIB, "{} MiB allocated", data >> 10);
    assert_eq!((&outcome.refused, &outcome.no_table), (&second.refused, &second.no_table));
    // The same process still answers.
    session.process(1).ok();
    assert!(session.reader.child.try_wait().unwrap().is_none(), "the reader has died");
    outcome
}

fn ask_all(session: &mut Session, path: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    let FileInfo { key, segments, .. } = match session.open_path(path) {
        Ok(info) => info,
        Err(refused) => return Outcome { refused, ..outcome },
    };
    let code = segments.first().map_or(0, |segment| segment.file_offset);
    let file_offsets: Vec<u64> = (0..16_384).map(|n| code + 8 + n * 61).collect();
    let request = NameFile { key, file_offsets, no_inlines: false };
    let names = session.names(request::Kind::NameFile(request)).unwrap();
    outcome.warning = names.warning;
    outcome.named = names
        .frames
        .iter()
        .filter_map(|frame| Some(names.strings[frame.lines.first()?.function as usize].clone()))
        .collect();
    for kind in
        [request::Kind::UnwindDigest(UnwindDigest { key }), request::Kind::Unwind(Unwind { key })]
    {
        if let reply::Kind::Error(error) = ask_tables(session, kind) {
            outcome.no_table = error;
        }
    }
    outcome
}

/// A bomb's file, in a directory of its own.
fn bomb(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn explode_elf(name: &str, elf: Elf) -> Outcome {
    let (_directory, path) = bomb(name, &elf.bytes());
    explode(&path)
}

fn symbol(name: u32, address: u64, size: u64) -> Vec<u8> {
    let mut symbol = name.to_le_bytes().to_vec();
    // A global function of section 1.
    symbol.extend([0x12, 0, 1, 0]);
    symbol.extend([address, size].map(u64::to_le_bytes).concat());
    symbol
}

/// A symbol table and its names.
fn with_symbols(symbols: Vec<u8>, names: Vec<u8>) -> Vec<Section> {
    vec![
        Section { kind: SHT_SYMTAB, ..section(".symtab", symbols) },
        Section { kind: SHT_STRTAB, ..section(".strtab", names) },
    ]
}

/// Zeros, compressed.
fn zlib(count: u64) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), count), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// A section's contents under `Elf64_Chdr`.
fn compressed(kind: u32, stated: u64, bytes: &[u8]) -> Vec<u8> {
    let mut contents = [kind, 0].map(u32::to_le_bytes).concat();
    contents.extend([stated, 1].map(u64::to_le_bytes).concat());
    contents.extend(bytes);
    contents
}

#[test]
fn a_sparse_terabyte_of_everything() {
    // `.eh_frame`, `.debug_frame`, symbols and debug information of 1 TB, which are zeros.
    let names = [".eh_frame", ".debug_frame", ".debug_info", ".debug_line", ".debug_str"];
    let sections = names.map(|name| Section { stated: Some(1 << 39), ..section(name, Vec::new()) });
    let mut sections = sections.to_vec_of();
    sections.push(Section {
        kind: SHT_SYMTAB,
        stated: Some(24 << 34),
        ..section(".symtab", Vec::new())
    });
    let (_directory, path) = bomb("sparse-terabyte", &Elf::of(sections).bytes());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let outcome = explode(&path);
    assert!(outcome.named.is_empty() && !outcome.no_table.is_empty(), "{outcome:?}");
}

/// An array as a vector, by value.
trait ToVec<T> {
    fn to_vec_of(self) -> Vec<T>;
}

impl<T, const N: usize> ToVec<T> for [T; N] {
    fn to_vec_of(self) -> Vec<T> {
        self.into_iter().collect()
    }
}

#[test]
fn an_empty_header_in_a_sparse_terabyte() {
    let mut header = Elf::of(Vec::new()).bytes();
    header[56..64].fill(0xff);
    let (_directory, path) = bomb("sparse-headers", &header);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let outcome = explode(&path);
    assert!(!outcome.refused.is_empty() || outcome.named.is_empty());
}

#[test]
fn a_million_sections() {
    for stated in [1_000_000_u64, 1 << 60] {
        let mut elf = Elf::of(vec![section(".text", vec![0; 64])]).bytes();
        let sections_at = u64::from_le_bytes(elf[40..48].try_into().unwrap()) as usize;
        // All are the first one, whose size is their number, and whose names are its own.
        let mut first = elf[sections_at..sections_at + 64].to_vec();
        first[32..40].copy_from_slice(&stated.to_le_bytes());
        first[40..44].copy_from_slice(&7_u32.to_le_bytes());
        elf[60..62].fill(0);
        elf[62..64].fill(0xff);
        elf.truncate(sections_at);
        elf.extend(first.repeat(1_000_000));
        let (_directory, path) = bomb("a-million-sections", &elf);
        let outcome = explode(&path);
        assert!(outcome.named.is_empty(), "{outcome:?}");
    }
}

#[test]
fn section_names_that_are_their_own_table_and_never_end() {
    let mut elf = Elf::of(Vec::new()).bytes();
    let sections_at = elf.len() as u64;
    let names = vec![b'.'; 1 << 20];
    let mut header = [0; 64];
    header[4] = SHT_STRTAB as u8;
    header[24..32].copy_from_slice(&(sections_at + 64 * 0xfeff).to_le_bytes());
    header[32..40].copy_from_slice(&(names.len() as u64).to_le_bytes());
    elf[40..48].copy_from_slice(&sections_at.to_le_bytes());
    elf[60..62].copy_from_slice(&0xfeff_u16.to_le_bytes());
    elf[62..64].copy_from_slice(&1_u16.to_le_bytes());
    elf.extend(header.repeat(0xfeff));
    elf.extend(names);
    let (_directory, path) = bomb("endless-section-names", &elf);
    let outcome = explode(&path);
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

#[test]
fn notes_of_all_sizes() {
    const PT_NOTE: u32 = 4;
    let note = |name: u32, size: u32| [name, size, 3].map(u32::to_le_bytes).concat();
    let mut notes = note(u32::MAX, u32::MAX);
    notes.resize(2 << 20, 0);
    let mut elf = Elf::of(vec![section(".note", notes)]);
    let many = |offset, size| (PT_NOTE, 4, offset, 0, size);
    elf.programs = vec![many(1_000, 1 << 60), many(u64::MAX, 12), many(0, u64::MAX)];
    elf.programs.extend(std::iter::repeat_n(many(300_000, 2 << 20), 4_000));
    let outcome = explode_elf("notes", elf);
    assert!(outcome.named.is_empty(), "{outcome:?}");
}

#[test]
fn more_program_headers_than_there_are() {
    let mut elf = Elf::of(Vec::new()).bytes();
    // `PN_XNUM`: their number is in the first section header.
    elf[56..58].fill(0xff);
    let sections_at = u64::from_le_bytes(elf[40..48].try_into().unwrap()) as usize;
    elf[sections_at + 44..sections_at + 48].fill(0xff);
    let (_directory, path) = bomb("program-headers", &elf);
    let outcome = explode(&path);
    assert!(outcome.refused.contains("program headers"), "{outcome:?}");
}

#[test]
fn ten_million_symbols() {
    let symbols = (0..10_000_000).flat_map(|n| symbol(1, CODE + n * 7 % CODE_BYTES, 7)).collect();
    let outcome =
        explode_elf("ten-million-symbols", Elf::of(with_symbols(symbols, b"\0f\0".into())));
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

#[test]
fn a_million_symbols_of_one_address() {
    // None of them covers what is asked.
    let symbols = (0..1_000_000).flat_map(|_| symbol(1, CODE, 1)).collect();
    let outcome =
        explode_elf("symbols-of-one-address", Elf::of(with_symbols(symbols, b"\0f\0".into())));
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

#[test]
fn names_of_symbols_that_never_end() {
    let symbols = (0..10_000).flat_map(|n| symbol(n as u32, CODE + n * 64, 64)).collect();
    let mut names = vec![b'n'; 32 << 20];
    names.push(0);
    let outcome = explode_elf("endless-names", Elf::of(with_symbols(symbols, names)));
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

#[test]
fn code_in_thousands_of_segments() {
    let mut elf = Elf::of(with_symbols(
        (0..4_000_000).flat_map(|n| symbol(1, CODE + (n << 33), 1)).collect(),
        b"\0Builtins_A\0".into(),
    ));
    elf.programs = (1..4_000).map(|n| (1, 5, 0, CODE + (n << 32), 4_096)).collect();
    explode_elf("many-segments", elf);
}

#[test]
fn deflated_zeros() {
    let zeros = zlib(1 << 30);
    let inside = |name, stated| Section {
        flags: SHF_COMPRESSED,
        ..section(name, compressed(1, stated, &zeros))
    };
    let names = [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_frame"];
    for stated in [1 << 30, 16, 1 << 60] {
        let sections = names.map(|name| inside(name, stated)).to_vec_of();
        let outcome = explode_elf("zlib", Elf::of(sections));
        assert!(outcome.named.is_empty() && !outcome.warning.is_empty(), "{outcome:?}");
    }
}

#[test]
fn zstandard_of_stated_sizes() {
    for stated in [1 << 30, 1 << 60, u64::MAX] {
        let contents = compressed(2, stated, b"\x28\xb5\x2f\xfd");
        let sections = [".debug_info", ".debug_line"]
            .map(|name| Section { flags: SHF_COMPRESSED, ..section(name, contents.clone()) });
        let outcome = explode_elf("zstd", Elf::of(sections.to_vec_of()));
        assert!(outcome.named.is_empty(), "{outcome:?}");
        // In a file of 32 bits, which blazesym reads.
        let mut elf = vec![0; 52];
        elf[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        elf[18] = 3;
        elf[46] = 40;
        let (_directory, path) = bomb("zstd-32", &elf);
        explode(&path);
    }
}

#[test]
fn units_that_share_one_endless_table() {
    // Abbreviations that never end, for a million units.
    let mut abbreviations = Vec::new();
    for _ in 0..200_000 {
        abbreviations.extend([1, 0x11, 0, 0, 0]);
    }
    for code in 1..100_000_u32 {
        // In order, each with one attribute.
        let mut rest = code;
        while rest >= 0x80 {
            abbreviations.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        abbreviations.push(rest as u8);
        abbreviations.extend([0x11, 0, 0x3f, 0x19, 0, 0]);
    }
    let mut info = Vec::new();
    for n in 0..1_000_000_u32 {
        info.extend(8_u32.to_le_bytes());
        info.extend(4_u16.to_le_bytes());
        info.extend((n % 1_000_000 + 1_000_000 % abbreviations.len() as u32).to_le_bytes());
        info.extend([8, 1]);
    }
    let sections = vec![section(".debug_info", info), section(".debug_abbrev", abbreviations)];
    let outcome = explode_elf("abbreviations", Elf::of(sections));
    assert!(outcome.named.is_empty(), "{outcome:?}");
}

/// A unit of version 4 with these attributes, and its abbreviation.
fn unit(attributes: &[(u8, u8)], values: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut abbreviation = vec![1, 0x11, 0];
    abbreviation.extend(attributes.iter().flat_map(|(name, form)| [*name, *form]));
    abbreviation.extend([0, 0, 0]);
    let mut unit = (8 + values.len() as u32).to_le_bytes().to_vec();
    unit.extend(4_u16.to_le_bytes());
    unit.extend(0_u32.to_le_bytes());
    unit.extend([8, 1]);
    unit.extend(values);
    (unit, abbreviation)
}

#[test]
fn units_that_share_one_list_of_ranges() {
    let (unit, abbreviations) = unit(&[(0x55, 0x17)], &0_u32.to_le_bytes());
    // Each begins where it ends, so that none is kept.
    let ranges: Vec<u8> =
        (0..4_000_000_u64).flat_map(|n| [n + 1, n + 1].map(u64::to_le_bytes).concat()).collect();
    let sections = vec![
        section(".debug_info", unit.repeat(200_000)),
        section(".debug_abbrev", abbreviations),
        section(".debug_ranges", ranges),
    ];
    let outcome = explode_elf("ranges", Elf::of(sections));
    assert!(outcome.named.is_empty() && !outcome.warning.is_empty(), "{outcome:?}");
}

#[test]
fn a_unit_of_countless_ranges() {
    let (unit, abbreviations) = unit(&[(0x55, 0x17)], &0_u32.to_le_bytes());
    let ranges: Vec<u8> = (1..12_000_000_u64)
        .flat_map(|n| [n * 2, n * 2 + 1].map(u64::to_le_bytes).concat())
        .collect();
    let sections = vec![
        section(".debug_info", unit),
        section(".debug_abbrev", abbreviations),
        section(".debug_ranges", ranges),
    ];
    let outcome = explode_elf("countless-ranges", Elf::of(sections));
    assert!(outcome.named.is_empty() && outcome.warning.contains("more than"), "{outcome:?}");
}

/// A line program of version 4 in which each row is one byte.
fn line_program(rows: usize, files: usize) -> Vec<u8> {
    let mut header = vec![1, 1, 1, 0xfb, 14, 13];
    header.extend([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    header.push(0);
    for _ in 0..files {
        header.extend(b"f\0\0\0\0");
    }
    header.push(0);
    let mut program = ((2 + 4 + header.len() + rows) as u32).to_le_bytes().to_vec();
    program.extend(4_u16.to_le_bytes());
    program.extend((header.len() as u32).to_le_bytes());
    program.extend(header);
    program.extend(std::iter::repeat_n(0x20, rows));
    program
}

#[test]
fn units_that_share_one_endless_line_program() {
    // `DW_AT_stmt_list`, `DW_AT_low_pc`, `DW_AT_high_pc`
    let attributes = [(0x10, 0x17), (0x11, 0x01), (0x12, 0x06)];
    let mut info = Vec::new();
    let mut abbreviations = Vec::new();
    for n in 0..CODE_BYTES / 64 {
        let mut values = 0_u32.to_le_bytes().to_vec();
        values.extend((CODE + n * 64).to_le_bytes());
        values.extend(64_u32.to_le_bytes());
        let (unit, abbreviation) = unit(&attributes, &values);
        info.extend(unit);
        abbreviations = abbreviation;
    }
    for (name, program) in
        [("line-program", line_program(100 << 20, 1)), ("line-files", line_program(1, 8 << 20))]
    {
        let sections = vec![
            section(".debug_info", info.clone()),
            section(".debug_abbrev", abbreviations.clone()),
            section(".debug_line", program),
        ];
        let outcome = explode_elf(name, Elf::of(sections));
        assert!(outcome.named.is_empty() && !outcome.warning.is_empty(), "{outcome:?}");
    }
}

#[test]
fn functions_whose_names_never_end() {
    // Functions of 64 bytes, each with a name that is nearly all of `.debug_str`.
    let mut abbreviations = vec![1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0];
    abbreviations.extend([2, 0x2e, 0, 0x6e, 0x0e, 0x11, 0x01, 0x12, 0x06, 0, 0, 0]);
    let mut entries = vec![1];
    entries.extend(CODE.to_le_bytes());
    entries.extend((CODE_BYTES as u32).to_le_bytes());
    for n in 0..CODE_BYTES / 64 {
        entries.push(2);
        entries.extend((n as u32).to_le_bytes());
        entries.extend((CODE + n * 64).to_le_bytes());
        entries.extend(64_u32.to_le_bytes());
    }
    entries.push(0);
    let mut info = (7 + entries.len() as u32).to_le_bytes().to_vec();
    info.extend(4_u16.to_le_bytes());
    info.extend(0_u32.to_le_bytes());
    info.push(8);
    info.extend(entries);
    let mut strings = vec![b'n'; 64 << 20];
    strings.push(0);
    let sections = vec![
        section(".debug_info", info),
        section(".debug_abbrev", abbreviations),
        section(".debug_str", strings),
    ];
    let outcome = explode_elf("endless-function-names", Elf::of(sections));
    assert!(outcome.named.iter().all(|name| name.len() <= 4_096));
}

#[test]
fn frames_of_all_sizes() {
    let mut sections = Vec::new();
    // A common entry whose augmentation says that it is 2^60 bytes long.
    let mut entry = vec![1];
    entry.extend(b"zR\0");
    entry.extend([1, 0x78, 16]);
    entry.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
    let mut eh_frame = (4 + entry.len() as u32).to_le_bytes().to_vec();
    eh_frame.extend([0; 4]);
    eh_frame.extend(entry);
    // Functions that refer to it, to each other, and to themselves.
    for n in 0..1_000_000_u32 {
        eh_frame.extend(20_u32.to_le_bytes());
        let back = [eh_frame.len() as u32, 24, 0xffff_fff0, 4][n as usize % 4];
        eh_frame.extend(back.to_le_bytes());
        eh_frame.extend([CODE + u64::from(n), 1].map(u64::to_le_bytes).concat());
    }
    eh_frame.extend([0xff; 4]);
    eh_frame.extend((1_u64 << 60).to_le_bytes());
    sections.push(section(".eh_frame", eh_frame));
    let outcome = explode_elf("augmentation", Elf::of(sections));
    assert!(!outcome.no_table.is_empty(), "{outcome:?}");
}

#[test]
fn a_table_that_is_too_big_for_a_reply() {
    // Each byte of code has a rule of its own.
    let mut eh_frame = Vec::new();
    let common = [1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0];
    eh_frame.extend(16_u32.to_le_bytes());
    eh_frame.extend([0; 4]);
    eh_frame.extend(common);
    let functions = 6_000_u32;
    let rows = 1_000_u32;
    for n in 0..functions {
        let mut program = Vec::new();
        for row in 0..rows {
            // `DW_CFA_advance_loc` by 1, `DW_CFA_def_cfa_offset`
            program.extend([0x41, 0x0e, 8 + (row % 2) as u8 * 8]);
        }
        eh_frame.extend((20 + program.len() as u32).to_le_bytes());
        eh_frame.extend((eh_frame.len() as u32).to_le_bytes());
        let (start, size) = (CODE + u64::from(n * rows), u64::from(rows));
        eh_frame.extend([start, size].map(u64::to_le_bytes).concat());
        eh_frame.extend(program);
    }
    let mut elf = Elf::of(vec![section(".eh_frame", eh_frame)]);
    elf.programs = vec![(1, 5, 0, CODE, u64::from(functions * rows))];
    let outcome = explode_elf("big-table", elf);
    assert!(outcome.no_table.contains("more than"), "{outcome:?}");
}

/// Asks for names of a perf map that `write` makes, as this process's own.
fn explode_perf_map(name: &str, write: impl FnOnce(&mut File)) -> Result<Vec<String>, String> {
    let _one_at_a_time = PERF_MAP.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pid = std::process::id();
    let path = Path::new("/tmp").join(format!("perf-{pid}.map"));
    let removed = Removed(path.clone());
    write(&mut File::create(&path).unwrap());
    let mut session = Session::start(&[]);
    let watch = Watch::start(&session);
    let begun = Instant::now();
    let uid = rustix::process::geteuid().as_raw();
    let avmas: Vec<u64> = (0..16_384).map(|n| 0x1000 + n * 16).collect();
    let request = NamePerfMap { pid, inner_pid: pid, uid, avmas, ..NamePerfMap::default() };
    let answer = session.names(request::Kind::NamePerfMap(request));
    let took = begun.elapsed();
    drop(removed);
    let data = watch.most_kib();
    println!("{name:<28} {:>6} ms, {:>4} MiB allocated", took.as_millis(), data >> 10);
    assert!(took <= PATIENCE, "{took:?}");
    assert!(data <= MEMORY_KIB, "{} MiB allocated", data >> 10);
    assert!(session.reader.child.try_wait().unwrap().is_none(), "the reader has died");
    let names = answer?;
    let first = names.frames.iter().filter_map(|frame| frame.lines.first());
    Ok(first.map(|line| names.strings[line.function as usize].clone()).collect())
}

/// All are of this process.
static PERF_MAP: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn a_line_of_a_gibibyte() {
    let refused = explode_perf_map("perf-map-line", |file| {
        file.write_all(b"1000 10 ").unwrap();
        file.write_all_at(b"\n2000 10 next\n", 1 << 30).unwrap();
    });
    assert!(refused.unwrap_err().contains("larger than"));
    // As long a line as a map may have at all.
    let named = explode_perf_map("perf-map-long-line", |file| {
        file.write_all(b"1000 10 first").unwrap();
        file.write_all_at(b"\n2000 10 next\n", 255 << 20).unwrap();
    });
    assert_eq!(named.unwrap(), ["first", "next"]);
}

#[test]
fn a_perf_map_of_millions_of_lines() {
    let named = explode_perf_map("perf-map-lines", |file| {
        // They overlap: each is cut by those behind it.
        let lines: String = (0..3_000_000_u64)
            .map(|n| format!("{:x} {:x} f{n}\n", n * 7 % 0x40_0000, 0x1000))
            .collect();
        file.write_all(lines.as_bytes()).unwrap();
    });
    assert_eq!(named.unwrap().len(), 16_384);
}

#[test]
fn a_perf_map_of_a_quarter_gibibyte_of_names() {
    let named = explode_perf_map("perf-map-names", |file| {
        let line = [b"1000 10 ", &[0xff; 1_000][..], b"\n"].concat();
        let chunk = line.repeat(1_000);
        for _ in 0..260 {
            file.write_all(&chunk).unwrap();
        }
    });
    assert_eq!(named.unwrap().len(), 1);
}
