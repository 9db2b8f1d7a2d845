//! What the Go runtime of a process keeps, asked of a recording, and the names in it.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::{
    profile::{Kind, Profile, go::avmas},
    reader::protocol::{GoMemory, GoWhat},
    recorder::{GoRequest, Order, Request, Scope, control::Orders},
};

/// How often names are asked for that have not come in time.
const NAMINGS: usize = 4;

/// After this long names may just have been late.
const LATE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoAnswer {
    /// Nobody records.
    Unavailable,
    /// The process has ended.
    Ended,
}

/// What is read for a kind; `None`: the kind is not read.
pub(crate) fn what_of(kind: Kind) -> Option<GoWhat> {
    match kind {
        Kind::Heap | Kind::Allocs => Some(GoWhat::Heap),
        Kind::Block => Some(GoWhat::Block),
        Kind::Mutex => Some(GoWhat::Mutex),
        Kind::Goroutine | Kind::Goroutines | Kind::Goroutineleak => Some(GoWhat::Goroutines),
        Kind::Cpu | Kind::Wall | Kind::Threadcreate => None,
    }
}

/// What is in the memory of a process now, or why it cannot be read; `viewer`: whoever this user may
/// not look at is not there.
pub(crate) async fn read(
    orders: &Orders,
    viewer: Option<u32>,
    pid: u32,
    what: GoWhat,
) -> Result<Result<GoMemory, String>, NoAnswer> {
    let (reply, answer) = oneshot::channel();
    orders.give(Order::ReadGo(Box::new(GoRequest { pid, what, viewer, reply })));
    answer.await.map_err(|_| NoAnswer::Unavailable)
}

/// The names of all addresses, as a profile of the process with one stack, and comments of the whole.
pub(crate) async fn named(
    orders: &Orders,
    viewer: Option<u32>,
    pid: u32,
    memory: &GoMemory,
) -> Result<(Profile, Vec<String>), NoAnswer> {
    // None would ask for a recording.
    let mut addresses = avmas(memory);
    if addresses.is_empty() {
        addresses.push(0);
    }
    let mut namings = 0;
    loop {
        namings += 1;
        let begun = Instant::now();
        let (reply, answer) = oneshot::channel();
        orders.give(Order::Record(Box::new(Request {
            kind: Kind::Cpu,
            scope: Scope::Pid(pid),
            hertz: 1,
            duration: Duration::ZERO,
            addresses: addresses.clone(),
            viewer,
            tag: 0,
            tells_times: false,
            started: None,
            reply,
        })));
        let (window, profiles) = answer.await.map_err(|_| NoAnswer::Unavailable)?;
        let profile = profiles.into_iter().next().ok_or(NoAnswer::Ended)?;
        let is_whole = profile.locations.iter().all(|it| !it.lines.is_empty());
        if is_whole || begun.elapsed() < LATE || namings == NAMINGS {
            let is_of_samples =
                |it: &String| it.starts_with("frequency") || it.starts_with("lost.");
            let comments = window.comments.into_iter().filter(|it| !is_of_samples(it));
            return Ok((profile, comments.collect()));
        }
    }
}
