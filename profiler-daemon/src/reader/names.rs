//! Naming addresses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::file_namer::{FileNamer, is_heavy};
use super::file_pages::FilePages;
use super::files::{FileTable, OpenFile};
use super::kallsyms::Kallsyms;
use super::lane::Answer;
use super::name_table::NameTable;
use super::perf_map::{PerfMap, PerfMapError, Version};
use super::protocol::{
    HEAVY_BYTES, MAX_ADDRESSES, NameFile, NameKernel, NamePerfMap, Names, Segment, reply, request,
};
use super::sys;

/// Files kept parsed between requests, by what they take (`FileInfo::weight_bytes`).
const KEPT_BYTES: u64 = HEAVY_BYTES;

/// The most perf maps kept between requests.
const KEPT_PERF_MAPS: usize = 8;

/// Perf maps kept between requests together, in bytes.
const KEPT_PERF_MAP_BYTES: usize = 16 << 20;

/// After how long without a request all is given up but the kernel's symbols: they take little,
/// and the kernel much time to print them.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How long the symbols of modules and BPF programs hold good: they come and go.
const KERNEL_KEPT: Duration = Duration::from_secs(30);

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
    loaded: Vec<FileNamer>,
    kernel: Option<(Instant, Kallsyms)>,
    /// The most recently used last.
    perf_maps: Vec<(u32, Version, PerfMap)>,
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
        loaded.name(&svmas, request.no_inlines, &mut names);
        self.loaded.push(loaded);
        self.forget_files(KEPT_BYTES);
        Ok(names.finish())
    }

    /// The file's entry, taken out of those that are kept.
    fn take(&mut self, file: &Arc<OpenFile>) -> FileNamer {
        let kept = self.loaded.iter().position(|loaded| loaded.file().info.key == file.info.key);
        kept.map_or_else(
            || FileNamer::new(Arc::clone(file), &self.pages, self.table.debug_dirs()),
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
                left = left.saturating_add(loaded.file().info.weight_bytes);
                left <= budget
            })
            .count();
        let drop = self.loaded.len() - keep;
        let heavy = self.loaded[..drop].iter().any(|loaded| is_heavy(loaded.file()));
        self.loaded.drain(..drop);
        // What a light file leaves free, the next one takes.
        if heavy {
            sys::trim_heap();
        }
    }

    fn name_kernel(&mut self, request: &NameKernel) -> Result<Names, NameError> {
        check_count(&request.addresses)?;
        let mut names = NameTable::new(request.addresses.len());
        let is_good = |(read, kernel): &(Instant, Kallsyms)| {
            read.elapsed() <= KERNEL_KEPT
                || request.addresses.iter().all(|address| kernel.is_lasting(*address))
        };
        if !self.kernel.as_ref().is_some_and(is_good) {
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
        let found = self.table.perf_map(request)?;
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
        let before = thread_cpu_time();
        let result = match request {
            request::Kind::NameFile(request) => self.name_file(&request),
            request::Kind::NameKernel(request) => self.name_kernel(&request),
            request::Kind::NamePerfMap(request) => self.name_perf_map(&request),
            request::Kind::Pids(_)
            | request::Kind::Process(_)
            | request::Kind::Surroundings(_)
            | request::Kind::HoldPerfMap(_)
            | request::Kind::Stacks(_)
            | request::Kind::Go(_)
            | request::Kind::Rest(_)
            | request::Kind::Open(_)
            | request::Kind::Unwind(_)
            | request::Kind::UnwindDigest(_) => {
                return reply::Kind::Error("this is asked on another lane".to_owned());
            }
        };
        match result {
            Ok(mut names) => {
                let taken = thread_cpu_time().saturating_sub(before);
                names.cpu_us = u32::try_from(taken.as_micros()).unwrap_or(u32::MAX);
                reply::Kind::Names(names)
            }
            Err(NameError::PerfMap(error @ PerfMapError::Elsewhere { .. })) => {
                reply::Kind::Elsewhere(error.to_string())
            }
            Err(error) => reply::Kind::Error(error.to_string()),
        }
    }

    fn rest_after(&self) -> Option<Duration> {
        let holds = !self.loaded.is_empty() || !self.perf_maps.is_empty();
        holds.then_some(REST_AFTER)
    }

    fn rest(&mut self) {
        self.loaded = Vec::new();
        self.perf_maps = Vec::new();
        sys::trim_heap();
    }
}

/// CPU time of this thread.
fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
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
