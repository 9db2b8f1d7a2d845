//! Debug information.

use std::io::Read as _;

use flate2::read::ZlibDecoder;
use flate2::{Compress, Compression, FlushCompress};

use super::elf::{CODE, CODE_BYTES, Elf, Section, section};
use super::{bomb, explode, explode_elf};

const SHF_COMPRESSED: u64 = 1 << 11;

/// So many mebibytes of zeros, compressed (RFC 1950): a mebibyte's blocks, which refer to nothing
/// before them, again and again.
fn zlib(mebibytes: usize) -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let mut blocks = Vec::with_capacity(zeros.len());
    let mut encoder = Compress::new(Compression::best(), false);
    encoder.compress_vec(&zeros, &mut blocks, FlushCompress::Full).unwrap();
    assert_eq!(encoder.total_in(), 1 << 20);
    let mut bytes = vec![0x78, 0xda];
    bytes.extend(blocks.repeat(mebibytes));
    // The last block, which is empty.
    bytes.extend([3, 0]);
    // Adler-32.
    let sum = ((zeros.len() * mebibytes % 65_521) as u32) << 16 | 1;
    bytes.extend(sum.to_be_bytes());
    bytes
}

#[test]
fn zeros_are_compressed_as_they_should_be() {
    let mut zeros = Vec::new();
    ZlibDecoder::new(zlib(3).as_slice()).read_to_end(&mut zeros).unwrap();
    assert_eq!(zeros, vec![0; 3 << 20]);
}

/// A section's contents under `Elf64_Chdr`.
fn compressed(kind: u32, stated: u64, bytes: &[u8]) -> Vec<u8> {
    let mut contents = [kind, 0].map(u32::to_le_bytes).concat();
    contents.extend([stated, 1].map(u64::to_le_bytes).concat());
    contents.extend(bytes);
    contents
}

#[test]
fn deflated_zeros() {
    let zeros = zlib(1 << 10);
    let inside = |name, stated| Section {
        flags: SHF_COMPRESSED,
        ..section(name, compressed(1, stated, &zeros))
    };
    let names = [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_frame"];
    for stated in [1 << 30, 16, 1 << 60] {
        let sections = Vec::from(names.map(|name| inside(name, stated)));
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
        let outcome = explode_elf("zstd", Elf::of(Vec::from(sections)));
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
