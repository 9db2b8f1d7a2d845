//! What recording waits costs whoever waits.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rprofd_tests::{
    Program,
    serve::{self, Daemon},
};

use super::{
    super::{
        Bench, Bound, Figure,
        bpf_statistics::{Runs, Statistics},
    },
    throughput::{Counting, told, under_load, until_settled},
};

/// How often the kernel measures what recording takes.
const MEASURED: u32 = 20;

/// What is between the begin of a recording and a look at the program.
const REST: Duration = Duration::from_millis(250);

/// How long the kernel measures at a time.
const SLICE: Duration = Duration::from_millis(600);

/// Two processes that do nothing but wake each other, and an HTTP server under load.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let pingpong =
        Program::build_with("pingpong.c", &["-O2"]).copy_to(&bench.dir().join("pingpong"));
    let http = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let mut figures = Vec::new();
    for kind in ["block", "wall"] {
        let busy = Counting::start(&pingpong, &[], None)?;
        let name = format!("ping-pong, {kind}");
        figures.extend(told(&name, &compare(bench, kind, 15.0, &busy)?, 15.0));
        drop(busy);
        let name = format!("HTTP server, {kind}");
        figures.extend(under_load(&http, &name, |busy| {
            let lost = told(&name, &compare(bench, kind, 2.0, busy)?, 2.0);
            let name = format!("{name}: time of the CPUs that BPF programs take");
            let share = Figure::new(name, share_of_bpf(bench, kind)?, "%", Bound::Open);
            Ok(lost.into_iter().chain([share]).collect())
        })?);
    }
    Ok(figures)
}

/// What is lost of the throughput while waits are recorded, in %, for each pair.
fn compare(bench: &Bench, kind: &str, most: f64, busy: &Counting) -> Result<Vec<f64>> {
    let daemon = bench.daemon(&[]);
    thread::sleep(Duration::from_secs(3));
    until_settled(most, |is_recorded| {
        if !is_recorded {
            return Ok(busy.rate());
        }
        let rate = recorded(&daemon, kind, || busy.rate())?;
        // What it leaves to be done is not to be in the way.
        thread::sleep(REST);
        Ok(rate)
    })
}

/// Looks at something while waits are recorded.
fn recorded<T>(daemon: &Daemon, kind: &str, look: impl FnOnce() -> T) -> Result<T> {
    let (address, path) = (daemon.address, format!("/debug/pprof/{kind}?seconds=1"));
    let asking = thread::spawn(move || serve::get(address, &path));
    thread::sleep(REST);
    let seen = look();
    let answer = asking.join().expect("an answer");
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(seen)
}

/// Of all CPUs, as the kernel measures it, in %: what other programs do does not come into it.
fn share_of_bpf(bench: &Bench, kind: &str) -> Result<f64> {
    let _statistics = Statistics::on()?;
    let daemon = bench.daemon(&[]);
    let cpus = thread::available_parallelism()?.get() as f64;
    let (mut bpf, mut all) = (0.0, 0.0);
    for _ in 0..MEASURED {
        let runs = recorded(&daemon, kind, || -> Result<_> {
            let (begin, before) = (Instant::now(), Runs::of_all(daemon.rprofd.pid())?);
            thread::sleep(SLICE);
            Ok((Runs::of_all(daemon.rprofd.pid())?.since(before), begin.elapsed()))
        })?;
        let (runs, elapsed) = runs?;
        bpf += runs.time.as_secs_f64();
        all += elapsed.as_secs_f64() * cpus;
    }
    Ok(bpf / all * 100.0)
}
