//! Memory with the unwind tables of many binaries in the kernel.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};
use rprofd_tests::{procfs, rprofd::Started};

use super::{
    Bench, Bound, Figure,
    bpf_maps::Maps,
    population::Population,
    whole_machine::{mebibytes, pss_bytes},
};

/// What is in use together at one time.
#[derive(Clone, Copy, Default)]
struct Memory {
    maps: u64,
    /// Of core and reader, less the pages of BPF maps that the core has mapped.
    pss: u64,
}

impl Memory {
    fn total(self) -> u64 {
        self.maps + self.pss
    }
}

/// A run of 40 s; its peak counts.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let population = Population::start()?;
    let mut rprofd = bench.rprofd().args(["-F", "99", "-v", "-d", "40s"]).start();
    rprofd.wait_for_line("sampling");
    let maps = Maps::of(rprofd.pid())?.context("rprofd samples without BPF maps")?;
    let mut peak = Memory::default();
    while rprofd.is_running() {
        let now = Memory { maps: maps.memory_bytes()?, pss: own_pss_bytes(&rprofd) };
        if now.total() > peak.total() {
            peak = now;
        }
        thread::sleep(Duration::from_millis(250));
    }
    population.ensure_alive()?;
    let seen = rprofd.wait().expect_success().all();
    let pids: Vec<String> = population.pids().map(|pid| pid.to_string()).collect();
    let samples = seen.total_where("samples", |sample| pids.contains(&sample.labels["pid"]));
    let open = |what, value, unit| Figure::new(what, value, unit, Bound::Open);
    let total = mebibytes(peak.total());
    Ok(vec![
        open("samples of the 100 processes", samples as f64, ""),
        open("BPF maps", mebibytes(peak.maps), "MiB"),
        open("PSS without them", mebibytes(peak.pss), "MiB"),
        Figure::new("together, peak", total, "MiB", Bound::AtMost(120.0)),
    ])
}

/// Proportional set size of core and readers, less what is counted among the BPF maps, in bytes.
pub(super) fn own_pss_bytes(rprofd: &Started) -> u64 {
    let readers: u64 = procfs::readers(rprofd.pid()).into_iter().map(mapped_maps_bytes).sum();
    pss_bytes(rprofd).saturating_sub(mapped_maps_bytes(rprofd.pid()) + readers)
}

/// Proportional set size of the BPF maps that a process has mapped, in bytes.
fn mapped_maps_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut is_map = false;
    let mut bytes = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Pss:") {
            let kib = rest.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
            bytes += if is_map { kib.unwrap_or(0) * 1024 } else { 0 };
        } else if !line.split_whitespace().next().is_some_and(|word| word.ends_with(':')) {
            is_map = line.ends_with("anon_inode:bpf-map");
        }
    }
    bytes
}
