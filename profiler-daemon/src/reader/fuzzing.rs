//! The parsers of the reader, as fuzz targets call them, and what must hold of their results.
//!
//! Inputs of several parts have each but the last preceded by its length, as a little-endian `u16`.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use profiler_ebpf::record::MAX_USER_FRAMES;
use profiler_ebpf::unwind::walk::Walk;
use profiler_ebpf::unwind::{Memory, Registers, Step, rule::Rule};
use rustix::fs::{MemfdFlags, memfd_create};

use super::demangle::Demangler;
use super::dwarf::DebugInfo;
use super::elf::Image;
use super::file_pages::FilePages;
use super::files::FileTable;
use super::go_build;
use super::go_table::GoTable;
use super::kallsyms::Kallsyms;
use super::lane::Answer;
use super::name_table::NameTable;
use super::names::Namer;
use super::patience::Patience;
use super::perf_map::PerfMap;
use super::processes;
use super::protocol::{MAX_ADDRESSES, Request, request};
use super::unwind::{self, UnwindTable};
use super::unwinder::Unwinder;
use super::wire::{FrameDecoder, read_message};

/// The most addresses looked up in what an input makes.
const MOST_ADDRESSES: usize = 64;

const MACHINE_X86_64: u8 = 62;
const MACHINE_AARCH64: u8 = 183;

/// A whole file: its headers, notes, sections, debug link, how Go built it, and its unwind table.
/// The input is also taken for a section `.go.buildinfo` alone.
pub fn elf(bytes: &[u8]) {
    let file = file_of(bytes);
    if let Ok(Some(image)) = Image::read(&file) {
        assert!(image.segments.len() <= 64 && image.build_id.len() <= 64);
        if let Some(link) = image.debug.link {
            assert!(!link.name.contains(&b'/') && !link.name.contains(&0));
        }
        let build = go_build::read(&file, image.debug.go_build.as_ref());
        assert!(build.version.is_empty() != build.not_known.is_empty());
    }
    if let Ok(build) = go_build::parse(bytes) {
        assert!((1..=256).contains(&build.version.len()));
        assert!(build.default_godebug.len() <= 4_096);
    }
    let _ = unwind::digest(bytes);
    if let Ok(table) = unwind::build(bytes) {
        check_table(&table);
    }
}

/// Call frame information: made a table, which a stack is then walked by.
///
/// Parts: flags and addresses (see [`Frames::of`]), `.eh_frame`, `.debug_frame`, registers and
/// stack, code.
pub fn unwind(bytes: &[u8]) {
    let [head, eh_frame, debug_frame, stack, code] = parts(bytes);
    let Some(frames) = Frames::of(head) else { return };
    let mut sections = vec![
        Section { name: ".eh_frame", svma: frames.eh_frame, bytes: eh_frame },
        Section { name: ".text", svma: frames.code.start, bytes: code },
    ];
    if !debug_frame.is_empty() {
        sections.push(Section { name: ".debug_frame", svma: 0, bytes: debug_frame });
    }
    if frames.is_go {
        sections.push(Section { name: ".gopclntab", svma: 0, bytes: &[] });
    }
    let elf = elf_of(frames.machine, &sections, &frames.code);
    let _ = unwind::digest(&elf);
    let Ok(table) = unwind::build(&elf) else { return };
    check_table(&table);
    walk(&table, stack);
}

/// DWARF. Parts: `.debug_info`, `.debug_abbrev`, `.debug_line`, `.debug_str`, `.debug_line_str`,
/// `.debug_ranges`, `.debug_rnglists`, `.debug_addr`, `.debug_str_offsets`.
pub fn dwarf(bytes: &[u8]) {
    const NAMES: [&str; 9] = [
        ".debug_info",
        ".debug_abbrev",
        ".debug_line",
        ".debug_str",
        ".debug_line_str",
        ".debug_ranges",
        ".debug_rnglists",
        ".debug_addr",
        ".debug_str_offsets",
    ];
    let parts: [&[u8]; 9] = parts(bytes);
    let sections: Vec<Section<'_>> = NAMES
        .iter()
        .zip(parts)
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(name, bytes)| Section { name, svma: 0, bytes })
        .collect();
    let elf = elf_of(MACHINE_X86_64, &sections, &(0..0));
    let mapped = Arc::new(FilePages::default()).map(&file_of(&elf), elf.len() as u64);
    let mapped = mapped.expect("a file in memory can be mapped");
    let patience = Patience::of(Duration::MAX);
    let Ok(Some(info)) = DebugInfo::read(mapped, &patience, || {}) else { return };
    let mut svmas: Vec<u64> = info.starts().take(MOST_ADDRESSES / 2).collect();
    svmas.extend(svmas.clone().iter().map(|svma| svma.wrapping_add(5)));
    svmas.sort_unstable();
    let mut names = NameTable::new(svmas.len());
    let take = |index: usize, place: super::dwarf::Place| {
        assert!(index < svmas.len() && place.frames.len() <= 256);
        let lines = place.frames.iter().map(|frame| super::name_table::Line {
            function: &frame.function,
            file: frame.line.as_ref().map_or("", |line| &line.file),
            ..Default::default()
        });
        names.set(index, lines);
    };
    let failed = info.look_up(&svmas, &patience, &Demangler::default(), take, || {});
    assert!(failed <= svmas.len());
}

/// A file with a table of Go functions.
pub fn go_table(bytes: &[u8]) {
    let mapped = Arc::new(FilePages::default()).map(&file_of(bytes), bytes.len() as u64);
    let Ok(mapped) = mapped else { return };
    let patience = Patience::of(Duration::MAX);
    let Ok(Some(table)) = GoTable::read(mapped, &patience, || {}) else { return };
    let starts: Vec<u64> = table.starts().take(MOST_ADDRESSES / 4).collect();
    let into = |into: u64| starts.iter().map(move |start| start.wrapping_add(into));
    let svmas: Vec<u64> = into(0).chain(into(5)).chain(into(10)).chain([0, u64::MAX]).collect();
    for with_lines in [false, true] {
        let mut names = NameTable::new(svmas.len());
        let take = |index: usize, frames: &[super::go_table::Frame<'_>]| {
            assert!((1..=256).contains(&frames.len()) && (with_lines || frames.len() == 1));
            let lines = frames.iter().map(|frame| super::name_table::Line {
                function: &frame.function,
                file: &frame.file,
                ..Default::default()
            });
            names.set(index, lines);
        };
        assert!(table.look_up(&svmas, with_lines, &patience, take, || {}) <= svmas.len());
    }
}

/// A perf map.
pub fn perf_map(mut bytes: &[u8]) {
    let avmas: Vec<u64> = bytes.chunks(8).take(MOST_ADDRESSES).map(number).collect();
    let map = PerfMap::parse(&mut bytes).expect("memory can be read");
    map.check();
    map.name(&avmas, &mut NameTable::new(avmas.len()));
}

/// What the kernel prints of processes and of its own symbols: `maps`, `stat`, `status`, `cgroup`,
/// `cmdline`, `kallsyms`.
pub fn procfs(bytes: &[u8]) {
    processes::parse_all(bytes);
    let addresses: Vec<u64> = bytes.chunks(8).take(MOST_ADDRESSES).map(number).collect();
    let symbols = Kallsyms::parse(&mut &*bytes).expect("memory can be read");
    let mut names = NameTable::new(addresses.len());
    symbols.name(&addresses, &mut names);
    let _ = addresses.iter().filter(|address| symbols.is_lasting(**address)).count();
}

/// What the core sends, as the reader takes it. Requests that would have it look at this machine are
/// left unanswered.
pub fn requests(bytes: &[u8]) {
    let mut decoder = FrameDecoder::<Request>::default();
    decoder.push(bytes);
    let pages = Arc::new(FilePages::default());
    let table = Arc::new(FileTable::empty());
    let mut namer = Namer::new(Arc::clone(&table), Arc::clone(&pages));
    let mut unwinder = Unwinder::new(table, pages);
    let mut stream = bytes;
    while let Ok(Some(read)) = read_message::<Request>(&mut stream) {
        // NaN is not among what a request may hold.
        assert_eq!(decoder.next_message().ok().flatten().as_ref(), Some(&read));
        match read.kind {
            Some(kind @ request::Kind::NameFile(_)) => {
                if let request::Kind::NameFile(asked) = &kind {
                    assert!(asked.file_offsets.len() <= bytes.len());
                }
                let _ = namer.answer(kind);
            }
            Some(kind @ (request::Kind::Unwind(_) | request::Kind::UnwindDigest(_))) => {
                let _ = unwinder.answer(kind.clone());
                let _ = namer.answer(kind);
            }
            Some(request::Kind::NameKernel(asked)) if asked.addresses.len() > MAX_ADDRESSES => {
                let _ = namer.answer(request::Kind::NameKernel(asked));
            }
            _ => {}
        }
    }
}

/// Splits an input.
pub(crate) fn parts<const N: usize>(mut bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = [&[][..]; N];
    let (last, others) = parts.split_last_mut().expect("there is at least one");
    for part in others {
        let Some((length, rest)) = bytes.split_first_chunk() else { return parts };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        (*part, bytes) = rest.split_at(length);
    }
    *last = bytes;
    parts
}

/// Up to 8 bytes as a number.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn file_of(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd_create"));
    file.write_all_at(bytes, 0).expect("pwrite");
    file
}

/// What the first part of an input for [`unwind`] says.
struct Frames {
    machine: u8,
    is_go: bool,
    /// svma of `.eh_frame`.
    eh_frame: u64,
    code: Range<u64>,
}

impl Frames {
    /// A byte of flags (1: aarch64, 2: Go), then svma of `.eh_frame`, svma and size of the code, each
    /// as a `u32`.
    fn of(head: &[u8]) -> Option<Self> {
        let (flags, numbers) = head.split_first()?;
        let mut numbers = numbers.chunks_exact(4).map(number);
        let eh_frame = numbers.next()?;
        let start = numbers.next()?;
        let size = numbers.next()?;
        Some(Self {
            machine: if flags & 1 == 0 { MACHINE_X86_64 } else { MACHINE_AARCH64 },
            is_go: flags & 2 != 0,
            eh_frame,
            code: start..start + size,
        })
    }
}

struct Section<'a> {
    name: &'a str,
    svma: u64,
    bytes: &'a [u8],
}

/// A file with these sections, and `code` in its executable segment, which `.text` is the beginning
/// of.
fn elf_of(machine: u8, sections: &[Section<'_>], code: &Range<u64>) -> Vec<u8> {
    const HEADER_BYTES: usize = 64;
    const PROGRAM_BYTES: usize = 56;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(HEADER_BYTES, 0);
    elf[18] = machine;
    elf[32] = HEADER_BYTES as u8;
    elf[54] = PROGRAM_BYTES as u8;
    elf[56] = 1;
    elf[58] = 64;
    elf[60] = sections.len() as u8 + 2;
    elf[62] = sections.len() as u8 + 1;
    elf.resize(HEADER_BYTES + PROGRAM_BYTES, 0);
    let mut names = vec![0];
    let mut headers = vec![0; 64];
    let mut add = |elf: &mut Vec<u8>, name: &str, svma: u64, bytes: &[u8]| {
        headers.extend((names.len() as u32).to_le_bytes());
        headers.extend(1_u32.to_le_bytes());
        for word in [0, svma, elf.len() as u64, bytes.len() as u64, 0, 1, 0] {
            headers.extend(word.to_le_bytes());
        }
        names.extend(name.as_bytes());
        names.push(0);
        elf.extend(bytes);
    };
    let mut text = (0, 0);
    for section in sections {
        if section.name == ".text" {
            text = (elf.len() as u64, section.bytes.len() as u64);
        }
        add(&mut elf, section.name, section.svma, section.bytes);
    }
    add(&mut elf, ".shstrtab", 0, &[]);
    let (names_at, names_bytes) = (elf.len() as u64, names.len() as u64);
    elf.extend(&names);
    let last = headers.len() - 64;
    headers[last + 24..last + 32].copy_from_slice(&names_at.to_le_bytes());
    headers[last + 32..last + 40].copy_from_slice(&names_bytes.to_le_bytes());
    let sections_at = elf.len() as u64;
    elf[40..48].copy_from_slice(&sections_at.to_le_bytes());
    elf.extend(headers);
    // `PT_LOAD`, readable and executable.
    let mut program = [1_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat();
    for word in [text.0, code.start, code.start, text.1, code.end - code.start, 1] {
        program.extend(word.to_le_bytes());
    }
    elf[HEADER_BYTES..HEADER_BYTES + PROGRAM_BYTES].copy_from_slice(&program);
    elf
}

/// What must hold of every table.
fn check_table(table: &UnwindTable) {
    assert!(table.table.is_sound());
    let mut before: Option<(u64, Rule)> = None;
    for (count, (svma, rule)) in table.rows().enumerate() {
        if let Some((start, rule)) = before {
            assert!(start < svma);
            if count < 4 * MOST_ADDRESSES {
                assert_eq!((table.find(start), table.find(svma - 1)), (rule, rule));
            }
        }
        before = Some((svma, rule));
    }
    let _ = [0, u64::MAX].map(|svma| table.find(svma));
}

/// A stack around its registers: what is beyond it cannot be read.
struct Stack<'a> {
    start: u64,
    bytes: &'a [u8],
    registers: [u64; 4],
}

impl Memory for Stack<'_> {
    fn pair(&self, avma: u64) -> Option<[u64; 2]> {
        Some([self.word(avma)?, self.word(avma.checked_add(8)?)?])
    }

    fn word(&self, avma: u64) -> Option<u64> {
        let into = usize::try_from(avma.checked_sub(self.start)?).ok()?;
        self.bytes.get(into..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn register(&self, number: u32) -> Option<u64> {
        (number < 17).then(|| self.registers[number as usize % 4])
    }
}

/// Walks by a table as the kernel side and the core do: each step ends, whatever it reads.
fn walk(table: &UnwindTable, stack: &[u8]) {
    let (registers, bytes) = stack.split_at(stack.len().min(32));
    let mut numbers = registers.chunks(8).map(number);
    let registers = [(); 4].map(|()| numbers.next().unwrap_or_default());
    let [pc, sp, fp, aux] = registers;
    let memory = Stack { start: sp & !15, bytes, registers };
    let mut walk = Walk::new(&Registers { pc, sp, fp, aux });
    for _ in 0..MAX_USER_FRAMES {
        let rule = table.find(walk.avma());
        match walk.step(&memory, &rule, pc % 2 == 0) {
            Step::Caller(avma) => assert_ne!(avma, 0),
            Step::End(_) => return,
        }
    }
}
