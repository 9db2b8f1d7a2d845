//! Naming addresses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Reason, Sym, Symbolized, Symbolizer};

use super::file_pages::{FilePages, Resident};
use super::files::{FileTable, OpenFile};
use super::kallsyms::Kallsyms;
use super::lane::Answer;
use super::name_table::{Line, NameTable};
use super::perf_map::{self, PerfMap, PerfMapError, Version};
use super::protocol::{
    HEAVY_BYTES, MAX_ADDRESSES, NameFile, NameKernel, NamePerfMap, Names, Segment, reply, request,
};
use super::sys;
use super::target_path::descriptor_path;

/// Files kept parsed between requests, by what they take (`FileInfo::weight_bytes`).
const KEPT_BYTES: u64 = HEAVY_BYTES;

/// The most perf maps kept between requests.
const KEPT_PERF_MAPS: usize = 8;

/// Perf maps kept between requests together, in bytes.
const KEPT_PERF_MAP_BYTES: usize = 16 << 20;

/// After how long without a request everything is given up.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How long the kernel's symbols are kept: modules and BPF programs come and go.
const KERNEL_KEPT: Duration = Duration::from_secs(30);

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

/// Why a naming request has no answer.
#[derive(Debug, thiserror::Error)]
enum NameError {
    /// More addresses than the protocol allows.
    #[error("{0} addresses in one request, {MAX_ADDRESSES} are the most")]
    TooMany(usize),
    /// The file was not opened, or too many others have been since.
    #[error("the file to name is not open any more")]
    NotOpen,
    /// The kernel's symbols cannot be read.
    #[error("/proc/kallsyms: {0}")]
    Kernel(std::io::Error),
    /// The perf map cannot be read.
    #[error(transparent)]
    PerfMap(#[from] PerfMapError),
}

/// Answers a names lane. Stays in one thread: blazesym's types do.
pub(super) struct Namer {
    table: Arc<FileTable>,
    pages: Arc<FilePages>,
    /// The most recently used last.
    loaded: Vec<Loaded>,
    kernel: Option<(Instant, Kallsyms)>,
    /// The most recently used last.
    perf_maps: Vec<(u32, Version, PerfMap)>,
}

/// A file that blazesym has parsed, so far as it was asked.
struct Loaded {
    file: Arc<OpenFile>,
    symbolizer: Symbolizer,
    /// The debug file, if any, proved to be the right one.
    debug_file_agrees: bool,
}

/// One place to look names up in.
struct Place {
    path: String,
    debug: bool,
    /// What it is, for a warning.
    what: &'static str,
}

impl Namer {
    /// Names files of `table`.
    pub(super) fn new(table: Arc<FileTable>, pages: Arc<FilePages>) -> Self {
        Self { table, pages, loaded: Vec::new(), kernel: None, perf_maps: Vec::new() }
    }

    fn name_file(&mut self, request: &NameFile) -> Result<Names, NameError> {
        check_count(&request.file_offsets)?;
        let file = self.table.get(&request.key).ok_or(NameError::NotOpen)?;
        let mut names = NameTable::new(request.file_offsets.len());
        let Some(image) = &file.image else { return Ok(names.finish()) };

        let mut svmas: Vec<(u64, usize)> = request
            .file_offsets
            .iter()
            .enumerate()
            .filter_map(|(index, offset)| Some((svma(&image.segments, *offset)?, index)))
            .collect();
        svmas.sort_unstable();

        // Reading a mapping of a file cut short would end this process.
        let size_bytes = file.file.metadata().map_or(0, |metadata| metadata.len());
        if size_bytes != file.info.key.size_bytes {
            names.warn(&format!("{} was changed since it was mapped", file.path));
            return Ok(names.finish());
        }
        if is_heavy(&file) {
            self.forget_files(0);
            sys::trim_heap();
        }
        let mut loaded = self.take(&file);
        loaded.name(&svmas, request.no_inlines, &self.pages, self.table.debug_dirs(), &mut names);
        self.loaded.push(loaded);
        self.forget_files(KEPT_BYTES);
        Ok(names.finish())
    }

    /// The file's entry, taken out of those that are kept.
    fn take(&mut self, file: &Arc<OpenFile>) -> Loaded {
        let kept = self.loaded.iter().position(|loaded| loaded.file.info.key == file.info.key);
        kept.map_or_else(
            || Loaded::new(Arc::clone(file), self.table.debug_dirs()),
            |index| self.loaded.remove(index),
        )
    }

    /// Drops files until those left take no more than `budget`, the least recently used first.
    fn forget_files(&mut self, budget: u64) {
        let mut left = 0_u64;
        let keep = self
            .loaded
            .iter()
            .rev()
            .take_while(|loaded| {
                left = left.saturating_add(loaded.file.info.weight_bytes);
                left <= budget
            })
            .count();
        let drop = self.loaded.len() - keep;
        let heavy = self.loaded[..drop].iter().any(|loaded| is_heavy(&loaded.file));
        {
            let _mapping = self.pages.mapping();
            self.loaded.drain(..drop);
        }
        // What a light file leaves free, the next one takes.
        if heavy {
            sys::trim_heap();
        }
    }

    fn name_kernel(&mut self, request: &NameKernel) -> Result<Names, NameError> {
        check_count(&request.addresses)?;
        let mut names = NameTable::new(request.addresses.len());
        if self.kernel.as_ref().is_none_or(|(read, _)| read.elapsed() > KERNEL_KEPT) {
            self.kernel = None;
            self.kernel = Some((Instant::now(), Kallsyms::read().map_err(NameError::Kernel)?));
        }
        if let Some((_, kernel)) = &self.kernel {
            kernel.name(&request.addresses, &mut names);
        }
        Ok(names.finish())
    }

    fn name_perf_map(&mut self, request: &NamePerfMap) -> Result<Names, NameError> {
        check_count(&request.avmas)?;
        let mut names = NameTable::new(request.avmas.len());
        let found = perf_map::find(request)?;
        let version = found.version;
        let kept = self.perf_maps.iter().position(|(pid, _, _)| *pid == request.pid);
        let kept = kept.map(|index| self.perf_maps.remove(index));
        let map = match kept.filter(|(_, kept, _)| *kept == version) {
            Some((_, _, map)) => map,
            None => found.read()?,
        };
        map.name(&request.avmas, &mut names);
        self.perf_maps.push((request.pid, version, map));
        self.forget_perf_maps();
        Ok(names.finish())
    }

    fn forget_perf_maps(&mut self) {
        let mut left = 0;
        let keep = self
            .perf_maps
            .iter()
            .rev()
            .take(KEPT_PERF_MAPS)
            .take_while(|(_, _, map)| {
                left += map.size_bytes();
                left <= KEPT_PERF_MAP_BYTES
            })
            .count();
        let drop = self.perf_maps.len() - keep;
        if drop > 0 {
            self.perf_maps.drain(..drop);
            sys::trim_heap();
        }
    }
}

impl Answer for Namer {
    fn answer(&mut self, request: request::Kind) -> reply::Kind {
        let result = match request {
            request::Kind::NameFile(request) => self.name_file(&request),
            request::Kind::NameKernel(request) => self.name_kernel(&request),
            request::Kind::NamePerfMap(request) => self.name_perf_map(&request),
            request::Kind::Processes(_)
            | request::Kind::Process(_)
            | request::Kind::Open(_)
            | request::Kind::Unwind(_) => {
                return reply::Kind::Error("this is asked on another lane".to_owned());
            }
        };
        result.map_or_else(|error| reply::Kind::Error(error.to_string()), reply::Kind::Names)
    }

    fn rest_after(&self) -> Option<Duration> {
        let holds = !self.loaded.is_empty() || self.kernel.is_some() || !self.perf_maps.is_empty();
        holds.then_some(REST_AFTER)
    }

    fn rest(&mut self) {
        {
            let _mapping = self.pages.mapping();
            self.loaded = Vec::new();
        }
        self.kernel = None;
        self.perf_maps = Vec::new();
        sys::trim_heap();
    }
}

impl Loaded {
    fn new(file: Arc<OpenFile>, debug_dirs: &[std::path::PathBuf]) -> Self {
        let debug_file_agrees =
            file.debug_file.as_ref().is_some_and(super::debug_file::DebugFile::checksum_agrees);
        Self { file, symbolizer: symbolizer(debug_dirs), debug_file_agrees }
    }

    /// Names addresses, each from the first source that knows it.
    fn name(
        &mut self,
        svmas: &[(u64, usize)],
        no_inlines: bool,
        pages: &FilePages,
        debug_dirs: &[std::path::PathBuf],
        names: &mut NameTable,
    ) {
        let sources = self.sources(no_inlines, names);
        for source in sources {
            let unnamed: Vec<(u64, usize)> =
                svmas.iter().copied().filter(|(_, index)| names.is_unnamed(*index)).collect();
            if unnamed.is_empty() {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                self.look_up(&source, &unnamed, pages, debug_dirs, names)
            }));
            let complaint = match outcome {
                Ok(Ok(0)) => continue,
                Ok(Ok(_)) => "damaged in places".to_owned(),
                Ok(Err(error)) => format!("unreadable ({error:#})"),
                Err(_) => {
                    // What it holds may be half made.
                    self.start_anew(pages, debug_dirs);
                    "unreadable (the parser failed)".to_owned()
                }
            };
            names.warn(&format!("the {} of {} is {complaint}", source.what, self.file.path));
        }
    }

    /// Looks addresses up in one source; how many of them it failed on.
    fn look_up(
        &mut self,
        place: &Place,
        svmas: &[(u64, usize)],
        pages: &FilePages,
        debug_dirs: &[std::path::PathBuf],
        names: &mut NameTable,
    ) -> Result<usize, blazesym::Error> {
        let mut elf = Elf::new(&place.path);
        elf.debug_syms = place.debug;
        let source = Source::Elf(elf);
        let is_heavy = is_heavy(&self.file);
        let mut failed = 0;
        let mut addresses = Vec::with_capacity(BATCH);
        // Our own memory once the file is open, for what grows from there on: were it measured
        // against nothing, an index that is large by itself would be built for each batch.
        let mut opened_bytes = None;
        for batch in svmas.chunks(if is_heavy { HEAVY_BATCH } else { BATCH }) {
            addresses.clear();
            addresses.extend(batch.iter().map(|(svma, _)| *svma));
            {
                let _mapping = pages.mapping();
                let symbols = self.symbolizer.symbolize(&source, Input::VirtOffset(&addresses))?;
                for (symbol, (_, index)) in symbols.iter().zip(batch) {
                    match symbol {
                        Symbolized::Sym(symbol) => set(names, *index, symbol),
                        Symbolized::Unknown(Reason::IgnoredError) => failed += 1,
                        Symbolized::Unknown(_) => {}
                    }
                }
            }
            let Some(resident) = is_heavy.then(Resident::now).flatten() else { continue };
            let opened = *opened_bytes.get_or_insert(resident.own_bytes);
            if resident.own_bytes.saturating_sub(opened) > MOST_UNITS_BYTES {
                self.start_anew(pages, debug_dirs);
                sys::trim_heap();
                opened_bytes = None;
            } else if resident.files_bytes > MOST_FILE_PAGES_BYTES {
                pages.drop_all();
            }
        }
        Ok(failed)
    }

    /// Gives up what was parsed.
    fn start_anew(&mut self, pages: &FilePages, debug_dirs: &[std::path::PathBuf]) {
        let _mapping = pages.mapping();
        self.symbolizer = symbolizer(debug_dirs);
    }

    /// Where to look, the best first.
    fn sources(&self, no_inlines: bool, names: &mut NameTable) -> Vec<Place> {
        let mut sources = Vec::new();
        let own_path = descriptor_path(&self.file.file);
        if let Some(debug_file) = &self.file.debug_file {
            let path = descriptor_path(&debug_file.file);
            if !self.debug_file_agrees {
                names.warn(&format!(
                    "{} is not the debug file of {}: its checksum is another one",
                    debug_file.path.display(),
                    self.file.path
                ));
            } else if !no_inlines && debug_file.debug_is_safe {
                let what = "separate debug information";
                sources.push(Place { path: path.clone(), debug: true, what });
                sources.push(Place { path, debug: false, what: "separate symbol table" });
            } else {
                sources.push(Place { path, debug: false, what: "separate symbol table" });
            }
        }
        let debug = self.file.image.as_ref().map(|image| &image.debug);
        if let Some(debug) = debug.filter(|debug| debug.own && !no_inlines) {
            if debug.refers_elsewhere {
                names.warn(&format!(
                    "{} has no lines: part of its debug information is in another file",
                    self.file.path
                ));
            } else {
                let what = "debug information";
                sources.push(Place { path: own_path.clone(), debug: true, what });
            }
        }
        sources.push(Place { path: own_path, debug: false, what: "symbol table" });
        sources
    }
}

/// Takes a symbol over: blazesym has the function that holds the code first, then inlined ones
/// from the outermost to the innermost.
fn set(names: &mut NameTable, index: usize, symbol: &Sym<'_>) {
    let inlined = symbol.inlined.iter().rev();
    let inlined = inlined.map(|inlined| (&inlined.name, inlined.code_info.as_ref()));
    let outermost = std::iter::once((&symbol.name, symbol.code_info.as_deref()));
    let functions: Vec<(&str, String, u32)> = inlined
        .chain(outermost)
        .map(|(name, code)| {
            let file = code.map(|code| code.to_path().to_string_lossy().into_owned());
            let line = code.and_then(|code| code.line).unwrap_or_default();
            (name.as_ref(), file.unwrap_or_default(), line)
        })
        .collect();
    let lines = functions.iter();
    names.set(
        index,
        lines.map(|(function, file, line)| Line { function, file, line: *line, module: "" }),
    );
}

/// Whether a file takes so much that no other is kept beside it.
fn is_heavy(file: &OpenFile) -> bool {
    file.info.weight_bytes > HEAVY_BYTES
}

fn symbolizer(debug_dirs: &[std::path::PathBuf]) -> Symbolizer {
    Symbolizer::builder()
        .enable_auto_reload(false)
        // For parts of debug files that several share; see `debug_file`.
        .set_debug_dirs(Some(debug_dirs))
        .build()
}

fn svma(segments: &[Segment], file_offset: u64) -> Option<u64> {
    segments.iter().find_map(|segment| {
        let into = file_offset.checked_sub(segment.file_offset)?;
        (into < segment.size_bytes).then(|| segment.svma.wrapping_add(into))
    })
}

fn check_count(addresses: &[u64]) -> Result<(), NameError> {
    if addresses.len() > MAX_ADDRESSES {
        return Err(NameError::TooMany(addresses.len()));
    }
    Ok(())
}
