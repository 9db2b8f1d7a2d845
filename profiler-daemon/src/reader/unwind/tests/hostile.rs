//! Files that are damaged, or made to be expensive.

use std::time::{Duration, Instant};

use super::super::super::tests::Random;
use super::*;

/// What such a file may cost, in a debug build.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn damage_gives_no_panic_and_costs_little() {
    let Ok(whole) = std::fs::read("/lib64/ld-linux-x86-64.so.2") else { return };
    let elf = Elf::parse(&whole).unwrap();
    let section = elf.eh_frame().unwrap();
    let start = section.bytes.as_ptr() as usize - whole.as_ptr() as usize;
    let ranges = [(start, section.bytes.len()), (0, 1_024), (whole.len() - 2_600, 2_600)];
    let mut random = Random::new(3);
    let mut bytes = whole.clone();
    for round in 0..3_000 {
        bytes.copy_from_slice(&whole);
        let (start, length) = ranges[usize::from(round % 4 == 1) + 2 * usize::from(round % 4 == 3)];
        for _ in 0..=random.below(8) {
            let at = start + random.below(length as u64 - 8) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at..at + 4].copy_from_slice(&(random.next() as u32).to_le_bytes()),
                _ => bytes[at..at + 8].fill([0, 0xff, 0x7f][random.below(3) as usize]),
            }
        }
        let begun = Instant::now();
        if let Ok(table) = build(&bytes) {
            assert!(table.table.is_sound(), "{round}");
            assert!(table.rows().is_sorted_by(|a, b| a.0 < b.0), "{round}");
        }
        assert!(begun.elapsed() < PATIENCE, "{round}");
    }
    for length in (0..whole.len()).step_by(997) {
        let _ = build(&whole[..length]);
    }
}

/// A file of one executable segment around `size` bytes and an `.eh_frame` that its index names.
fn handmade(eh_frame: &[u8], code: std::ops::Range<u64>) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 3;
    let header_at = 64 + 3 * 56;
    let data_svma = 0x1000;
    let mut program = |kind: u32, flags: u32, offset: u64, svma: u64, size: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [offset, svma, svma, size, size, 1] {
            elf.extend(word.to_le_bytes());
        }
    };
    program(1, 4, header_at, data_svma, 16 + eh_frame.len() as u64);
    program(1, 1, 0, code.start, code.end - code.start);
    program(0x6474_e550, 4, header_at, data_svma, 16);
    // Version, absolute pointer of 8 bytes, no table.
    elf.extend([1, 0x04, 0xff, 0xff]);
    elf.extend((data_svma + 16).to_le_bytes());
    elf.extend([0; 4]);
    elf.extend(eh_frame);
    elf
}

/// A common entry without augmentation.
fn common_entry() -> Vec<u8> {
    // Version 1, "", factors 1 and -8, column 16; cfa = rsp + 8, rip at cfa - 8.
    let body = [1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0];
    let mut entry = 16_u32.to_le_bytes().to_vec();
    entry.extend(0_u32.to_le_bytes());
    entry.extend(body);
    entry
}

fn add_function(section: &mut Vec<u8>, start: u64, size: u64, program: &[u8]) {
    section.extend((20 + program.len() as u32).to_le_bytes());
    section.extend((section.len() as u32).to_le_bytes());
    section.extend(start.to_le_bytes());
    section.extend(size.to_le_bytes());
    section.extend(program);
}

#[test]
fn handmade_overlaps_are_settled_by_order() {
    let mut section = common_entry();
    add_function(&mut section, 0x9000, 0x100, &[0x0e, 16]);
    add_function(&mut section, 0x9010, 0x10, &[0x0e, 24]);
    add_function(&mut section, 0x9000, 0x200, &[0x0e, 32, 0x03, 0x80, 0x01, 0x0e, 40]);
    add_function(&mut section, 0, 0x10_0000, &[]);
    let table = build(&handmade(&section, 0x8000..0x1_0000)).unwrap();
    for (svma, expected) in [
        (0x8fff, "no rule"),
        (0x9000, "cfa = rsp + 16"),
        (0x9010, "cfa = rsp + 16"),
        (0x90ff, "cfa = rsp + 16"),
        (0x9100, "cfa = rsp + 32"),
        (0x917f, "cfa = rsp + 32"),
        (0x9180, "cfa = rsp + 40"),
        (0x91ff, "cfa = rsp + 40"),
        (0x9200, "no rule"),
    ] {
        assert_eq!(equation(&table, svma), expected, "{svma:#x}");
    }
}

#[test]
fn code_that_is_too_far_apart_is_refused() {
    let mut section = common_entry();
    add_function(&mut section, 0x9000, 16, &[]);
    add_function(&mut section, 0x7000_0000_0000, 16, &[]);
    let refused = build(&handmade(&section, 0x8000..u64::MAX));
    assert!(matches!(refused, Err(UnwindError::TooMuch { what: "bytes of code", .. })));
}

#[test]
fn common_entries_that_overlap_are_cut_short() {
    // Each states a length that takes the 199 after it in, and more refer to it than are kept.
    const COUNT: usize = 5_000;
    let mut entry = common_entry();
    entry[..4].copy_from_slice(&3_996_u32.to_le_bytes());
    let mut section = entry.repeat(COUNT);
    for n in 0..200_000_u32 {
        section.extend(20_u32.to_le_bytes());
        let back = section.len() - n as usize % (COUNT - 201) * entry.len();
        section.extend((back as u32).to_le_bytes());
        section.extend((0x9000 + u64::from(n) * 4).to_le_bytes());
        section.extend(4_u64.to_le_bytes());
    }
    let begun = Instant::now();
    let refused = build(&handmade(&section, 0x8000..0x1000_0000));
    assert!(matches!(refused, Err(UnwindError::TooMuch { what: "instructions", .. })));
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn what_is_no_elf_file_or_has_no_cfi_is_refused() {
    assert!(matches!(build(b""), Err(UnwindError::NotElf)));
    assert!(matches!(build(b"\x7fELF"), Err(UnwindError::NotElf)));
    assert!(matches!(build(&handmade(&[], 0x8000..0x9000)), Err(UnwindError::NoCfi)));
    assert!(matches!(build(&handmade(&common_entry(), 0..1)), Err(UnwindError::NoCfi)));
}
