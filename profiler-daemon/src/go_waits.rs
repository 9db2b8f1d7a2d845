//! What the goroutines of a process wait for, where the program does not count it itself: measured from
//! outside for a while.

mod sweep;

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::{
    go::NoAnswer,
    profile::Kind,
    reader::protocol::GoMemory,
    recorder::{GoWaitsRequest, Order, control::Orders},
};

/// For so long it is looked at goroutines at least.
const SHORTEST: Duration = Duration::from_secs(1);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Of this process.
    pub(crate) pid: u32,
    /// Block or mutex.
    pub(crate) kind: Kind,
    /// For how long.
    pub(crate) duration: Duration,
    /// An [`Order::End`] with this ends it before; 0: nothing does.
    pub(crate) tag: u64,
    /// Whoever this user may not look at is not there.
    pub(crate) viewer: Option<u32>,
}

/// Measures it: with probes in the program while that costs it little, else, where it waits, by looking at
/// its goroutines again and again. Also for how long; or why there is nothing, in a sentence.
pub(crate) async fn measured(
    orders: &Orders,
    asked: Asked,
) -> Result<Result<(GoMemory, Duration), String>, NoAnswer> {
    let Asked { pid, kind, duration, tag, viewer } = asked;
    let begun = Instant::now();
    let (reply, answer) = oneshot::channel();
    let request = GoWaitsRequest { pid, kind, duration, tag, viewer, reply };
    orders.give(Order::WatchGo(Box::new(request)));
    let why = match answer.await.map_err(|_| NoAnswer::Unavailable)? {
        Ok(memory) => return Ok(Ok((memory, duration))),
        Err(why) => why,
    };
    if kind != Kind::Block {
        return Ok(Err(format!("who delays goroutines of process {pid} is not measured: {why}")));
    }
    let duration = duration.saturating_sub(begun.elapsed()).max(SHORTEST);
    let found = sweep::measured(orders, Asked { duration, ..asked }).await?;
    Ok(found.map(|mut memory| {
        memory.source = format!("{}: {why}", memory.source);
        (memory, duration)
    }))
}
