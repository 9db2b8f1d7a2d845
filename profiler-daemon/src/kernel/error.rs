//! What can go wrong between us and the kernel.

use std::io;

/// Why sampling could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refuses for want of a capability.
    #[error("{call}: {io_error}")]
    NotPermitted {
        /// The system call.
        call: &'static str,
        /// What it returned.
        io_error: io::Error,
    },
    /// A system call failed otherwise.
    #[error("{call}: {io_error}")]
    SystemCall {
        /// The system call.
        call: &'static str,
        /// What it returned.
        io_error: io::Error,
    },
    /// A file of the kernel could not be read.
    #[error("cannot read {path}: {io_error}")]
    File {
        /// The file.
        path: &'static str,
        /// What reading it returned.
        io_error: io::Error,
    },
    /// The kernel has no type information.
    #[error("the kernel has no BTF ({0}): rprofd needs a kernel built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf(String),
    /// The BPF object was not accepted.
    #[error("the kernel does not accept the BPF programs: {0}")]
    Bpf(String),
    /// The machine has no cycle counter.
    #[error(
        "this machine has no cycle counter that can sample ({0}), as virtual machines often have \
         none: leave out --event cycles"
    )]
    NoCycles(io::Error),
    /// The kernel sets no probes for us.
    #[error(
        "the kernel sets no probes for rprofd ({0}): it does from Linux 6.12 on, before for who has \
         CAP_SYS_ADMIN"
    )]
    NoProbes(io::Error),
    /// Something else is where a function of Go's runtime is to be.
    #[error("its functions do not begin as Go's compiler has them")]
    NotGo,
    /// There are as many as there may be.
    #[error("{0} processes have probes already: ask again later")]
    TooManyProbes(usize),
    /// Not the initial pid namespace.
    #[error(
        "this is a pid namespace of its own, where the kernel's pids mean nothing: start it \
         on the host, or its container with --pid=host (Kubernetes: hostPID: true)"
    )]
    PidNamespace,
}

impl KernelError {
    /// Whether no descriptor was left, to this process or on the machine: later there may be.
    pub(super) fn is_want_of_descriptors(&self) -> bool {
        let (Self::SystemCall { io_error, .. } | Self::File { io_error, .. }) = self else {
            return false;
        };
        matches!(io_error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// The error of the system call that has just failed.
    pub(super) fn last(call: &'static str) -> Self {
        Self::of(call, io::Error::last_os_error())
    }

    /// The error of a system call.
    pub(super) fn of(call: &'static str, io_error: io::Error) -> Self {
        match io_error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { call, io_error },
            _ => Self::SystemCall { call, io_error },
        }
    }

    /// Whether more rights would help.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::NotPermitted { .. })
    }
}

/// aya's errors hide the system call's result in their sources; this digs it out.
pub(super) fn from_aya(error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mut text = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
        {
            let io_error = io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default());
            return KernelError::NotPermitted { call: "bpf", io_error };
        }
        let next = error.source();
        if let Some(next) = next {
            let more = next.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
        }
        cause = next;
    }
    // The verifier is not asked for its output.
    let text = text.trim_end().trim_end_matches("Verifier output:").trim_end();
    KernelError::Bpf(text.trim_end_matches('.').to_owned())
}
