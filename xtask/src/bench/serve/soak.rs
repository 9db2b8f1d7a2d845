//! Whether a daemon that runs for long takes more and more.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rprofd_tests::{Program, procfs, serve::Daemon};

use super::{
    super::{Bench, Bound, Figure, whole_machine::mebibytes},
    descriptors::Held,
    metric,
};

/// What is in use for some time.
struct Use {
    /// The most.
    pss: u64,
    /// All the time.
    held: Held,
}

/// What is in use from `from` to `until`, after the begin of the load.
fn in_use(daemon: &Daemon, begin: Instant, from: Duration, until: Duration) -> Use {
    let now = || {
        let core = daemon.rprofd.pid();
        let mut all = procfs::readers(core);
        all.push(core);
        Use { pss: all.iter().map(|pid| procfs::pss_bytes(*pid)).sum(), held: Held::now(&all) }
    };
    thread::sleep(from.saturating_sub(begin.elapsed()));
    let mut in_use = now();
    while begin.elapsed() < until {
        thread::sleep(Duration::from_secs(1));
        let now = now();
        in_use.pss = in_use.pss.max(now.pss);
        in_use.held.keep_what_is_in(&now.held);
    }
    in_use
}

fn figures(early: &Use, late: &Use) -> Vec<Figure> {
    let growth = (late.pss as f64 / early.pss as f64 - 1.0) * 100.0;
    let open = |what, value, unit| Figure::new(what, value, unit, Bound::Open);
    let leaked = late.held.since(&early.held);
    for (target, count) in &leaked.targets {
        println!("on top: {count} of {target}");
    }
    let count: usize = leaked.targets.values().sum();
    vec![
        open("PSS, early", mebibytes(early.pss), "MiB"),
        open("PSS, late", mebibytes(late.pss), "MiB"),
        Figure::new("growth", growth, "%", Bound::AtMost(5.0)),
        open("descriptors, early", early.held.len() as f64, ""),
        open("files of programs that came meanwhile", leaked.of_new_programs as f64, ""),
        Figure::new("descriptors that came on top", count as f64, "", Bound::AtMost(0.0)),
    ]
}

/// As many windows as a day has at 10 s each, and a budget that is full soon.
pub(in super::super) fn many_windows(bench: &Bench) -> Result<Vec<Figure>> {
    const WINDOWS: f64 = 8640.0;
    let program = Program::build("shares.c");
    let _busy = [program.start(&["3600"]), program.start(&["3600"])];
    let daemon = bench.daemon(&["--window", "50ms", "-F", "99", "--memory-windows", "4MiB"]);
    let begin = Instant::now();
    let early = in_use(&daemon, begin, Duration::from_secs(60), Duration::from_secs(90));
    while metric(&daemon, "rprofd_windows_total")? < WINDOWS {
        thread::sleep(Duration::from_secs(1));
    }
    let now = begin.elapsed();
    let late = in_use(&daemon, begin, now, now + Duration::from_secs(30));
    let windows = metric(&daemon, "rprofd_windows_total")?;
    let mut figures = figures(&early, &late);
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
    let early = in_use(&daemon, begin, 4 * MINUTE, 6 * MINUTE);
    let late = in_use(&daemon, begin, 28 * MINUTE, 30 * MINUTE);
    let mut figures = figures(&early, &late);
    let samples = metric(&daemon, "rprofd_samples_stored_total")?;
    figures.insert(0, Figure::new("samples", samples, "", Bound::AtLeast(10_000.0)));
    Ok(figures)
}
