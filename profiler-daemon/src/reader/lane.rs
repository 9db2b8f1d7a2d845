//! Serving one lane: a request, a reply, until the stream ends.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::protocol::{MAX_REPLY_BYTES, Names, Reply, Request, reply, request};
use super::wire::{WireError, encode_message, read_message};

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
        let bytes = encode(&Reply { id, kind: Some(kind) })?;
        stream.write_all(&bytes).map_err(|io_error| WireError::Io { call: "write", io_error })?;
    }
}

/// A reply that the core takes: it replaces a reader whose replies are too long.
fn encode(reply: &Reply) -> Result<Vec<u8>, WireError> {
    let size_bytes = reply.encoded_len();
    if size_bytes <= MAX_REPLY_BYTES {
        return encode_message(reply);
    }
    let error = WireError::TooLong { size_bytes, limit_bytes: MAX_REPLY_BYTES };
    encode_message(&Reply { id: reply.id, kind: Some(reply::Kind::Error(error.to_string())) })
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

#[cfg(test)]
mod tests {
    use super::super::protocol::{FrameNames, NameLine, Names};
    use super::*;

    #[test]
    fn a_reply_that_is_too_long_becomes_one_that_says_so() {
        let line = NameLine { function: 1 << 20, line: u32::MAX, ..NameLine::default() };
        let frame = FrameNames { lines: vec![line; 256] };
        let names = Names { frames: vec![frame; 16_384], ..Names::default() };
        let reply = Reply { id: 7, kind: Some(reply::Kind::Names(names)) };
        let mut bytes = &encode(&reply).unwrap()[..];
        let Reply { id, kind } = read_message(&mut bytes).unwrap().unwrap();
        assert!(matches!(kind, Some(reply::Kind::Error(text)) if text.contains("exceeds")));
        assert_eq!(id, 7);
    }
}
