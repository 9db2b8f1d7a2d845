//! What being watched costs whoever is watched.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::Result;
use rprofd_tests::{
    Program,
    serve::{Daemon, wait_for},
};

use super::{
    super::{Bench, Bound, Figure},
    throughput::{Counting, told, two_cpus, under_load, until_settled},
};

/// What is between the switch and a look.
const REST: Duration = Duration::from_millis(100);

/// A program that only computes, and an HTTP server under load, at 19 and at 99 Hz.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let rounds = Program::build_with("rounds.c", &["-O2"]).copy_to(&bench.dir().join("rounds"));
    let http = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let [_, last] = two_cpus()?;
    let mut figures = Vec::new();
    for (hertz, most) in [("19", 1.0), ("99", 2.0)] {
        let busy = Counting::start(&rounds, &[], last)?;
        let name = format!("computing, {hertz} Hz");
        figures.extend(compared(bench, &name, hertz, most, &busy)?);
        drop(busy);
        let name = format!("HTTP server, {hertz} Hz");
        figures.extend(under_load(&http, &name, |busy| compared(bench, &name, hertz, most, busy))?);
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
