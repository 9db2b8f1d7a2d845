//! Where the runtime keeps the labels of its goroutines.

use std::fs::File;

use super::{
    super::{
        elf::{Header, Image, read_range},
        protocol::GoLabels,
    },
    layout::{self, Layout},
    program::MAX_SYMBOL_BYTES,
};

/// What Go's linker calls the pointer to what runs, among the variables that each thread has.
const POINTER: &[u8] = b"runtime.tlsg";

/// Bytes of that pointer.
const POINTER_BYTES: u64 = 8;

/// Where they are in a program of this version; `None`: that is not known.
pub(in super::super) fn of(file: &File, image: &Image, version: &str) -> Option<GoLabels> {
    let layout = Layout::of(version)?;
    // On x86_64 each thread's variables end at the thread pointer. A program without C code has no
    // others, and does not say so.
    let bytes = image.thread_bytes.max(POINTER_BYTES);
    let into = if bytes == POINTER_BYTES { 0 } else { pointer(file)? };
    let g = i64::try_from(into).ok()? - i64::try_from(bytes).ok()?;
    Some(GoLabels {
        g: i32::try_from(g).ok()?,
        m: layout::M,
        curg: layout.running,
        labels: layout.labels,
        is_map: layout.labels_are_map,
    })
}

/// Where the pointer is among the variables that each thread has.
fn pointer(file: &File) -> Option<u64> {
    let header = Header::read(file).ok()??;
    let (table, names) = header.symbol_table(file).ok()??;
    if table.size > MAX_SYMBOL_BYTES || names.size > MAX_SYMBOL_BYTES {
        return None;
    }
    let table = read_range(file, table.offset, table.size).ok()?;
    let names = read_range(file, names.offset, names.size).ok()?;
    let of_this_name = |at: usize| {
        let name = names.get(at..)?.get(..=POINTER.len())?;
        (&name[..POINTER.len()] == POINTER && name[POINTER.len()] == 0).then_some(())
    };
    super::program::symbols(&table).find_map(|symbol| {
        of_this_name(symbol.name as usize)?;
        Some(symbol.value)
    })
}
