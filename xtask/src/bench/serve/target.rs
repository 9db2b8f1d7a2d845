//! What being watched costs whoever is watched.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rprofd_tests::{
    Program,
    programs::Running,
    serve::{Daemon, wait_for},
};

use super::super::{Bench, Bound, Figure};

/// How often sampling is on and off, by turns: what else the machine does comes and goes, and is
/// the same for neighbours.
const PAIRS: usize = 240;

/// How long each of the two is looked at.
const SLICE: Duration = Duration::from_millis(600);

/// What is between the switch and a look.
const REST: Duration = Duration::from_millis(100);

/// The quantile of the normal distribution for 95 % of both sides.
const Z: f64 = 1.96;

/// A program that only computes, and an HTTP server under load, at 19 and at 99 Hz.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let rounds = Program::build_with("rounds.c", &["-O2"]).copy_to(&bench.dir().join("rounds"));
    let http = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let mut figures = Vec::new();
    for (hertz, most) in [("19", 1.0), ("99", 2.0)] {
        let busy = Counting::start(&rounds, &[])?;
        figures.extend(told("computing", hertz, &compare(bench, hertz, &busy)?, most));
        drop(busy);
        let mut server = Running::start(http.command(&["serve"]).stdout(Stdio::piped()));
        let mut address = String::new();
        BufReader::new(server.child.stdout.take().context("a pipe")?).read_line(&mut address)?;
        let busy = Counting::start(&http, &["load", address.trim()])?;
        figures.extend(told("HTTP server", hertz, &compare(bench, hertz, &busy)?, most));
    }
    Ok(figures)
}

/// A program that prints how much it has done.
struct Counting {
    done: Arc<AtomicU64>,
    _running: Running,
}

impl Counting {
    fn start(program: &Program, args: &[&str]) -> Result<Self> {
        let mut running = Running::start(program.command(args).stdout(Stdio::piped()));
        let stdout = BufReader::new(running.child.stdout.take().context("a pipe")?);
        let done = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&done);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                noted.store(line.parse().unwrap_or_default(), Ordering::Relaxed);
            }
        });
        Ok(Self { done, _running: running })
    }

    /// What it does in a second.
    fn rate(&self) -> f64 {
        let (begin, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        thread::sleep(SLICE);
        let done = self.done.load(Ordering::Relaxed) - before;
        done as f64 / begin.elapsed().as_secs_f64()
    }
}

/// What is lost of the throughput while sampling is on, in %, for each pair.
fn compare(bench: &Bench, hertz: &str, busy: &Counting) -> Result<Vec<f64>> {
    let off = bench.dir().join(format!("off-{hertz}"));
    let off_text = off.to_string_lossy();
    let daemon = bench.daemon(&["-F", hertz, "--off-file", &off_text]);
    // Tables and names are made once.
    thread::sleep(Duration::from_secs(5));
    let mut lost = Vec::new();
    for pair in 0..PAIRS {
        let is_on_first = pair % 2 == 0;
        switch(&daemon, &off, is_on_first)?;
        let first = busy.rate();
        switch(&daemon, &off, !is_on_first)?;
        let second = busy.rate();
        let (with, without) = if is_on_first { (first, second) } else { (second, first) };
        lost.push((1.0 - with / without) * 100.0);
    }
    Ok(lost)
}

fn switch(daemon: &Daemon, off: &Path, is_on: bool) -> Result<()> {
    if is_on {
        let _ = fs::remove_file(off);
    } else {
        fs::write(off, "")?;
    }
    wait_for(if is_on { 200 } else { 503 }, || daemon.get("/readyz"));
    thread::sleep(REST);
    Ok(())
}

/// The mean, and the upper end of its interval. A tenth of the pairs at each end is left out: there
/// something else ran.
fn told(what: &str, hertz: &str, lost: &[f64], most: f64) -> [Figure; 2] {
    let (mean, half) = trimmed(lost);
    let name = format!("{what}, {hertz} Hz: throughput lost");
    [
        Figure::new(&*name, mean, "%", Bound::Open),
        Figure::new(format!("{name}, at most (95 %)"), mean + half, "%", Bound::AtMost(most)),
    ]
}

/// The mean without a tenth at each end, and half its interval: Tukey and McLaughlin's, by the
/// winsorized variance.
fn trimmed(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (count, cut) = (sorted.len(), sorted.len() / 10);
    let kept = &sorted[cut..count - cut];
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    let winsorized = sorted.iter().map(|it| it.clamp(kept[0], kept[kept.len() - 1]));
    let center = winsorized.clone().sum::<f64>() / count as f64;
    let variance = winsorized.map(|it| (it - center).powi(2)).sum::<f64>() / (count as f64 - 1.0);
    (mean, Z * (variance / count as f64).sqrt() / (kept.len() as f64 / count as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_far_out_does_not_count() {
        let mut values: Vec<f64> = (0..100).map(|n| f64::from(n % 5)).collect();
        let (mean, half) = trimmed(&values);
        assert!((mean - 2.0).abs() < 1e-9 && (0.2..0.4).contains(&half), "{mean} {half}");
        values[7] = 1e6;
        let (mean, half) = trimmed(&values);
        assert!((mean - 2.0).abs() < 0.1 && half < 0.5, "{mean} {half}");
    }
}
