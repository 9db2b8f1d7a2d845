//! How much a program does in a second, and what of it is lost.

use std::{
    io::{BufRead as _, BufReader},
    ops::RangeInclusive,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::{Program, procfs, programs::Running};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::super::{Bound, Figure};

/// How long is looked at a program at a time.
const SLICE: Duration = Duration::from_millis(600);

/// How often something is on and off, by turns, at least and at most: what else the machine does comes
/// and goes, and is the same for neighbours.
const PAIRS: RangeInclusive<usize> = 60..=400;

/// How wide half an interval may be, as a part of its bound, for there to be pairs enough. It says
/// nothing of where the interval lies, so that to stop by it favours no outcome.
const SETTLED: f64 = 0.3;

/// The quantile of the normal distribution for 95 % of both sides.
const Z: f64 = 1.96;

/// A program that prints how much it has done.
pub(in super::super) struct Counting {
    /// How much, and when that was heard.
    done: Arc<Mutex<(u64, Instant)>>,
    running: Running,
}

impl Counting {
    /// `cpu`: where it runs; `None`: anywhere.
    pub(in super::super) fn start(
        program: &Program,
        args: &[&str],
        cpu: Option<usize>,
    ) -> Result<Self> {
        let mut running = start_on(cpu, program.command(args).stdout(Stdio::piped()))?;
        let stdout = BufReader::new(running.child.stdout.take().context("a pipe")?);
        let done = Arc::new(Mutex::new((0, Instant::now())));
        let noted = Arc::clone(&done);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let done = (line.parse().unwrap_or_default(), Instant::now());
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = done;
            }
        });
        Ok(Self { done, running })
    }

    /// What it does in a second.
    pub(in super::super) fn rate(&self) -> f64 {
        let (before, begin) = self.done();
        thread::sleep(SLICE);
        let (after, end) = self.done();
        (after - before) as f64 / end.duration_since(begin).max(SLICE / 2).as_secs_f64()
    }

    pub(in super::super) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// CPU time that it has used.
    fn cpu_time(&self) -> Duration {
        Duration::from_nanos(procfs::cpu_time_ns(self.running.pid()))
    }

    fn done(&self) -> (u64, Instant) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most that the load may have of its CPU, in %: the server is to be what all wait for.
const LOAD: f64 = 90.0;

/// What is measured of an HTTP server under load, and what the load has of its CPU. The server has a CPU
/// of its own, and the load another, which it leaves time of for whatever else there is.
/// `program` is `httpload`.
pub(super) fn under_load(
    program: &Program,
    name: &str,
    measure: impl FnOnce(&Counting) -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    let [first, last] = two_cpus()?;
    let server = Server::start(program, last)?;
    let busy = Counting::start(program, &["flood", &server.address], first)?;
    let (begin, before) = (Instant::now(), busy.cpu_time());
    let mut figures = measure(&busy)?;
    let of_load = (busy.cpu_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
    let bound = if first.is_some() { Bound::AtMost(LOAD) } else { Bound::Open };
    let name = format!("{name}: the load");
    figures.push(Figure::new(name, of_load * 100.0, "% of a CPU", bound));
    Ok(figures)
}

/// An HTTP server.
struct Server {
    address: String,
    _running: Running,
}

impl Server {
    /// `cpu`: where it runs; `None`: anywhere.
    fn start(program: &Program, cpu: Option<usize>) -> Result<Self> {
        let mut running = start_on(cpu, program.command(&["serve"]).stdout(Stdio::piped()))?;
        let mut address = String::new();
        BufReader::new(running.child.stdout.take().context("a pipe")?).read_line(&mut address)?;
        Ok(Self { address: address.trim().to_owned(), _running: running })
    }
}

/// The first and the last CPU that we may use; `None` each if there is but one.
pub(super) fn two_cpus() -> Result<[Option<usize>; 2]> {
    let ours = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| ours.is_set(*cpu));
    let (first, last) = (cpus.next(), cpus.next_back());
    Ok(if last.is_some() { [first, last] } else { [None; 2] })
}

/// Starts a command where it is to run: it inherits that from the thread that starts it.
fn start_on(cpu: Option<usize>, command: &mut Command) -> Result<Running> {
    let Some(cpu) = cpu else { return Ok(Running::start(command)) };
    let ours = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one)?;
    let running = Running::start(command);
    sched_setaffinity(None, &ours)?;
    Ok(running)
}

/// What is lost of a throughput, in %, for each pair. `rate` measures with, or without, what is to be
/// known the cost of, of which `most` is allowed.
pub(super) fn until_settled(
    most: f64,
    mut rate: impl FnMut(bool) -> Result<f64>,
) -> Result<Vec<f64>> {
    let mut lost = Vec::new();
    while lost.len() < *PAIRS.end() {
        let is_with_first = lost.len() % 2 == 0;
        let (first, second) = (rate(is_with_first)?, rate(!is_with_first)?);
        let (with, without) = if is_with_first { (first, second) } else { (second, first) };
        ensure!(without > 0.0, "it does nothing");
        lost.push((1.0 - with / without) * 100.0);
        if lost.len() >= *PAIRS.start() && trimmed(&lost).1 <= SETTLED * most {
            break;
        }
    }
    Ok(lost)
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
