//! `rprofd -- COMMAND`: starting it so that not a sample of it is missed, as the user who called.
//!
//! What is started first is this same program again, under the hidden argument [`ARGUMENT`]: it
//! stops itself until sampling has begun, takes on the user's identity, and becomes the command.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitCode},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::{files::Owner, sudo};

/// The hidden first argument.
pub const ARGUMENT: &str = "__command";

/// Exit status of a command that was not found.
const NOT_FOUND: u8 = 127;
/// Exit status of a command that was found but cannot be run.
const NOT_RUN: u8 = 126;
/// Exit status where rprofd itself failed.
pub const OURSELVES: u8 = 125;

/// A command that waits to be let go; dropped before that, it is killed.
#[derive(Debug)]
pub struct Waiting(Option<Child>);

impl Waiting {
    /// Starts it, stopped. `owner`: as whom.
    ///
    /// # Errors
    ///
    /// If no process can be started.
    pub fn start(command: &[OsString], owner: &Owner) -> io::Result<Self> {
        let mut start = Command::new("/proc/self/exe");
        start.arg0("rprofd").arg(ARGUMENT);
        match owner {
            Owner::User { uid, gid, groups } => {
                let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
                start.args([uid.to_string(), gid.to_string(), groups.join(",")]);
                start.envs(sudo::environment(*uid));
            }
            Owner::Myself => {
                start.args(["", "", ""]);
            }
        }
        let waiting = Self(Some(start.args(command).spawn()?));
        waitpid(Some(waiting.pid()), WaitOptions::UNTRACED)?;
        Ok(waiting)
    }

    fn pid(&self) -> Pid {
        let child = self.0.as_ref().expect("taken by `go` alone, which consumes it");
        Pid::from_child(child)
    }

    /// The pid it has and will keep.
    pub fn id(&self) -> u32 {
        self.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// Lets it become the command.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn go(mut self) -> io::Result<Child> {
        kill_process(self.pid(), Signal::CONT)?;
        self.0.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the process started by [`Waiting::start`] runs: `UID GID GROUPS COMMAND ARGS…`.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.collect();
    let [uid, gid, groups, program, rest @ ..] = arguments.as_slice() else {
        return ExitCode::from(OURSELVES);
    };
    if let Err(error) = wait_for_go() {
        eprintln!("rprofd: cannot wait for the recording to begin: {error}");
        return ExitCode::from(OURSELVES);
    }
    let ids = [uid, gid].map(|id| id.to_str().and_then(|id| id.parse::<u32>().ok()));
    if let [Some(uid), Some(gid)] = ids {
        let groups = groups.to_string_lossy();
        let groups: Vec<u32> = groups.split(',').filter_map(|id| id.parse().ok()).collect();
        if let Err(error) = sudo::become_user(uid, gid, &groups) {
            eprintln!("rprofd: cannot become the user who called sudo: {error}");
            return ExitCode::from(OURSELVES);
        }
    }
    let error = Command::new(program).args(rest).exec();
    eprintln!("rprofd: {}: {error}", program.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN })
}

/// Stops until the profiler sends SIGCONT; if it dies instead, so do we.
fn wait_for_go() -> io::Result<()> {
    use rustix::process::{getpid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    kill_process(getpid(), Signal::STOP)?;
    set_parent_process_death_signal(None)?;
    Ok(())
}
