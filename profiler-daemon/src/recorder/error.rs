//! Why a recording fails.

use crate::{kernel::KernelError, reader::client::ReaderError};

/// Why recording could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The reader could not be started.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// The daemon that was asked to record did not.
    #[error("rprofd serve, asked at {}: {text}", socket.display())]
    Daemon {
        /// Its socket.
        socket: std::path::PathBuf,
        /// What it said, or what failed.
        text: String,
    },
    /// A system call of our own failed.
    #[error("{call}: {io_error}")]
    SystemCall {
        /// The system call.
        call: &'static str,
        /// What it returned.
        io_error: std::io::Error,
    },
}

impl RecordError {
    pub(super) fn of(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::SystemCall { call, io_error: errno.into() }
    }
}
