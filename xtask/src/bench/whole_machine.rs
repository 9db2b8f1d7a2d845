//! What rprofd itself costs on a machine whose CPUs are all busy, deep in their stacks.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rprofd_tests::{Program, procfs, rprofd::Started};

use super::{
    Bench, Bound, Figure,
    bpf_statistics::{Runs, Statistics},
};

/// When measuring begins and ends, from the start of a run of a minute.
const WARM: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(55);

/// What was seen in a run.
struct Seen {
    core: Duration,
    /// Without their naming.
    readers: Duration,
    naming: Duration,
    bpf: Runs,
    peak_pss_bytes: u64,
}

impl Seen {
    fn figures(&self) -> Vec<Figure> {
        let open = |what, value, unit| Figure::new(what, value, unit, Bound::Open);
        vec![
            open("core", percent(self.core), "% of a CPU"),
            open("readers, naming left out", percent(self.readers), "% of a CPU"),
            open("BPF", percent(self.bpf.time), "% of a CPU"),
            open("BPF program", self.bpf.mean_us(), "µs each run"),
            open("naming", percent(self.naming), "% of a CPU"),
        ]
    }
}

/// CPU time of core, readers and BPF programs; naming is counted apart.
pub(super) fn overhead(bench: &Bench) -> Result<Vec<Figure>> {
    let seen = observe(bench, &Program::build("deep33.c"))?;
    let mut figures = seen.figures();
    let together = percent(seen.core + seen.readers + seen.bpf.time);
    let bound = Bound::AtMost(0.5);
    figures.push(Figure::new("together, naming left out", together, "% of a CPU", bound));
    Ok(figures)
}

/// The same without frame pointers, 36 frames deep; naming counts.
pub(super) fn unwind_overhead(bench: &Bench) -> Result<Vec<Figure>> {
    let seen = observe(bench, &deep_without_frame_pointers())?;
    let mut figures = seen.figures();
    let together = percent(seen.core + seen.readers + seen.naming + seen.bpf.time);
    figures.push(Figure::new("together", together, "% of a CPU", Bound::AtMost(0.4)));
    Ok(figures)
}

/// 32 functions, `main`, and what the C library has below it: 36 frames.
pub(super) fn deep_without_frame_pointers() -> Program {
    Program::build_with("deep33.c", &["-fomit-frame-pointer", "-DOUTERMOST=f31"])
}

/// Share of a CPU in the time that is measured.
fn percent(time: Duration) -> f64 {
    time.as_secs_f64() / (END - WARM).as_secs_f64() * 100.0
}

/// Memory of core and readers at its peak.
pub(super) fn memory(bench: &Bench) -> Result<Vec<Figure>> {
    let peak = observe(bench, &Program::build("deep33.c"))?.peak_pss_bytes;
    Ok(vec![Figure::new("PSS, peak", mebibytes(peak), "MiB", Bound::AtMost(60.0))])
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Core and readers together.
pub(super) fn pss_bytes(rprofd: &Started) -> u64 {
    let readers: u64 = procfs::readers(rprofd.pid()).into_iter().map(procfs::pss_bytes).sum();
    procfs::pss_bytes(rprofd.pid()) + readers
}

/// A run of a minute while each CPU has a process of `program`, a build of `deep33.c`.
fn observe(bench: &Bench, program: &Program) -> Result<Seen> {
    let _statistics = Statistics::on()?;
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
    let readers = procfs::readers(rprofd.pid());
    ensure!(!readers.is_empty(), "no reader");
    let is_naming = |comm: &str| comm.starts_with("names");
    let of_readers = |is_meant: &dyn Fn(&str) -> bool| {
        readers.iter().map(|reader| procfs::cpu_time_of_threads_ns(*reader, is_meant)).sum()
    };
    let times = || {
        [
            procfs::cpu_time_ns(rprofd.pid()),
            of_readers(&|comm| !is_naming(comm)),
            of_readers(&is_naming),
        ]
    };
    let (before, bpf_before) = (times(), Runs::of_all(rprofd.pid())?);
    watch_until(END);
    let (after, bpf_after) = (times(), Runs::of_all(rprofd.pid())?);
    ensure!(after.iter().all(|&time| time > 0), "the reader was replaced: its CPU time is gone");
    let [core, readers, naming] = std::array::from_fn(|index| {
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
    Ok(Seen { core, readers, naming, bpf: bpf_after.since(bpf_before), peak_pss_bytes: peak })
}
