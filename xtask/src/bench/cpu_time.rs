//! Samples, with those that are counted as lost, against the kernel's accounting.

use anyhow::{Context as _, Result};
use rprofd_tests::Program;

use super::{Bench, Bound, Figure};

/// Two busy threads, ten seconds.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let program = Program::build("spin.c");
    let run = bench.rprofd().args(["--", program.arg(), "2", "10"]).run().expect_success();
    let accounted_ns: f64 = run.stdout_text().trim().parse().context("what spin printed")?;
    let all = run.all();
    let sampled_ns = all.total_where("cpu", |sample| sample.labels["comm"] == "spin") as f64;
    let lost: u64 = all
        .counts()
        .iter()
        .filter(|(key, _)| key.starts_with("lost"))
        .map(|(_, count)| count)
        .sum();
    let lost_ns = lost as f64 * all.period as f64;
    Ok(vec![
        Figure::new("CPU time by the kernel", accounted_ns / 1e9, "s", Bound::Open),
        Figure::new("samples counted as lost", lost as f64, "", Bound::Open),
        Figure::new(
            "samples and losses, of the kernel's",
            (sampled_ns + lost_ns) / accounted_ns * 100.0,
            "%",
            Bound::Within(98.0, 102.0),
        ),
    ])
}
