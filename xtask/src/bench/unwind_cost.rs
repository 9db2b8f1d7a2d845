//! What a sample costs in the kernel, by the depth of its stack.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result};
use rprofd_tests::{Profile, Program, programs::Running};

use super::{
    Bench, Bound, Figure,
    bpf_statistics::{Runs, Statistics},
    outcomes::Outcomes,
    whole_machine::deep_without_frame_pointers,
};

/// Each case is run so often, in turn with the others; the median counts.
const ROUNDS: usize = 7;
/// When measuring begins and ends, from the start of a run of [`LENGTH`].
const WARM: Duration = Duration::from_secs(3);
const END: Duration = Duration::from_secs(9);
const LENGTH: Duration = Duration::from_secs(10);
/// Longer than a run: the programs are ended then.
const SECONDS: &str = "60";

/// What is run.
struct Case {
    what: &'static str,
    program: Program,
    args: &'static [&'static str],
    hertz: u32,
    /// Stacks have so many frames, or more.
    frames: f64,
    goal_us: f64,
    limit_us: f64,
    runs: Vec<Run>,
    outcomes: Outcomes,
}

/// What was seen in a run.
struct Run {
    mean_us: f64,
    /// Frames of most of the program's user stacks.
    frames: f64,
    /// Samples of the program, of the times the BPF program ran.
    share: f64,
}

/// Three cases in turn.
///
/// The mean of the kernel's statistics is over every run of the program that samples start, also
/// those that leave it at once: of an idle CPU, or of a process that is filtered out. A filter would
/// thus make the mean smaller. So there is none: the whole machine is sampled, each CPU has a
/// process of the program, and the share of samples that are not of them is a figure, too.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let _statistics = Statistics::on()?;
    let deep = deep_without_frame_pointers();
    let recursion = Program::build_with("shapes.c", &["-fomit-frame-pointer"]);
    let case = |what, program: &Program, args, hertz, frames, goal_us, limit_us| Case {
        what,
        program: program.clone(),
        args,
        hertz,
        frames,
        goal_us,
        limit_us,
        runs: Vec::new(),
        outcomes: Outcomes::default(),
    };
    let mut cases = [
        case("36 frames, 99 Hz", &deep, &[SECONDS][..], 99, 36.0, 9.0, 14.0),
        case("36 frames, 9999 Hz", &deep, &[SECONDS], 9999, 36.0, 3.5, 5.0),
        case(
            "1,000 frames, 9999 Hz",
            &recursion,
            &["recursion", SECONDS],
            9999,
            1000.0,
            55.0,
            75.0,
        ),
    ];
    for round in 0..ROUNDS {
        for case in &mut cases {
            let (run, outcomes) = measure(bench, case)?;
            println!("round {}: {}: {:.2} µs", round + 1, case.what, run.mean_us);
            case.runs.push(run);
            case.outcomes += outcomes;
        }
    }
    Ok(cases.iter().flat_map(figures).collect())
}

fn measure(bench: &Bench, case: &Case) -> Result<(Run, Outcomes)> {
    let cpus = thread::available_parallelism()?.get();
    let busy: Vec<Running> = (0..cpus).map(|_| case.program.start(case.args)).collect();
    let hertz = case.hertz.to_string();
    let length = format!("{}s", LENGTH.as_secs());
    let options = ["-F", &hertz, "-d", &length, "--group-by", "comm"];
    let mut rprofd = bench.rprofd().args(["-v"]).args(options).start();
    let runs = Runs::of_run(&mut rprofd, WARM, END)?;
    let run = rprofd.wait().expect_success();
    drop(busy);

    let comm = case.program.path().file_name().context("a file name")?.to_string_lossy();
    let profile = run.profile_of(&comm);
    let samples = profile.total("samples") as f64 / LENGTH.as_secs_f64();
    let run = Run {
        mean_us: runs.mean_us(),
        frames: usual_frames(&profile),
        share: samples / (runs.count as f64 / (END - WARM).as_secs_f64()) * 100.0,
    };
    Ok((run, Outcomes::of(&profile)))
}

/// How many frames most user stacks have.
fn usual_frames(profile: &Profile) -> f64 {
    let mut by_frames = BTreeMap::new();
    for sample in &profile.samples {
        let frames = sample.stack.iter().filter(|id| !profile.is_kernel(**id)).count();
        *by_frames.entry(frames).or_insert(0) += sample.values[0];
    }
    by_frames.into_iter().max_by_key(|(_, count)| *count).map_or(0.0, |(frames, _)| frames as f64)
}

fn figures(case: &Case) -> [Figure; 5] {
    let Case { what, frames, goal_us, limit_us, runs, outcomes, .. } = case;
    let cost_us = median(runs, |run| run.mean_us);
    [
        Figure::new(*what, cost_us, "µs", Bound::AtMost(*limit_us)),
        Figure::new(format!("{what}, of the goal"), cost_us / goal_us * 100.0, "%", Bound::Open),
        Figure::new(
            format!("{what}, most stacks"),
            median(runs, |run| run.frames),
            "frames",
            Bound::AtLeast(*frames),
        ),
        Figure::new(
            format!("{what}, complete stacks"),
            outcomes.complete_percent(),
            "%",
            Bound::AtLeast(99.0),
        ),
        Figure::new(
            format!("{what}, runs that were of the program"),
            median(runs, |run| run.share),
            "%",
            Bound::AtLeast(95.0),
        ),
    ]
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
