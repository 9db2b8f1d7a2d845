//! What the reader process runs.

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setpriority_process,
    setrlimit,
};

use super::file_pages::FilePages;
use super::files::{FileTable, MAX_OPEN_FILES};
use super::lane::{Answer, serve};
use super::names::Namer;
use super::processes::{self, ProcessError};
use super::protocol::{PidList, reply, request};
use super::sandbox::{self, SandboxError};
use super::unwinder::Unwinder;
use super::wire::WireError;
use super::{go, stacks, surroundings, sys};

/// First argument of a process that is to be a reader.
pub const ARGUMENT: &str = "__reader";

/// Argument that names a directory with debug files: `--debug-dir=DIR`, any number of times.
pub const DEBUG_DIR: &str = "--debug-dir=";

/// Descriptor of the files lane.
pub const FILES_FD: RawFd = 3;

/// Names lanes: two name a burst of files in half the time, where there are two CPUs.
pub const NAMES_LANES: usize = 2;

/// Descriptors of the names lanes.
pub const NAMES_FDS: [RawFd; NAMES_LANES] = [4, 5];

/// Descriptor of the tables lane.
pub const TABLES_FD: RawFd = 6;

/// All lanes.
pub const LANES: usize = 1 + NAMES_LANES + 1;

/// Niceness of the tables lane, whose work may take seconds. Samples wait for it, and not for long.
const TABLES_NICENESS: i32 = 5;

/// The same of the names lanes: names may come later, unless somebody waits for them.
pub const NAMES_NICENESS: i32 = 10;

/// What the threads of the names lanes are called.
pub const NAMES_LANE: &str = "names";

/// How much rather than others the kernel ends this process when memory runs out, up to 1000
/// (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &str = "500";

/// Stack of each of these lanes, in bytes: demangling and inlined functions recurse.
const LANE_STACK_BYTES: usize = 16 << 20;

/// Descriptors that may be open: each file with its debug file, both once more while they are
/// being named, and some.
const DESCRIPTORS: u64 = 4 * MAX_OPEN_FILES as u64 + 512;

/// Why the reader ended early.
#[derive(Debug, thiserror::Error)]
enum ChildError {
    /// It was started by hand.
    #[error("this is started by rprofd itself ({0})")]
    Arguments(String),
    /// A system call failed.
    #[error("{call}: {io_error}")]
    Call { call: &'static str, io_error: std::io::Error },
    /// The sandbox could not be entered.
    #[error("sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    /// A lane failed.
    #[error(transparent)]
    Lane(#[from] WireError),
}

/// Runs the reader on the lanes at descriptors [`FILES_FD`], [`NAMES_FDS`] and [`TABLES_FD`], until
/// one ends.
/// To be called first thing in `main`, while there is one thread.
pub fn main() -> ExitCode {
    // Started as /proc/self/exe it would be called `exe`.
    let _ = rustix::thread::set_name(c"rprofd-reader");
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reader: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ChildError> {
    sys::ignore_termination_signals();
    sys::limit_kept_memory();
    // Where memory runs out, better a reader, which costs some names, than the core.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let debug_dirs = debug_dirs(std::env::args_os().skip(2))?;
    let lane = |fd| {
        let owned = sys::inherited(fd).map_err(failed("lane"))?;
        Ok::<_, ChildError>(UnixStream::from(owned))
    };
    let files = lane(FILES_FD)?;
    let names = NAMES_FDS.into_iter().map(lane).collect::<Result<Vec<_>, _>>()?;
    let tables = lane(TABLES_FD)?;
    raise_descriptor_limit();
    let pages = Arc::new(FilePages::default());
    let table = Arc::new(FileTable::new(debug_dirs, Arc::clone(&pages)));

    // On its first reading of a clock rustix looks for the vDSO, by calls that the filter refuses.
    processes::boot_time_ns();

    let missing = sandbox::drop_privileges()?;
    if !missing.is_empty() {
        eprintln!("some files will not be readable without {}", missing.join(", "));
    }
    // Only now: a change of user clears it (kernel/cred.c, commit_creds).
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed("prctl(PR_SET_PDEATHSIG)")(errno.into()))?;

    // The filter allows no new thread, so those of the other lanes wait behind the barrier for it
    // to be installed; passing the barrier shows that a thread is past its own start.
    let started = Arc::new(Barrier::new(1 + NAMES_LANES + 1));
    let mut releases = Vec::new();
    for stream in names {
        let (table, pages) = (Arc::clone(&table), Arc::clone(&pages));
        let namer = || Namer::new(table, pages);
        releases.push(start_lane(NAMES_LANE, NAMES_NICENESS, stream, &started, namer)?);
    }
    let files_to_unwind = Arc::clone(&table);
    let pages_to_unwind = Arc::clone(&pages);
    let unwinder = || Unwinder::new(files_to_unwind, pages_to_unwind);
    releases.push(start_lane("tables", TABLES_NICENESS, tables, &started, unwinder)?);
    started.wait();
    let writable: Vec<RawFd> = [FILES_FD, TABLES_FD].into_iter().chain(NAMES_FDS).collect();
    sandbox::install_filter(&writable)?;
    drop(releases);

    serve(files, &mut Files { table, pages, programs: go::Programs::default() })?;
    Ok(())
}

/// Starts the thread of a lane, which begins when what is returned is dropped. Its end is the
/// process's.
fn start_lane<A: Answer>(
    name: &str,
    niceness: i32,
    stream: UnixStream,
    started: &Arc<Barrier>,
    answerer: impl FnOnce() -> A + Send + 'static,
) -> Result<Sender<()>, ChildError> {
    let (release, released) = channel();
    let started = Arc::clone(started);
    let run = move || {
        // Linux applies it to the calling thread alone. Without it the lane competes a little more.
        let _ = setpriority_process(None, niceness);
        started.wait();
        // Nothing is ever sent: the sender's end is the signal.
        let _ = released.recv();
        let status = match serve(stream, &mut answerer()) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("reader: {error}");
                1
            }
        };
        std::process::exit(status);
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(LANE_STACK_BYTES)
        .spawn(run)
        .map_err(failed("clone"))?;
    Ok(release)
}

fn debug_dirs(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Result<Vec<PathBuf>, ChildError> {
    arguments
        .map(|argument| {
            let bytes = argument.into_vec();
            match bytes.strip_prefix(DEBUG_DIR.as_bytes()) {
                Some(dir) => Ok(OsStr::from_bytes(dir).into()),
                None => Err(ChildError::Arguments(String::from_utf8_lossy(&bytes).into_owned())),
            }
        })
        .collect()
}

/// Where it stays lower, opening fails once it is reached.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

fn failed(call: &'static str) -> impl FnOnce(std::io::Error) -> ChildError {
    move |io_error| ChildError::Call { call, io_error }
}

/// Answers the files lane.
struct Files {
    table: Arc<FileTable>,
    pages: Arc<FilePages>,
    programs: go::Programs,
}

impl Answer for Files {
    fn answer(&mut self, request: request::Kind) -> reply::Kind {
        let result = match request {
            request::Kind::Pids(_) => processes::pids()
                .map(|pids| reply::Kind::Pids(PidList { pids }))
                .map_err(|io_error| format!("/proc: {io_error}")),
            request::Kind::Process(process) => match processes::read(process.pid) {
                Ok(description) => Ok(reply::Kind::Description(description)),
                Err(ProcessError::Ended { .. }) => Ok(reply::Kind::Gone(process)),
                Err(error) => Err(error.to_string()),
            },
            request::Kind::Open(open) => return self.table.answer(&open),
            request::Kind::HoldPerfMap(map) => return self.table.hold_perf_map(&map),
            request::Kind::Surroundings(process) => {
                Ok(reply::Kind::Surroundings(surroundings::read(process.pid)))
            }
            request::Kind::Stacks(asked) => stacks::read(&asked).map(reply::Kind::Stacks),
            request::Kind::Go(asked) => {
                let found = go::read(asked, &mut self.programs, &self.pages, self.table.mounts());
                Ok(reply::Kind::Go(Box::new(found)))
            }
            request::Kind::NameFile(_)
            | request::Kind::NameKernel(_)
            | request::Kind::NamePerfMap(_)
            | request::Kind::Unwind(_)
            | request::Kind::UnwindDigest(_)
            | request::Kind::Rest(_) => Err("this is asked on another lane".to_owned()),
        };
        result.unwrap_or_else(reply::Kind::Error)
    }

    fn rest_after(&self) -> Option<Duration> {
        None
    }

    fn rest(&mut self) {}
}
