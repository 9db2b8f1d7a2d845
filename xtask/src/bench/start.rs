//! From start to the first sample.

use anyhow::Result;
use rprofd_tests::Program;

use super::{Bench, Bound, Figure, line_with, number_after};

/// The slowest of five starts on a busy machine.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let _busy = Program::build("spin.c").start(&["1", "60"]);
    let mut slowest_ms = 0_f64;
    for _ in 0..5 {
        let run = bench.rprofd().args(["-v", "-d", "1s"]).run().expect_success();
        let line = line_with(&run.stderr, "first sample after")?;
        slowest_ms = slowest_ms.max(number_after(line, "first sample after")?);
    }
    Ok(vec![Figure::new("slowest of 5", slowest_ms, "ms", Bound::AtMost(300.0))])
}
