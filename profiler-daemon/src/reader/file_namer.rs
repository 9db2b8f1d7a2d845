//! Naming addresses of one file.
//!
//! Functions and lines of Go programs come from a table of Go's own, which `go_table` reads: it is in
//! stripped programs, too, and takes less to read than their DWARF. Others come from DWARF, which
//! `dwarf` reads; symbol tables, and the DWARF that `dwarf` does not read, are blazesym's.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Reason, Sym, Symbolized, Symbolizer};

use super::debug_file::DebugFile;
use super::demangle::{Demangler, MAX_WRITTEN_BYTES};
use super::dwarf::{self, DebugInfo, DwarfError};
use super::file_pages::{FileBytes, FilePages, Held, Resident};
use super::files::{DEBUG_STRIKES, OpenFile};
use super::go_table::{self, GoTable, GoTableError};
use super::name_places::{Kind, Place};
use super::name_table::{Line, NameTable};
use super::patience::Patience;
use super::plausible::{Costly, Symbols, check_debug};
use super::protocol::HEAVY_BYTES;
use super::sys;
use super::target_path::descriptor_path;

/// Addresses of a light file given to blazesym at once: bounds what their names take before they
/// are copied.
const BATCH: usize = 1_024;

/// The same of a heavy file: after each batch we look at what it took. Addresses are in order, so
/// that a batch is in few of the file's units.
const HEAVY_BATCH: usize = 16;

/// Pages of files that a heavy file may bring into this process, in bytes.
const MOST_FILE_PAGES_BYTES: u64 = 8 << 20;

/// What blazesym may keep of a heavy file's parsed units, in bytes: it drops none by itself.
const MOST_UNITS_BYTES: u64 = 64 << 20;

/// For how long debug information may keep us busy for one request, and symbol tables after it: the
/// core waits for twice that and some. Code that was not optimized gets more.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 8 } else { 3 });

/// Why a source of names is of no use.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    /// What blazesym reads.
    #[error("{0:#}")]
    Blazesym(#[from] blazesym::Error),
    /// What `dwarf` reads.
    #[error(transparent)]
    Dwarf(#[from] DwarfError),
    /// What `go_table` reads.
    #[error(transparent)]
    GoTable(#[from] GoTableError),
    /// It could not be mapped.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It keeps us busy for too long.
    #[error("it takes too long to read")]
    TooLong,
    /// It was tried before.
    #[error("as it was before")]
    Refused,
    /// It would keep us busy for too long.
    #[error(transparent)]
    Costly(#[from] Costly),
    /// It was cut since it was opened: reading a mapping of it would end this process.
    #[error("changed since it was opened")]
    Changed,
}

/// A file, parsed so far as its names were asked for.
pub(super) struct FileNamer {
    file: Arc<OpenFile>,
    pages: Arc<FilePages>,
    debug_dirs: Vec<PathBuf>,
    /// Set up when it is first needed.
    symbolizer: Option<Held<Symbolizer>>,
    debug_info: Dwarf,
    go_table: Go,
    /// The debug file, if any, proved to be the right one.
    debug_file_agrees: bool,
}

/// What is known of a file's DWARF.
enum Dwarf {
    Unread,
    Read(Box<DebugInfo>),
    /// It is one for blazesym.
    NotOurs,
}

/// What is known of a file's table of Go functions.
enum Go {
    Unread,
    Read(Box<GoTable>),
    /// It has none, or one that cannot be read.
    Nothing,
}

/// What one request may take and is to tell, over all places.
struct Limits {
    /// Neither lines nor inlined functions are asked for.
    no_inlines: bool,
    debug: Patience,
    /// Begins with the first of them.
    symbols: OnceCell<Patience>,
    demangler: Demangler,
}

impl Limits {
    fn begin(no_inlines: bool) -> Self {
        let debug = Patience::of(PATIENCE);
        Self { no_inlines, debug, symbols: OnceCell::new(), demangler: Demangler::default() }
    }

    fn patience(&self, place: &Place<'_>) -> &Patience {
        match place.kind {
            Kind::GoTable | Kind::Debug => &self.debug,
            Kind::Symbols => self.symbols.get_or_init(|| Patience::of(PATIENCE)),
        }
    }
}

/// Lines of addresses whose functions are not known yet.
type Lines = HashMap<usize, dwarf::Line>;

impl FileNamer {
    /// A file of which nothing is parsed yet. Debug files are looked for below `debug_dirs`.
    pub(super) fn new(file: Arc<OpenFile>, pages: &Arc<FilePages>, debug_dirs: &[PathBuf]) -> Self {
        Self {
            debug_file_agrees: file.debug_file.as_ref().is_some_and(DebugFile::checksum_agrees),
            file,
            pages: Arc::clone(pages),
            debug_dirs: debug_dirs.to_vec(),
            symbolizer: None,
            debug_info: Dwarf::Unread,
            go_table: Go::Unread,
        }
    }

    /// The file.
    pub(super) fn file(&self) -> &OpenFile {
        &self.file
    }

    /// Names addresses, each from the first source that knows it. `svmas` are in order, each with
    /// its index in `names`.
    pub(super) fn name(&mut self, svmas: &[(u64, usize)], no_inlines: bool, names: &mut NameTable) {
        let file = Arc::clone(&self.file);
        let mut lines = Lines::new();
        let limits = Limits::begin(no_inlines);
        for source in Place::all(&file, self.debug_file_agrees, no_inlines, names) {
            let unnamed: Vec<(u64, usize)> =
                svmas.iter().copied().filter(|(_, index)| names.is_unnamed(*index)).collect();
            if unnamed.is_empty() {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                self.look_up(&source, &unnamed, &limits, &mut lines, names)
            }));
            let complaint = match outcome {
                Ok(Ok(0)) => continue,
                Ok(Ok(_)) => "damaged in places".to_owned(),
                Ok(Err(error)) => format!("unreadable ({error})"),
                Err(_) => {
                    // What it holds may be half made.
                    self.symbolizer = None;
                    "unreadable (the parser failed)".to_owned()
                }
            };
            names.warn(&format!("the {} of {} is {complaint}", source.what, self.file.path));
        }
        if limits.demangler.has_given_up() {
            let path = &self.file.path;
            names.warn(&format!("names of {path} stay mangled: they take too long to demangle"));
        }
    }

    /// Looks addresses up in one source; how many of them it failed on.
    fn look_up(
        &mut self,
        place: &Place<'_>,
        svmas: &[(u64, usize)],
        limits: &Limits,
        lines: &mut Lines,
        names: &mut NameTable,
    ) -> Result<usize, SourceError> {
        let patience = limits.patience(place);
        if place.kind == Kind::GoTable {
            return self.look_up_go(place, svmas, limits, names);
        }
        if place.kind == Kind::Debug {
            self.read_dwarf(place, patience)?;
            if let Dwarf::Read(debug_info) = &self.debug_info {
                let failed = self.look_up_dwarf(debug_info, svmas, limits, lines, names);
                if failed > 0 && patience.is_over() {
                    self.debug_info = Dwarf::Unread;
                    self.strike_debug(1);
                    return Err(SourceError::TooLong);
                }
                return Ok(failed);
            }
        } else {
            self.check_symbols(place, svmas.len())?;
        }
        self.ask_blazesym(place, svmas, limits, lines, names)
    }

    fn look_up_go(
        &mut self,
        place: &Place<'_>,
        svmas: &[(u64, usize)],
        limits: &Limits,
        names: &mut NameTable,
    ) -> Result<usize, SourceError> {
        let patience = limits.patience(place);
        if matches!(self.go_table, Go::Unread) {
            self.go_table = Go::Nothing;
            let bytes = self.map(place)?;
            if let Some(table) = GoTable::read(bytes, patience, || self.pause())? {
                self.go_table = Go::Read(Box::new(table));
            }
        }
        let Go::Read(table) = &self.go_table else { return Ok(0) };
        if !limits.no_inlines && !table.has_inlined() {
            let path = &self.file.path;
            names.warn(&format!("{path} has no inlined functions: it is of a Go not known here"));
        }
        let (addresses, indexes): (Vec<u64>, Vec<usize>) = svmas.iter().copied().unzip();
        let take = |index: usize, frames: &[go_table::Frame<'_>]| {
            let lines = frames.iter().map(|frame| Line {
                function: &frame.function,
                file: &frame.file,
                line: frame.line,
                start_line: frame.start_line,
                module: "",
            });
            names.set(indexes[index], lines);
        };
        let with_lines = !limits.no_inlines;
        let failed = table.look_up(&addresses, with_lines, patience, take, || self.pause());
        if failed > 0 && patience.is_over() {
            return Err(SourceError::TooLong);
        }
        Ok(failed)
    }

    /// Maps the file of a place.
    fn map(&self, place: &Place<'_>) -> Result<FileBytes, SourceError> {
        if place.file.metadata()?.len() != place.size_bytes {
            return Err(SourceError::Changed);
        }
        Ok(self.pages.map(place.file, place.size_bytes)?)
    }

    fn read_dwarf(&mut self, place: &Place<'_>, patience: &Patience) -> Result<(), SourceError> {
        if !matches!(self.debug_info, Dwarf::Unread) {
            return Ok(());
        }
        if self.file.costs.debug_strikes.load(Ordering::Relaxed) >= DEBUG_STRIKES {
            return Err(SourceError::Refused);
        }
        let bytes = self.map(place)?;
        if !is_heavy(&self.file) {
            bytes.prefetch();
        }
        let checked = self.pages.map(place.file, place.size_bytes)?;
        let read = DebugInfo::read(bytes, patience, || self.pause()).map_err(SourceError::from);
        let known = read.and_then(|read| match read {
            Some(debug_info) => Ok(Dwarf::Read(Box::new(debug_info))),
            None => check_debug(&checked).map(|()| Dwarf::NotOurs).map_err(SourceError::from),
        });
        if known.is_err() {
            self.strike_debug(DEBUG_STRIKES);
        }
        self.debug_info = known?;
        Ok(())
    }

    /// Notes that debug information took too long, or cannot be read at all.
    fn strike_debug(&self, strikes: u32) {
        self.file.costs.debug_strikes.fetch_add(strikes, Ordering::Relaxed);
    }

    /// Whether blazesym may look so many addresses up in the symbols of a place.
    fn check_symbols(&self, place: &Place<'_>, addresses: usize) -> Result<(), SourceError> {
        let known = &self.file.costs.symbols[usize::from(place.is_debug_file)];
        let symbols = match known.get() {
            Some(known) => *known,
            None => {
                let bytes = self.map(place)?;
                *known.get_or_init(|| Symbols::of(&bytes))
            }
        };
        Ok(symbols?.allow(addresses)?)
    }

    fn look_up_dwarf(
        &self,
        debug_info: &DebugInfo,
        svmas: &[(u64, usize)],
        limits: &Limits,
        lines: &mut Lines,
        names: &mut NameTable,
    ) -> usize {
        let (addresses, indexes): (Vec<u64>, Vec<usize>) = svmas.iter().copied().unzip();
        let take = |index: usize, place: dwarf::Place| {
            let index = indexes[index];
            let frames = place.frames.iter().map(|frame| Line {
                function: &frame.function,
                file: frame.line.as_ref().map_or("", |line| &line.file),
                line: frame.line.as_ref().map_or(0, |line| line.number),
                start_line: frame.start_line,
                module: "",
            });
            // The function that all the others are inlined in; a symbol table may have its name.
            let is_named = place.frames.last().is_some_and(|frame| !frame.function.is_empty());
            if is_named {
                names.set(index, frames);
            } else if let Some(line) = place.line {
                lines.insert(index, line);
            }
        };
        debug_info.look_up(&addresses, &limits.debug, &limits.demangler, take, || self.pause())
    }

    /// Gives pages of files back, if they are too many.
    fn pause(&self) {
        if is_heavy(&self.file)
            && Resident::now().is_some_and(|now| now.files_bytes > MOST_FILE_PAGES_BYTES)
        {
            self.pages.drop_all();
        }
    }

    fn ask_blazesym(
        &mut self,
        place: &Place<'_>,
        svmas: &[(u64, usize)],
        limits: &Limits,
        lines: &Lines,
        names: &mut NameTable,
    ) -> Result<usize, SourceError> {
        let patience = limits.patience(place);
        let mut elf = Elf::new(descriptor_path(place.file));
        elf.debug_syms = place.kind == Kind::Debug;
        let source = Source::Elf(elf);
        let is_heavy = is_heavy(&self.file);
        let mut failed = 0;
        let mut addresses = Vec::with_capacity(BATCH);
        // Our own memory once the file is open, for what grows from there on: were it measured
        // against nothing, an index that is large by itself would be built for each batch.
        let mut opened_bytes = None;
        for batch in svmas.chunks(if is_heavy { HEAVY_BATCH } else { BATCH }) {
            if patience.is_over() {
                return Err(SourceError::TooLong);
            }
            addresses.clear();
            addresses.extend(batch.iter().map(|(svma, _)| *svma));
            let symbolizer = self
                .symbolizer
                .get_or_insert_with(|| self.pages.hold(symbolizer(&self.debug_dirs)));
            {
                let _mapping = self.pages.mapping();
                let symbols = symbolizer.symbolize(&source, Input::VirtOffset(&addresses))?;
                for (symbol, (_, index)) in symbols.iter().zip(batch) {
                    match symbol {
                        Symbolized::Sym(symbol) => {
                            set(names, *index, symbol, lines.get(index), &limits.demangler);
                        }
                        Symbolized::Unknown(Reason::IgnoredError) => failed += 1,
                        Symbolized::Unknown(_) => {}
                    }
                }
            }
            let Some(resident) = is_heavy.then(Resident::now).flatten() else { continue };
            let opened = *opened_bytes.get_or_insert(resident.own_bytes);
            if resident.own_bytes.saturating_sub(opened) > MOST_UNITS_BYTES {
                self.symbolizer = None;
                sys::trim_heap();
                opened_bytes = None;
            } else if resident.files_bytes > MOST_FILE_PAGES_BYTES {
                self.pages.drop_all();
            }
        }
        Ok(failed)
    }
}

/// Takes a symbol over: blazesym has the function that holds the code first, then inlined ones
/// from the outermost to the innermost. `line` is where the code is, if the symbol does not say.
fn set(
    names: &mut NameTable,
    index: usize,
    symbol: &Sym<'_>,
    line: Option<&dwarf::Line>,
    demangler: &Demangler,
) {
    let inlined = symbol.inlined.iter().rev();
    let inlined = inlined.map(|inlined| (&inlined.name, inlined.code_info.as_ref()));
    let outermost = std::iter::once((&symbol.name, symbol.code_info.as_deref()));
    let functions: Vec<(String, String, u32)> = inlined
        .chain(outermost)
        .map(|(name, code)| {
            let known = line.map(|line| (line.file.to_string(), line.number));
            let (file, line) = match code {
                Some(code) => {
                    (code.to_path().to_string_lossy().into_owned(), code.line.unwrap_or_default())
                }
                None => known.unwrap_or_default(),
            };
            (demangler.demangle(cut(name), None), file, line)
        })
        .collect();
    let lines = functions.iter();
    names.set(
        index,
        lines.map(|(function, file, line)| Line { function, file, line: *line, ..Line::default() }),
    );
}

/// Whether a file takes so much that no other is kept beside it.
pub(super) fn is_heavy(file: &OpenFile) -> bool {
    file.info.weight_bytes > HEAVY_BYTES
}

/// As much of a name as is taken.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_WRITTEN_BYTES)]
}

fn symbolizer(debug_dirs: &[PathBuf]) -> Symbolizer {
    Symbolizer::builder()
        .enable_auto_reload(false)
        // Demangling is a decompression: ours is bounded.
        .enable_demangling(false)
        // For parts of debug files that several share; see `debug_file`.
        .set_debug_dirs(Some(debug_dirs))
        .build()
}
