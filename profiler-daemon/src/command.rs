//! `rprofd -- COMMAND`: starting it so that not a sample of it is missed, as the user who called.
//!
//! What is started first is this same program again, under the hidden argument [`ARGUMENT`]: it
//! stops itself until sampling has begun, takes on the user's identity, and becomes the command.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitCode, ExitStatus},
};

use rustix::{
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpgrp, kill_process, pidfd_open, pidfd_send_signal,
        waitpid,
    },
    termios::tcgetpgrp,
};
use tokio::task::JoinHandle;

use crate::{files::Owner, sudo};

/// The hidden first argument.
pub const ARGUMENT: &str = "__command";

/// Exit status of a command that was not found.
pub const NOT_FOUND: u8 = 127;
/// Exit status of a command that was found but cannot be run.
pub const NOT_RUN: u8 = 126;
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

    /// Lets it become the command. Call it within a runtime.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn go(mut self) -> io::Result<Running> {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty())?;
        kill_process(self.pid(), Signal::CONT)?;
        let mut child = self.0.take().ok_or(io::ErrorKind::NotFound)?;
        let exit = tokio::task::spawn_blocking(move || child.wait());
        Ok(Running { pidfd, exit: Some(exit) })
    }
}

/// A command that was let go.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    exit: Option<JoinHandle<io::Result<ExitStatus>>>,
}

impl Running {
    /// Returns, once, the exit status of the command as a shell has it, and never after that.
    pub async fn ended(&mut self) -> u8 {
        let Some(exit) = &mut self.exit else { return std::future::pending().await };
        let status = exit.await;
        self.exit = None;
        status.ok().and_then(Result::ok).map_or(OURSELVES, shell_status)
    }

    /// Passes on a signal that we were sent, unless the command was sent it, too: a terminal's
    /// Ctrl-C goes to all in the foreground.
    pub fn pass_on(&self, signal: Signal) {
        if signal == Signal::INT && is_in_foreground() {
            return;
        }
        // One that has ended needs no signal.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

fn is_in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|tty| tcgetpgrp(tty).is_ok_and(|group| group == getpgrp()))
}

/// A command's exit status as a shell has it.
fn shell_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        (None, None) => 1,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_a_shell_has_them() {
        assert_eq!(shell_status(ExitStatus::from_raw(42 << 8)), 42);
        assert_eq!(shell_status(ExitStatus::from_raw(libc::SIGTERM)), 128 + 15);
    }
}
