//! What being watched costs whoever is watched.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::Result;
use rprofd_tests::{
    Program,
    serve::{Daemon, wait_for},
};

use super::{
    super::{Bench, Figure},
    throughput::{Counting, Server, told},
};

/// How often sampling is on and off, by turns: what else the machine does comes and goes, and is
/// the same for neighbours.
const PAIRS: usize = 100;

/// What is between the switch and a look.
const REST: Duration = Duration::from_millis(100);

/// A program that only computes, and an HTTP server under load, at 19 and at 99 Hz.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let rounds = Program::build_with("rounds.c", &["-O2"]).copy_to(&bench.dir().join("rounds"));
    let http = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let mut figures = Vec::new();
    for (hertz, most) in [("19", 1.0), ("99", 2.0)] {
        let busy = Counting::start(&rounds, &[])?;
        let name = format!("computing, {hertz} Hz");
        figures.extend(told(&name, &compare(bench, hertz, &busy)?, most));
        drop(busy);
        let server = Server::start(&http)?;
        let busy = Counting::start(&http, &["load", &server.address])?;
        let name = format!("HTTP server, {hertz} Hz");
        figures.extend(told(&name, &compare(bench, hertz, &busy)?, most));
    }
    Ok(figures)
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
