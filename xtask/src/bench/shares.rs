//! Shares of functions, against what the program does.

use anyhow::Result;
use rprofd_tests::Program;

use super::{Bench, Bound, Figure};

/// Four functions, 999 Hz, 30 s.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let program = Program::build("shares.c");
    let run = bench.rprofd().args(["-F", "999", "--", program.arg(), "30"]).run();
    let profile = run.expect_success().profile_of("shares");
    let functions = [("burn_40", 40.0), ("burn_30", 30.0), ("burn_20", 20.0), ("burn_10", 10.0)];
    Ok(functions
        .into_iter()
        .map(|(function, percent)| {
            let share = profile.share(function) * 100.0;
            Figure::new(function, share, "%", Bound::Within(percent - 2.0, percent + 2.0))
        })
        .collect())
}
