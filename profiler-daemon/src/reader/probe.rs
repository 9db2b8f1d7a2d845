//! Whether a reader can do its work here.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    link::{LaneName, Link, Outcome},
    protocol::{Pids, reply, request},
};

/// How long a reader may take to start and to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Starts a reader, asks it something, and ends it.
///
/// # Errors
///
/// What went wrong, as one sentence.
pub fn start(debug_dirs: &[PathBuf]) -> Result<(), String> {
    let mut link = Link::start(debug_dirs.to_vec()).map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let mut outcomes = Vec::new();
    let _ = link.send(LaneName::Files, request::Kind::Pids(Pids {}), ());
    while begin.elapsed() < LIMIT {
        let mut fds: Vec<_> =
            link.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ = poll(&mut fds, Some(&timeout));
        drop(fds);
        link.poll(&mut outcomes);
        match outcomes.pop() {
            Some(((), Outcome::Answer(reply::Kind::Pids(list)))) if !list.pids.is_empty() => {
                return Ok(());
            }
            Some(((), Outcome::Answer(reply))) => return Err(format!("a reader said: {reply:?}")),
            Some(((), Outcome::Failed(_))) => break,
            None => {}
        }
    }
    let said = link.take_complaints().join("; ");
    Err(if said.is_empty() { "a reader does not answer".to_owned() } else { said })
}
