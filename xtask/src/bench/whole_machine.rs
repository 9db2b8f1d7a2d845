//! What rprofd itself costs on a machine whose CPUs are all busy, deep in their stacks.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::{Program, procfs, rprofd::Started};

use super::{Bench, Bound, Figure};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// When measuring begins and ends, from the start of a run of a minute.
const WARM: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(55);

/// What was seen in a run.
struct Seen {
    core: Duration,
    /// Without its naming.
    reader: Duration,
    naming: Duration,
    bpf: Duration,
    bpf_runs: u64,
    peak_pss_bytes: u64,
}

/// CPU time of core, reader and BPF programs; naming is counted apart.
pub(super) fn overhead(bench: &Bench) -> Result<Vec<Figure>> {
    let Seen { core, reader, naming, bpf, bpf_runs, .. } = observe(bench)?;
    let percent = |time: Duration| time.as_secs_f64() / (END - WARM).as_secs_f64() * 100.0;
    let per_run_us = bpf.as_secs_f64() * 1e6 / (bpf_runs as f64).max(1.0);
    Ok(vec![
        Figure::new("core", percent(core), "% of a CPU", Bound::Open),
        Figure::new("reader, naming left out", percent(reader), "% of a CPU", Bound::Open),
        Figure::new("BPF", percent(bpf), "% of a CPU", Bound::Open),
        Figure::new("BPF program", per_run_us, "µs each run", Bound::Open),
        Figure::new("naming", percent(naming), "% of a CPU", Bound::Open),
        Figure::new(
            "together, naming left out",
            percent(core + reader + bpf),
            "% of a CPU",
            Bound::AtMost(0.5),
        ),
    ])
}

/// Memory of core and reader at its peak.
pub(super) fn memory(bench: &Bench) -> Result<Vec<Figure>> {
    let peak = observe(bench)?.peak_pss_bytes;
    Ok(vec![Figure::new("PSS, peak", mebibytes(peak), "MiB", Bound::AtMost(60.0))])
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Core and reader together.
pub(super) fn pss_bytes(rprofd: &Started) -> u64 {
    let reader = procfs::reader(rprofd.pid()).map_or(0, procfs::pss_bytes);
    procfs::pss_bytes(rprofd.pid()) + reader
}

fn observe(bench: &Bench) -> Result<Seen> {
    let _statistics = Statistics::on()?;
    let program = Program::build("deep33.c");
    let cpus = thread::available_parallelism()?.get();
    let _busy: Vec<_> = (0..cpus).map(|_| program.start(&["70"])).collect();

    let rprofd = bench.rprofd().args(["-v", "-F", "99", "-d", "60s"]).start();
    let begin = Instant::now();
    let mut peak = 0;
    let mut watch_until = |end: Duration| {
        while begin.elapsed() < end {
            peak = pss_bytes(&rprofd).max(peak);
            thread::sleep(Duration::from_millis(250).min(end.saturating_sub(begin.elapsed())));
        }
    };
    watch_until(WARM);
    let reader = procfs::reader(rprofd.pid()).context("no reader")?;
    let is_naming = |comm: &str| comm.starts_with("names");
    let times = || {
        [
            procfs::cpu_time_ns(rprofd.pid()),
            procfs::cpu_time_of_threads_ns(reader, |comm| !is_naming(comm)),
            procfs::cpu_time_of_threads_ns(reader, is_naming),
        ]
    };
    let (before, bpf_before) = (times(), bpf_time(rprofd.pid())?);
    watch_until(END);
    let (after, bpf_after) = (times(), bpf_time(rprofd.pid())?);
    ensure!(after.iter().all(|&time| time > 0), "the reader was replaced: its CPU time is gone");
    let [core, reader, naming] = std::array::from_fn(|index| {
        Duration::from_nanos(after[index].saturating_sub(before[index]))
    });
    // The end of a run takes memory, too.
    while procfs::comm(rprofd.pid()).is_some() {
        let now = pss_bytes(&rprofd);
        peak = now.max(peak);
        if now == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let run = rprofd.wait().expect_success();
    let all = run.all();
    let deep = all.total_where("samples", |sample| {
        all.frames(sample).iter().filter(|name| name.starts_with('f')).count() >= 31
    });
    ensure!(deep > 10_000, "{deep} deep samples: not the load that is meant");
    Ok(Seen {
        core,
        reader,
        naming,
        bpf: Duration::from_nanos(bpf_after.0 - bpf_before.0),
        bpf_runs: bpf_after.1 - bpf_before.1,
        peak_pss_bytes: peak,
    })
}

/// Time in nanoseconds and number of runs of the BPF programs that `pid` holds.
fn bpf_time(pid: u32) -> Result<(u64, u64)> {
    // A program may have several descriptors.
    let mut programs = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        // Only descriptors of programs have them.
        if let (Some(time), Some(count)) = (field("run_time_ns:"), field("run_cnt:")) {
            programs.insert(field("prog_id:"), (time, count));
        }
    }
    let (time_ns, runs) =
        programs.values().fold((0, 0), |sum, program| (sum.0 + program.0, sum.1 + program.1));
    ensure!(runs > 0, "no BPF program among rprofd's descriptors has run");
    Ok((time_ns, runs))
}

/// The kernel measures BPF programs while this lives.
struct Statistics {
    before: String,
}

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).context(STATISTICS)?;
        fs::write(STATISTICS, "1").context(STATISTICS)?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, &self.before);
    }
}
