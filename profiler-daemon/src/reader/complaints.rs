//! What a reader says on standard error: why it ends, what it cannot read.

use std::{
    io::{ErrorKind, Read as _},
    os::fd::{AsFd, BorrowedFd},
    process::ChildStderr,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// The most bytes that are taken of one reader: it may be under somebody else's control.
const MOST_BYTES: usize = 16 << 10;

/// The reading end of a reader's standard error. It never blocks.
#[derive(Debug)]
pub struct Complaints {
    pipe: Option<ChildStderr>,
    /// The beginning of a line.
    begun: Vec<u8>,
    taken_bytes: usize,
}

impl Complaints {
    /// Listens to `pipe`.
    ///
    /// # Errors
    ///
    /// What `fcntl` returns.
    pub(super) fn new(pipe: Option<ChildStderr>) -> std::io::Result<Self> {
        if let Some(pipe) = &pipe {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { pipe, begun: Vec::new(), taken_bytes: 0 })
    }

    /// Becomes readable when there is a line, or no more will come; `None` from then on.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// The whole lines that have come since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let mut buffer = [0; 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.begun.extend_from_slice(&buffer[..count]);
                    self.taken_bytes += count;
                    if self.taken_bytes > MOST_BYTES {
                        self.pipe = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.pipe = None,
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
            let rest = self.begun.split_off(end + 1);
            let line = std::mem::replace(&mut self.begun, rest);
            lines.push(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn all_of(script: &str) -> Vec<String> {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a shell");
        let mut complaints = Complaints::new(child.stderr.take()).expect("a pipe");
        let mut lines = Vec::new();
        while let Some(fd) = complaints.fd() {
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).expect("poll");
            lines.extend(complaints.lines());
        }
        child.wait().expect("wait");
        lines
    }

    #[test]
    fn lines_come_whole() {
        assert_eq!(all_of("printf a >&2; printf 'b\\nc\\n' >&2"), ["ab", "c"]);
        assert_eq!(all_of(":"), [""; 0]);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let lines = all_of("yes >&2");
        assert!(!lines.is_empty() && lines.len() <= MOST_BYTES, "{}", lines.len());
    }
}
