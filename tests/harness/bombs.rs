//! ELF files that are made to cost whoever reads them much time or memory.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// A bomb: its name, and what writes it.
pub type Bomb = (&'static str, fn(&Path));

/// All of them.
pub const BOMBS: [Bomb; 10] = [
    ("terabyte", terabyte),
    ("terabyte-symbols", |path| terabyte_section(path, SYMTAB, ".symtab", 2)),
    ("terabyte-debug", |path| terabyte_section(path, PROGBITS, ".debug_info", 0)),
    ("terabyte-rules", terabyte_rules),
    ("million-sections", million_sections),
    ("circles", circles),
    ("huge-counts", huge_counts),
    ("inflated-claim", |path| compressed(path, 1 << 60, 1 << 20)),
    ("inflated", |path| compressed(path, 2 << 30, 2 << 30)),
    ("ten-million-symbols", |path| symbols(path, 10_000_000)),
];

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const NOTE: u32 = 7;
const COMPRESSED: u64 = 1 << 11;

/// What is mapped and run: the file's first bytes.
const CODE_BYTES: u64 = 4096;
/// Where the section headers are; section contents are behind them.
const HEADERS_AT: u64 = 8192;
const CONTENTS_AT: u64 = 1 << 20;
const TERABYTE: u64 = 1 << 40;

/// A section header; names are offsets in [`NAMES`].
#[derive(Clone, Copy, Default)]
struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    offset: u64,
    size: u64,
    link: u32,
    entry: u64,
}

const NAMES: &str = "\0.symtab\0.strtab\0.shstrtab\0.debug_info\0.debug_abbrev\0.eh_frame\0.note\0";

fn native_machine() -> u16 {
    if cfg!(target_arch = "aarch64") { 183 } else { 62 }
}

/// Writes headers: one executable segment of `segment_bytes`, and `sections`, where a string table
/// of names is the second one. `count`: what the header says of their number.
fn write(path: &Path, segment_bytes: u64, sections: &[Section], count: u16) -> File {
    let file = File::create(path).expect("create");
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend(3_u16.to_le_bytes());
    header.extend(native_machine().to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    for word in [0, 64, if sections.is_empty() { 0 } else { HEADERS_AT }] {
        header.extend(u64::to_le_bytes(word));
    }
    header.extend(0_u32.to_le_bytes());
    for half in [64, 56, 1, 64, count, 1] {
        header.extend(u16::to_le_bytes(half));
    }
    header.extend(1_u32.to_le_bytes());
    header.extend(5_u32.to_le_bytes());
    for word in [0, 0, 0, segment_bytes, segment_bytes, 4096] {
        header.extend(u64::to_le_bytes(word));
    }
    file.write_all_at(&header, 0).expect("write");
    file.write_all_at(NAMES.as_bytes(), CODE_BYTES).expect("write");
    let mut table = Vec::new();
    for section in sections {
        let name = NAMES.find(&format!("\0{}\0", section.name)).map_or(0, |at| at + 1);
        table.extend((name as u32).to_le_bytes());
        table.extend(section.kind.to_le_bytes());
        for word in [section.flags, 0, section.offset, section.size] {
            table.extend(word.to_le_bytes());
        }
        table.extend(section.link.to_le_bytes());
        table.extend(0_u32.to_le_bytes());
        table.extend(1_u64.to_le_bytes());
        table.extend(section.entry.to_le_bytes());
    }
    file.write_all_at(&table, HEADERS_AT).expect("write");
    file
}

fn names() -> Section {
    Section {
        name: ".shstrtab",
        kind: STRTAB,
        offset: CODE_BYTES,
        size: NAMES.len() as u64,
        ..Section::default()
    }
}

fn terabyte(path: &Path) {
    write(path, TERABYTE, &[], 0).set_len(TERABYTE).expect("make it long");
}

fn terabyte_section(path: &Path, kind: u32, name: &'static str, link: u32) {
    let half = TERABYTE / 4;
    let big = |name, kind, offset, link| Section {
        name,
        kind,
        offset,
        size: half,
        link,
        entry: 24,
        ..Section::default()
    };
    let sections = [
        Section::default(),
        names(),
        big(".strtab", STRTAB, CONTENTS_AT, 0),
        big(name, kind, CONTENTS_AT + half, link),
        big(".debug_abbrev", PROGBITS, CONTENTS_AT + 2 * half, 0),
    ];
    let file = write(path, CODE_BYTES, &sections, 5);
    // The first unit, or entry, is as long as the section.
    let mut start = vec![0xff; 4];
    start.extend((half - 12).to_le_bytes());
    if name == ".debug_info" {
        start.extend([5, 0, 1, 8]);
    }
    file.write_all_at(&start, CONTENTS_AT + half).expect("write");
    file.set_len(TERABYTE).expect("make it long");
}

fn terabyte_rules(path: &Path) {
    terabyte_section(path, PROGBITS, ".eh_frame", 0);
}

fn million_sections(path: &Path) {
    // `e_shnum` is 0, and the first header's size says how many there are.
    let first = Section { size: 1_000_000, ..Section::default() };
    let file = write(path, CODE_BYTES, &[first, names()], 0);
    let one = Section { name: ".note", kind: NOTE, offset: 64, size: 64, ..Section::default() };
    let mut headers = BufWriter::new(&file);
    std::io::Seek::seek(&mut headers, std::io::SeekFrom::Start(HEADERS_AT + 128)).expect("seek");
    for _ in 2..1_000_000 {
        let mut header = [0; 64];
        header[4..8].copy_from_slice(&one.kind.to_le_bytes());
        header[24..32].copy_from_slice(&one.offset.to_le_bytes());
        header[32..40].copy_from_slice(&one.size.to_le_bytes());
        headers.write_all(&header).expect("write");
    }
    headers.flush().expect("flush");
}

fn circles(path: &Path) {
    // Tables that are their own string tables, over headers that they are described by.
    let own = |name, kind, link| Section {
        name,
        kind,
        offset: HEADERS_AT,
        size: 4096,
        link,
        entry: 24,
        ..Section::default()
    };
    let sections = [
        Section::default(),
        Section { offset: HEADERS_AT, size: 4096, link: 1, ..names() },
        own(".symtab", SYMTAB, 2),
        own(".strtab", STRTAB, 3),
        own(".debug_info", PROGBITS, 3),
        own(".debug_abbrev", PROGBITS, 3),
        own(".eh_frame", PROGBITS, 3),
        own(".note", NOTE, 7),
    ];
    write(path, CODE_BYTES, &sections, 8).set_len(HEADERS_AT + 4096).expect("make it long");
}

fn huge_counts(path: &Path) {
    let huge = |name, kind| Section {
        name,
        kind,
        offset: CONTENTS_AT,
        size: 1 << 60,
        link: 2,
        entry: 1,
        ..Section::default()
    };
    let first = Section { size: 1 << 60, ..Section::default() };
    let sections = [
        first,
        names(),
        huge(".strtab", STRTAB),
        huge(".symtab", SYMTAB),
        huge(".debug_info", PROGBITS),
        huge(".eh_frame", PROGBITS),
        huge(".note", NOTE),
    ];
    let file = write(path, u64::MAX, &sections, 0);
    file.write_all_at(&[0xff; 4096], CONTENTS_AT).expect("write");
}

/// Debug information that states `claimed` bytes and inflates to `real` ones, all zero.
fn compressed(path: &Path, claimed: u64, real: u64) {
    let mut data = Vec::new();
    for word in [1_u64, claimed, 1] {
        data.extend(word.to_le_bytes());
    }
    data.extend(zlib_of_zeros(real));
    let size = data.len() as u64;
    let of = |name| Section {
        name,
        kind: PROGBITS,
        flags: COMPRESSED,
        offset: CONTENTS_AT,
        size,
        ..Section::default()
    };
    let sections =
        [Section::default(), names(), of(".debug_info"), of(".debug_abbrev"), of(".eh_frame")];
    let file = write(path, CODE_BYTES, &sections, 5);
    file.write_all_at(&data, CONTENTS_AT).expect("write");
}

/// Zeros in the zlib format, by fixed codes: a zero, then copies of 258 bytes from one before.
fn zlib_of_zeros(bytes: u64) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let (mut word, mut bits) = (0_u64, 0);
    let mut put = |out: &mut Vec<u8>, value: u64, count: u32| {
        word |= value << bits;
        bits += count;
        while bits >= 8 {
            out.push(word as u8);
            word >>= 8;
            bits -= 8;
        }
    };
    // The last block, with fixed codes; codes are written from their highest bit on.
    put(&mut out, 0b011, 3);
    put(&mut out, 0b0000_1100, 8);
    for _ in 0..bytes / 258 {
        put(&mut out, 0b1010_0011, 8);
        put(&mut out, 0, 5);
    }
    put(&mut out, 0, 7 + 8);
    out.extend([0; 4]);
    out
}

fn symbols(path: &Path, count: u64) {
    let size = count * 24;
    let sections = [
        Section::default(),
        names(),
        Section {
            name: ".strtab",
            kind: STRTAB,
            offset: CODE_BYTES,
            size: NAMES.len() as u64,
            ..Section::default()
        },
        Section {
            name: ".symtab",
            kind: SYMTAB,
            offset: CONTENTS_AT,
            size,
            link: 2,
            entry: 24,
            ..Section::default()
        },
    ];
    let file = write(path, CODE_BYTES, &sections, 4);
    let mut table = BufWriter::with_capacity(1 << 20, &file);
    std::io::Seek::seek(&mut table, std::io::SeekFrom::Start(CONTENTS_AT)).expect("seek");
    for number in 0..count {
        let mut symbol = [0; 24];
        symbol[0] = 2;
        // A function, in the second section.
        symbol[4] = 2;
        symbol[6] = 1;
        // In no order, so that they have to be sorted.
        let address = number.wrapping_mul(0x9e37_79b9) % (count * 16);
        symbol[8..16].copy_from_slice(&address.to_le_bytes());
        symbol[16..24].copy_from_slice(&16_u64.to_le_bytes());
        table.write_all(&symbol).expect("write");
    }
    table.flush().expect("flush");
}
