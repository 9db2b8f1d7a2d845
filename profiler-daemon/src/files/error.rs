//! Why profiles can't be written, and what to do about it.

use std::{io, path::PathBuf};

use super::owner::OwnerError;

/// Why an output can't be used, or a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard output can't tell one profile from the next.
    #[error(
        "standard output takes one profile of this format: leave out --window and all kinds but \
         one, or name a directory with -o"
    )]
    ManyToStdout,
    /// Compressed bytes on a terminal help nobody.
    #[error("pprof is not for terminals: add > FILE.pb.gz, or --format text")]
    Terminal,
    /// A file can't be written.
    #[error("{} can't be written: {io_error}; {}", path.display(), advice(io_error))]
    Unwritable {
        /// It, or the directory it would be in.
        path: PathBuf,
        /// What the system says.
        io_error: io::Error,
    },
    /// Nothing can be written as the user who is to own it.
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

impl Error {
    /// Whether other options would mend it.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::ManyToStdout | Self::Terminal => true,
            Self::Unwritable { .. } | Self::Owner(_) => false,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            "free some space, or name a directory on another file system with -o"
        }
        io::ErrorKind::QuotaExceeded => {
            "your quota is used up: free some, or name a directory on another file system with -o"
        }
        io::ErrorKind::PermissionDenied => {
            "name a directory that you may write to with -o (under sudo: that the user who called \
             it may)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "name a directory on a file system that is not read-only with -o"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "a file is in the way: name another directory with -o"
        }
        io::ErrorKind::IsADirectory => "a directory is in the way: name another file with -o",
        io::ErrorKind::BrokenPipe => "its reader has gone",
        _ => "name another place with -o",
    }
}
