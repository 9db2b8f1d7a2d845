//! What Go runtimes keep, as somebody asks for it.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::{Recorder, go_running::Running};
use crate::{
    process::{Life, LifeId},
    reader::protocol::{GoMemory, GoWhat},
};

/// Who asks for what the Go runtime of a process keeps.
#[derive(Debug)]
pub struct GoRequest {
    /// The process.
    pub pid: u32,
    /// What of it.
    pub what: GoWhat,
    /// Whoever this user may not look at is not there.
    pub viewer: Option<u32>,
    /// Where to send it, or why there is nothing: a sentence.
    pub reply: oneshot::Sender<Result<GoMemory, String>>,
}

/// Those that wait for an answer.
#[derive(Default)]
pub(super) struct GoRequests {
    next: u64,
    waiting: HashMap<u64, (LifeId, GoRequest)>,
    /// Those that wait for more than what was read.
    pub(super) running: Running,
}

impl Recorder {
    pub(super) fn begin_go(&mut self, request: GoRequest) {
        let GoRequest { pid, what, viewer, .. } = request;
        let Some(life) = self.seen(pid, viewer).map(|life| life.id) else {
            let _ = request.reply.send(Err(format!("there is no process {pid}")));
            return;
        };
        let tag = self.read_go(pid, what);
        self.go.waiting.insert(tag, (life, request));
    }

    /// The process that has this pid now, if the user may look at it.
    pub(super) fn seen(&self, pid: u32, viewer: Option<u32>) -> Option<&Life> {
        self.table.lives().find(|life| {
            life.is_there()
                && life.process.pid == pid
                && viewer.is_none_or(|uid| life.process.viewer_uid == uid)
        })
    }

    /// Has something read; the tag under which it comes.
    pub(super) fn read_go(&mut self, pid: u32, what: GoWhat) -> u64 {
        self.go.next += 1;
        self.symbolizer.read_go(self.go.next, pid, what);
        self.go.next
    }

    /// Hands out what was read.
    pub(super) fn follow_go(&mut self) {
        for read in self.symbolizer.take_go() {
            let Some((life, request)) = self.go.waiting.remove(&read.tag) else {
                self.scheduler_read(read);
                continue;
            };
            match read.found {
                Ok(memory) if request.what == GoWhat::Goroutines => {
                    self.seek_running(life, request, memory);
                }
                found => self.answer_go(life, request, found),
            }
        }
    }

    pub(super) fn answer_go(
        &self,
        life: LifeId,
        request: GoRequest,
        found: Result<GoMemory, String>,
    ) {
        // Its pid may be another's by now.
        let is_there = self.table.life(life).is_some_and(Life::is_there);
        let ended = || Err(format!("process {} has ended", request.pid));
        // Whoever asked may have gone.
        let _ = request.reply.send(if is_there { found } else { ended() });
    }
}
