//! Processes, as `/proc` shows them: asked of the expendable reader.

use std::collections::HashMap;

use super::{Mark, STRIKES, Symbolizer, Which, said};
use crate::reader::{
    link::{Failure, LaneName, Outcome},
    protocol::{Pids, Process, ProcessInfo, Stacks, Surroundings, reply, request},
};

/// The most processes whose failures are remembered.
const MAX_SUSPECTS: usize = 4096;

/// Stacks of a process's threads.
#[derive(Debug)]
pub struct ReadStacks {
    /// Under which they were asked for.
    pub tag: u64,
    /// The process.
    pub pid: u32,
    /// In the order in which they were asked for; none that could not be read.
    pub stacks: Vec<Vec<u8>>,
}

/// What is to be asked about processes, and how that went.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    wants_all: bool,
    wanted: Vec<u32>,
    /// What was found to have ended.
    gone: Vec<u32>,
    /// How often the reader was late over a process.
    strikes: HashMap<u32, u32>,
}

impl Symbolizer {
    /// Asks for one process, or for all; [`Self::poll`] gives the answer.
    pub fn describe(&mut self, pid: Option<u32>) {
        match pid {
            Some(pid) => self.descriptions.wanted.push(pid),
            None => self.descriptions.wants_all = true,
        }
        self.ask_processes();
    }

    /// Processes that were found to have ended, since the last call.
    pub fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.descriptions.gone)
    }

    /// Asks what is around a process; [`Self::surroundings`] has the answer.
    pub fn look_around(&mut self, pid: u32) {
        let kind = request::Kind::Surroundings(Process { pid });
        let link = &mut self.desks.of(Which::Expendable).link;
        let _ = link.send(LaneName::Files, kind, Mark::Surroundings);
    }

    /// Asks for so many bytes of the stacks of a process's threads, from these avmas on; [`Self::take_stacks`] has
    /// the answer. `false`: no reader is there to ask.
    pub fn read_stacks(&mut self, tag: u64, pid: u32, starts: Vec<u64>, bytes: usize) -> bool {
        if self.is_suspect(pid) {
            return false;
        }
        let bytes = bytes as u32;
        let kind = request::Kind::Stacks(Stacks { pid, starts, bytes });
        let link = &mut self.desks.of(Which::Expendable).link;
        link.send(LaneName::Files, kind, Mark::Stacks(tag, pid)).is_ok()
    }

    /// Stacks that were read since the last call.
    pub fn take_stacks(&mut self) -> Vec<ReadStacks> {
        std::mem::take(&mut self.stacks)
    }

    pub(super) fn stacks_answered(&mut self, tag: u64, pid: u32, outcome: Outcome) {
        let stacks = match outcome {
            Outcome::Answer(reply::Kind::Stacks(read)) => read.stacks,
            Outcome::Answer(reply::Kind::Error(error)) => {
                self.warn(&error);
                Vec::new()
            }
            Outcome::Failed(failure) => {
                self.memory_failed(pid, failure);
                Vec::new()
            }
            Outcome::Answer(_) => Vec::new(),
        };
        self.stacks.push(ReadStacks { tag, pid, stacks });
    }

    /// The reader was asked for a process's memory, and did not answer.
    pub(super) fn memory_failed(&mut self, pid: u32, failure: Failure) {
        if failure == Failure::Lost {
            return;
        }
        // It is not asked again and again.
        let strikes = &mut self.descriptions.strikes;
        if strikes.len() >= MAX_SUSPECTS {
            strikes.clear();
        }
        *strikes.entry(pid).or_default() += 1;
    }

    /// Whether a process is not asked for any more.
    pub(super) fn is_suspect(&self, pid: u32) -> bool {
        self.descriptions.strikes.get(&pid).is_some_and(|&strikes| strikes >= STRIKES)
    }

    /// What was found by [`Self::look_around`], once it has come, or why nothing was.
    pub fn surroundings(&self) -> Option<Result<&Surroundings, &str>> {
        self.surroundings.as_ref().map(|it| it.as_ref().map_err(String::as_str))
    }

    /// Processes that ended may have left their pids to others.
    pub fn forget_processes(&mut self, pids: &[u32]) {
        for pid in pids {
            self.descriptions.strikes.remove(pid);
        }
    }

    pub(super) fn ask_processes(&mut self) {
        let link = &mut self.desks.of(Which::Expendable).link;
        if !link.is_running() {
            return;
        }
        let Descriptions { wants_all, wanted, strikes, .. } = &mut self.descriptions;
        if std::mem::take(wants_all) {
            *wants_all =
                link.send(LaneName::Files, request::Kind::Pids(Pids {}), Mark::Pids).is_err();
        }
        // Suspects last: what is before them in the lane is answered.
        wanted.sort_by_key(|pid| strikes.contains_key(pid));
        wanted.retain(|pid| {
            if strikes.get(pid).is_some_and(|&strikes| strikes >= STRIKES) {
                return false;
            }
            let kind = request::Kind::Process(Process { pid: *pid });
            link.send(LaneName::Files, kind, Mark::Describe(*pid)).is_err()
        });
    }

    pub(super) fn pids_answered(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answer(reply::Kind::Pids(list)) => self.descriptions.wanted.extend(list.pids),
            Outcome::Answer(reply::Kind::Error(error)) => self.warn(&error),
            Outcome::Answer(_) => {}
            Outcome::Failed(_) => self.descriptions.wants_all = true,
        }
    }

    pub(super) fn described(
        &mut self,
        pid: u32,
        outcome: Outcome,
        described: &mut Vec<ProcessInfo>,
    ) {
        match outcome {
            Outcome::Answer(reply::Kind::Description(info)) if info.pid == pid => {
                described.push(info);
            }
            Outcome::Answer(reply::Kind::Gone(_)) => self.descriptions.gone.push(pid),
            Outcome::Answer(reply::Kind::Error(error)) => tracing::debug!("{error}"),
            Outcome::Answer(_) => {}
            Outcome::Failed(Failure::Lost) => self.descriptions.wanted.push(pid),
            Outcome::Failed(failure) => {
                let strikes = &mut self.descriptions.strikes;
                if strikes.len() >= MAX_SUSPECTS {
                    strikes.clear();
                }
                let strikes = strikes.entry(pid).or_default();
                *strikes += 1;
                if *strikes < STRIKES {
                    self.descriptions.wanted.push(pid);
                } else {
                    let said = said(failure);
                    self.warn(&format!(
                        "process {pid} is not described: the reader {said} over it {STRIKES} times"
                    ));
                }
            }
        }
    }
}
