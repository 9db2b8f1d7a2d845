//! What is answered of a Go program's own memory: as the program would, had it imported
//! `net/http/pprof`.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use axum::{http::StatusCode, response::Response};
use tokio::sync::oneshot;

use super::{
    App,
    endpoints::{file, most_hertz, record, text, there},
    go_watch,
    peer::Peer,
    query::Query,
    refused::Refused,
};
use crate::{
    files::format,
    profile::{
        Kind, Profile,
        go::{GoTaken, avmas, since},
        pprof,
    },
    reader::protocol::{GoMemory, GoWhat},
    recorder::{GoRequest, Order, Scope},
};

/// How often names are asked for that have not come in time.
const NAMINGS: usize = 4;

/// After this long names may just have been late.
const LATE: Duration = Duration::from_secs(3);

/// What there is of a Go program's memory.
pub(super) enum Found {
    /// An answer.
    Answer(Response),
    /// It has nothing of it; of a Go program: why.
    Nothing(Option<String>),
}

/// Answers of the memory of the process that `scope` is.
///
/// # Errors
///
/// [`Refused`].
pub(super) async fn answer(
    app: &App,
    peer: Peer,
    scope: &Scope,
    kind: Kind,
    values: &HashMap<String, String>,
) -> Result<Found, Refused> {
    let query = Query::parse(values, app.settings.default_hertz, most_hertz(app, peer));
    let query = query.map_err(Refused::bad)?;
    // Of what is no Go program there is nothing like it.
    let is_of_memory = matches!(kind, Kind::Heap | Kind::Allocs | Kind::Goroutineleak);
    if query.ago.is_some() || query.waiters {
        let why = format!("{} is read of now: leave from and side out", kind.name());
        return if is_of_memory { Err(Refused::bad(why)) } else { Ok(Found::Nothing(None)) };
    }
    let processes = if *scope == Scope::All { Vec::new() } else { there(app, peer, scope).await? };
    let [process] = &processes[..] else {
        let why = format!("{} is of one Go program: name it with ?pid= or /pid/PID/", kind.name());
        return if is_of_memory { Err(Refused::bad(why)) } else { Ok(Found::Nothing(None)) };
    };
    let pid = process.pid;
    let what = match kind {
        Kind::Heap | Kind::Allocs => GoWhat::Heap,
        Kind::Block => GoWhat::Block,
        Kind::Mutex => GoWhat::Mutex,
        _ => GoWhat::Goroutines,
    };
    let permit = app.permits.record(peer)?;
    let mut memory = match read(app, peer, pid, what).await? {
        Ok(memory) => memory,
        Err(why) if is_of_memory => return Err(Refused::unavailable(why)),
        Err(why) => return Ok(Found::Nothing(Some(why))),
    };
    if !memory.refusal.is_empty() {
        let is_told = is_of_memory || !memory.is_other;
        return Ok(Found::Nothing(is_told.then_some(memory.refusal)));
    }
    if matches!(kind, Kind::Block | Kind::Mutex) && memory.rate == 0 && memory.buckets.is_empty() {
        return Ok(Found::Nothing(None));
    }
    let mut duration = Duration::ZERO;
    let asks_for_seconds = values.get("seconds").is_some_and(|it| it != "0" && !it.is_empty());
    if asks_for_seconds && what != GoWhat::Goroutines {
        duration = query.duration;
        tokio::time::sleep(duration).await;
        let now = read(app, peer, pid, what).await?.map_err(Refused::unavailable)?;
        let before = std::mem::replace(&mut memory, now);
        if !memory.refusal.is_empty() {
            return Err(Refused::new(StatusCode::NOT_IMPLEMENTED, memory.refusal));
        }
        since(&mut memory, &before);
    }
    if kind == Kind::Goroutineleak {
        memory = app.with_go(|watch| watch.suspected(process, memory));
    }
    let time = SystemTime::now();
    let (named, mut comments) = named(app, peer, pid, &memory).await?;
    if kind == Kind::Goroutineleak {
        comments.push(go_watch::HEURISTIC.to_owned());
    }
    let _render = app.permits.render().await;
    let taken = GoTaken { kind, memory, named, time, duration, comments };
    let debug = query.debug;
    let contents = tokio::task::spawn_blocking(move || {
        if debug > 0 {
            format::go::render(&taken, debug).into_bytes()
        } else {
            pprof::encode(&taken.profile())
        }
    });
    let contents = contents.await.map_err(|_| app.unavailable())?;
    drop(permit);
    Ok(Found::Answer(if debug > 0 {
        text(String::from_utf8_lossy(&contents).into_owned())
    } else {
        file(kind, contents)
    }))
}

/// What is in the memory of a process now, or why it cannot be read.
pub(super) async fn read(
    app: &App,
    peer: Peer,
    pid: u32,
    what: GoWhat,
) -> Result<Result<GoMemory, String>, Refused> {
    let (reply, answer) = oneshot::channel();
    let viewer = peer.viewer();
    app.orders.give(Order::ReadGo(Box::new(GoRequest { pid, what, viewer, reply })));
    answer.await.map_err(|_| app.unavailable())
}

/// The names of all addresses, and comments of the whole.
pub(super) async fn named(
    app: &App,
    peer: Peer,
    pid: u32,
    memory: &GoMemory,
) -> Result<(Profile, Vec<String>), Refused> {
    // None would ask for a recording.
    let mut addresses = avmas(memory);
    if addresses.is_empty() {
        addresses.push(0);
    }
    let query = Query::of_addresses(app.settings.default_hertz);
    let mut namings = 0;
    loop {
        namings += 1;
        let begun = Instant::now();
        let asked = addresses.clone();
        let (window, profiles) =
            record(app, peer, Scope::Pid(pid), Kind::Cpu, &query, asked).await?;
        let profile = profiles.into_iter().next();
        let profile = profile.ok_or_else(|| Refused::gone(format!("process {pid} has ended")))?;
        let is_whole = profile.locations.iter().all(|it| !it.lines.is_empty());
        if is_whole || begun.elapsed() < LATE || namings == NAMINGS {
            let is_of_samples =
                |it: &String| it.starts_with("frequency") || it.starts_with("lost.");
            let comments = window.comments.into_iter().filter(|it| !is_of_samples(it));
            return Ok((profile, comments.collect()));
        }
    }
}
