//! The page that lists the processes.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rprofd_tests::programs::Running;

use super::{
    super::{Bench, Bound, Figure},
    median,
};

const PROCESSES: usize = 500;

/// The index with 500 processes.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["--window", "2s"]);
    let start = |_| Running::start(Command::new("sleep").arg("600"));
    let _processes: Vec<Running> = (0..PROCESSES).map(start).collect();
    thread::sleep(Duration::from_secs(8));
    let mut times = Vec::new();
    let mut rows = 0;
    for _ in 0..40 {
        let begin = Instant::now();
        let answer = daemon.get("/debug/pprof/");
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.status == 200, "{}", answer.text());
        rows = answer.text().matches("/debug/pprof/\">sleep<").count();
    }
    Ok(vec![
        Figure::new("processes listed", rows as f64, "", Bound::AtLeast(PROCESSES as f64)),
        Figure::new("the page, median of 40", median(times), "ms", Bound::AtMost(50.0)),
    ])
}
