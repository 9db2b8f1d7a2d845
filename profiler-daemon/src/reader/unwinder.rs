//! Making unwind tables.

use std::sync::Arc;
use std::time::Duration;

use super::file_pages::FilePages;
use super::files::FileTable;
use super::lane::Answer;
use super::protocol::{FileKey, UnwindTable, reply, request};
use super::sys::trim_heap;
use super::unwind::{self, UnwindError};

/// After how long without a request freed memory is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
enum UnwinderError {
    /// The file was not opened, or too many others have been since.
    #[error("the file to unwind is not open any more")]
    NotOpen,
    /// Something else was written into it.
    #[error("{0} was changed since it was mapped")]
    Changed(String),
    /// It could not be mapped.
    #[error("{path}: mmap: {io_error}")]
    Map {
        /// Its path as a process saw it.
        path: String,
        /// What the call returned.
        io_error: std::io::Error,
    },
    /// It holds no table.
    #[error("{path} has no unwind table: {error}")]
    Unwind {
        /// Its path as a process saw it.
        path: String,
        /// Why.
        error: UnwindError,
    },
}

/// Answers the tables lane.
pub(super) struct Unwinder {
    table: Arc<FileTable>,
    pages: Arc<FilePages>,
    /// The heap may hold what tables took while they were made.
    has_worked: bool,
}

impl Unwinder {
    /// Makes tables of files of `table`.
    pub(super) const fn new(table: Arc<FileTable>, pages: Arc<FilePages>) -> Self {
        Self { table, pages, has_worked: false }
    }

    /// Does something with the contents of a file.
    fn with_contents<T>(
        &self,
        key: &FileKey,
        read: impl FnOnce(&[u8]) -> Result<T, UnwindError>,
    ) -> Result<T, UnwinderError> {
        let file = self.table.get(key).ok_or(UnwinderError::NotOpen)?;
        let path = || file.path.clone();
        // Reading a mapping of a file cut short would end this process.
        let size_bytes = file.file.metadata().map_or(0, |metadata| metadata.len());
        if size_bytes != key.size_bytes {
            return Err(UnwinderError::Changed(path()));
        }
        let bytes = self
            .pages
            .map(&file.file, size_bytes)
            .map_err(|io_error| UnwinderError::Map { path: path(), io_error })?;
        read(&bytes).map_err(|error| UnwinderError::Unwind { path: path(), error })
    }

    fn build(&self, key: &FileKey) -> Result<UnwindTable, UnwinderError> {
        let unwind::UnwindTable { table, blocks, .. } = self.with_contents(key, unwind::build)?;
        Ok(UnwindTable {
            base: table.base,
            pages: table.pages,
            shift: table.shift,
            rules: table.rules,
            blocks: blocks.iter().flatten().flat_map(|word| word.to_le_bytes()).collect(),
        })
    }
}

impl Answer for Unwinder {
    fn answer(&mut self, request: request::Kind) -> reply::Kind {
        self.has_worked = true;
        let result = match request {
            request::Kind::Unwind(request) => self.build(&request.key).map(reply::Kind::Table),
            request::Kind::UnwindDigest(request) => self
                .with_contents(&request.key, unwind::digest)
                .map(|digest| reply::Kind::Digest(digest.into())),
            request::Kind::Open(open) => return self.table.answer(&open),
            request::Kind::HoldPerfMap(map) => return self.table.hold_perf_map(&map),
            _ => return reply::Kind::Error("this is asked on another lane".to_owned()),
        };
        result.unwrap_or_else(|error| reply::Kind::Error(error.to_string()))
    }

    fn rest_after(&self) -> Option<Duration> {
        self.has_worked.then_some(REST_AFTER)
    }

    fn rest(&mut self) {
        self.has_worked = false;
        trim_heap();
    }
}
