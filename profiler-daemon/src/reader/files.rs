//! Opening mapped files, and the table of those that are open.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{MemfdFlags, Stat, fstat, memfd_create};
use sha2::{Digest, Sha256};

use super::debug_file::{DebugFile, DebugPlaces, Origin, find};
use super::elf::{ElfError, Image};
use super::file_pages::FilePages;
use super::mounts::Mounts;
use super::name_table::clean;
use super::perf_map::{self, HeldMaps, PerfMapError};
use super::plausible::{Costly, Symbols};
use super::protocol::{
    FileInfo, FileKey, GoBuild, NamePerfMap, Names, NamesFrom, Open, VDSO, reply,
};
use super::target_path::{Care, PathError, Root, open_regular, unescape};
use super::{go, go_build};

/// The most files kept open; each may hold its debug file open, too.
pub(super) const MAX_OPEN_FILES: usize = 1_024;

/// Bytes of a file's head and of its tail that go into its digest.
const DIGEST_PART_BYTES: u64 = 64 << 10;

/// Bytes of the digest that are shown: as many as a GNU build ID has.
const DIGEST_SHOWN_BYTES: usize = 20;

/// How many times its size compressed debug information takes, at most in practice.
const DECOMPRESSED_FACTOR: u64 = 5;

/// The largest vDSO that is copied, in bytes; x86_64's is two pages.
const MAX_VDSO_BYTES: u64 = 1 << 20;

/// Longest path taken from a request, in bytes (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4_096;

/// Why a file could not be opened or described.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// Neither the mapping nor the path leads to the file any more.
    #[error("{path} of process {pid} is gone: {reason}")]
    Gone {
        /// The path asked for.
        path: String,
        /// The process asked for.
        pid: u32,
        /// Why the mapping could not be opened.
        reason: PathError,
    },
    /// It starts as an ELF file does and is none.
    #[error("{path}: {error}")]
    Elf {
        /// The path asked for.
        path: String,
        /// What is wrong with it.
        error: ElfError,
    },
    /// It cannot be had without touching what may not answer.
    #[error("{path} of process {pid} is left to the other reader: {reason}")]
    Elsewhere {
        /// The path asked for.
        path: String,
        /// The process asked for.
        pid: u32,
        /// What is in the way.
        reason: PathError,
    },
    /// A system call on the open file failed.
    #[error("{path}: {call}: {io_error}")]
    Call {
        /// The path asked for.
        path: String,
        /// The call.
        call: &'static str,
        /// Its error.
        io_error: std::io::Error,
    },
    /// This process has no vDSO (`vdso=0` on the kernel's command line).
    #[error("there is no vDSO")]
    NoVdso,
}

/// A file that is held open.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// The file.
    pub(super) file: File,
    /// Its path as a process saw it.
    pub(super) path: String,
    /// What it holds; `None` for what is no ELF file.
    pub(super) image: Option<Image>,
    /// The file with its debug information, if that is another one.
    pub(super) debug_file: Option<DebugFile>,
    /// What the core was told of it.
    pub(super) info: FileInfo,
    /// What naming it has shown.
    pub(super) costs: Costs,
}

/// Debug information that took too long so often is not tried again.
pub(super) const DEBUG_STRIKES: u32 = 2;

/// What is known to be too costly to be tried again, in a file and in its debug file.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// How often debug information took too long to look something up in; it is left alone after
    /// [`DEBUG_STRIKES`].
    pub(super) debug_strikes: AtomicU32,
    /// What looking at their symbols came to.
    pub(super) symbols: [OnceLock<Result<Symbols, Costly>>; 2],
}

impl OpenFile {
    fn new(
        file: File,
        stat: &Stat,
        origin: &Origin<'_>,
        places: &DebugPlaces<'_>,
        pages: &Arc<FilePages>,
    ) -> Result<Self, FileError> {
        let path = origin.path.to_string_lossy().into_owned();
        let key = key_of(stat);
        let image =
            Image::read(&file).map_err(|error| FileError::Elf { path: path.clone(), error })?;
        let debug_file = image.as_ref().and_then(|image| find(image, origin, places));
        let build_id = match &image {
            None => String::new(),
            Some(image) if !image.build_id.is_empty() => hexadecimal(&image.build_id),
            Some(image) if !image.go_build_id.is_empty() => image.go_build_id.clone(),
            Some(_) => digest(&file, key.size_bytes).map_err(|io_error| FileError::Call {
                path: path.clone(),
                call: "pread",
                io_error,
            })?,
        };
        let go = image.as_ref().filter(|image| image.is_go()).map(|image| {
            let build = go_build::read(&file, image.debug.go_build.as_ref());
            let labels = go::labels::of(&file, key.size_bytes, image, &build.version, pages);
            Box::new(GoBuild { labels, ..build })
        });
        let info = FileInfo {
            key,
            build_id,
            segments: image.as_ref().map(|image| image.segments.clone()).unwrap_or_default(),
            uid: stat.st_uid,
            symbol_bytes: key
                .size_bytes
                .saturating_add(debug_file.as_ref().map_or(0, |debug| debug.size_bytes)),
            weight_bytes: weight_bytes(key.size_bytes, image.as_ref(), debug_file.as_ref()),
            names_from: names_from(image.as_ref(), debug_file.as_ref(), go.as_deref()).into(),
            debug_path: debug_file
                .as_ref()
                .map(|debug| clean(&debug.path.to_string_lossy(), MAX_PATH_BYTES))
                .unwrap_or_default(),
            go,
        };
        Ok(Self { file, path, image, debug_file, info, costs: Costs::default() })
    }
}

/// The best that a file can be named from.
fn names_from(
    image: Option<&Image>,
    debug_file: Option<&DebugFile>,
    go: Option<&GoBuild>,
) -> NamesFrom {
    let Some(debug) = image.map(|image| &image.debug) else { return NamesFrom::Nothing };
    if debug_file.is_some() {
        NamesFrom::DebugFile
    } else if debug.own {
        NamesFrom::DebugInformation
    // From 1.18 on it says its version, and its table is one that is read.
    } else if go.is_some_and(|go| !go.version.is_empty()) {
        NamesFrom::GoTable
    } else if debug.symbols {
        NamesFrom::Symbols
    } else if debug.dynamic_symbols {
        NamesFrom::DynamicSymbols
    } else {
        NamesFrom::Nothing
    }
}

/// An estimate of what naming a file takes, in bytes.
fn weight_bytes(size_bytes: u64, image: Option<&Image>, debug_file: Option<&DebugFile>) -> u64 {
    let factor = |compressed: bool| if compressed { DECOMPRESSED_FACTOR } else { 1 };
    let own = size_bytes.saturating_mul(factor(image.is_some_and(|image| image.debug.compressed)));
    let debug =
        debug_file.map_or(0, |debug| debug.size_bytes.saturating_mul(factor(debug.compressed)));
    own.saturating_add(debug)
}

/// Files that were opened and may be named, the least recently used going first.
#[derive(Debug)]
pub(super) struct FileTable {
    slots: Mutex<Slots>,
    debug_dirs: Vec<PathBuf>,
    mounts: Mounts,
    perf_maps: HeldMaps,
    vdso: Option<Arc<OpenFile>>,
    pages: Arc<FilePages>,
}

#[derive(Debug, Default)]
struct Slots {
    files: HashMap<FileKey, (u64, Arc<OpenFile>)>,
    clock: u64,
}

impl FileTable {
    /// An empty table, with a copy of this process's vDSO. To be made before the sandbox is
    /// entered.
    pub(super) fn new(debug_dirs: Vec<PathBuf>, pages: Arc<FilePages>) -> Self {
        let vdso = copy_vdso(&debug_dirs, &pages).ok().map(Arc::new);
        // The vDSO's copy is a memory file.
        let mounts = Mounts::new(vdso.as_ref().map_or(0, |vdso| vdso.info.key.device));
        let (slots, perf_maps) = (Mutex::default(), HeldMaps::default());
        Self { slots, debug_dirs, mounts, perf_maps, vdso, pages }
    }

    /// An empty table without even the vDSO.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn empty() -> Self {
        Self {
            slots: Mutex::default(),
            debug_dirs: Vec::new(),
            mounts: Mounts::new(0),
            perf_maps: HeldMaps::default(),
            vdso: None,
            pages: Arc::default(),
        }
    }

    /// The mounts that processes see.
    pub(super) fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Finds a perf map.
    ///
    /// # Errors
    ///
    /// [`PerfMapError`].
    pub(super) fn perf_map(&self, request: &NamePerfMap) -> Result<perf_map::Found, PerfMapError> {
        self.perf_maps.find(request, &self.mounts)
    }

    /// Answers `HoldPerfMap`. That there is none may change.
    pub(super) fn hold_perf_map(&self, request: &NamePerfMap) -> reply::Kind {
        match self.perf_maps.hold(request, &self.mounts) {
            Err(error @ PerfMapError::Elsewhere { .. }) => {
                reply::Kind::Elsewhere(error.to_string())
            }
            Ok(()) | Err(_) => reply::Kind::Names(Names::default()),
        }
    }

    /// Answers [`Open`].
    pub(super) fn answer(&self, request: &Open) -> reply::Kind {
        match self.open(request) {
            Ok(info) => reply::Kind::File(info),
            Err(error @ FileError::Elsewhere { .. }) => reply::Kind::Elsewhere(error.to_string()),
            Err(error) => reply::Kind::Error(error.to_string()),
        }
    }

    fn open(&self, request: &Open) -> Result<FileInfo, FileError> {
        if request.path == VDSO {
            return self.vdso.as_ref().map(|vdso| vdso.info.clone()).ok_or(FileError::NoVdso);
        }
        let shown = clean(&request.path, MAX_PATH_BYTES);
        let found = if request.anywhere {
            open_anywhere(request)
        } else {
            open_by_path(request, |pid| self.mounts.care(pid))
        };
        let file = found.map_err(|reason| match request.anywhere {
            true => FileError::Gone { path: shown.clone(), pid: request.pid, reason },
            false => FileError::Elsewhere { path: shown.clone(), pid: request.pid, reason },
        })?;
        let stat = fstat(&file).map_err(|errno| FileError::Call {
            path: shown,
            call: "fstat",
            io_error: errno.into(),
        })?;
        if let Some(known) = self.get(&key_of(&stat)) {
            return Ok(known.info.clone());
        }
        let path = unescape(&request.path);
        let origin = Origin { pid: request.pid, path: &path };
        let care = |pid| if request.anywhere { Ok(Care::None) } else { self.mounts.care(pid) };
        let places = DebugPlaces { dirs: &self.debug_dirs, care: &care };
        let opened = OpenFile::new(file, &stat, &origin, &places, &self.pages)?;
        let info = opened.info.clone();
        self.insert(opened);
        Ok(info)
    }

    /// An open file.
    pub(super) fn get(&self, key: &FileKey) -> Option<Arc<OpenFile>> {
        if let Some(vdso) = self.vdso.as_ref().filter(|vdso| vdso.info.key == *key) {
            return Some(Arc::clone(vdso));
        }
        let mut slots = self.slots();
        slots.clock += 1;
        let now = slots.clock;
        let (used, file) = slots.files.get_mut(key)?;
        *used = now;
        Some(Arc::clone(file))
    }

    /// Directories with debug files.
    pub(super) fn debug_dirs(&self) -> &[PathBuf] {
        &self.debug_dirs
    }

    fn insert(&self, file: OpenFile) {
        let mut slots = self.slots();
        slots.clock += 1;
        let now = slots.clock;
        if slots.files.len() >= MAX_OPEN_FILES {
            let oldest = slots.files.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                slots.files.remove(&oldest);
            }
        }
        slots.files.insert(file.info.key, (now, Arc::new(file)));
    }

    /// A panic elsewhere leaves the table whole: no operation on it is left half done.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a mapped file by its mapping, else by its path where what is found proves to be it.
fn open_anywhere(request: &Open) -> Result<File, PathError> {
    let Open { pid, start, end, .. } = request;
    let by_mapping = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    let reason = match open_regular(Path::new(&by_mapping)) {
        Ok(file) if is_the_one_reported(&file, request) => return Ok(file),
        Ok(_) => PathError::Call { call: "open", errno: rustix::io::Errno::STALE },
        Err(reason) => reason,
    };
    open_by_path(request, |_| Ok(Care::None)).map_err(|_| reason)
}

/// Opens a mapped file by its path below the process's root, then below ours. `care` says for a
/// process, or for ourselves, which files may be touched.
fn open_by_path(
    request: &Open,
    care: impl Fn(Option<u32>) -> std::io::Result<Care>,
) -> Result<File, PathError> {
    let plain = unescape(&request.path);
    let paths = [Path::new(&request.path), &plain];
    // Few paths hold what looks like an escape.
    let paths = &paths[..if paths[0] == paths[1] { 1 } else { 2 }];
    let mut reason = PathError::Call { call: "open", errno: rustix::io::Errno::NOENT };
    for pid in [Some(request.pid), None] {
        let root = care(pid).map_err(PathError::Mounts).and_then(|care| match pid {
            Some(pid) => Root::of_process(pid, care),
            None => Root::ours(care),
        });
        let root = match root {
            Ok(root) => root,
            // What hangs for the process is not looked for elsewhere.
            Err(error @ PathError::MayHang(_)) => return Err(error),
            Err(error) => {
                reason = error;
                continue;
            }
        };
        for path in paths {
            match root.open_regular(path) {
                Ok(file) if is_identified(&file, &root, request) => return Ok(file),
                Ok(_) => {
                    reason = PathError::Call { call: "open", errno: rustix::io::Errno::STALE };
                }
                Err(error @ PathError::MayHang(_)) => return Err(error),
                Err(error) => reason = error,
            }
        }
    }
    Err(reason)
}

/// Whether a file that a mapping led to is not shown to be another one than the kernel reported:
/// the addresses may have been mapped anew since. Device and inode prove nothing here, as btrfs
/// and overlayfs show others in `maps` than in `stat`.
fn is_the_one_reported(file: &File, request: &Open) -> bool {
    request.build_id.is_empty()
        || !matches!(Image::read(file), Ok(Some(image)) if image.build_id != request.build_id)
}

fn is_identified(file: &File, root: &Root, request: &Open) -> bool {
    if request.build_id.is_empty() {
        return request.inode != 0
            && fstat(file).is_ok_and(|stat| {
                stat.st_ino == request.inode
                    && (stat.st_dev == request.device || root.has_two_devices(file))
            });
    }
    matches!(Image::read(file), Ok(Some(image)) if image.build_id == request.build_id)
}

fn key_of(stat: &Stat) -> FileKey {
    // The fields' types differ between architectures; ctimes and sizes fit where they go.
    #[expect(clippy::unnecessary_cast, reason = "types differ between architectures")]
    let ctime_ns =
        (stat.st_ctime as i64).wrapping_mul(1_000_000_000).wrapping_add(stat.st_ctime_nsec as i64);
    FileKey {
        device: stat.st_dev,
        inode: stat.st_ino,
        ctime_ns,
        size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
    }
}

/// Copies this process's vDSO, which is the same in all processes of one word size, into a file.
fn copy_vdso(debug_dirs: &[PathBuf], pages: &Arc<FilePages>) -> Result<OpenFile, FileError> {
    let failed = |call| {
        move |io_error: std::io::Error| FileError::Call { path: VDSO.to_owned(), call, io_error }
    };
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(failed("read"))?;
    let range = maps
        .lines()
        .find(|line| line.ends_with(VDSO))
        .and_then(|line| line.split_once(' ')?.0.split_once('-'))
        .and_then(|(start, end)| {
            let start = u64::from_str_radix(start, 16).ok()?;
            Some(start..u64::from_str_radix(end, 16).ok()?)
        })
        .filter(|range| range.start < range.end && range.end - range.start <= MAX_VDSO_BYTES)
        .ok_or(FileError::NoVdso)?;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let memory = File::open("/proc/self/mem").map_err(failed("open"))?;
    memory.read_exact_at(&mut bytes, range.start).map_err(failed("pread"))?;
    let copy = memfd_create("vdso", MemfdFlags::CLOEXEC)
        .map_err(|errno| failed("memfd_create")(errno.into()))?;
    let copy = File::from(copy);
    copy.write_all_at(&bytes, 0).map_err(failed("pwrite"))?;
    let stat = fstat(&copy).map_err(|errno| failed("fstat")(errno.into()))?;
    let origin = Origin { pid: std::process::id(), path: Path::new(VDSO) };
    // Of no path: it is looked for in debug directories alone.
    let places =
        DebugPlaces { dirs: debug_dirs, care: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    OpenFile::new(copy, &stat, &origin, &places, pages)
}

/// A name for contents that carry none: not proof against forgery, as a build ID is not, either.
fn digest(file: &File, size_bytes: u64) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let part = size_bytes.min(DIGEST_PART_BYTES);
    let mut bytes = vec![0; part as usize];
    for offset in [0, size_bytes - part] {
        file.read_exact_at(&mut bytes, offset)?;
        hasher.update(&bytes);
    }
    hasher.update(size_bytes.to_le_bytes());
    Ok(format!("digest-{}", hexadecimal(&hasher.finalize()[..DIGEST_SHOWN_BYTES])))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
