//! Serving one lane: a request, a reply, until the stream ends.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::protocol::{Names, Reply, Request, reply, request};
use super::wire::{WireError, read_message, write_message};

/// What answers the requests of a lane.
pub(super) trait Answer {
    /// Answers one request.
    fn answer(&mut self, request: request::Kind) -> reply::Kind;

    /// After how long without a request [`Answer::rest`] is to be called; `None` while there is
    /// nothing to give up.
    fn rest_after(&self) -> Option<Duration>;

    /// Gives up what is kept between requests.
    fn rest(&mut self);
}

/// Answers requests until the stream ends.
///
/// # Errors
///
/// [`WireError`]: the lane is of no use any more.
pub(super) fn serve(mut stream: UnixStream, answerer: &mut impl Answer) -> Result<(), WireError> {
    loop {
        if !wait(&stream, answerer.rest_after())? {
            answerer.rest();
            continue;
        }
        let Some(Request { id, kind }) = read_message(&mut stream)? else { return Ok(()) };
        let kind = kind.map_or_else(
            || reply::Kind::Error("the request is of no known kind".to_owned()),
            |kind| match kind {
                request::Kind::Rest(_) => {
                    answerer.rest();
                    reply::Kind::Names(Names::default())
                }
                kind => answerer.answer(kind),
            },
        );
        match write_message(&mut stream, &Reply { id, kind: Some(kind) }) {
            Err(error @ WireError::TooLong { .. }) => {
                let kind = Some(reply::Kind::Error(error.to_string()));
                write_message(&mut stream, &Reply { id, kind })?;
            }
            result => result?,
        }
    }
}

/// Waits for the stream to become readable; `false` if it did not in time.
fn wait(stream: &UnixStream, timeout: Option<Duration>) -> Result<bool, WireError> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)], timeout.as_ref())
        {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(WireError::Io { call: "poll", io_error: errno.into() }),
        }
    }
}
