//! What being watched costs whoever is watched.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::{Program, programs::Running};
use rustix::process::Signal;

use super::super::{Bench, Bound, Figure};

/// Runs with rprofd and without, by turns.
const PAIRS: usize = 14;

/// The value of Student's t for 95 % of both sides and `PAIRS - 1` degrees of freedom.
const T: f64 = 2.160;

/// How long rprofd has to come to rest before it counts: tables are made once.
const REST: Duration = Duration::from_secs(2);

/// A program that only computes, and an HTTP server under load, at 19 and at 99 Hz.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (hertz, most) in [("19", 1.0), ("99", 2.0)] {
        let lost = compare(bench, hertz, &|| computed(bench))?;
        figures.extend(told("computing", hertz, &lost, most));
        let lost = compare(bench, hertz, &|| served(bench))?;
        figures.extend(told("HTTP server", hertz, &lost, most));
    }
    Ok(figures)
}

/// What is lost of the throughput with rprofd, in %, for each pair.
fn compare(bench: &Bench, hertz: &str, throughput: &dyn Fn() -> Result<f64>) -> Result<Vec<f64>> {
    let with = || -> Result<f64> {
        let daemon = bench.daemon(&["-F", hertz]);
        thread::sleep(REST);
        let found = throughput()?;
        daemon.rprofd.signal(Signal::TERM);
        daemon.rprofd.wait().expect_success();
        Ok(found)
    };
    let mut lost = Vec::new();
    for pair in 0..PAIRS {
        let (with, without) = if pair % 2 == 0 {
            let with = with()?;
            (with, throughput()?)
        } else {
            let without = throughput()?;
            (with()?, without)
        };
        lost.push((1.0 - with / without) * 100.0);
    }
    Ok(lost)
}

/// The mean, and the upper end of its interval.
fn told(what: &str, hertz: &str, lost: &[f64], most: f64) -> [Figure; 2] {
    let count = lost.len() as f64;
    let mean = lost.iter().sum::<f64>() / count;
    let variance = lost.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let half = T * (variance / count).sqrt();
    let name = format!("{what}, {hertz} Hz: throughput lost");
    [
        Figure::new(&*name, mean, "%", Bound::Open),
        Figure::new(format!("{name}, at most (95 %)"), mean + half, "%", Bound::AtMost(most)),
    ]
}

/// Rounds a second of a program that computes.
fn computed(bench: &Bench) -> Result<f64> {
    let program = Program::build_with("rounds.c", &["-O2"]).copy_to(&bench.dir().join("rounds"));
    let begin = Instant::now();
    let output = program.command(&["400"]).output()?;
    ensure!(output.status.success(), "rounds: {}", output.status);
    Ok(400.0 / begin.elapsed().as_secs_f64())
}

/// Requests a second that a server answers.
fn served(bench: &Bench) -> Result<f64> {
    let program = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let mut server = Running::start(program.command(&["serve"]).stdout(Stdio::piped()));
    let mut address = String::new();
    let stdout = server.child.stdout.take().context("a pipe")?;
    BufReader::new(stdout).read_line(&mut address)?;
    let load = Command::new(program.path()).args(["load", address.trim(), "3"]).output()?;
    ensure!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    String::from_utf8(load.stdout)?.trim().parse().context("requests a second")
}
