//! What looking at Go programs costs: a sample with labels, and a wait that meets probes.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use rprofd_tests::{
    Program,
    programs::Running,
    serve::{self, wait_for},
};

use super::{
    Bench, Bound, Figure,
    bpf_statistics::{Runs, Statistics},
    serve::{median, throughput::Counting},
};

/// Each case is run so often, in turn with the other; the median counts.
const ROUNDS: usize = 7;

/// When measuring begins and ends, from the start of a run of [`LENGTH`].
const WARM: Duration = Duration::from_secs(3);
const END: Duration = Duration::from_secs(8);
const LENGTH: &str = "9s";

/// How often waits are measured and not, by turns.
const PAIRS: usize = 30;

/// What is between the begin of a recording and a look at the program.
const REST: Duration = Duration::from_millis(400);

/// BPF time of a sample of a program with labels, and of the same without.
pub(super) fn labels(bench: &Bench) -> Result<Vec<Figure>> {
    let _statistics = Statistics::on()?;
    let program = Program::build("golabels.go");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        with.push(sample_us(bench, &program, "two")?);
        without.push(sample_us(bench, &program, "none")?);
    }
    let [with, without] = [with, without].map(median);
    Ok(vec![
        Figure::new("a sample with two labels", with, "µs", Bound::Open),
        Figure::new("the same without", without, "µs", Bound::Open),
        Figure::new("labels of a sample", with - without, "µs", Bound::AtMost(1.0)),
    ])
}

/// Mean of all samples, with each CPU busy with the program.
fn sample_us(bench: &Bench, program: &Program, labels: &str) -> Result<f64> {
    let cpus = thread::available_parallelism()?.get();
    let busy: Vec<Running> = (0..cpus).map(|_| program.start(&[labels])).collect();
    let mut rprofd = bench.rprofd().args(["-v", "-F", "999", "-d", LENGTH]).start();
    let runs = Runs::of_run(&mut rprofd, WARM, END)?;
    let run = rprofd.wait().expect_success();
    drop(busy);
    let profile = run.all();
    let told = profile.samples.iter().filter(|it| it.labels.contains_key("handler")).count();
    ensure!((told > 0) == (labels != "none"), "{told} samples have labels with {labels:?}");
    Ok(runs.mean_us())
}

/// What is lost of a program's work while its waits are measured, of which it has many.
pub(super) fn waits(bench: &Bench) -> Result<Vec<Figure>> {
    let program = Program::build("gowaits.go");
    let busy = Counting::start(&program, &["work"], None)?;
    let daemon = bench.daemon(&[]);
    let url = format!("/pid/{}/debug/pprof/", busy.pid());
    wait_for(200, || daemon.get(&url));
    let path = format!("{url}block?seconds=2&debug=1");
    // What is seen while there are probes.
    let probed = |look: &dyn Fn() -> Result<f64>| -> Result<f64> {
        let (address, asked) = (daemon.address, path.clone());
        let asking = thread::spawn(move || serve::get(address, &asked));
        thread::sleep(REST);
        let seen = look();
        let text = asking.join().expect("an answer").text();
        ensure!(text.contains("source=probes"), "there were none: {text}");
        seen
    };
    let mut lost = Vec::new();
    let mut per_second = Vec::new();
    for _ in 0..PAIRS {
        let without = busy.rate();
        let with = probed(&|| Ok(busy.rate()))?;
        lost.push((1.0 - with / without) * 100.0);
        // Two goroutines begin to wait, and go on, for each unit of work.
        per_second.push(with * 4.0);
    }
    let [lost, per_second] = [lost, per_second].map(median);
    let _statistics = Statistics::on()?;
    let of_rprofd = probed(&|| {
        let before = Runs::of_probes(daemon.rprofd.pid())?;
        thread::sleep(REST);
        let runs = Runs::of_probes(daemon.rprofd.pid())?.since(before);
        ensure!(runs.count > 0, "no probe was met");
        Ok(runs.mean_us())
    })?;
    Ok(vec![
        Figure::new("probes met in a second", per_second, "", Bound::AtMost(25_000.0)),
        Figure::new("lost by it", lost, "%", Bound::Open),
        Figure::new("a probe", lost * 1e4 / per_second, "µs", Bound::AtMost(4.0)),
        Figure::new("of that rprofd's part", of_rprofd, "µs", Bound::AtMost(2.0)),
    ])
}
