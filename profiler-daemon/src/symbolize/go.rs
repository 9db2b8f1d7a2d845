//! What Go runtimes keep: asked of the expendable reader.

use super::{Mark, Symbolizer, Which, said};
use crate::reader::{
    link::{LaneName, Outcome},
    protocol::{GoMemory, GoRead, GoWhat, reply, request},
};

/// What was read of a process.
#[derive(Debug)]
pub struct ReadGo {
    /// Under which it was asked for.
    pub tag: u64,
    /// It, or why there is nothing.
    pub found: Result<GoMemory, String>,
}

impl Symbolizer {
    /// Asks for what the Go runtime of a process keeps; [`Self::take_go`] has the answer.
    pub fn read_go(&mut self, tag: u64, pid: u32, what: GoWhat) {
        let kind = request::Kind::Go(GoRead { pid, what: what.into() });
        let is_suspect = self.is_suspect(pid);
        let link = &mut self.desks.of(Which::Expendable).link;
        if is_suspect || link.send(LaneName::Files, kind, Mark::Go(tag, pid)).is_err() {
            let why = if is_suspect {
                format!("the memory of process {pid} does not answer, and is not asked again")
            } else {
                "the reader is starting; ask again".to_owned()
            };
            self.go.push(ReadGo { tag, found: Err(why) });
        }
    }

    /// What was read since the last call.
    pub fn take_go(&mut self) -> Vec<ReadGo> {
        std::mem::take(&mut self.go)
    }

    pub(super) fn go_answered(&mut self, tag: u64, pid: u32, outcome: Outcome) {
        let found = match outcome {
            Outcome::Answer(reply::Kind::Go(found)) => Ok(*found),
            Outcome::Answer(reply::Kind::Error(error)) => Err(error),
            Outcome::Answer(_) => Err("the reader answered something else".to_owned()),
            Outcome::Failed(failure) => {
                self.memory_failed(pid, failure);
                Err(format!("the reader {} over the memory of process {pid}", said(failure)))
            }
        };
        self.go.push(ReadGo { tag, found });
    }
}
