//! The index pages: which kinds and which processes there are.

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
    sync::Arc,
};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{go_watch::GoProgram, recent::Recent};
use crate::{
    profile::{Kind, Process, Profile},
    recorder::Scope,
};

/// What can be asked for, and what it is.
const KINDS: [(&str, &str); 11] = [
    (
        "profile",
        "CPU profile. You can specify the duration in the seconds GET parameter. After you get \
         the profile file, use the go tool pprof command to investigate the profile.",
    ),
    (
        "wall",
        "All time of all threads, on a CPU or not: where a program is slow and does nothing. You \
         can specify the duration in the seconds GET parameter.",
    ),
    (
        "block",
        "Stack traces of threads that waited: for a lock, a file, a connection, a child. You can \
         specify the duration in the seconds GET parameter.",
    ),
    (
        "mutex",
        "Stack traces of holders of contended locks. You can specify the duration in the seconds \
         GET parameter; side=waiter shows who waited.",
    ),
    (
        "goroutine",
        "Stack traces of all current goroutines, or threads of what is no Go program. Use debug=2 as \
         a query parameter to have them as text.",
    ),
    ("heap", "Of a Go program: where what is in use was allocated."),
    ("allocs", "Of a Go program: where all was allocated since it began."),
    (
        "goroutineleak",
        "Of a Go program: goroutines that may wait for ever. Suspected: the runtime is not asked.",
    ),
    ("threadcreate", "Stack traces that led to the creation of new threads."),
    ("cmdline", "The command line of the program."),
    ("symbol", "Names of program counters, which come in the query or in the body of a POST."),
];

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 14px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.3rem }
h2 { font-size: 1.05rem; margin-top: 1.8rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
th { border-bottom: 1px solid #8888 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
table.processes { table-layout: fixed }
td { overflow: hidden; text-overflow: ellipsis }
td.command { font-family: ui-monospace, monospace; font-size: 12px; white-space: nowrap }
col.narrow { width: 5rem } col.name { width: 12rem }
input { font: inherit; padding: .2rem .4rem }
code { font-size: 12px }
";

/// What a window has of a process.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// The share of one CPU that it had.
    share: f64,
    samples: i64,
}

/// What a window has of each process, by pid and start.
pub(super) type AllSeen = HashMap<(u32, u64), Seen>;

/// What the last window has of each process.
pub(super) fn seen(recent: &Recent) -> AllSeen {
    let Some((window, profiles)) = recent.last(Kind::Cpu) else { return AllSeen::new() };
    let length_ns = window.duration.as_nanos().max(1) as f64;
    let seen = |profile: &Arc<Profile>| {
        let process = profile.processes.first()?;
        let totals = profile.totals();
        let share = totals[Kind::DEFAULT] as f64 / length_ns;
        Some(((process.pid, process.start_ns), Seen { share, samples: totals[Kind::COUNT] }))
    };
    profiles.iter().filter_map(seen).collect()
}

/// A column that processes can be sorted by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Cpu,
    Pid,
    Name,
}

impl Column {
    fn of(name: Option<&String>) -> Self {
        match name.map(String::as_str) {
            Some("pid") => Self::Pid,
            Some("name") => Self::Name,
            _ => Self::Cpu,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Pid => "pid",
            Self::Name => "name",
        }
    }

    fn order(self, (a, a_share): (&Process, f64), (b, b_share): (&Process, f64)) -> Ordering {
        let by_pid = a.pid.cmp(&b.pid);
        match self {
            Self::Cpu => b_share.total_cmp(&a_share).then(by_pid),
            Self::Pid => by_pid,
            Self::Name => a.comm.cmp(&b.comm).then(by_pid),
        }
    }
}

/// The index of the whole machine, as `sort` and `filter` in its query have it.
pub(super) fn of_machine(
    processes: &[Arc<Process>],
    seen: &AllSeen,
    go: &[GoProgram],
    values: &HashMap<String, String>,
) -> Response {
    let column = Column::of(values.get("sort"));
    let filter = values.get("filter").map_or("", String::as_str).trim();
    let share = |process: &Process| of(seen, process).share;
    let mut rows: Vec<(&Process, f64)> = processes
        .iter()
        .filter(|process| fits(process, filter))
        .map(|process| (&**process, share(process)))
        .collect();
    rows.sort_by(|a, b| column.order(*a, *b));
    let heading = |title: &str, name: &str, is_number: bool| {
        let filter = url_encoded(filter);
        html! {
            th class=[is_number.then_some("number")] { a href={ "?sort=" (name) "&filter=" (filter) } { (title) } }
        }
    };
    page(
        "/debug/pprof/",
        &html! {
            p { "The whole machine." }
            (kinds(samples(seen, processes)))
            (suspects(go))
            h2 { "Processes" }
            form {
                input type="hidden" name="sort" value=(column.name());
                input type="search" name="filter" value=(filter) placeholder="name or pid"
                    aria-label="Filter processes";
                " " input type="submit" value="Filter";
                " " (rows.len()) " of " (processes.len())
            }
            table.processes {
                colgroup { col.narrow; col.narrow; col.name; col; }
                tr {
                    (heading("CPU", "cpu", true))
                    (heading("pid", "pid", true))
                    (heading("name", "name", false))
                    th { "command" }
                }
                @for (process, share) in &rows {
                    tr {
                        td.number { (format!("{:.1}%", share * 100.0)) }
                        td.number { (process.pid) }
                        td {
                            a href={ "/pid/" (process.pid) "/debug/pprof/" } { (name(process)) }
                        }
                        td.command title=(command(process)) { (command(process)) }
                    }
                }
            }
        },
    )
}

/// The index of a process, or of those of one name.
pub(super) fn of_scope(
    scope: &Scope,
    there: &[Arc<Process>],
    seen: &AllSeen,
    go: &[GoProgram],
) -> Response {
    let mut processes: Vec<_> = there.iter().collect();
    processes.sort_by_key(|process| Reverse(process.pid));
    let title = match scope {
        Scope::All | Scope::Tree(..) => "/debug/pprof/".to_owned(),
        Scope::Pid(pid) => format!("/pid/{pid}/debug/pprof/"),
        Scope::Comm(name) => format!("/comm/{name}/debug/pprof/"),
        Scope::Cgroup(name) => format!("/unit/{name}/debug/pprof/"),
    };
    page(
        &title,
        &html! {
            @for process in processes {
                p {
                    (name(process)) " (" (process.pid) ") "
                    code { (command(process)) }
                }
            }
            (kinds(samples(seen, there)))
            (suspects(go))
            p { a href="/debug/pprof/" { "all processes" } }
        },
    )
}

/// Groups of goroutines that only grow.
fn suspects(programs: &[GoProgram]) -> Markup {
    let all = || programs.iter().flat_map(|it| it.suspects.iter().map(move |group| (it, group)));
    html! {
        @if all().next().is_some() {
            h2 { "Suspected goroutine leaks" }
            table.leaks {
                tr {
                    th.number { "goroutines" } th.number { "per minute" }
                    th { "process" } th { "where they wait" }
                }
                @for (program, group) in all() {
                    tr {
                        td.number { (group.count) }
                        td.number { (format!("+{:.0}", group.per_minute)) }
                        td {
                            a href={ "/pid/" (program.process.pid) "/debug/pprof/goroutine?debug=1" } {
                                (name(&program.process)) " (" (program.process.pid) ")"
                            }
                        }
                        td title=(group.stack.join("\n")) {
                            (group.state) " in " code { (group.function()) }
                        }
                    }
                }
            }
        }
    }
}

/// The kinds, and how many samples the last window has for them.
fn kinds(samples: i64) -> Markup {
    html! {
        h2 { "Profiles" }
        table {
            tr { th.number title="in the last window" { "count" } th { "profile" } th { "what it is" } }
            @for (kind, description) in KINDS {
                tr {
                    td.number { @if kind == "profile" { (samples) } @else { "0" } }
                    td { a href=(kind) { (kind) } }
                    td { (description) }
                }
            }
        }
    }
}

fn of(seen: &AllSeen, process: &Process) -> Seen {
    seen.get(&(process.pid, process.start_ns)).copied().unwrap_or_default()
}

/// How many samples a window has of these processes.
fn samples(seen: &AllSeen, processes: &[Arc<Process>]) -> i64 {
    processes.iter().map(|process| of(seen, process).samples).sum()
}

fn command(process: &Process) -> String {
    process.cmdline.replace('\0', " ")
}

fn name(process: &Process) -> &str {
    if process.comm.is_empty() { "?" } else { &process.comm }
}

fn fits(process: &Process, filter: &str) -> bool {
    filter.is_empty()
        || process.comm.contains(filter)
        || process.pid.to_string() == filter
        || process.cmdline.contains(filter)
}

fn url_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
        encoded
    })
}

fn page(title: &str, contents: &Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { h1 { (title) } (contents) }
        }
    };
    // Names are other people's: nothing of them is to run.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; \
                          base-uri 'none'; frame-ancestors 'none'";
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, markup.into_string()).into_response()
}
