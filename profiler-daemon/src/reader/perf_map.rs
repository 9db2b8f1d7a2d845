//! Names of just-in-time compiled code, from `/tmp/perf-PID.map` (`START SIZE NAME` per line,
//! numbers in hexadecimal: `tools/perf/Documentation/jit-interface.txt` in the kernel tree).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Stat, fstat};

use super::mounts::Mounts;
use super::name_table::{Line, NameTable, clean_bytes};
use super::protocol::NamePerfMap;
use super::target_path::{Care, PathError, Root, descriptor_path, open_regular};

/// The largest perf map read, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// The longest line taken whole, in bytes.
const MAX_LINE_BYTES: usize = 4_096;
/// The most entries kept.
const MAX_ENTRIES: usize = 2 << 20;
/// The most bytes of names kept.
const MAX_TEXT_BYTES: usize = 256 << 20;

/// Why a perf map was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PerfMapError {
    /// There is none: the runtime was not told to write one, most likely.
    #[error("process {pid} has no /tmp/perf-{inner_pid}.map")]
    Missing {
        /// The process.
        pid: u32,
        /// Its pid in its own namespace.
        inner_pid: u32,
    },
    /// It is where a call may never return.
    #[error("{path} of process {pid} is left to the other reader: {reason}")]
    Elsewhere {
        /// The file.
        path: String,
        /// The process.
        pid: u32,
        /// What is in the way.
        reason: PathError,
    },
    /// Anybody could have put it there.
    #[error("{path} belongs to neither the process's user nor root")]
    ForeignOwner {
        /// The file.
        path: String,
    },
    /// Root's file, but the process may have chosen which.
    #[error("{path} is another name of a file of root's, and is not read")]
    HardLink {
        /// The file.
        path: String,
    },
    /// It is too large.
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// Reading failed.
    #[error("{path}: {io_error}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's error.
        io_error: std::io::Error,
    },
}

/// A perf map that may be read, and what tells whether it has changed since.
#[derive(Debug)]
pub(super) struct Found {
    file: File,
    path: PathBuf,
    /// Changes when the file does.
    pub(super) version: Version,
}

/// What tells one state of a perf map from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    size_bytes: i64,
    modified: (i64, u64),
}

/// The most perf maps that are held open.
const MAX_HELD: usize = 256;

/// Perf maps that are held open, by process; the one held longest is at the front.
#[derive(Debug, Default)]
pub(super) struct HeldMaps(Mutex<VecDeque<((u32, u32), File)>>);

impl HeldMaps {
    /// Opens a process's perf map and keeps it open.
    ///
    /// # Errors
    ///
    /// [`PerfMapError`].
    pub(super) fn hold(&self, request: &NamePerfMap, mounts: &Mounts) -> Result<(), PerfMapError> {
        self.keep(request, &find(request, mounts)?);
        Ok(())
    }

    /// The perf map of a process: as it is now, or, if it is gone, as it was when it was held.
    ///
    /// # Errors
    ///
    /// [`PerfMapError`].
    pub(super) fn find(
        &self,
        request: &NamePerfMap,
        mounts: &Mounts,
    ) -> Result<Found, PerfMapError> {
        match find(request, mounts) {
            Ok(found) => {
                self.keep(request, &found);
                Ok(found)
            }
            Err(missing @ PerfMapError::Missing { .. }) => {
                let key = (request.pid, request.life);
                let file = self
                    .held()
                    .iter()
                    .find(|(held, _)| *held == key)
                    .and_then(|(_, file)| reopen(file).ok());
                file.map_or(Err(missing), |file| check(file, map_path(request.inner_pid), request))
            }
            Err(error) => Err(error),
        }
    }

    fn keep(&self, request: &NamePerfMap, found: &Found) {
        let Ok(file) = found.file.try_clone() else { return };
        let key = (request.pid, request.life);
        let mut held = self.held();
        held.retain(|(other, _)| *other != key);
        if held.len() >= MAX_HELD {
            held.pop_front();
        }
        held.push_back((key, file));
    }

    /// A panic elsewhere leaves the list whole.
    fn held(&self) -> MutexGuard<'_, VecDeque<((u32, u32), File)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same file, to be read from its start.
fn reopen(file: &File) -> Result<File, PathError> {
    open_regular(Path::new(&descriptor_path(file)))
}

fn map_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/perf-{number}.map"))
}

/// Finds the perf map of a process: as the process sees it, or, once it has ended, in our `/tmp`.
///
/// # Errors
///
/// [`PerfMapError`].
fn find(request: &NamePerfMap, mounts: &Mounts) -> Result<Found, PerfMapError> {
    let NamePerfMap { pid, inner_pid, anywhere, .. } = *request;
    let care = |pid| if anywhere { Ok(Care::None) } else { mounts.care(pid) };
    let as_seen = |pid: Option<u32>| {
        let care = care(pid).map_err(PathError::Mounts)?;
        pid.map_or_else(|| Root::ours(care.clone()), |pid| Root::of_process(pid, care.clone()))
    };
    let (root, path) = match as_seen(Some(pid)) {
        Err(PathError::Call { .. } | PathError::Mounts(_)) => (as_seen(None), map_path(pid)),
        root => (root, map_path(inner_pid)),
    };
    let file = root.and_then(|root| root.open_regular(&path)).map_err(|reason| match reason {
        PathError::MayHang(_) => {
            PerfMapError::Elsewhere { path: path.display().to_string(), pid, reason }
        }
        _ => PerfMapError::Missing { pid, inner_pid },
    })?;
    check(file, path, request)
}

/// Whether a file may be read as the perf map of a process.
fn check(file: File, path: PathBuf, request: &NamePerfMap) -> Result<Found, PerfMapError> {
    let uid = request.uid;
    let shown = || path.display().to_string();
    let stat = fstat(&file)
        .map_err(|errno| PerfMapError::Read { path: shown(), io_error: errno.into() })?;
    if stat.st_uid != uid && stat.st_uid != 0 {
        return Err(PerfMapError::ForeignOwner { path: shown() });
    }
    // Where fs.protected_hardlinks is off, anybody can give a file of root's this name.
    if stat.st_uid != uid && stat.st_nlink > 1 {
        return Err(PerfMapError::HardLink { path: shown() });
    }
    let version = version(&stat);
    if u64::try_from(version.size_bytes).is_ok_and(|size| size > MAX_FILE_BYTES) {
        return Err(PerfMapError::TooLarge { path: shown() });
    }
    Ok(Found { file, path, version })
}

#[expect(clippy::unnecessary_cast, reason = "types differ between architectures")]
fn version(stat: &Stat) -> Version {
    Version {
        device: stat.st_dev,
        inode: stat.st_ino,
        size_bytes: stat.st_size as i64,
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
    }
}

impl Found {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`PerfMapError::Read`].
    pub(super) fn read(self) -> Result<PerfMap, PerfMapError> {
        let mut lines = BufReader::with_capacity(64 << 10, self.file.take(MAX_FILE_BYTES));
        PerfMap::parse(&mut lines).map_err(|io_error| PerfMapError::Read {
            path: self.path.display().to_string(),
            io_error,
        })
    }
}

/// Address ranges that do not overlap, sorted, and their names.
#[derive(Debug, Default)]
pub(super) struct PerfMap {
    ranges: Vec<Range>,
    text: String,
}

/// `[start, end)` and where its name is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    start: u64,
    end: u64,
    name: (u32, u32),
}

impl PerfMap {
    pub(super) fn parse(lines: &mut impl BufRead) -> std::io::Result<Self> {
        let mut entries = Vec::new();
        let mut text = String::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.len() == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                lines.skip_until(b'\n')?;
            }
            let Some((start, end, name)) = split(&line) else { continue };
            if entries.len() >= MAX_ENTRIES || text.len() + name.len() > MAX_TEXT_BYTES {
                break;
            }
            entries.push(Range { start, end, name: (text.len() as u32, name.len() as u32) });
            text.push_str(&name);
        }
        Ok(Self { ranges: flatten(&entries), text })
    }

    /// Gives each address the entry that covers it.
    pub(super) fn name(&self, avmas: &[u64], names: &mut NameTable) {
        for (index, avma) in avmas.iter().enumerate() {
            if let Some(function) = self.find(*avma) {
                names.set(index, std::iter::once(Line { function, ..Line::default() }));
            }
        }
    }

    /// What it takes, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        self.ranges.len() * size_of::<Range>() + self.text.len()
    }

    /// What must hold of every map.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn check(&self) {
        assert!(self.ranges.iter().all(|range| range.start < range.end));
        assert!(self.ranges.is_sorted_by(|one, next| one.end <= next.start));
        assert!(self.ranges.iter().all(|range| self.find(range.start).is_some()));
    }

    fn find(&self, avma: u64) -> Option<&str> {
        let after = self.ranges.partition_point(|range| range.start <= avma);
        let range = self.ranges[..after].last().filter(|range| avma < range.end)?;
        let (start, length) = (range.name.0 as usize, range.name.1 as usize);
        self.text.get(start..start + length)
    }
}

/// Makes ranges disjoint and sorted; where several overlap, the last one of the file wins.
fn flatten(entries: &[Range]) -> Vec<Range> {
    // A sweep over the ends: of the entries that cover a point, a heap yields the latest; those
    // that have ended leave it once they reach its top.
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_by_key(|&index| entries[index as usize].start);
    let mut points: Vec<u64> = entries.iter().flat_map(|entry| [entry.start, entry.end]).collect();
    points.sort_unstable();
    points.dedup();

    let mut covering = std::collections::BinaryHeap::new();
    let mut starting = order.into_iter().peekable();
    let mut flat: Vec<Range> = Vec::with_capacity(entries.len());
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        while let Some(index) = starting.next_if(|&index| entries[index as usize].start <= from) {
            covering.push(index);
        }
        while covering.peek().is_some_and(|&index| entries[index as usize].end <= from) {
            covering.pop();
        }
        let Some(&index) = covering.peek() else { continue };
        let name = entries[index as usize].name;
        match flat.last_mut() {
            Some(last) if last.end == from && last.name == name => last.end = to,
            _ => flat.push(Range { start: from, end: to, name }),
        }
    }
    flat.shrink_to_fit();
    flat
}

fn split(line: &[u8]) -> Option<(u64, u64, String)> {
    let mut parts = line.trim_ascii().splitn(3, |&byte| byte == b' ');
    let start = hexadecimal(parts.next()?)?;
    let size = hexadecimal(parts.next()?)?;
    let name = clean_bytes(parts.next()?.trim_ascii(), MAX_LINE_BYTES);
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then_some((start, end, name))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::*;

    #[test]
    fn bad_lines_are_skipped() {
        let file = b"1000 10 first\n\nzz 10 bad\n1010 0 empty\n0x1020 0x10 a b  c\n\
            ffffffffffffffff 10 wraps\n1030 10\n1040 10 last";
        let map = PerfMap::parse(&mut &file[..]).unwrap();
        assert_eq!(map.find(0x1000), Some("first"));
        assert_eq!(map.find(0x1010), None);
        assert_eq!(map.find(0x102f), Some("a b  c"));
        assert_eq!(map.find(0x1030), None);
        assert_eq!(map.find(0x104f), Some("last"));
    }

    #[test]
    fn long_lines_are_cut_and_the_next_is_read() {
        let file = format!("1000 10 {}\n2000 10 next\n", "x".repeat(MAX_LINE_BYTES * 3));
        let map = PerfMap::parse(&mut file.as_bytes()).unwrap();
        assert!(map.find(0x1000).unwrap().len() < MAX_LINE_BYTES);
        assert_eq!(map.find(0x2000), Some("next"));
    }

    #[test]
    fn later_entries_win_as_a_naive_search_has_it() {
        let mut random = Random::new(5);
        for _ in 0..500 {
            let count = random.below(40);
            let entries: Vec<(u64, u64)> =
                (0..count).map(|_| (random.below(200), 1 + random.below(40))).collect();
            let file: String = entries
                .iter()
                .enumerate()
                .map(|(index, (start, size))| format!("{start:x} {size:x} f{index}\n"))
                .collect();
            let map = PerfMap::parse(&mut file.as_bytes()).unwrap();
            for avma in 0..260 {
                let naive = entries
                    .iter()
                    .rposition(|(start, size)| (*start..start + size).contains(&avma))
                    .map(|index| format!("f{index}"));
                assert_eq!(map.find(avma), naive.as_deref(), "{avma:#x} in\n{file}");
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = Random::new(6);
        for _ in 0..5_000 {
            let bytes: Vec<u8> = random
                .bytes(200)
                .into_iter()
                .map(|byte| b"0123456789abcdef  \n\nx\xff\0"[usize::from(byte) % 23])
                .collect();
            PerfMap::parse(&mut bytes.as_slice()).unwrap();
        }
    }
}
