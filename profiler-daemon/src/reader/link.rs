//! The core's end of the reader: all lanes, never blocking, with deadlines; a reader that dies or
//! is late is replaced.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    child::LANES,
    client::{Reader, ReaderError},
    protocol::{MAX_REPLY_BYTES, Reply, Request, reply, request},
    wire::{FrameDecoder, WireError, encode_message},
};

/// How long the reader may take for one request.
const DEADLINE: Duration = Duration::from_secs(10);

/// The same for what takes well under a millisecond unless somebody prevents it: others wait behind
/// it.
const SHORT_DEADLINE: Duration = Duration::from_secs(3);

/// After a death, how long until the next reader is started; doubled with each death in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Which of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneName {
    /// Quick questions.
    Files,
    /// Naming, on one of [`NAMES_LANES`](super::child::NAMES_LANES).
    Names(usize),
    /// Unwind tables.
    Tables,
}

impl LaneName {
    /// Its place among the lanes of a [`Running`] reader.
    fn index(self) -> usize {
        match self {
            Self::Files => 0,
            Self::Names(lane) => 1 + lane,
            Self::Tables => LANES - 1,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The reader died of what it read: this request was the first without an answer on its lane,
    /// and those of the other lanes failed so, too.
    Died,
    /// The reader took longer than it may: this request was the first without an answer.
    Late,
    /// The reader went for another reason: the request may be asked again.
    Lost,
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It was answered.
    Answer(reply::Kind),
    /// It was not.
    Failed(Failure),
}

/// Waits for an answer under the caller's own mark `T`.
struct Waiting<T> {
    id: u64,
    mark: T,
    /// When the request before it was answered, or it was sent: whichever was later.
    since: Instant,
    deadline: Duration,
}

/// One connection.
struct Lane<T> {
    stream: UnixStream,
    decoder: FrameDecoder<Reply>,
    unsent: VecDeque<u8>,
    waiting: VecDeque<Waiting<T>>,
    next_id: u64,
}

impl<T> Lane<T> {
    fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: FrameDecoder::with_limit(MAX_REPLY_BYTES),
            unsent: VecDeque::new(),
            waiting: VecDeque::new(),
            next_id: 1,
        })
    }

    fn send(&mut self, kind: request::Kind, mark: T) -> Result<(), WireError> {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = match kind {
            request::Kind::Pids(_)
            | request::Kind::Process(_)
            | request::Kind::Stacks(_)
            | request::Kind::Go(_)
            | request::Kind::Surroundings(_) => SHORT_DEADLINE,
            _ => DEADLINE,
        };
        self.unsent.extend(encode_message(&Request { id, kind: Some(kind) })?);
        self.waiting.push_back(Waiting { id, mark, since: Instant::now(), deadline });
        self.flush()
    }

    fn flush(&mut self) -> Result<(), WireError> {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match self.stream.write(front) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(io_error) => return Err(WireError::Io { call: "write", io_error }),
            }
        }
        Ok(())
    }

    /// Takes the answers that have come. `Ok(false)`: the reader has closed the lane.
    fn receive(&mut self, answers: &mut Vec<(T, Outcome)>) -> Result<bool, WireError> {
        let mut buffer = [0; 16 << 10];
        loop {
            let open = match self.stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(count) => {
                    self.decoder.push(&buffer[..count]);
                    true
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(io_error) => return Err(WireError::Io { call: "read", io_error }),
            };
            while let Some(reply) = self.decoder.next_message()? {
                let Some(waiting) = self.waiting.pop_front_if(|front| front.id == reply.id) else {
                    return Ok(false);
                };
                if let Some(next) = self.waiting.front_mut() {
                    next.since = Instant::now();
                }
                let kind = reply.kind.unwrap_or_else(|| {
                    reply::Kind::Error(
                        "the reader sent an answer that this rprofd does not know".into(),
                    )
                });
                answers.push((waiting.mark, Outcome::Answer(kind)));
            }
            if !open {
                return Ok(false);
            }
        }
    }

    fn is_late(&self) -> bool {
        self.waiting.front().is_some_and(|waiting| waiting.since.elapsed() > waiting.deadline)
    }

    /// Gives up: the first request without an answer failed so, the others are lost.
    fn fail(&mut self, first: Failure, outcomes: &mut Vec<(T, Outcome)>) {
        let mut failure = first;
        for waiting in self.waiting.drain(..) {
            outcomes.push((waiting.mark, Outcome::Failed(failure)));
            failure = Failure::Lost;
        }
    }
}

/// A reader and the connections to it: [`LaneName::Files`], those for naming, [`LaneName::Tables`].
struct Running<T> {
    reader: Reader,
    lanes: [Lane<T>; LANES],
}

/// A reader that is there, or will be again.
pub struct Link<T> {
    debug_dirs: Vec<PathBuf>,
    running: Option<Running<T>>,
    /// When the next one may be started.
    start_at: Instant,
    pause: Duration,
    started: u32,
    complaints: Vec<String>,
    /// Readers that were killed and cannot end: they wait in the kernel for what does not answer.
    stuck: Vec<Reader>,
}

/// So many readers may be stuck; until one of them ends no other is started.
const MOST_STUCK: usize = 8;

impl<T> Link<T> {
    /// Starts a reader that looks for separate debug files in `debug_dirs`.
    ///
    /// Must be called, like everything here, on a thread that lives as long as the link: the
    /// reader dies with it.
    ///
    /// # Errors
    ///
    /// [`ReaderError`] if not even the first one can be started.
    pub fn start(debug_dirs: Vec<PathBuf>) -> Result<Self, ReaderError> {
        let mut link = Self {
            debug_dirs,
            running: None,
            start_at: Instant::now(),
            pause: FIRST_PAUSE,
            started: 0,
            complaints: Vec::new(),
            stuck: Vec::new(),
        };
        link.spawn()?;
        Ok(link)
    }

    fn spawn(&mut self) -> Result<(), ReaderError> {
        let reader = Reader::spawn(&self.debug_dirs)?;
        let lane = |stream: &UnixStream| {
            stream
                .try_clone()
                .and_then(Lane::new)
                .map_err(|io_error| ReaderError::Lanes { call: "dup", io_error })
        };
        let [first, second] = &reader.names;
        let lanes = [lane(&reader.files)?, lane(first)?, lane(second)?, lane(&reader.tables)?];
        tracing::debug!("reader {} started", reader.child.id());
        self.running = Some(Running { reader, lanes });
        self.started += 1;
        Ok(())
    }

    /// How many readers were started.
    pub fn started(&self) -> u32 {
        self.started
    }

    /// The pid of the reader that runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.reader.child.id())
    }

    /// Whether a request can be sent now.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The descriptors that become readable when [`Self::poll`] has something to do.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running.iter().flat_map(|running| {
            let lanes = running.lanes.iter().map(|lane| lane.stream.as_fd());
            lanes.chain(running.reader.complaints.fd())
        })
    }

    /// Sends a request; its answer comes from [`Self::poll`] with `mark`. While no reader runs the
    /// mark is given back.
    ///
    /// # Errors
    ///
    /// The mark, if no reader runs.
    pub fn send(&mut self, lane: LaneName, kind: request::Kind, mark: T) -> Result<(), T> {
        let Some(running) = &mut self.running else { return Err(mark) };
        let lane = &mut running.lanes[lane.index()];
        if let Err(error) = lane.send(kind, mark) {
            // The next poll sees the broken lane and fails what waits there.
            tracing::debug!("{error}");
        }
        Ok(())
    }

    /// Takes answers, looks after the reader, and starts another where one is due. `true`: a new
    /// reader runs, which has no file open yet.
    pub fn poll(&mut self, outcomes: &mut Vec<(T, Outcome)>) -> bool {
        if let Some(running) = &mut self.running {
            let before = outcomes.len();
            let mut broken = false;
            let mut misbehaves = false;
            for lane in &mut running.lanes {
                let result = lane.flush().and_then(|()| lane.receive(outcomes));
                broken |= match result {
                    Ok(open) => !open,
                    // It has died; `replace` says of what.
                    Err(WireError::Io { .. }) => true,
                    Err(error) => {
                        tracing::warn!("the reader is replaced: {error}");
                        misbehaves = true;
                        true
                    }
                };
            }
            self.complaints.extend(running.reader.complaints.lines());
            if outcomes.len() > before {
                self.pause = FIRST_PAUSE;
            }
            let is_late = running.lanes.iter().any(Lane::is_late);
            if broken || is_late {
                self.replace(misbehaves, outcomes);
            }
        }
        if self.running.is_none() && Instant::now() >= self.start_at {
            self.stuck.retain_mut(Reader::is_stuck);
            if self.stuck.len() >= MOST_STUCK {
                self.delay();
                return false;
            }
            if let Err(error) = self.spawn() {
                tracing::warn!("{error}");
                self.delay();
                return false;
            }
            return true;
        }
        false
    }

    /// What readers have said on standard error since the last call.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    fn delay(&mut self) {
        self.start_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// `misbehaves`: it has sent what is no reply, so that what it was asked is not asked again and
    /// again.
    fn replace(&mut self, misbehaves: bool, outcomes: &mut Vec<(T, Outcome)>) {
        let Some(Running { mut reader, lanes }) = self.running.take() else { return };
        let late = lanes.each_ref().map(Lane::is_late);
        let status = reader.kill();
        self.complaints.extend(reader.complaints.lines());
        // A kill is somebody's doing (or ours); any other end is the fault of what was read.
        let died = match &status {
            Some(status) if status.signal() != Some(libc::SIGKILL) => Failure::Died,
            _ if misbehaves => Failure::Died,
            _ => Failure::Lost,
        };
        tracing::debug!("reader {} ended: {status:?}", reader.child.id());
        if status.is_none() {
            self.stuck.push(reader);
            if self.stuck.len() == MOST_STUCK {
                tracing::warn!(
                    "{MOST_STUCK} readers wait for file systems that do not answer; until one \
                     ends nobody is started in their place"
                );
            }
        }
        for (mut lane, late) in lanes.into_iter().zip(late) {
            lane.fail(if late { Failure::Late } else { died }, outcomes);
        }
        self.delay();
    }
}
