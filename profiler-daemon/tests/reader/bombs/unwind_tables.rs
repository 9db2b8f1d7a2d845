//! Call frame information, and what unwind tables are made of beside it.

use super::elf::{CODE, CODE_BYTES, Elf, section, symbol, with_symbols};
use super::{explode_elf, scaled};

/// Executable segments and unwind tables of Go functions that are all the same code in the file,
/// which makes a frame and never switches stacks.
fn go_functions(count: u64) -> Elf {
    const FUNCTION_BYTES: u64 = 512;
    const SEGMENTS: u64 = 60;
    let segment_bytes = (count / SEGMENTS + 1) * FUNCTION_BYTES;
    let mut function = vec![0x55, 0x48, 0x89, 0xe5];
    function.resize(FUNCTION_BYTES as usize, 0x90);
    let mut debug_frame = 16_u32.to_le_bytes().to_vec();
    debug_frame.extend(u32::MAX.to_le_bytes());
    // Version 1, "", factors 1 and -8, column 16; cfa = rsp + 8, rip at cfa - 8.
    debug_frame.extend([1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0]);
    for n in 0..count {
        debug_frame.extend([20, 0].map(u32::to_le_bytes).concat());
        let svma = CODE + CODE_BYTES + n * FUNCTION_BYTES;
        debug_frame.extend([svma, FUNCTION_BYTES].map(u64::to_le_bytes).concat());
    }
    let mut elf = Elf::of(vec![
        section(".text", function.repeat((segment_bytes / FUNCTION_BYTES) as usize)),
        section(".debug_frame", debug_frame),
        section(".gopclntab", Vec::new()),
    ]);
    // The first section follows the program headers.
    let offset = 64 + (SEGMENTS + 1) * 56;
    elf.programs = (0..SEGMENTS)
        .map(|n| (1, 5, offset, CODE + CODE_BYTES + n * segment_bytes, segment_bytes))
        .collect();
    elf
}

#[test]
fn runtime_functions_without_end() {
    // Go's `mcall`, in front of code without what it is known by: four million times at one
    // address, and at as many addresses as there are.
    for (file, step) in [("go-runtime", 0), ("go-runtime-apart", 7)] {
        let address = |n: u64| CODE + n * step % CODE_BYTES;
        let mut sections = with_symbols(
            (0..scaled(4_000_000)).flat_map(|n| symbol(1, address(n), CODE_BYTES)).collect(),
            b"\0runtime.mcall\0".into(),
        );
        sections.push(section(".gopclntab", Vec::new()));
        sections.push(section(".text", vec![0x90; CODE_BYTES as usize]));
        let outcome = explode_elf(file, Elf::of(sections));
        assert!(!outcome.no_table.is_empty(), "{outcome:?}");
    }
}

#[test]
fn go_functions_without_end() {
    let outcome = explode_elf("go-functions", go_functions(scaled(2_000_000)));
    // Fewer, in a debug build, are not too many.
    let is_refused = outcome.no_table.contains("more than");
    assert_eq!(is_refused, !cfg!(debug_assertions), "{outcome:?}");
}

#[test]
fn code_in_thousands_of_segments() {
    let mut elf = Elf::of(with_symbols(
        (0..scaled(4_000_000)).flat_map(|n| symbol(1, CODE + (n << 33), 1)).collect(),
        b"\0Builtins_A\0".into(),
    ));
    elf.programs = (1..4_000).map(|n| (1, 5, 0, CODE + (n << 32), 4_096)).collect();
    explode_elf("many-segments", elf);
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
