//! What `rprofd serve` promises.

mod clients;
mod descriptors;
mod discovery;
mod index;
mod kills;
mod soak;
mod target;
mod threads;
pub(super) mod throughput;
mod waits;

pub(super) use self::{
    clients::run as clients,
    discovery::run as discovery,
    index::run as index,
    kills::run as kills,
    soak::{fork_storm, many_windows},
    target::run as target,
    threads::run as threads,
    waits::run as waits,
};

use std::time::Duration;

use anyhow::{Context as _, Result};
use rprofd_tests::{procfs, serve::Daemon};

/// CPU time of the core and of its readers that live.
fn cpu_time(daemon: &Daemon) -> Duration {
    let core = daemon.rprofd.pid();
    let readers: u64 = procfs::readers(core).into_iter().map(procfs::cpu_time_ns).sum();
    Duration::from_nanos(procfs::cpu_time_ns(core) + readers)
}

/// A figure of `/metrics`.
fn metric(daemon: &Daemon, name: &str) -> Result<f64> {
    let text = daemon.get("/metrics").text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} in /metrics"))
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
