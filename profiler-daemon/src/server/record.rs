//! Recordings for `rprofd --pid` and `rprofd -- COMMAND` of users who may not sample themselves.
//!
//! `POST /record?pid=1,2&kind=cpu&hz=99&children=true&tag=7` answers with a line as soon as it records, and
//! when that is over with profiles, one per process, each behind its length in four bytes, least
//! significant first, and how its threads spent the time ([`crate::profile::Spent`]); the first has no samples, and tells
//! the window. `POST /record/end?tag=7` lets
//! it be over. A client that hangs up ends it, too.

use std::{
    collections::HashSet,
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Extension, Query as UrlQuery, State},
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{App, endpoints, peer::Peer, refused::Refused};
use crate::{
    profile::{Kind, Profile, Window, merge::MergedName, merge::merge, pprof},
    recorder::{Order, Request, Scope},
};

/// The line that says that it records.
pub(crate) const GREETING: &[u8] = b"rprofd records, and tells times\n";

/// The longest, where nobody ends it before.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// The most pids in one request.
const MOST_PIDS: usize = 1024;

/// A process that has just been started is not known at once.
const KNOWN: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pid: String,
    kind: String,
    hz: u64,
    children: bool,
    tag: u64,
}

/// Records until it is told to end.
pub(super) async fn begin(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    UrlQuery(asked): UrlQuery<Asked>,
) -> Result<Response, Refused> {
    let pids: Option<Vec<u32>> = asked.pid.split(',').map(|pid| pid.parse().ok()).collect();
    let pids = pids.filter(|pids| pids.len() <= MOST_PIDS);
    let mut pids = pids.ok_or_else(|| Refused::bad("pid is a list of numbers, such as pid=1,2"))?;
    pids.sort_unstable();
    pids.dedup();
    let most_hertz = endpoints::most_hertz(&app, peer);
    if asked.hz == 0 || asked.hz > most_hertz {
        return Err(Refused::bad(format!("the frequency is 1 to {most_hertz} Hz")));
    }
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == asked.kind);
    let kind = kind.ok_or_else(|| Refused::bad(format!("there is no kind {}", asked.kind)))?;
    let permit = app.permits.record(peer)?;
    until_known(&app, peer, &pids).await?;
    let (reply, answer) = oneshot::channel();
    let (started, has_started) = oneshot::channel();
    app.orders.give(Order::Record(Box::new(Request {
        kind,
        scope: Scope::Tree(pids.into(), asked.children),
        hertz: asked.hz,
        duration: LONGEST,
        addresses: Vec::new(),
        // What was just started is nobody's to see until it is described: of what was recorded,
        // [`encode`] leaves out what is not theirs.
        viewer: None,
        tag: asked.tag,
        tells_times: true,
        started: Some(started),
        reply,
    })));
    // Whoever is told that it records may begin what is to be recorded.
    has_started.await.map_err(|_| app.unavailable())?;
    let greeting = stream::iter([Ok::<_, Infallible>(GREETING.to_vec())]);
    let rest = stream::once(async move {
        // Until it is encoded.
        let _permit = permit;
        let result = answer.await.ok();
        let render = app.permits.render().await;
        let encoded = tokio::task::spawn_blocking(move || {
            let _render = render;
            result.map(|(window, profiles)| encode(peer, &window, profiles)).unwrap_or_default()
        });
        Ok(encoded.await.unwrap_or_default())
    });
    let body = Body::from_stream(greeting.chain(rest));
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
    Ok((headers, body).into_response())
}

/// Waits until all of them are known and may be seen.
async fn until_known(app: &App, peer: Peer, pids: &[u32]) -> Result<(), Refused> {
    let begin = Instant::now();
    loop {
        let there = endpoints::list(app, peer).await?;
        let there: HashSet<u32> = there.iter().map(|it| it.pid).collect();
        let missing = pids.iter().find(|pid| !there.contains(pid));
        let Some(missing) = missing else { return Ok(()) };
        if begin.elapsed() >= KNOWN {
            let whose = if peer.sees_all() { "" } else { " of yours" };
            return Err(Refused::not_found(format!("there is no process {missing}{whose}")));
        }
        let is_new = begin.elapsed() < Duration::from_secs(1);
        tokio::time::sleep(Duration::from_millis(if is_new { 20 } else { 200 })).await;
    }
}

/// What the peer may see of it.
fn encode(peer: Peer, window: &Window, profiles: Vec<Profile>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |profile: &Profile| {
        let encoded = pprof::encode(profile);
        // None is that long.
        let length = u32::try_from(encoded.len()).unwrap_or_default();
        bytes.extend(length.to_le_bytes());
        bytes.extend(profile.spent.to_bytes());
        bytes.extend(encoded);
    };
    let mut first = merge(window, &[], MergedName::First);
    if !peer.sees_all() {
        first.hide_others();
    }
    add(&first);
    for mut profile in profiles {
        if profile.processes.iter().all(|it| peer.sees(it)) {
            if !peer.sees_all() {
                profile.hide_kernel_addresses();
                profile.hide_others();
            }
            add(&profile);
        }
    }
    bytes
}

/// What names a recording.
#[derive(Debug, Deserialize)]
pub(super) struct Ended {
    tag: u64,
}

/// Lets a recording be over. Whoever began it has chosen the tag, which nobody else can guess.
pub(super) async fn end(State(app): State<App>, UrlQuery(ended): UrlQuery<Ended>) -> &'static str {
    app.orders.give(Order::End(ended.tag));
    "ok\n"
}
