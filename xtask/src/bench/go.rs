//! What reading Go programs from outside promises.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::{
    Profile, Program, procfs,
    programs::Running,
    serve::{self, Daemon, wait_for},
};

use super::{Bench, Bound, Figure};

/// How often something is asked for.
const ASKED: usize = 15;

/// How often the target is left alone and read, by turns, each for a second.
const PAIRS: usize = 30;

/// A Go program that prints each second what its work took.
struct Target {
    running: Running,
    took: Receiver<f64>,
}

impl Target {
    fn start(mode: &str, count: &str) -> Result<Self> {
        let program = Program::build("gomany.go");
        let mut running = Running::start(program.command(&[mode, count]).stdout(Stdio::piped()));
        let lines = BufReader::new(running.child.stdout.take().context("a pipe")?).lines();
        let (sender, took) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line.parse().unwrap_or_default());
            }
        });
        took.recv_timeout(Duration::from_secs(60)).context("the target does not begin")?;
        Ok(Self { running, took })
    }

    fn url(&self, kind: &str) -> String {
        format!("/pid/{}/debug/pprof/{kind}", self.running.pid())
    }

    /// The last second's 99th percentile, in microseconds.
    fn next(&self) -> Result<f64> {
        while self.took.try_recv().is_ok() {}
        Ok(self.took.recv_timeout(Duration::from_secs(20))? / 1e3)
    }
}

/// 100,000 goroutines, and 20,000 stacks that have allocated.
pub(super) fn memory(bench: &Bench) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&[]);
    let mut figures = Vec::new();
    for (mode, count, kind, most_ms) in
        [("goroutines", "100000", "goroutine", 1000.0), ("sites", "20000", "heap", 200.0)]
    {
        let target = Target::start(mode, count)?;
        wait_for(200, || daemon.get(&target.url("")));
        // Once for the names.
        for _ in 0..3 {
            let answer = daemon.get(&target.url(kind));
            ensure!(answer.status == 200, "{}", answer.text());
        }
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let begin = Instant::now();
            daemon.get(&target.url(kind));
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let name = format!("{kind}, {count} {mode}");
        let took = super::serve::median(times);
        figures.push(Figure::new(format!("{name}: answered"), took, "ms", Bound::AtMost(most_ms)));
        figures.push(Figure::new(
            format!("{name}: rprofd's memory"),
            pss_bytes(&daemon) as f64 / f64::from(1 << 20),
            "MiB",
            Bound::AtMost(200.0),
        ));
        let (mut alone, mut read) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            alone.push(target.next()?);
            let seen = thread::scope(|scope| {
                let (address, url) = (daemon.address, target.url(kind));
                scope.spawn(move || serve::get(address, &url));
                target.next()
            });
            read.push(seen?);
        }
        let [alone, read] = [alone, read].map(super::serve::median);
        figures.push(Figure::new(format!("{name}: p99 alone"), alone, "us", Bound::Open));
        figures.push(Figure::new(format!("{name}: p99 while read"), read, "us", Bound::Open));
        figures.push(Figure::new(
            format!("{name}: p99, while read to alone"),
            read / alone,
            "",
            Bound::AtMost(1.1),
        ));
    }
    Ok(figures)
}

/// For how long both look, in seconds.
const SECONDS: &str = "40";

/// The functions with the largest shares.
const TOP: usize = 20;

/// The CPU profile beside Go's own of the same seconds.
pub(super) fn cpu(bench: &Bench) -> Result<Vec<Figure>> {
    let program = Program::build("gocpu.go");
    let own = bench.dir().join("own.pb.gz");
    let run = bench.rprofd().args(["-F", "199", "--", program.arg(), SECONDS]).args([&own]).run();
    let run = run.expect_success();
    let seen = shares(&run.profile_of("gocpu"));
    let own = shares(&Profile::read(&own));
    let mut top: Vec<_> = own.iter().collect();
    top.sort_by(|a, b| b.1.total_cmp(a.1));
    let mut figures = Vec::new();
    let mut furthest = 0_f64;
    for (function, share) in top.into_iter().take(TOP) {
        let other = seen.get(function).copied().unwrap_or_default();
        furthest = furthest.max((other - share).abs());
        figures.push(Figure::new(format!("{function}: Go's"), *share, "%", Bound::Open));
        figures.push(Figure::new(format!("{function}: rprofd's"), other, "%", Bound::Open));
    }
    figures.push(Figure::new("furthest apart", furthest, "points", Bound::AtMost(2.0)));
    Ok(figures)
}

/// The share of each function, in %: of the innermost one that Go sees, which sees neither into the
/// kernel nor into C.
fn shares(profile: &Profile) -> BTreeMap<String, f64> {
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    let all = profile.total("samples") as f64;
    for sample in &profile.samples {
        let own = sample.stack.iter().find(|location| !profile.is_kernel(**location));
        let line = own.and_then(|location| profile.locations[location].lines.first());
        let function = line.map_or("?", |line| line.function.as_str());
        const CALLS_C: &str = "runtime.cgocall";
        let function = if profile.has_function(sample, CALLS_C) { CALLS_C } else { function };
        // How often it was seen is the first value of both.
        *shares.entry(function.to_owned()).or_default() += sample.values[0] as f64 / all * 100.0;
    }
    shares
}

/// A leak of 10 goroutines a second: how long until it is told where they wait.
pub(super) fn leak(bench: &Bench) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&[]);
    let target = Target::start("leak", "10")?;
    let begin = Instant::now();
    let is_told = || {
        let text = daemon.get(&target.url("")).text();
        text.contains("Suspected goroutine leaks") && text.contains("main.forgotten")
    };
    while !is_told() && begin.elapsed() < Duration::from_secs(240) {
        thread::sleep(Duration::from_secs(1));
    }
    let took = begin.elapsed().as_secs_f64();
    let metrics = daemon.get("/metrics/processes").text();
    let line = metrics.lines().find(|line| line.contains("main.forgotten"));
    let leaks = daemon.get(&format!("{}?debug=1", target.url("goroutineleak"))).text();
    ensure!(line.is_some(), "no figure of it:\n{metrics}");
    ensure!(leaks.contains("main.forgotten"), "{leaks}");
    Ok(vec![Figure::new("named after", took, "s", Bound::AtMost(120.0))])
}

/// What the core and its readers have in memory.
fn pss_bytes(daemon: &Daemon) -> u64 {
    let core = daemon.rprofd.pid();
    let readers: u64 = procfs::readers(core).into_iter().map(procfs::pss_bytes).sum();
    procfs::pss_bytes(core) + readers
}
