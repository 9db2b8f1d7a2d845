//! From start until the stacks of all running processes can be walked by tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use profiler_daemon::reader::unwind::{UnwindError, build};
use rprofd_tests::rprofd::Started;
use rustix::process::Signal;

use super::{Bench, Bound, Figure, bpf_maps::Maps, drop_page_cache, population::Population};

/// The longest that is waited.
const LIMIT: Duration = Duration::from_secs(60);

/// How often the kernel's maps are looked at, which takes time itself.
const PERIOD: Duration = Duration::from_millis(5);

/// Without any cache, neither one of tables, nor files in memory; and again with both.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let population = Population::start()?;
    let cache = bench.dir().join("cache");
    drop_page_cache()?;
    let cold = start(bench, &population, &cache)?;
    let warm = start(bench, &population, &cache)?;
    population.ensure_alive()?;
    let open = |what, value| Figure::new(what, value, "", Bound::Open);
    Ok(vec![
        open("processes", cold.processes as f64),
        open("executable mappings", cold.mappings as f64),
        open("files", cold.files as f64),
        open("files without rules, not waited for", cold.without_rules as f64),
        Figure::new("cold", cold.elapsed.as_secs_f64(), "s", Bound::AtMost(3.0)),
        Figure::new("warm", warm.elapsed.as_secs_f64() * 1e3, "ms", Bound::AtMost(400.0)),
    ])
}

/// A start.
struct Reached {
    processes: usize,
    mappings: usize,
    files: usize,
    without_rules: usize,
    /// From before the exec of rprofd until the programs had a table for each mapping.
    elapsed: Duration,
}

/// Starts rprofd, and looks into its BPF maps until each executable mapping of a file, of each
/// process, refers to a table.
fn start(bench: &Bench, population: &Population, cache: &Path) -> Result<Reached> {
    let mut awaited = BTreeMap::new();
    let mut files = BTreeSet::new();
    for pid in population.pids() {
        let mappings = executable_mappings(pid)?;
        files.extend(mappings.values().cloned());
        awaited.insert(pid, mappings);
    }
    // A library of data alone, as ICU's, has a little code and no rules for it.
    let all_files = files.len();
    files.retain(|file| has_rules(file));
    for mappings in awaited.values_mut() {
        mappings.retain(|_, file| files.contains(file));
    }
    let reached = Reached {
        processes: awaited.len(),
        mappings: awaited.values().map(BTreeMap::len).sum(),
        files: files.len(),
        without_rules: all_files - files.len(),
        elapsed: Duration::ZERO,
    };
    let begin = Instant::now();
    let rprofd = bench.rprofd().args(["-F", "99", "--unwind-cache"]).args([cache]).start();
    let maps = loop {
        if let Some(maps) = Maps::of(rprofd.pid())? {
            break maps;
        }
        ensure_in_time(begin, &awaited)?;
        thread::sleep(PERIOD);
    };
    while !awaited.is_empty() {
        thread::sleep(PERIOD);
        for (pid, mappings) in &mut awaited {
            for start in maps.with_table(*pid)? {
                mappings.remove(&start);
            }
        }
        awaited.retain(|_, mappings| !mappings.is_empty());
        ensure_in_time(begin, &awaited)?;
    }
    let elapsed = begin.elapsed();
    stop(rprofd);
    Ok(Reached { elapsed, ..reached })
}

fn ensure_in_time(begin: Instant, awaited: &BTreeMap<u32, BTreeMap<u64, String>>) -> Result<()> {
    if begin.elapsed() < LIMIT {
        return Ok(());
    }
    let files: BTreeSet<_> = awaited.values().flat_map(BTreeMap::values).collect();
    bail!("after {LIMIT:?} there is no unwind table of {files:?}");
}

/// Whether there is anything in it for a table.
fn has_rules(file: &str) -> bool {
    let data = fs::read(file).unwrap_or_default();
    !matches!(build(&data), Err(UnwindError::NoCfi))
}

fn stop(rprofd: Started) {
    rprofd.signal(Signal::INT);
    rprofd.wait().expect_success();
}

/// Start and file of each executable mapping of a file.
fn executable_mappings(pid: u32) -> Result<BTreeMap<u64, String>> {
    let path = format!("/proc/{pid}/maps");
    let text = fs::read_to_string(&path).context(path)?;
    let mut mappings = BTreeMap::new();
    for line in text.lines() {
        // start-end permissions offset device inode path
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [range, permissions, _, _, inode, file, ..] = words[..] else { continue };
        if permissions.contains('x') && inode != "0" {
            let (start, _) = range.split_once('-').context("a range of addresses")?;
            mappings.insert(u64::from_str_radix(start, 16)?, file.to_owned());
        }
    }
    Ok(mappings)
}
