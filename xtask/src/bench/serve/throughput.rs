//! How much a program does in a second, and what of it is lost.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rprofd_tests::{Program, programs::Running};

use super::super::{Bound, Figure};

/// How long is looked at a program at a time.
const SLICE: Duration = Duration::from_millis(600);

/// The quantile of the normal distribution for 95 % of both sides.
const Z: f64 = 1.96;

/// A program that prints how much it has done.
pub(super) struct Counting {
    done: Arc<AtomicU64>,
    _running: Running,
}

impl Counting {
    pub(super) fn start(program: &Program, args: &[&str]) -> Result<Self> {
        let mut running = Running::start(program.command(args).stdout(Stdio::piped()));
        let stdout = BufReader::new(running.child.stdout.take().context("a pipe")?);
        let done = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&done);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                noted.store(line.parse().unwrap_or_default(), Ordering::Relaxed);
            }
        });
        Ok(Self { done, _running: running })
    }

    /// What it does in a second.
    pub(super) fn rate(&self) -> f64 {
        let (begin, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        thread::sleep(SLICE);
        let done = self.done.load(Ordering::Relaxed) - before;
        done as f64 / begin.elapsed().as_secs_f64()
    }
}

/// An HTTP server.
pub(super) struct Server {
    pub(super) address: String,
    _running: Running,
}

impl Server {
    /// `program` is `httpload`.
    pub(super) fn start(program: &Program) -> Result<Self> {
        let mut running = Running::start(program.command(&["serve"]).stdout(Stdio::piped()));
        let mut address = String::new();
        BufReader::new(running.child.stdout.take().context("a pipe")?).read_line(&mut address)?;
        Ok(Self { address: address.trim().to_owned(), _running: running })
    }
}

/// The mean, and the upper end of its interval. A tenth of the pairs at each end is left out: there
/// something else ran.
pub(super) fn told(what: &str, lost: &[f64], most: f64) -> [Figure; 2] {
    let (mean, half) = trimmed(lost);
    let name = format!("{what}: throughput lost");
    [
        Figure::new(&*name, mean, "%", Bound::Open),
        Figure::new(format!("{name}, at most (95 %)"), mean + half, "%", Bound::AtMost(most)),
    ]
}

/// The mean without a tenth at each end, and half its interval: Tukey and McLaughlin's, by the
/// winsorized variance.
fn trimmed(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (count, cut) = (sorted.len(), sorted.len() / 10);
    let kept = &sorted[cut..count - cut];
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    let winsorized = sorted.iter().map(|it| it.clamp(kept[0], kept[kept.len() - 1]));
    let center = winsorized.clone().sum::<f64>() / count as f64;
    let variance = winsorized.map(|it| (it - center).powi(2)).sum::<f64>() / (count as f64 - 1.0);
    (mean, Z * (variance / count as f64).sqrt() / (kept.len() as f64 / count as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_far_out_does_not_count() {
        let mut values: Vec<f64> = (0..100).map(|n| f64::from(n % 5)).collect();
        let (mean, half) = trimmed(&values);
        assert!((mean - 2.0).abs() < 1e-9 && (0.2..0.4).contains(&half), "{mean} {half}");
        values[7] = 1e6;
        let (mean, half) = trimmed(&values);
        assert!((mean - 2.0).abs() < 0.1 && half < 0.5, "{mean} {half}");
    }
}
