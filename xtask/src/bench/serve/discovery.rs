//! Whether Prometheus finds the processes.

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use rprofd_tests::programs::Running;

use super::super::{Bench, Bound, Figure};
use crate::checkout;

const PROCESSES: usize = 50;

/// The code of Prometheus's own HTTP service discovery reads `/sd`.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let program = bench.dir().join("discover");
    let mut build = Command::new("go");
    build.current_dir(checkout::root().join("tests/programs/discover"));
    let status = build.args(["build", "-o"]).arg(&program).arg(".").status()?;
    ensure!(status.success(), "go build: {status}");
    let daemon = bench.daemon(&[]);
    let start = |_| Running::start(Command::new("sleep").arg("600"));
    let processes: Vec<Running> = (0..PROCESSES).map(start).collect();
    thread::sleep(Duration::from_secs(5));
    let output = Command::new(&program).arg(daemon.url("/sd")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let targets: Vec<BTreeMap<String, String>> = serde_json::from_slice(&output.stdout)?;
    let is_right = |process: &&Running| {
        let pid = process.pid().to_string();
        targets.iter().any(|target| {
            let label = |name: &str| target.get(name).map(String::as_str);
            label("__meta_rprofd_pid") == Some(&pid)
                && label("__address__") == Some(&daemon.address.to_string())
                && label("__meta_rprofd_path_prefix") == Some(&format!("/pid/{pid}"))
                && label("comm") == Some("sleep")
        })
    };
    let found = processes.iter().filter(is_right).count();
    Ok(vec![
        Figure::new("targets", targets.len() as f64, "", Bound::Open),
        Figure::new("of the 50 processes", found as f64, "", Bound::AtLeast(PROCESSES as f64)),
    ])
}
