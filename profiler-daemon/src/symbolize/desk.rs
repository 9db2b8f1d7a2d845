//! The two readers.
//!
//! The *steady* one is asked what always has an answer. The *expendable* one is asked what may never
//! have one: about processes, and for files that are not on a local file system or that only their
//! mapping leads to. It is replaced when it is late, and what the steady one is doing goes on.

use std::{
    fs, io,
    os::fd::BorrowedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, setpriority_process};

use super::{Mark, STRIKES, lanes::Lanes};
use crate::reader::{
    child::{NAMES_LANE, NAMES_LANES, NAMES_NICENESS},
    client::ReaderError,
    link::{Failure, LaneName, Link, Outcome},
    protocol::{Rest, request},
};

/// One of the two readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Which {
    Steady,
    Expendable,
}

impl Which {
    pub(super) const BOTH: [Self; 2] = [Self::Steady, Self::Expendable];

    /// Whether it may be asked to touch what may not answer.
    pub(super) fn goes_anywhere(self) -> bool {
        self == Self::Expendable
    }

    /// What a failure counts for: that the expendable one is late is what it is for, and no accident.
    pub(super) fn strikes_for(self, failure: Failure) -> u32 {
        match (self, failure) {
            (_, Failure::Lost) => 0,
            (Self::Expendable, Failure::Late) => STRIKES,
            _ => 1,
        }
    }

    /// The lane on which it opens files. The expendable one describes processes on the other, which
    /// do not wait until a file system answers.
    fn opening_lane(self) -> LaneName {
        match self {
            Self::Steady => LaneName::Files,
            Self::Expendable => LaneName::Tables,
        }
    }
}

/// Niceness of the names lanes while somebody waits for names.
const HURRIED_NICENESS: i32 = 0;

/// How often a reader is told to hurry, whose threads may only just have begun.
const AGAIN: Duration = Duration::from_secs(1);

/// Sets it of the reader `pid`.
fn set_names_niceness(pid: u32, niceness: i32) -> io::Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let tid =
            task.file_name().to_str().and_then(|tid| tid.parse().ok()).and_then(Pid::from_raw);
        if tid.is_some() && fs::read_to_string(task.path().join("comm"))?.trim_end() == NAMES_LANE {
            // Linux applies it to the thread alone.
            setpriority_process(tid, niceness)?;
        }
    }
    Ok(())
}

/// A reader, and what is under way there.
pub(super) struct Desk {
    pub(super) link: Link<Mark>,
    pub(super) lanes: Lanes,
    /// What is under way is asked for alone.
    pub(super) alone: bool,
    /// How many of its readers' descriptors were handed out.
    seen: u32,
    /// The reader that was told to hurry, and when.
    hurried: Option<(u32, Instant)>,
}

impl Desk {
    fn start(debug_dirs: Vec<PathBuf>) -> Result<Self, ReaderError> {
        let link = Link::start(debug_dirs)?;
        Ok(Self { link, lanes: Lanes::new(), alone: false, seen: 0, hurried: None })
    }
}

impl Desk {
    /// Lets names have their share of a full machine, or what others leave.
    fn hurry(&mut self, hurries: bool) {
        let Some(pid) = self.link.pid() else { return };
        let told = self.hurried.filter(|(reader, _)| *reader == pid);
        let is_told = match told {
            Some((_, when)) => hurries && when.elapsed() < AGAIN,
            None => !hurries,
        };
        if is_told {
            return;
        }
        let niceness = if hurries { HURRIED_NICENESS } else { NAMES_NICENESS };
        if let Err(error) = set_names_niceness(pid, niceness) {
            tracing::debug!("the priority of names stays as it is: {error}");
        }
        self.hurried = hurries.then(|| (pid, Instant::now()));
    }

    /// Has each lane give up what it keeps.
    pub(super) fn rest(&mut self) {
        let names = (0..NAMES_LANES).map(LaneName::Names);
        for lane in names.chain([LaneName::Tables]) {
            let _ = self.link.send(lane, request::Kind::Rest(Rest {}), Mark::Rest);
        }
    }
}

/// Both.
pub(super) struct Desks([Desk; 2]);

impl Desks {
    /// Starts both readers.
    ///
    /// # Errors
    ///
    /// [`ReaderError`].
    pub(super) fn start(debug_dirs: Vec<PathBuf>) -> Result<Self, ReaderError> {
        Ok(Self([Desk::start(debug_dirs.clone())?, Desk::start(debug_dirs)?]))
    }

    pub(super) fn of(&mut self, which: Which) -> &mut Desk {
        &mut self.0[which as usize]
    }

    /// Sends an `Open`.
    pub(super) fn open(&mut self, which: Which, kind: request::Kind, mark: Mark) {
        // If no reader runs, the next one is asked when it starts.
        let _ = self.of(which).link.send(which.opening_lane(), kind, mark);
    }

    /// All descriptors that become readable when there is something to do.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().flat_map(|desk| desk.link.fds())
    }

    /// Those of readers that were started since the last call.
    pub(super) fn new_fds(&mut self) -> Vec<BorrowedFd<'_>> {
        let mut fds = Vec::new();
        for desk in &mut self.0 {
            let started = desk.link.started();
            if std::mem::replace(&mut desk.seen, started) != started {
                fds.extend(desk.link.fds());
            }
        }
        fds
    }

    /// Readers started so far.
    pub(super) fn started(&self) -> u32 {
        self.0.iter().map(|desk| desk.link.started()).sum()
    }

    /// The pids of those that run.
    pub(super) fn readers(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|desk| desk.link.pid())
    }

    /// Has both make names sooner, or when nothing else is to be done.
    pub(super) fn hurry(&mut self, hurries: bool) {
        self.0.iter_mut().for_each(|desk| desk.hurry(hurries));
    }

    /// Naming requests that are under way.
    pub(super) fn naming(&self) -> usize {
        self.0.iter().map(|desk| desk.lanes.waiting()).sum()
    }

    /// What readers have said on standard error since the last call.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        self.0.iter_mut().flat_map(|desk| desk.link.take_complaints()).collect()
    }

    /// Takes answers; says which readers are new.
    pub(super) fn poll(&mut self, outcomes: &mut Vec<(Mark, Outcome)>) -> Vec<Which> {
        let is_new = |which: &Which| self.of(*which).link.poll(outcomes);
        Which::BOTH.into_iter().filter(is_new).collect()
    }
}

#[cfg(test)]
mod tests {
    use rustix::{process::getpriority_process, thread::gettid};

    use super::*;

    #[test]
    fn the_threads_that_make_names_hurry_and_no_others() {
        let niceness = || getpriority_process(Some(gettid())).unwrap();
        std::thread::scope(|scope| {
            let others = niceness();
            let lane = std::thread::Builder::new().name(NAMES_LANE.to_owned());
            let of_lane = lane.spawn_scoped(scope, move || {
                set_names_niceness(std::process::id(), others + 3).unwrap();
                niceness()
            });
            assert_eq!(of_lane.unwrap().join().unwrap(), others + 3);
            assert_eq!(niceness(), others);
        });
        assert!(set_names_niceness(u32::MAX, 0).is_err());
    }
}
