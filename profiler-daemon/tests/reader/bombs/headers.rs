//! Headers, sections and notes.

use std::fs;

use super::elf::{Elf, SHT_STRTAB, SHT_SYMTAB, Section, section};
use super::{bomb, explode, explode_elf};

#[test]
fn a_sparse_terabyte_of_everything() {
    // `.eh_frame`, `.debug_frame`, symbols and debug information of 1 TB, which are zeros.
    let names = [".eh_frame", ".debug_frame", ".debug_info", ".debug_line", ".debug_str"];
    let sections = names.map(|name| Section { stated: Some(1 << 39), ..section(name, Vec::new()) });
    let mut sections = Vec::from(sections);
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
