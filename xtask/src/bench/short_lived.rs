//! Names of processes that are gone before anybody can look.

use std::{
    fs,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::Program;
use rustix::process::Signal;

use super::{Bench, Bound, Figure};

const BINARIES: usize = 50;
const PROCESSES: usize = 1000;
/// Binaries of which each process runs a copy, deleted after its exec.
const DELETED: usize = 10;
/// How many run at a time.
const AT_ONCE: usize = 2;

/// 1,000 processes that live 20 to 50 ms, from 50 binaries that no cache knows.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let programs: Vec<Program> = (0..BINARIES)
        .map(|id| {
            let path = bench.dir().join(format!("short{id}"));
            Program::build_fresh("short.c", &[&format!("-DID={id}")], &path)
        })
        .collect();

    let mut rprofd = bench.rprofd().args(["-v", "-F", "999", "--comm", "short*"]).start();
    rprofd.wait_for_line("sampling");
    let mut running: Vec<Child> = Vec::new();
    for number in 0..PROCESSES {
        if running.len() == AT_ONCE {
            running.remove(0).wait()?;
        }
        let id = number % BINARIES;
        let milliseconds = (20 + number * 7 % 31).to_string();
        running.push(spawn(&programs[id], id, &milliseconds)?);
    }
    for mut child in running {
        child.wait()?;
    }
    rprofd.signal(Signal::INT);
    let all = rprofd.wait().expect_success().all();

    let (mut frames, mut named) = (0_i64, 0_i64);
    for sample in &all.samples {
        let user = sample.stack.iter().filter(|id| !all.is_kernel(**id));
        for id in user {
            frames += sample.values[0];
            if !all.locations[id].lines.is_empty() {
                named += sample.values[0];
            }
        }
    }
    let processes: std::collections::BTreeSet<_> =
        all.samples.iter().map(|sample| &sample.labels["pid"]).collect();
    ensure!(frames > 0, "no user frames");
    Ok(vec![
        Figure::new("processes seen", processes.len() as f64, "", Bound::AtLeast(990.0)),
        Figure::new("user frames", frames as f64, "", Bound::Open),
        Figure::new("named", named as f64 / frames as f64 * 100.0, "%", Bound::AtLeast(99.0)),
    ])
}

/// Starts a process; the file of the first [`DELETED`] binaries is a copy that is gone at once.
fn spawn(program: &Program, id: usize, milliseconds: &str) -> Result<Child> {
    if id >= DELETED {
        return Ok(program.command(&[milliseconds]).spawn()?);
    }
    let copy = program.path().with_extension("gone");
    fs::copy(program.path(), &copy)?;
    let mut command = std::process::Command::new(&copy);
    let child = command.arg(milliseconds).stdin(Stdio::null()).spawn().context("start a copy")?;
    // The exec is over when spawn returns.
    fs::remove_file(&copy)?;
    Ok(child)
}
