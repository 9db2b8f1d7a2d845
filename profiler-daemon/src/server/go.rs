//! What is answered of a Go program's own memory: as the program would, had it imported
//! `net/http/pprof`.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use axum::{http::StatusCode, response::Response};

use super::{
    App,
    endpoints::{file, most_hertz, text, there},
    go_watch,
    peer::Peer,
    query::Query,
    refused::Refused,
};
use crate::{
    files::format,
    go::{self, NoAnswer},
    go_waits::{self, Asked},
    profile::{
        Kind,
        go::{GoTaken, since},
        pprof,
    },
    reader::protocol::GoWhat,
    recorder::Scope,
};

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
    let what = go::what_of(kind).unwrap_or(GoWhat::Goroutines);
    let (orders, viewer) = (&app.orders, peer.viewer());
    let no_answer = |why| refused(app, pid, why);
    let permit = app.permits.record(peer)?;
    let mut memory = match go::read(orders, viewer, pid, what).await.map_err(no_answer)? {
        Ok(memory) => memory,
        Err(why) if is_of_memory => return Err(Refused::unavailable(why)),
        Err(why) => return Ok(Found::Nothing(Some(why))),
    };
    if !memory.refusal.is_empty() {
        let is_told = is_of_memory || !memory.is_other;
        return Ok(Found::Nothing(is_told.then_some(memory.refusal)));
    }
    let mut duration = Duration::ZERO;
    let asks_for_seconds = values.get("seconds").is_some_and(|it| it != "0" && !it.is_empty());
    let is_of_waits = matches!(kind, Kind::Block | Kind::Mutex);
    if is_of_waits && memory.rate == 0 && memory.buckets.is_empty() {
        let asked = Asked { pid, kind, duration: query.duration, tag: 0, viewer };
        match go_waits::measured(orders, asked).await.map_err(no_answer)? {
            Ok(measured) => (memory, duration) = measured,
            Err(why) => return Ok(Found::Nothing(Some(why))),
        }
    } else if asks_for_seconds && what != GoWhat::Goroutines {
        duration = query.duration;
        tokio::time::sleep(duration).await;
        let now = go::read(orders, viewer, pid, what).await.map_err(no_answer)?;
        let now = now.map_err(Refused::unavailable)?;
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
    let (named, mut comments) = go::named(orders, viewer, pid, &memory).await.map_err(no_answer)?;
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

/// Why nothing is answered of a process, as the client is told.
fn refused(app: &App, pid: u32, why: NoAnswer) -> Refused {
    match why {
        NoAnswer::Unavailable => app.unavailable(),
        NoAnswer::Ended => Refused::gone(format!("process {pid} has ended")),
    }
}
