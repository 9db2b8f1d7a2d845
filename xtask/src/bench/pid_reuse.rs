//! Pids that are used again and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use rprofd_tests::pid_reuse::{Pair, own_and_foreign};

use super::{Bench, Bound, Figure};

const PROCESSES: u32 = 100_000;

/// What they may take in all.
const LONGEST: Duration = Duration::from_secs(3600);

/// 100,000 processes of two programs, with 200 pids.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let pair = Pair::build(bench.dir());
    let mut run = None;
    pair.run(PROCESSES, "1", |starter| {
        let args = ["-F", "999", "-w", "10s", "--group-by", "comm", "--pid"];
        let rprofd = bench.rprofd().args(args).args([starter.to_string()]);
        run = Some(rprofd.start().wait_at_most(LONGEST));
    });
    let run = run.expect("a run").expect_success();
    let (mut own, mut foreign, mut samples) = (0, 0, 0);
    for name in run.file_names().iter().filter(|name| name.starts_with("all.")) {
        let profile = rprofd_tests::Profile::read(&run.output.join(name));
        let found = own_and_foreign(&profile);
        own += found.0;
        foreign += found.1;
        samples += profile.total("samples");
    }
    ensure!(own > 1000, "only {own} frames are named");
    Ok(vec![
        Figure::new("processes", f64::from(PROCESSES), "", Bound::Open),
        Figure::new("samples", samples as f64, "", Bound::Open),
        Figure::new("frames of a process's own program", own as f64, "", Bound::Open),
        Figure::new("frames of the other program", foreign as f64, "", Bound::AtMost(0.0)),
    ])
}
