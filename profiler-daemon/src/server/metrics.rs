//! `/metrics`: rprofd's own figures, as OpenMetrics text.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use axum::{
    extract::{Extension, State},
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{App, endpoints::list, go_metrics, go_watch::GoProgram, peer::Peer, refused::Refused};
use crate::{
    files::Report,
    profile::{Kind, Profile, Window},
    recorder::Own,
};

/// The most names of processes that figures are kept for; what has another is `other`.
const MOST_NAMES: usize = 500;

/// What is said where there are too many names.
const OTHER: &str = "other";

/// What was counted over all windows.
#[derive(Debug, Default)]
pub(super) struct Totals {
    samples: u64,
    windows: u64,
    processes: usize,
    outcomes: BTreeMap<&'static str, u64>,
    losses: BTreeMap<&'static str, u64>,
    by_name: BTreeMap<Arc<str>, OfName>,
    files: u64,
    files_failed: u64,
}

/// What was counted of the processes of one name.
#[derive(Clone, Copy, Debug, Default)]
struct OfName {
    samples: u64,
    busy_ns: u64,
    complete: u64,
    user_stacks: u64,
}

impl Totals {
    /// Counts a window.
    pub(super) fn add(&mut self, window: &Window, profiles: &[Arc<Profile>]) {
        self.windows += 1;
        // Other kinds are counted in other units.
        if window.kind != Kind::Cpu {
            return;
        }
        self.processes = profiles.len();
        for profile in profiles {
            self.samples += profile.totals()[Kind::COUNT].unsigned_abs();
            for (name, count) in profile.outcomes.by_name() {
                *self.outcomes.entry(name).or_default() += count;
            }
            let Some(process) = profile.processes.first() else { continue };
            let is_known = self.by_name.contains_key(&process.comm);
            let name = if is_known || self.by_name.len() < MOST_NAMES {
                Arc::clone(&process.comm)
            } else {
                OTHER.into()
            };
            let of_name = self.by_name.entry(name).or_default();
            of_name.samples += profile.totals()[Kind::COUNT].unsigned_abs();
            of_name.busy_ns += profile.totals()[Kind::DEFAULT].unsigned_abs();
            of_name.complete += profile.outcomes.complete;
            of_name.user_stacks += profile.outcomes.user_stacks();
        }
        for (name, count) in &window.losses {
            *self.losses.entry(name).or_default() += count;
        }
    }
}

impl Totals {
    /// Counts the files of a window.
    pub(super) fn wrote(&mut self, report: &Report) {
        let of_processes = report.rows.iter().filter(|row| row.file.is_some()).count();
        self.files += of_processes as u64 + u64::from(report.everything.is_some());
        self.files_failed += report.failures.len() as u64;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfComm {
    comm: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    queue: &'static str,
}

const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures as they are now.
pub(super) async fn answer(State(app): State<App>) -> Response {
    let now = Now {
        received: app.orders.samples(),
        recent_bytes: app.with_recent(super::recent::Recent::bytes),
        recordings: app.permits.taken(),
        is_ready: app.why_unready().is_none(),
        own: app.orders.own(),
    };
    let text = {
        let totals = app.totals.lock().unwrap_or_else(PoisonError::into_inner);
        render(&totals, &now)
    };
    ([(CONTENT_TYPE, HeaderValue::from_static(TYPE))], text).into_response()
}

/// Figures of processes, added up by name: for those who may see all.
pub(super) async fn of_processes(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, Refused> {
    if !peer.sees_all() {
        let text = "root, members of the group rprofd, and who has a password or a token may ask";
        return Err(Refused::new(StatusCode::FORBIDDEN, text));
    }
    let there = list(&app, peer).await?;
    let go = app.with_go(|watch| watch.programs(&there));
    let text = {
        let totals = app.totals.lock().unwrap_or_else(PoisonError::into_inner);
        render_processes(&totals, &go)
    };
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(TYPE))], text).into_response())
}

/// What is so now.
struct Now {
    received: u64,
    recent_bytes: usize,
    recordings: usize,
    is_ready: bool,
    own: Own,
}

/// A registry whose figures are those of this moment.
struct Figures(Registry);

impl Figures {
    fn new() -> Self {
        Self(Registry::with_prefix("rprofd"))
    }

    fn count(&mut self, name: &str, help: &str, count: u64) {
        self.0.register(name, help, ConstCounter::new(count));
    }

    fn seconds(&mut self, name: &str, help: &str, nanoseconds: u64) {
        let counter = ConstCounter::new(seconds(nanoseconds));
        self.0.register_with_unit(name, help, Unit::Seconds, counter);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstGauge::new(signed(value)));
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) {
        self.0.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(signed(value)));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.0);
        text
    }
}

/// How OpenMetrics ends.
const END: &str = "# EOF\n";

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn render(totals: &Totals, now: &Now) -> String {
    let Now { received, recent_bytes, recordings, is_ready, own } = now;
    let Own {
        cpu_ns,
        bpf_ns,
        memory_bytes,
        readers,
        processes,
        refused_files,
        named,
        tables_cached,
        tables_made,
        tables_dropped,
        tables_bytes,
        hertz,
        shed,
    } = *own;
    let mut figures = Figures::new();
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    figures.0.register("build", "The version", version);
    figures.gauge("ready", "Whether samples are taken", u64::from(*is_ready));
    figures.count("samples_received", "Samples that came from the kernel", *received);
    figures.count("samples_stored", "Samples in windows", totals.samples);
    figures.count("windows", "Windows that have ended", totals.windows);
    let outcomes = Family::<OfOutcome, Counter>::default();
    for (&outcome, &count) in &totals.outcomes {
        outcomes.get_or_create(&OfOutcome { outcome }).inc_by(count);
    }
    figures.0.register("outcomes", "How unwinding of samples ended", outcomes);
    let [all, ..] = Window::LOSSES;
    let lost = totals.losses.get(all).copied().unwrap_or_default();
    figures.count("samples_lost", "Samples that should have been taken and are not there", lost);
    let losses = Family::<OfQueue, Counter>::default();
    for (&queue, &count) in totals.losses.iter().filter(|(queue, _)| **queue != all) {
        losses.get_or_create(&OfQueue { queue }).inc_by(count);
    }
    figures.0.register("lost", "What was lost on its way, by where", losses);
    figures.gauge("frequency_hertz", "Samples per second and CPU now", hertz);
    figures.gauge("shed", "Steps that were taken to keep the limits; 0 is none", shed.into());
    figures.gauge("processes", "Processes that are known", processes as u64);
    let help = "Processes that were sampled in the last window";
    figures.gauge("window_processes", help, totals.processes as u64);
    figures.gauge("recordings", "Requests that record now", *recordings as u64);
    let help = "About what the windows of the last hour take in memory";
    figures.bytes("recent_windows", help, *recent_bytes as u64);
    figures.bytes("memory", "What the core and its readers have in memory", memory_bytes);
    figures.seconds("cpu", "CPU time of the core and its readers", cpu_ns);
    figures.seconds("bpf", "CPU time of the BPF programs, by one run in 64", bpf_ns);
    figures.count("readers_started", "Readers that were started", readers.into());
    let help = "Files that are not read any more, since readers died of them or were late";
    figures.gauge("refused_files", help, refused_files as u64);
    figures.count("addresses_named", "Addresses that were named", named);
    figures.count("unwind_tables_cached", "Unwind tables kept from an earlier run", tables_cached);
    figures.count("unwind_tables_made", "Unwind tables that were made", tables_made);
    let help = "Unwind tables that were dropped for want of room";
    figures.count("unwind_tables_dropped", help, tables_dropped);
    figures.bytes(
        "unwind_tables",
        "What is set aside for unwind tables in the kernel",
        tables_bytes,
    );
    figures.count("files_written", "Files that were written", totals.files);
    figures.count("files_failed", "Files that could not be written", totals.files_failed);
    figures.text()
}

/// A value of a label as OpenMetrics has it; the crate writes it as it is.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Of a group of a Go program's goroutines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGroup {
    pid: u32,
    comm: String,
    function: String,
}

fn render_processes(totals: &Totals, go: &[GoProgram]) -> String {
    let mut figures = Figures::new();
    let samples = Family::<OfComm, Counter>::default();
    let busy = Family::<OfComm, Counter<f64, std::sync::atomic::AtomicU64>>::default();
    let complete = Family::<OfComm, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for (comm, of_name) in &totals.by_name {
        let label = OfComm { comm: escaped(comm) };
        samples.get_or_create(&label).inc_by(of_name.samples);
        busy.get_or_create(&label).inc_by(seconds(of_name.busy_ns));
        let share = of_name.complete as f64 / of_name.user_stacks.max(1) as f64;
        complete.get_or_create(&label).set(share);
    }
    figures.0.register("process_samples", "Samples, by the processes' name", samples);
    let help = "CPU time by samples, by the processes' name";
    figures.0.register_with_unit("process_cpu", help, Unit::Seconds, busy);
    let help = "Share of user stacks that are complete, by the processes' name";
    figures.0.register("process_complete_ratio", help, complete);
    let suspects = Family::<OfGroup, Gauge>::default();
    for program in go {
        let (pid, comm) = (program.process.pid, escaped(&program.process.comm));
        for group in &program.suspects {
            let function = escaped(group.function());
            let label = OfGroup { pid, comm: comm.clone(), function };
            suspects.get_or_create(&label).inc_by(i64::from(group.count));
        }
    }
    let help = "Goroutines of groups that only grow, by where they wait: suspected leaks";
    figures.0.register("go_leak_suspects", help, suspects);
    let mut text = figures.text();
    text.truncate(text.len() - END.len());
    text + &go_metrics::render(go) + END
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::profile::sample::program;

    #[test]
    fn windows_add_up() {
        let mut totals = Totals::default();
        let window = Window {
            kind: Kind::Cpu,
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(10),
            period: 10_000_000,
            comments: Vec::new(),
            losses: vec![("samples", 3), ("samples_missed", 3)],
        };
        for _ in 0..2 {
            totals.add(&window, &[Arc::new(program(7, "app", 0x1000))]);
        }
        let own = Own { bpf_ns: 1_500_000_000, tables_bytes: 8192, ..Own::default() };
        let now = Now { received: 25, recent_bytes: 4096, recordings: 1, is_ready: true, own };
        let text = render(&totals, &now);
        for line in [
            "rprofd_ready 1",
            "rprofd_samples_received_total 25",
            "rprofd_samples_stored_total 20",
            "rprofd_windows_total 2",
            "rprofd_outcomes_total{outcome=\"complete\"} 18",
            "rprofd_samples_lost_total 6",
            "rprofd_lost_total{queue=\"samples_missed\"} 6",
            "rprofd_recent_windows_bytes 4096",
            "rprofd_recordings 1",
            "rprofd_bpf_seconds_total 1.5",
            "rprofd_unwind_tables_bytes 8192",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let text = render_processes(&totals, &[]);
        for line in [
            "rprofd_process_samples_total{comm=\"app\"} 20",
            "rprofd_process_complete_ratio{comm=\"app\"} 0.9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn names_of_processes_are_anything() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }

    #[test]
    fn names_are_not_without_end() {
        let mut totals = Totals::default();
        let window = Window {
            kind: Kind::Cpu,
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(10),
            period: 10_000_000,
            comments: Vec::new(),
            losses: Vec::new(),
        };
        for pid in 0..2000 {
            totals.add(&window, &[Arc::new(program(pid, &format!("p{pid}"), 0x1000))]);
        }
        assert_eq!(totals.by_name.len(), MOST_NAMES + 1);
        let all: u64 = totals.by_name.values().map(|it| it.samples).sum();
        assert_eq!(all, totals.samples, "what is beyond is in the rest");
    }
}
