//! From an exec until the kernel side knows the new mappings.

use anyhow::Result;
use rprofd_tests::Program;

use super::{Bench, Bound, Figure, line_with, number_after};

/// Two busy CPUs, and two loops that start programs as fast as they can.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let short = Program::build_with("short.c", &["-DID=0"]);
    let storm = Program::build("exec_storm.c");
    let _busy = Program::build("spin.c").start(&["2", "30"]);
    let _storms = [storm.start(&["30", short.arg(), "1"]), storm.start(&["30", short.arg(), "1"])];
    let run = bench.rprofd().args(["-v", "-F", "99", "-d", "15s"]).run().expect_success();
    let line = line_with(&run.stderr, "exec to kernel mappings")?;
    Ok(vec![
        Figure::new("execs", number_after(line, "over")?, "", Bound::AtLeast(1000.0)),
        Figure::new("p50", number_after(line, "p50")?, "ms", Bound::Open),
        Figure::new("p99", number_after(line, "p99")?, "ms", Bound::AtMost(5.0)),
    ])
}
