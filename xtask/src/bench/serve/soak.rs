//! Whether a daemon that runs for long takes more and more.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rprofd_tests::{Program, procfs, serve::Daemon};

use super::{
    super::{Bench, Bound, Figure, whole_machine::mebibytes},
    metric,
};

/// What is in use at one time.
#[derive(Clone, Copy, Default)]
struct Use {
    pss: u64,
    files: usize,
}

impl Use {
    fn now(daemon: &Daemon) -> Self {
        let core = daemon.rprofd.pid();
        let mut all = procfs::readers(core);
        all.push(core);
        let files = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Self {
            pss: all.iter().map(|pid| procfs::pss_bytes(*pid)).sum(),
            files: all.iter().map(files).sum(),
        }
    }

    fn grow_to(&mut self, other: Self) {
        self.pss = self.pss.max(other.pss);
        self.files = self.files.max(other.files);
    }
}

/// The most that is in use from `from` to `until`, after the begin of the load.
fn most(daemon: &Daemon, begin: Instant, from: Duration, until: Duration) -> Use {
    thread::sleep(from.saturating_sub(begin.elapsed()));
    let mut most = Use::default();
    while begin.elapsed() < until {
        most.grow_to(Use::now(daemon));
        thread::sleep(Duration::from_secs(1));
    }
    most
}

fn figures(early: Use, late: Use) -> Vec<Figure> {
    let growth = (late.pss as f64 / early.pss as f64 - 1.0) * 100.0;
    let open = |what, value, unit| Figure::new(what, value, unit, Bound::Open);
    vec![
        open("PSS, early", mebibytes(early.pss), "MiB"),
        open("PSS, late", mebibytes(late.pss), "MiB"),
        Figure::new("growth", growth, "%", Bound::AtMost(5.0)),
        Figure::new(
            "descriptors that came on top",
            late.files as f64 - early.files as f64,
            "",
            Bound::AtMost(0.0),
        ),
    ]
}

/// As many windows as a day has at 10 s each, and a budget that is full soon.
pub(in super::super) fn many_windows(bench: &Bench) -> Result<Vec<Figure>> {
    const WINDOWS: f64 = 8640.0;
    let program = Program::build("shares.c");
    let _busy = [program.start(&["3600"]), program.start(&["3600"])];
    let daemon = bench.daemon(&["--window", "50ms", "-F", "99", "--memory-windows", "4MiB"]);
    let begin = Instant::now();
    let early = most(&daemon, begin, Duration::from_secs(60), Duration::from_secs(90));
    while metric(&daemon, "rprofd_windows_total")? < WINDOWS {
        thread::sleep(Duration::from_secs(1));
    }
    let now = begin.elapsed();
    let late = most(&daemon, begin, now, now + Duration::from_secs(30));
    let windows = metric(&daemon, "rprofd_windows_total")?;
    let mut figures = figures(early, late);
    figures.insert(0, Figure::new("windows", windows, "", Bound::AtLeast(WINDOWS)));
    Ok(figures)
}

/// Half an hour in which processes start and end without end.
pub(in super::super) fn fork_storm(bench: &Bench) -> Result<Vec<Figure>> {
    const MINUTE: Duration = Duration::from_secs(60);
    let program = Program::build("forks.c");
    let daemon = bench.daemon(&["--memory-windows", "4MiB"]);
    let begin = Instant::now();
    let _storm = program.start(&["1000000000", "2"]);
    let early = most(&daemon, begin, 4 * MINUTE, 6 * MINUTE);
    let late = most(&daemon, begin, 28 * MINUTE, 30 * MINUTE);
    let mut figures = figures(early, late);
    let samples = metric(&daemon, "rprofd_samples_stored_total")?;
    figures.insert(0, Figure::new("samples", samples, "", Bound::AtLeast(10_000.0)));
    Ok(figures)
}
