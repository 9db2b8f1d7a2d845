//! The core's side of the reader: starting the child, and ending it.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::child::{ARGUMENT, DEBUG_DIR, LANES, NAMES_LANES};
use super::complaints::Complaints;
use super::sys;

/// The program that is running, even if its file was replaced or deleted.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Why a reader could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The lanes could not be made: too many open files, most likely.
    #[error("cannot make a connection for the reader: {call}: {io_error}")]
    Lanes {
        /// The call that failed.
        call: &'static str,
        /// The operating system's error.
        io_error: std::io::Error,
    },
    /// The child could not be started.
    #[error("cannot start the reader (is /proc mounted?): {io_error}")]
    Start {
        /// The operating system's error.
        io_error: std::io::Error,
    },
}

/// How long a killed reader's end is waited for.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// A running reader. Dropping it kills the child.
#[derive(Debug)]
pub struct Reader {
    /// The child process.
    pub child: Child,
    /// The lane for `Processes`, `Process` and `Open`.
    pub files: UnixStream,
    /// The lanes for naming.
    pub names: [UnixStream; NAMES_LANES],
    /// The lane for unwind tables.
    pub tables: UnixStream,
    /// What it says on standard error.
    pub complaints: Complaints,
}

impl Reader {
    /// Starts a reader: this same program. The streams are blocking.
    ///
    /// The kernel kills the child when the *thread* that called this ends (`PR_SET_PDEATHSIG`
    /// works so), hence call it on one that lives as long as the reader shall.
    ///
    /// # Errors
    ///
    /// [`ReaderError`]. A child that starts and then fails says why in [`Self::complaints`] and
    /// closes its lanes.
    pub fn spawn(debug_dirs: &[PathBuf]) -> Result<Self, ReaderError> {
        Self::spawn_program(Path::new(THIS_PROGRAM), debug_dirs)
    }

    /// As [`Reader::spawn`], with `program` as the `rprofd` binary.
    ///
    /// # Errors
    ///
    /// [`ReaderError`].
    pub fn spawn_program(program: &Path, debug_dirs: &[PathBuf]) -> Result<Self, ReaderError> {
        let (ours, of_child): (Vec<_>, Vec<_>) =
            (0..LANES).map(|_| pair()).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let sources = of_child.iter().map(high_duplicate).collect::<Result<Vec<_>, _>>()?;

        let mut command = Command::new(program);
        command
            .arg0("rprofd")
            .arg(ARGUMENT)
            .args(debug_dirs.iter().map(|dir| {
                let mut argument = OsString::from(DEBUG_DIR);
                argument.push(dir);
                argument
            }))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // One that cannot end must not keep open what is ours.
            .stderr(Stdio::piped());
        // The pairs above hold the lowest free numbers, so those that the child gets are in use.
        sys::pass_descriptors(&mut command, sources.iter().map(AsRawFd::as_raw_fd).collect());
        let mut child = command.spawn().map_err(|io_error| ReaderError::Start { io_error })?;
        let complaints = Complaints::new(child.stderr.take())
            .map_err(|io_error| ReaderError::Lanes { call: "fcntl(F_SETFL)", io_error })?;
        drop(of_child);
        let lanes: [UnixStream; LANES] = ours.try_into().expect("as many as were made");
        let [files, first, second, tables] = lanes;
        Ok(Self { child, files, names: [first, second], tables, complaints })
    }
}

impl Reader {
    /// Kills the child. `None`: it has not ended yet, since it waits in the kernel for a file system
    /// that does not answer, which nothing interrupts (`request_wait_answer` in `fs/fuse/dev.c`).
    pub fn kill(&mut self) -> Option<ExitStatus> {
        // Fails only if the child was waited for already.
        let _ = self.child.kill();
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if begin.elapsed() < LAST_BREATH => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                ended => return ended.ok().flatten(),
            }
        }
    }

    /// Whether a child that was killed has not ended yet.
    pub fn is_stuck(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pair() -> Result<(UnixStream, UnixStream), ReaderError> {
    UnixStream::pair().map_err(|io_error| ReaderError::Lanes { call: "socketpair", io_error })
}

fn high_duplicate(stream: &UnixStream) -> Result<OwnedFd, ReaderError> {
    rustix::io::fcntl_dupfd_cloexec(stream.as_fd(), sys::FIRST_SOURCE_FD).map_err(|errno| {
        ReaderError::Lanes { call: "fcntl(F_DUPFD_CLOEXEC)", io_error: errno.into() }
    })
}
