//! Why a run failed, and what its user can do.

use std::io;

use super::{UNABLE, no_process};
use crate::{files, kernel::KernelError, recorder::RecordError, rights};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Recording failed.
    #[error("{}", explain(.0))]
    Record(#[from] RecordError),
    /// The output cannot be written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// There is none of the processes that were asked for.
    #[error("{}", no_process(.0))]
    NoProcess(Vec<u32>),
    /// The command could not be started.
    #[error("cannot start a process for the command: {0}")]
    Command(io::Error),
    /// The daemon does not do that for users.
    #[error(
        "for users without privileges rprofd serve, at {}, records with --pid PID or -- COMMAND, \
         of their own processes, without --window, --user-only, --kernel-only, --event, \
         --no-inlines, --ignore-defects, --block-rate, --block-stacks, --mutex-fraction and \
         --fail-on-goroutine-leak\n{}",
        .0.display(),
        rights::advice()
    )]
    NotForUsers(std::path::PathBuf),
    /// The server does not start.
    #[error(transparent)]
    Listen(#[from] crate::server::ListenError),
    /// Who may ask is not said, or wrong.
    #[error(transparent)]
    Access(#[from] crate::server::AccessError),
    /// Such a kind has no windows.
    #[error("{0} is read once, at the end: leave --window or -k {0} out")]
    Window(&'static str),
    /// A pattern is wrong.
    #[error("the unit's name is no pattern: {0}")]
    Unit(String),
    /// A call of our own failed.
    #[error("{call}: {io_error}")]
    SystemCall {
        /// The call.
        call: &'static str,
        /// What it returned.
        io_error: io::Error,
    },
    /// The recording's thread is gone.
    #[error("the recording ended unexpectedly; run again with -vv and report what it says")]
    Gone,
}

impl RunError {
    pub(crate) fn of(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |io_error| Self::SystemCall { call, io_error }
    }

    /// The process's exit status for it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Record(RecordError::Kernel(
                KernelError::NotPermitted { .. }
                | KernelError::NoBtf(_)
                | KernelError::Bpf(_)
                | KernelError::PidNamespace,
            )) => UNABLE,
            Self::Record(RecordError::Kernel(KernelError::NoCycles(_))) => UNABLE,
            Self::Access(_) => 2,
            Self::NotForUsers(_) => UNABLE,
            Self::Unit(_) | Self::Window(_) => 2,
            Self::Files(error) if error.is_usage() => 2,
            _ => 1,
        }
    }
}

/// An error of the kernel stage, with what to do about it.
pub(super) fn explain(error: &RecordError) -> String {
    match error {
        RecordError::Kernel(kernel) if kernel.is_permission() => {
            format!("the kernel refuses: {kernel}\n{}", rights::advice())
        }
        // Lockdown takes helpers of BPF's away: programs that call them are wrong then.
        RecordError::Kernel(KernelError::Bpf(_)) => format!("{error}\n{}", rights::advice()),
        other => other.to_string(),
    }
}
