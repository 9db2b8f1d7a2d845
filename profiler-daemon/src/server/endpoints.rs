//! The routes, and what they answer.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{
        DefaultBodyLimit, Extension, Path, Query as UrlQuery, Request as HttpRequest, State,
    },
    http::{
        HeaderValue, Method, StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use tokio::sync::oneshot;

use super::{
    App, access, before, go, index, metrics, peer::Peer, query::Query, record, refused::Refused,
    targets,
};
use crate::{
    files::Format,
    profile::{
        Kind, Process, Profile, Window,
        merge::{MergedName, merge},
    },
    recorder::{Order, Request, Scope},
};

/// Kinds that this version does not record.
const PLANNED: [&str; 2] = ["rss", "trace"];

/// The longest body, in bytes: addresses to be named.
const BODY_BYTES: usize = 1 << 20;

/// The most samples per second and CPU for others than root.
const MOST_HERTZ: u64 = 999;

/// How long it may take to come.
const BODY: Duration = Duration::from_secs(10);

/// The most addresses that one request has named.
const MOST_ADDRESSES: usize = 16 << 10;

/// All routes.
pub(super) fn router(app: App) -> Router {
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/debug/pprof/") }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::answer))
        .route("/metrics/processes", get(metrics::of_processes))
        .route("/sd", get(targets::answer))
        .route("/record", post(record::begin))
        .route("/record/end", post(record::end))
        .route("/debug/pprof/", get(machine_index))
        .route("/debug/pprof", get(|| async { Redirect::permanent("/debug/pprof/") }))
        .route("/debug/pprof/{kind}", get(of_machine).post(of_machine));
    for by in ["pid", "comm", "unit"] {
        router = router
            .route(&format!("/{by}/{{name}}/debug/pprof/"), get(scope_index))
            .route(&format!("/{by}/{{name}}/debug/pprof/{{kind}}"), get(of_scope).post(of_scope));
    }
    router
        .fallback(|| async { Refused::not_found("there is no such page; see /debug/pprof/") })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(with_body))
        .layer(middleware::from_fn_with_state(app.clone(), access::admit))
        .with_state(app)
}

/// What anybody may know: rprofd's own figures, and whether it is there.
pub(super) fn metrics_router(app: App) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::answer))
        .fallback(|| async { Refused::not_found("here are /metrics, /healthz and /readyz alone") })
        .with_state(app)
}

/// Waits for the body, which is neither long nor slow, where one is of use.
async fn with_body(request: HttpRequest, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if head.method != Method::POST || !head.uri.path().ends_with("/symbol") {
        return next.run(HttpRequest::from_parts(head, Body::empty())).await;
    }
    let stated = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let stated = stated.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
    let too_long = || {
        let text = format!("a body is at most {BODY_BYTES} bytes");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
    };
    if stated > BODY_BYTES as u64 {
        return too_long();
    }
    match tokio::time::timeout(BODY, to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(bytes)) => next.run(HttpRequest::from_parts(head, bytes.into())).await,
        Ok(Err(_)) => too_long(),
        Err(_) => {
            Refused::new(StatusCode::REQUEST_TIMEOUT, "the body does not come").into_response()
        }
    }
}

/// Whether samples are taken.
async fn ready(State(app): State<App>) -> Response {
    match app.why_unready() {
        None => "ok\n".into_response(),
        Some(why) => Refused::unavailable(why).into_response(),
    }
}

type Values = UrlQuery<HashMap<String, String>>;

async fn machine_index(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    UrlQuery(values): Values,
) -> Result<Response, Refused> {
    let processes = list(&app, peer).await?;
    let seen = app.with_recent(index::seen);
    let go = app.with_go(|watch| watch.programs(&processes));
    Ok(index::of_machine(&processes, &seen, &go, &values).into_response())
}

async fn scope_index(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    request: HttpRequest,
) -> Result<Response, Refused> {
    let (scope, _) = scope_of(request.uri().path())?;
    let processes = there(&app, peer, &scope).await?;
    let seen = app.with_recent(index::seen);
    let go = app.with_go(|watch| watch.programs(&processes));
    Ok(index::of_scope(&scope, &processes, &seen, &go).into_response())
}

async fn of_machine(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Path(kind): Path<String>,
    UrlQuery(values): Values,
    method: Method,
    body: Bytes,
) -> Result<Response, Refused> {
    let scope = match (values.get("pid"), values.get("comm")) {
        (Some(pid), None) => Scope::Pid(pid_of(pid)?),
        (None, Some(comm)) => Scope::Comm(comm.as_str().into()),
        (None, None) => Scope::All,
        (Some(_), Some(_)) => return Err(Refused::bad("give one of pid and comm")),
    };
    let body = if method == Method::POST { Some(body) } else { None };
    answer(&app, peer, scope, &kind, &values, body).await
}

async fn of_scope(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    UrlQuery(values): Values,
    method: Method,
    uri: axum::http::Uri,
    body: Bytes,
) -> Result<Response, Refused> {
    let (scope, kind) = scope_of(uri.path())?;
    let body = if method == Method::POST { Some(body) } else { None };
    answer(&app, peer, scope, &kind, &values, body).await
}

/// The scope and the kind that a path such as `/pid/1/debug/pprof/profile` names.
fn scope_of(path: &str) -> Result<(Scope, String), Refused> {
    let mut parts = path.split('/').skip(1);
    let (by, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let name = percent_decoded(name).ok_or_else(|| Refused::bad("the name is not UTF-8"))?;
    let kind = path.rsplit('/').next().unwrap_or_default().to_owned();
    let scope = match by {
        "pid" => Scope::Pid(pid_of(&name)?),
        "comm" => Scope::Comm(name.into()),
        _ if name.contains('.') => Scope::Cgroup(name.into()),
        _ => Scope::Cgroup(format!("{name}.service").into()),
    };
    Ok((scope, kind))
}

fn pid_of(text: &str) -> Result<u32, Refused> {
    text.parse().map_err(|_| Refused::bad("a pid is a number, such as /pid/1234/debug/pprof/"))
}

/// Undoes `%41`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The processes that are there and that the peer may see.
pub(super) async fn list(app: &App, peer: Peer) -> Result<Vec<Arc<Process>>, Refused> {
    let (reply, answer) = oneshot::channel();
    app.orders.give(Order::List(reply));
    let mut processes = answer.await.map_err(|_| app.unavailable())?;
    processes.retain(|process| peer.sees(process));
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

/// Those of a scope; none is an error.
pub(super) async fn there(
    app: &App,
    peer: Peer,
    scope: &Scope,
) -> Result<Vec<Arc<Process>>, Refused> {
    let mut processes = list(app, peer).await?;
    processes.retain(|process| scope.has(process));
    if !processes.is_empty() || *scope == Scope::All {
        return Ok(processes);
    }
    let whose = if peer.sees_all() { "" } else { " of yours" };
    let is_it = |process: &Process| scope.has(process) && peer.sees(process);
    let was_there = || app.with_recent(|recent| recent.knows(is_it));
    Err(match scope {
        Scope::Pid(pid) if was_there() => Refused::gone(format!(
            "process {pid} has ended; what was recorded of it is at \
                 /pid/{pid}/debug/pprof/profile?from=-5m"
        )),
        Scope::Pid(pid) => Refused::not_found(format!("there is no process {pid}{whose}")),
        Scope::Comm(name) => Refused::not_found(format!("no process{whose} is called {name}")),
        Scope::Cgroup(name) => Refused::not_found(format!("no process{whose} is of {name}")),
        Scope::All | Scope::Tree(..) => Refused::not_found("there is no process"),
    })
}

async fn answer(
    app: &App,
    peer: Peer,
    scope: Scope,
    kind: &str,
    values: &HashMap<String, String>,
    body: Option<Bytes>,
) -> Result<Response, Refused> {
    match kind {
        "profile" => profile(app, peer, scope, Kind::Cpu, values).await,
        "wall" => profile(app, peer, scope, Kind::Wall, values).await,
        "block" | "mutex" | "goroutine" => {
            let (of_go, of_threads) = match kind {
                "block" => (Kind::Block, Kind::Block),
                "mutex" => (Kind::Mutex, Kind::Mutex),
                _ => (Kind::Goroutines, Kind::Goroutine),
            };
            // What a Go program has counted itself, else what its threads do.
            match go::answer(app, peer, &scope, of_go, values).await? {
                go::Found::Answer(answer) => Ok(answer),
                go::Found::Nothing(why) => {
                    profile_with(app, peer, scope, of_threads, values, why).await
                }
            }
        }
        "heap" | "allocs" | "goroutineleak" => {
            let of_go = match kind {
                "heap" => Kind::Heap,
                "allocs" => Kind::Allocs,
                _ => Kind::Goroutineleak,
            };
            match go::answer(app, peer, &scope, of_go, values).await? {
                go::Found::Answer(answer) => Ok(answer),
                go::Found::Nothing(why) => {
                    Err(Refused::new(StatusCode::NOT_IMPLEMENTED, why.unwrap_or_default()))
                }
            }
        }
        "threads" => profile(app, peer, scope, Kind::Goroutine, values).await,
        "threadcreate" => profile(app, peer, scope, Kind::Threadcreate, values).await,
        "cmdline" => command_line(app, peer, &scope).await,
        "symbol" => symbol(app, peer, &scope, values, body).await,
        kind if PLANNED.contains(&kind) => Err(Refused::new(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "this version does not record {kind}; there are profile, wall, block, mutex, \
                 goroutine, threadcreate, and of Go programs heap, allocs and goroutineleak"
            ),
        )),
        _ => Err(Refused::not_found("Unknown profile")),
    }
}

/// A profile of the next seconds, or of some that have gone by.
async fn profile(
    app: &App,
    peer: Peer,
    scope: Scope,
    kind: Kind,
    values: &HashMap<String, String>,
) -> Result<Response, Refused> {
    profile_with(app, peer, scope, kind, values, None).await
}

/// The same, with another comment.
async fn profile_with(
    app: &App,
    peer: Peer,
    scope: Scope,
    kind: Kind,
    values: &HashMap<String, String>,
    comment: Option<String>,
) -> Result<Response, Refused> {
    let query = Query::parse(values, app.settings.default_hertz, most_hertz(app, peer));
    let query = query.map_err(Refused::bad)?;
    let name = if scope == Scope::All { MergedName::Host } else { MergedName::First };
    let (mut permit, mut render) = (None, None);
    let (window, profiles) = if let Some(ago) = query.ago {
        // Who waits holds on to no window.
        render = app.permits.render().await;
        let from = before(SystemTime::now(), ago);
        let sees = |process: &Process| scope.has(process) && peer.sees(process);
        let found =
            app.with_recent(|recent| recent.between(kind, from, from + query.duration, sees));
        found.ok_or_else(|| {
            Refused::not_found(format!("of {} nothing is kept of that time", kind.name()))
        })?
    } else {
        there(app, peer, &scope).await?;
        // Until it is encoded.
        permit = Some(app.permits.record(peer)?);
        // Who waits is another side of what is recorded as block.
        let recorded = if query.waiters && kind == Kind::Mutex { Kind::Block } else { kind };
        let (mut window, mut profiles) =
            record(app, peer, scope, recorded, &query, Vec::new()).await?;
        if recorded != kind {
            window.kind = kind;
            window.comments.push("side=waiter".into());
            for profile in &mut profiles {
                profile.kind = kind;
                profile.samples.retain(|sample| &*sample.state == "futex");
            }
        }
        let is_moment = kind == Kind::Goroutine;
        if !is_moment && !app.settings.kinds.contains(&kind) && !values.contains_key("seconds") {
            window.comments.push(format!(
                "recorded={} s, from the request on: {} is not recorded all the time (see --kind)",
                query.duration.as_secs(),
                kind.name()
            ));
        }
        window.comments.extend(comment);
        profiles.retain(|profile| profile.processes.iter().all(|it| peer.sees(it)));
        (window, profiles.into_iter().map(Arc::new).collect())
    };
    let text_of_stacks = if kind == Kind::Goroutine { Format::Threads } else { Format::Folded };
    let format = [Format::Pprof, Format::Text, text_of_stacks][usize::from(query.debug)];
    if render.is_none() {
        render = app.permits.render().await;
    }
    let is_kept = query.ago.is_some();
    // An hour of a busy machine takes a while: others are answered meanwhile.
    let contents = tokio::task::spawn_blocking(move || {
        let _render = render;
        let profiles: Vec<&Profile> = profiles.iter().map(|profile| &**profile).collect();
        let mut merged = merge(&window, &profiles, name);
        if !peer.sees_all() {
            merged.hide_kernel_addresses();
            if is_kept {
                merged.hide_others();
            }
        }
        format.render(&merged).unwrap_or_default()
    });
    let contents = contents.await.map_err(|_| app.unavailable())?;
    drop(permit);
    if query.debug > 0 {
        return Ok(text(String::from_utf8_lossy(&contents).into_owned()));
    }
    Ok(file(kind, contents))
}

/// A profile that a browser is to save.
pub(super) fn file(kind: Kind, contents: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_DISPOSITION, disposition(kind)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, contents).into_response()
}

/// The name of the file that a browser makes of it: Go's.
fn disposition(kind: Kind) -> HeaderValue {
    HeaderValue::from_static(match kind {
        Kind::Cpu => "attachment; filename=\"profile\"",
        Kind::Wall => "attachment; filename=\"wall\"",
        Kind::Block => "attachment; filename=\"block\"",
        Kind::Mutex => "attachment; filename=\"mutex\"",
        Kind::Goroutine | Kind::Goroutines => "attachment; filename=\"goroutine\"",
        Kind::Goroutineleak => "attachment; filename=\"goroutineleak\"",
        Kind::Heap => "attachment; filename=\"heap\"",
        Kind::Allocs => "attachment; filename=\"allocs\"",
        Kind::Threadcreate => "attachment; filename=\"threadcreate\"",
    })
}

/// The most samples per second and CPU that the peer may ask for.
pub(super) fn most_hertz(app: &App, peer: Peer) -> u64 {
    let most = app.settings.most_hertz;
    if peer.is_root() { most } else { most.min(MOST_HERTZ) }
}

/// Records beside everything else; with addresses: has them named.
pub(super) async fn record(
    app: &App,
    peer: Peer,
    scope: Scope,
    kind: Kind,
    query: &Query,
    addresses: Vec<u64>,
) -> Result<(Window, Vec<Profile>), Refused> {
    let (reply, answer) = oneshot::channel();
    let (hertz, duration) = (query.hertz, query.duration);
    app.orders.give(Order::Record(Box::new(Request {
        kind,
        scope,
        hertz,
        duration,
        addresses,
        viewer: peer.viewer(),
        tag: 0,
        tells_times: false,
        started: None,
        reply,
    })));
    answer.await.map_err(|_| app.unavailable())
}

/// Arguments, separated by NUL as Go's are.
async fn command_line(app: &App, peer: Peer, scope: &Scope) -> Result<Response, Refused> {
    if *scope == Scope::All {
        let own: Vec<_> = std::env::args().collect();
        return Ok(text(own.join("\0")));
    }
    let processes = there(app, peer, scope).await?;
    let lines: Vec<_> = processes.iter().map(|process| &*process.cmdline).collect();
    Ok(text(lines.join("\n")))
}

pub(super) fn text(contents: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, contents).into_response()
}

/// Where a name would tell what lies where in the kernel.
fn is_in_kernel(avma: u64) -> bool {
    avma >= 1 << 63
}

/// Names of addresses, which come separated by `+`: in the query, or in the body of a POST.
async fn symbol(
    app: &App,
    peer: Peer,
    scope: &Scope,
    values: &HashMap<String, String>,
    body: Option<Bytes>,
) -> Result<Response, Refused> {
    let asked = match &body {
        Some(body) => String::from_utf8_lossy(body).into_owned(),
        // `?0x1+0x2` is a key without a value, in which `+` is a space.
        None => values.keys().next().cloned().unwrap_or_default().replace(' ', "+"),
    };
    let addresses: Vec<u64> = asked
        .trim()
        .split('+')
        .map_while(|word| u64::from_str_radix(word.trim().strip_prefix("0x")?, 16).ok())
        .take(MOST_ADDRESSES)
        .filter(|&address| address != 0 && (peer.sees_all() || !is_in_kernel(address)))
        .collect();
    // So a client learns that there is something to ask.
    let mut lines = "num_symbols: 1\n".to_owned();
    if addresses.is_empty() {
        return Ok(text(lines));
    }
    there(app, peer, scope).await?;
    let query = Query { duration: Duration::ZERO, hertz: 1, ago: None, debug: 0, waiters: false };
    let _permit = app.permits.record(peer)?;
    let (_, profiles) = record(app, peer, scope.clone(), Kind::Cpu, &query, addresses).await?;
    for profile in profiles.iter().filter(|it| it.processes.iter().all(|p| peer.sees(p))) {
        for location in &profile.locations {
            if let Some(line) = location.lines.first() {
                let name = &profile.functions[line.function as usize].name;
                lines += &format!("{:#x} {name}\n", location.avma);
            }
        }
    }
    Ok(text(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_paths() {
        let scope = |path: &str| scope_of(path).ok();
        let found = |scope: Scope, kind: &str| Some((scope, kind.to_owned()));
        assert_eq!(scope("/pid/12/debug/pprof/profile"), found(Scope::Pid(12), "profile"));
        assert_eq!(scope("/comm/a%20b/debug/pprof/"), found(Scope::Comm("a b".into()), ""));
        let unit = Scope::Cgroup("nginx.service".into());
        assert_eq!(scope("/unit/nginx/debug/pprof/heap"), found(unit, "heap"));
        assert_eq!(scope("/pid/x/debug/pprof/profile"), None);
        assert_eq!(scope("/comm/%ff/debug/pprof/profile"), None);
        assert_eq!(scope("/comm/%4/debug/pprof/profile"), None);
    }
}
