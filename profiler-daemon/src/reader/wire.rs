//! Framing of the [protocol](super::protocol): a little-endian `u32` length, then that many bytes
//! of protobuf.

use std::io::{ErrorKind, Read, Write};
use std::marker::PhantomData;

use prost::Message;

use super::protocol::MAX_MESSAGE_BYTES;

/// Length of the prefix that states a message's length, in bytes.
const PREFIX_BYTES: usize = 4;

/// A decoder keeps at most this much memory between messages, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// Why a message could not be sent or received. The lane is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer announced, or we were about to send, a message beyond the limit.
    #[error("a message of {size_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLong {
        /// Announced length of the message, in bytes.
        size_bytes: usize,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// The bytes are no message of the expected type.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The stream ended inside a message.
    #[error("the connection ended inside a message")]
    Cut,
    /// Reading or writing the stream failed.
    #[error("{call} on a lane: {io_error}")]
    Io {
        /// The call that failed.
        call: &'static str,
        /// The operating system's error.
        io_error: std::io::Error,
    },
}

/// Reads one message from a blocking stream; `None` at the end of the stream.
///
/// # Errors
///
/// [`WireError`]; the stream is then at an undefined position.
pub fn read_message<M: Message + Default>(stream: &mut impl Read) -> Result<Option<M>, WireError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        match stream.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(WireError::Cut),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(io_error) => return Err(WireError::Io { call: "read", io_error }),
        }
    }
    let size_bytes = u32::from_le_bytes(prefix) as usize;
    if size_bytes > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong { size_bytes, limit_bytes: MAX_MESSAGE_BYTES });
    }
    // Grown as bytes arrive, so that a length alone makes nobody allocate.
    let mut body = Vec::new();
    let read = stream
        .take(size_bytes as u64)
        .read_to_end(&mut body)
        .map_err(|io_error| WireError::Io { call: "read", io_error })?;
    if read < size_bytes {
        return Err(WireError::Cut);
    }
    Ok(Some(M::decode(body.as_slice())?))
}

/// The bytes of one message, prefix included.
///
/// # Errors
///
/// [`WireError::TooLong`].
pub fn encode_message(message: &impl Message) -> Result<Vec<u8>, WireError> {
    let size_bytes = message.encoded_len();
    let prefix = u32::try_from(size_bytes)
        .ok()
        .filter(|_| size_bytes <= MAX_MESSAGE_BYTES)
        .ok_or(WireError::TooLong { size_bytes, limit_bytes: MAX_MESSAGE_BYTES })?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + size_bytes);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

/// Writes one message to a blocking stream.
///
/// # Errors
///
/// [`WireError::TooLong`] before anything is written, [`WireError::Io`].
pub fn write_message(stream: &mut impl Write, message: &impl Message) -> Result<(), WireError> {
    let bytes = encode_message(message)?;
    stream.write_all(&bytes).map_err(|io_error| WireError::Io { call: "write", io_error })
}

/// Takes messages out of bytes that arrive in arbitrary pieces: the side that does not block.
#[derive(Debug)]
pub struct FrameDecoder<M> {
    bytes: Vec<u8>,
    limit_bytes: usize,
    message: PhantomData<M>,
}

impl<M> Default for FrameDecoder<M> {
    fn default() -> Self {
        Self::with_limit(MAX_MESSAGE_BYTES)
    }
}

impl<M> FrameDecoder<M> {
    /// A decoder that refuses messages beyond `limit_bytes` (and [`MAX_MESSAGE_BYTES`]).
    ///
    /// A repeated field of empty messages takes a dozen times its encoded size once decoded: who
    /// does not trust the peer takes a limit well below the memory it can spare.
    #[must_use]
    pub fn with_limit(limit_bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit_bytes: limit_bytes.min(MAX_MESSAGE_BYTES),
            message: PhantomData,
        }
    }

    /// Adds bytes as they came from the stream. Call [`FrameDecoder::next_message`] until it
    /// returns `None` before pushing more, so that no more than one message is held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether some bytes of an unfinished message are held.
    #[must_use]
    pub fn is_inside_message(&self) -> bool {
        !self.bytes.is_empty()
    }
}

impl<M: Message + Default> FrameDecoder<M> {
    /// The next whole message, or `None` until more bytes come.
    ///
    /// # Errors
    ///
    /// [`WireError::TooLong`] as soon as the prefix is there, [`WireError::Malformed`].
    pub fn next_message(&mut self) -> Result<Option<M>, WireError> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let size_bytes = u32::from_le_bytes(*prefix) as usize;
        if size_bytes > self.limit_bytes {
            return Err(WireError::TooLong { size_bytes, limit_bytes: self.limit_bytes });
        }
        let Some(body) = self.bytes.get(PREFIX_BYTES..PREFIX_BYTES + size_bytes) else {
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.bytes.drain(..PREFIX_BYTES + size_bytes);
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes.shrink_to(KEPT_BYTES);
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{self, Reply, Request, reply, request};
    use super::*;

    fn requests() -> Vec<Request> {
        let open = protocol::Open { pid: 7, path: "/bin/true".into(), ..Default::default() };
        vec![
            Request { id: 1, kind: Some(request::Kind::Pids(protocol::Pids {})) },
            Request { id: 2, kind: Some(request::Kind::Open(open)) },
            Request { id: 3, kind: None },
        ]
    }

    #[test]
    fn messages_survive_a_stream() {
        let mut bytes = Vec::new();
        for request in requests() {
            write_message(&mut bytes, &request).unwrap();
        }
        let mut stream = bytes.as_slice();
        for request in requests() {
            assert_eq!(read_message::<Request>(&mut stream).unwrap(), Some(request));
        }
        assert!(read_message::<Request>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn messages_survive_arbitrary_pieces() {
        let mut bytes = Vec::new();
        for request in requests() {
            bytes.extend(encode_message(&request).unwrap());
        }
        for piece in 1..=bytes.len() {
            let mut decoder = FrameDecoder::<Request>::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.push(part);
                while let Some(message) = decoder.next_message().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, requests());
            assert!(!decoder.is_inside_message());
        }
    }

    #[test]
    fn a_hostile_length_is_refused_before_its_bytes_come() {
        for length in [MAX_MESSAGE_BYTES as u32 + 1, u32::MAX] {
            let prefix = length.to_le_bytes();
            let mut decoder = FrameDecoder::<Reply>::default();
            decoder.push(&prefix);
            assert!(matches!(decoder.next_message(), Err(WireError::TooLong { .. })));
            let result = read_message::<Request>(&mut prefix.as_slice());
            assert!(matches!(result, Err(WireError::TooLong { .. })));
        }
        let mut decoder = FrameDecoder::<Reply>::with_limit(100);
        decoder.push(&101_u32.to_le_bytes());
        assert!(matches!(decoder.next_message(), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn a_stream_cut_short_is_told_from_its_end() {
        let bytes = encode_message(&requests()[1]).unwrap();
        for length in 1..bytes.len() {
            let result = read_message::<Request>(&mut &bytes[..length]);
            assert!(matches!(result, Err(WireError::Cut)), "{length}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = super::super::tests::Random::new(1);
        for _ in 0..20_000 {
            let mut bytes = random.bytes(64);
            if bytes.len() > 4 && random.below(2) == 0 {
                let length = bytes.len() as u32 - 4;
                bytes[..4].copy_from_slice(&length.to_le_bytes());
            }
            let mut decoder = FrameDecoder::<Reply>::default();
            decoder.push(&bytes);
            while let Ok(Some(reply)) = decoder.next_message() {
                if let Some(reply::Kind::Error(text)) = reply.kind {
                    drop(text);
                }
            }
            let _ = read_message::<Request>(&mut bytes.as_slice());
        }
    }
}
