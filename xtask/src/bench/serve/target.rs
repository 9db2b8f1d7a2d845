//! What being watched costs whoever is watched.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rprofd_tests::{
    Program,
    serve::{Daemon, wait_for},
};

use super::{
    super::{Bench, Bound, Figure},
    throughput::{Counting, Server, told, two_cpus, until_settled},
};

/// The most that the load may have of its CPU, in %: the server is to be what all wait for.
const LOAD: f64 = 90.0;

/// What is between the switch and a look.
const REST: Duration = Duration::from_millis(100);

/// A program that only computes, and an HTTP server under load, at 19 and at 99 Hz. The server has a
/// CPU of its own, and the load another, which it leaves time of for whatever else there is.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let rounds = Program::build_with("rounds.c", &["-O2"]).copy_to(&bench.dir().join("rounds"));
    let http = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let [first, last] = two_cpus()?;
    let mut figures = Vec::new();
    for (hertz, most) in [("19", 1.0), ("99", 2.0)] {
        let busy = Counting::start(&rounds, &[], last)?;
        let name = format!("computing, {hertz} Hz");
        figures.extend(compared(bench, &name, hertz, most, &busy)?);
        drop(busy);
        let server = Server::start(&http, last)?;
        let busy = Counting::start(&http, &["flood", &server.address], first)?;
        let name = format!("HTTP server, {hertz} Hz");
        let (begin, before) = (Instant::now(), busy.cpu_time());
        figures.extend(compared(bench, &name, hertz, most, &busy)?);
        let of_load = (busy.cpu_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
        let bound = if first.is_some() { Bound::AtMost(LOAD) } else { Bound::Open };
        figures.push(Figure::new(
            format!("{name}: the load"),
            of_load * 100.0,
            "% of a CPU",
            bound,
        ));
    }
    Ok(figures)
}

fn compared(
    bench: &Bench,
    name: &str,
    hertz: &str,
    most: f64,
    busy: &Counting,
) -> Result<Vec<Figure>> {
    let lost = compare(bench, hertz, most, busy)?;
    let pairs = Figure::new(format!("{name}: pairs"), lost.len() as f64, "", Bound::Open);
    Ok([pairs].into_iter().chain(told(name, &lost, most)).collect())
}

/// What is lost of the throughput while sampling is on, in %, for each pair.
fn compare(bench: &Bench, hertz: &str, most: f64, busy: &Counting) -> Result<Vec<f64>> {
    let off = bench.dir().join(format!("off-{hertz}"));
    let off_text = off.to_string_lossy();
    let daemon = bench.daemon(&["-F", hertz, "--off-file", &off_text]);
    // Tables and names are made once.
    thread::sleep(Duration::from_secs(5));
    until_settled(most, |is_with| {
        switch(&daemon, &off, is_with)?;
        Ok(busy.rate())
    })
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
