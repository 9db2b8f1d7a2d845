//! Where the runtime keeps the labels of its goroutines.

use std::{fs::File, sync::Arc, time::Duration};

use super::{
    super::{
        elf::{Header, Image, read_range},
        file_pages::FilePages,
        go_table::Found,
        patience::Patience,
        protocol::GoLabels,
        unwind::sections::Elf,
    },
    layout::{self, Layout},
    program::MAX_SYMBOL_BYTES,
    stripped,
};

/// What Go's linker calls the pointer to what runs, among the variables that each thread has.
const POINTER: &[u8] = b"runtime.tlsg";

/// Bytes of that pointer.
const POINTER_BYTES: u64 = 8;

/// How long looking for the collector's cycle may take, of a CPU.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where they are in a program of this version; `None`: that is not known.
pub(in super::super) fn of(
    file: &File,
    size_bytes: u64,
    image: &Image,
    version: &str,
    pages: &Arc<FilePages>,
) -> Option<GoLabels> {
    let layout = Layout::of(version)?;
    // On x86_64 each thread's variables end at the thread pointer. A program without C code has no
    // others, and does not say so.
    let bytes = image.thread_bytes.max(POINTER_BYTES);
    let into = if bytes == POINTER_BYTES { 0 } else { symbol(file, POINTER)? };
    let g = i64::try_from(into).ok()? - i64::try_from(bytes).ok()?;
    Some(GoLabels {
        g: i32::try_from(g).ok()?,
        m: layout::M,
        curg: layout.running,
        labels: layout.labels,
        is_map: layout.labels_are_map,
        cycle: cycle(file, size_bytes, pages).unwrap_or_default(),
        goid: u32::try_from(layout.goid()).ok()?,
    })
}

/// Where the number of the collector's cycle is, in any program, stripped or not.
fn cycle(file: &File, size_bytes: u64, pages: &Arc<FilePages>) -> Option<u64> {
    let bytes = pages.map(file, size_bytes).ok()?;
    let elf = Elf::parse(&bytes).ok()?;
    let patience = Patience::of(PATIENCE);
    let table = Found::find(&elf, &bytes, &patience)?;
    let functions = table.functions(&bytes, &patience);
    let mut all = (0..functions.count()).map_while(|index| functions.function(index));
    let (start, end, _) = all.find(|(.., name)| *name == stripped::CYCLE_FLUSHED.as_bytes())?;
    stripped::variables_in(&elf, start..end).first().copied()
}

/// The value of a symbol: of a variable that each thread has, where it is among those.
pub(super) fn symbol(file: &File, name: &[u8]) -> Option<u64> {
    let header = Header::read(file).ok()??;
    let (table, names) = header.symbol_table(file).ok()??;
    if table.size > MAX_SYMBOL_BYTES || names.size > MAX_SYMBOL_BYTES {
        return None;
    }
    let table = read_range(file, table.offset, table.size).ok()?;
    let names = read_range(file, names.offset, names.size).ok()?;
    let of_this_name = |at: usize| {
        let found = names.get(at..)?.get(..=name.len())?;
        (&found[..name.len()] == name && found[name.len()] == 0).then_some(())
    };
    super::program::symbols(&table).find_map(|symbol| {
        of_this_name(symbol.name as usize)?;
        Some(symbol.value)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::go_table::tests::{C_PROGRAM, PROGRAM, build, has_go},
        *,
    };

    #[test]
    fn the_cycle_is_where_symbols_have_it() {
        if !has_go() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let pages = Arc::default();
        for source in [PROGRAM, C_PROGRAM] {
            for mode in ["-buildmode=exe", "-buildmode=pie"] {
                let found = |name, flags: &[&str]| {
                    let path = build(directory.path(), name, source, flags);
                    let file = File::open(path).unwrap();
                    let size = file.metadata().unwrap().len();
                    (cycle(&file, size, &pages), symbol(&file, b"runtime.mProfCycle"))
                };
                let (cycle, named) = found("whole", &[mode]);
                assert!(named.is_some());
                assert_eq!(cycle, named, "{mode}");
                let (cycle, named) = found("stripped", &[mode, "-ldflags=-s -w"]);
                assert!(cycle.is_some() && named.is_none(), "{mode}: {cycle:?}, {named:?}");
            }
        }
    }
}
