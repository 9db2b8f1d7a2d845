//! What recording waits costs whoever waits.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rprofd_tests::{Program, serve};

use super::{
    super::{Bench, Figure},
    throughput::{Counting, Server, told},
};

/// How often waits are recorded and not, by turns.
const PAIRS: usize = 60;

/// What is between the begin of a recording and a look at the program.
const REST: Duration = Duration::from_millis(250);

/// Two processes that do nothing but wake each other, and an HTTP server under load.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let pingpong =
        Program::build_with("pingpong.c", &["-O2"]).copy_to(&bench.dir().join("pingpong"));
    let http = Program::build("httpload.go").copy_to(&bench.dir().join("httpload"));
    let mut figures = Vec::new();
    for kind in ["block", "wall"] {
        let busy = Counting::start(&pingpong, &[], None)?;
        let name = format!("ping-pong, {kind}");
        figures.extend(told(&name, &compare(bench, kind, &busy)?, 15.0));
        drop(busy);
        let server = Server::start(&http, None)?;
        let busy = Counting::start(&http, &["load", &server.address], None)?;
        let name = format!("HTTP server, {kind}");
        figures.extend(told(&name, &compare(bench, kind, &busy)?, 2.0));
    }
    Ok(figures)
}

/// What is lost of the throughput while waits are recorded, in %, for each pair.
fn compare(bench: &Bench, kind: &str, busy: &Counting) -> Result<Vec<f64>> {
    let daemon = bench.daemon(&[]);
    thread::sleep(Duration::from_secs(3));
    let path = format!("/debug/pprof/{kind}?seconds=1");
    let recorded = || -> Result<f64> {
        let (address, path) = (daemon.address, path.clone());
        let asking = thread::spawn(move || serve::get(address, &path));
        thread::sleep(REST);
        let rate = busy.rate();
        let answer = asking.join().expect("an answer");
        ensure!(answer.status == 200, "{}", answer.text());
        // What it leaves to be done is not to be in the way.
        thread::sleep(REST);
        Ok(rate)
    };
    let mut lost = Vec::new();
    for pair in 0..PAIRS {
        let (with, without) = if pair % 2 == 0 {
            let with = recorded()?;
            (with, busy.rate())
        } else {
            let without = busy.rate();
            (recorded()?, without)
        };
        lost.push((1.0 - with / without) * 100.0);
    }
    Ok(lost)
}
