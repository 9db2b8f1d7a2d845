//! `/metrics`: rprofd's own figures, as OpenMetrics text.

use std::{collections::BTreeMap, sync::PoisonError};

use axum::{
    extract::State,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::App;
use crate::profile::{Kind, Profile, Window};

/// What was counted over all windows.
#[derive(Debug, Default)]
pub(super) struct Totals {
    samples: u64,
    windows: u64,
    processes: usize,
    outcomes: BTreeMap<&'static str, u64>,
    losses: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Counts a window.
    pub(super) fn add(&mut self, window: &Window, profiles: &[Profile]) {
        self.windows += 1;
        self.processes = profiles.len();
        for profile in profiles {
            self.samples += profile.totals()[Kind::COUNT].unsigned_abs();
            for (name, count) in profile.outcomes.by_name() {
                *self.outcomes.entry(name).or_default() += count;
            }
        }
        for (name, count) in &window.losses {
            *self.losses.entry(name).or_default() += count;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    queue: &'static str,
}

/// The figures as they are now.
pub(super) async fn answer(State(app): State<App>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let recent_bytes = app.with_recent(super::recent::Recent::bytes);
    let recordings = super::RECORDINGS - app.recordings.available_permits();
    let text = {
        let totals = app.totals.lock().unwrap_or_else(PoisonError::into_inner);
        render(&totals, app.orders.samples(), recent_bytes, recordings)
    };
    ([(CONTENT_TYPE, HeaderValue::from_static(TYPE))], text).into_response()
}

fn counter(count: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(count);
    counter
}

fn gauge(value: usize) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn render(totals: &Totals, received: u64, recent_bytes: usize, recordings: usize) -> String {
    let mut registry = Registry::with_prefix("rprofd");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version", version);
    registry.register("samples_received", "Samples that came from the kernel", counter(received));
    registry.register("samples_stored", "Samples in windows", counter(totals.samples));
    registry.register("windows", "Windows that have ended", counter(totals.windows));
    let outcomes = Family::<OfOutcome, Counter>::default();
    for (&outcome, &count) in &totals.outcomes {
        outcomes.get_or_create(&OfOutcome { outcome }).inc_by(count);
    }
    registry.register("outcomes", "How unwinding of samples ended", outcomes);
    let losses = Family::<OfQueue, Counter>::default();
    for (&queue, &count) in &totals.losses {
        losses.get_or_create(&OfQueue { queue }).inc_by(count);
    }
    registry.register("lost", "What was lost on its way, by where", losses);
    registry.register(
        "window_processes",
        "Processes that were sampled in the last window",
        gauge(totals.processes),
    );
    registry.register("recordings", "Requests that record now", gauge(recordings));
    let help = "About what the windows of the last hour take in memory";
    registry.register_with_unit("recent_windows", help, Unit::Bytes, gauge(recent_bytes));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
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
            losses: vec![("samples", 3)],
        };
        for _ in 0..2 {
            totals.add(&window, &[program(7, "app", 0x1000)]);
        }
        let text = render(&totals, 25, 4096, 1);
        for line in [
            "rprofd_samples_received_total 25",
            "rprofd_samples_stored_total 20",
            "rprofd_windows_total 2",
            "rprofd_outcomes_total{outcome=\"complete\"} 18",
            "rprofd_lost_total{queue=\"samples\"} 6",
            "rprofd_recent_windows_bytes 4096",
            "rprofd_recordings 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
