//! The processes that were asked for by their pids: that they are there, and when they have ended.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::unix::AsyncFd;

/// Processes whose end is noticed.
#[derive(Debug)]
pub struct Targets {
    /// The ones that are there.
    pub pids: Vec<u32>,
    /// The ones that are not.
    pub missing: Vec<u32>,
    ends: Vec<AsyncFd<OwnedFd>>,
}

impl Targets {
    /// Looks for the processes `pids`. Call it within a runtime.
    ///
    /// # Errors
    ///
    /// If the kernel gives no descriptor of a process that exists.
    pub fn open(pids: &[u32]) -> io::Result<Self> {
        let mut targets = Self { pids: Vec::new(), missing: Vec::new(), ends: Vec::new() };
        for &pid in pids {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
            match raw.and_then(|raw| pidfd_open(raw, PidfdFlags::NONBLOCK)) {
                Ok(fd) => {
                    targets.ends.push(watched(fd)?);
                    targets.pids.push(pid);
                }
                // A thread that is not its process's first is EINVAL, since Linux 6.15 ENOENT:
                // `pidfd_prepare`, `kernel/fork.c`.
                Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => targets.missing.push(pid),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(targets)
    }

    /// Returns when all have ended; never, if there are none.
    pub async fn ended(&self) {
        if self.ends.is_empty() {
            std::future::pending::<()>().await;
        }
        for end in &self.ends {
            // An error is about the descriptor, and as good as an end.
            let _ = end.readable().await;
        }
    }
}

#[expect(deprecated, reason = "an OwnedFd keeps the promise that `register` asks for as unsafe")]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_that_are_there_and_those_that_are_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let targets = Targets::open(&[child.id(), 4_194_304]).unwrap();
        assert_eq!(
            (targets.pids.as_slice(), targets.missing.as_slice()),
            (&[child.id()][..], &[4_194_304][..])
        );
        targets.ended().await;
        child.wait().unwrap();
    }
}
