//! Finding the separate file that holds a binary's debug information.
//!
//! The places are GDB's ("Debugging Information in Separate Files"): by build ID below each debug
//! directory, then by the name in `.gnu_debuglink` beside the binary, in `.debug` beside it, and
//! below each debug directory. The process's own file system is looked at after ours, so that a
//! container's debug packages count.
//!
//! blazesym follows such links by itself, but from the path that `/proc/self/fd/N` shows, which in
//! another mount namespace names another file, and without looking what it opens. So a file that
//! holds links is not given to it as a source of debug information, unless an administrator's
//! debug directory holds it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::elf::Image;
use super::target_path::{Care, Root, open_regular};

/// Where build IDs are found in a debug directory.
const BUILD_ID_DIR: &str = ".build-id";

/// The shortest build ID that makes a path, in bytes.
const SHORTEST_BUILD_ID_BYTES: usize = 8;

/// The largest file whose checksum is computed, in bytes: whoever wrote the binary chose it.
const MAX_CHECKSUM_BYTES: u64 = 2 << 30;

/// Bytes read at once for a checksum.
const CHUNK_BYTES: usize = 64 << 10;

/// A file that holds a binary's debug information.
#[derive(Debug)]
pub(super) struct DebugFile {
    /// The file.
    pub(super) file: File,
    /// Its size, in bytes.
    pub(super) size_bytes: u64,
    /// Some of its contents are compressed.
    pub(super) compressed: bool,
    /// Where it was found.
    pub(super) path: PathBuf,
    /// The CRC-32 it must have, if build IDs do not prove that it belongs to the binary.
    pub(super) crc: Option<u32>,
    /// Whether it has it, once that was looked at.
    crc_agrees: OnceLock<bool>,
    /// Its debug information may be read: it does not refer to further files, or an
    /// administrator put it where it is.
    pub(super) debug_is_safe: bool,
}

/// Where a binary was found.
pub(super) struct Origin<'a> {
    /// The process that maps it.
    pub(super) pid: u32,
    /// Its path as that process sees it.
    pub(super) path: &'a Path,
}

/// Where debug files are looked for.
pub(super) struct DebugPlaces<'a> {
    /// Debug directories. An administrator named them: they are taken to answer.
    pub(super) dirs: &'a [PathBuf],
    /// Which files may be touched as a process sees them, or, without one, as we do.
    pub(super) care: &'a dyn Fn(Option<u32>) -> std::io::Result<Care>,
}

/// Finds the debug file of a binary that has no debug information of its own.
pub(super) fn find(
    image: &Image,
    origin: &Origin<'_>,
    places: &DebugPlaces<'_>,
) -> Option<DebugFile> {
    let DebugPlaces { dirs: debug_dirs, care } = *places;
    if image.debug.own {
        return None;
    }
    let build_id_path = build_id_path(&image.build_id);
    let link = image.debug.link.as_ref().map(|link| OsStr::from_bytes(&link.name));
    if build_id_path.is_none() && link.is_none() {
        return None;
    }
    let directory = origin.path.parent().unwrap_or(Path::new("/"));
    let in_debug_dirs = || {
        let by_id =
            build_id_path.iter().flat_map(|path| debug_dirs.iter().map(move |dir| dir.join(path)));
        let by_link = link.iter().flat_map(|name| {
            debug_dirs.iter().map(move |dir| {
                let below = directory.strip_prefix("/").unwrap_or(directory);
                dir.join(below).join(name)
            })
        });
        by_id.chain(by_link)
    };
    let trusted = in_debug_dirs().find_map(|path| {
        let file = open_regular(&path).ok()?;
        accept(image, file, path, true)
    });
    if trusted.is_some() {
        return trusted;
    }
    let beside = || {
        link.iter().flat_map(|name| {
            [directory.join(name), directory.join(".debug").join(name)]
                .into_iter()
                .filter(|path| path != origin.path)
        })
    };
    [Some(origin.pid), None].into_iter().find_map(|pid| {
        let care = care(pid).ok()?;
        let root =
            pid.map_or_else(|| Root::ours(care.clone()), |pid| Root::of_process(pid, care.clone()));
        let root = root.ok()?;
        beside().chain(in_debug_dirs()).find_map(|path| {
            let file = root.open_linked(&path).ok()?;
            accept(image, file, path, false)
        })
    })
}

/// Whether a file belongs to the binary: build IDs decide where both have one.
fn accept(image: &Image, file: File, path: PathBuf, trusted: bool) -> Option<DebugFile> {
    let size_bytes = file.metadata().ok()?.len();
    let candidate = Image::read(&file).ok()??;
    let crc = if image.build_id.is_empty() || candidate.build_id.is_empty() {
        Some(image.debug.link.as_ref()?.crc)
    } else if image.build_id == candidate.build_id {
        None
    } else {
        return None;
    };
    let debug_is_safe = trusted || !candidate.debug.refers_elsewhere;
    let compressed = candidate.debug.compressed;
    let crc_agrees = OnceLock::new();
    Some(DebugFile { file, size_bytes, compressed, path, crc, crc_agrees, debug_is_safe })
}

impl DebugFile {
    /// Whether the checksum that `.gnu_debuglink` states is the file's. Reads the whole file, the
    /// first time.
    pub(super) fn checksum_agrees(&self) -> bool {
        self.crc.is_none_or(|crc| *self.crc_agrees.get_or_init(|| self.has_checksum(crc)))
    }

    fn has_checksum(&self, expected: u32) -> bool {
        if self.size_bytes > MAX_CHECKSUM_BYTES {
            return false;
        }
        let Ok(file) = open_regular(Path::new(&super::target_path::descriptor_path(&self.file)))
        else {
            return false;
        };
        // It may grow meanwhile.
        let mut file = file.take(MAX_CHECKSUM_BYTES);
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return hasher.finalize() == expected,
                Ok(count) => hasher.update(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

fn build_id_path(build_id: &[u8]) -> Option<PathBuf> {
    if build_id.len() < SHORTEST_BUILD_ID_BYTES {
        return None;
    }
    let (first, rest) = build_id.split_first()?;
    let file = format!("{}.debug", super::files::hexadecimal(rest));
    Some(Path::new(BUILD_ID_DIR).join(format!("{first:02x}")).join(file))
}
