//! `cargo xtask fuzz`: builds the targets under `fuzz/` and runs them for a while, each bounded in
//! the time and memory of an input.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{checkout, step};
use outcome::Outcome;

mod go_table;
mod outcome;
mod seeds;

/// The version of cargo-fuzz that this was written for.
const CARGO_FUZZ: &str = "0.13.2";

/// What an input may take, in seconds.
const INPUT_SECONDS: u32 = 5;

/// What a target may take, in MiB: the reader may allocate as much.
const MEMORY_MIB: u32 = 1024;

#[derive(Args)]
pub(crate) struct Options {
    /// For how long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// How many targets run at once; by default as many as there are CPUs
    #[arg(long)]
    jobs: Option<usize>,
    /// `address` finds what `unsafe` code does wrong, at half the speed
    #[arg(long, default_value = "none")]
    sanitizer: String,
    /// Build the targets, and run nothing
    #[arg(long)]
    build: bool,
    /// Make the seeds under `fuzz/seeds/` anew (with gcc), and run nothing
    #[arg(long)]
    make_seeds: bool,
    /// Which targets; by default all
    targets: Vec<String>,
}

/// Runs `cargo xtask fuzz …`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = checkout::root().join("fuzz");
    if options.make_seeds {
        return seeds::make(&folder.join("seeds"));
    }
    let targets = targets(&folder, &options.targets)?;
    check_tools()?;
    build(&options.sanitizer)?;
    if options.build {
        return Ok(());
    }
    let programs = programs(&folder);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or(cpus).clamp(1, targets.len());
    let waiting = Mutex::new(VecDeque::from(targets));
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop_front());
    let work = || -> Result<u32> {
        let mut failed = 0;
        while let Some(target) = next() {
            let outcome = run_target(&folder, &programs, &target, options.seconds)?;
            println!("{target:<10} {outcome}");
            if let Outcome::Failed { artifact, .. } = &outcome {
                failed += 1;
                tell(&programs, &target, artifact.as_deref());
            }
        }
        Ok(failed)
    };
    let failed = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_fold(0, |sum, worker| match worker.join() {
            Ok(failed) => Ok(sum + failed?),
            Err(_) => bail!("a thread that runs a target has panicked"),
        })
    })?;
    ensure!(failed == 0, "{failed} of the targets failed");
    Ok(())
}

/// The targets that were asked for, or all.
fn targets(folder: &Path, asked: &[String]) -> Result<Vec<String>> {
    let directory = folder.join("fuzz_targets");
    let mut all = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        all.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    all.sort();
    for target in asked {
        ensure!(all.contains(target), "no target {target}; there are {}", all.join(", "));
    }
    Ok(if asked.is_empty() { all } else { asked.to_vec() })
}

fn check_tools() -> Result<()> {
    let runs = |command: &mut Command| {
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    ensure!(
        runs(Command::new(&compiler).arg("--version")),
        "libFuzzer is compiled with a C++ compiler, and {} is missing: `apt-get install g++`",
        compiler.display()
    );
    ensure!(
        runs(Command::new(checkout::cargo()).args(["fuzz", "--version"])),
        "cargo-fuzz is missing: `cargo install --locked cargo-fuzz --version {CARGO_FUZZ}`"
    );
    Ok(())
}

/// Builds all targets. A stable compiler refuses the flags that lead it, unless it is told that it
/// is one for its own making.
fn build(sanitizer: &str) -> Result<()> {
    let mut command = Command::new(checkout::cargo());
    command.current_dir(checkout::root()).env("RUSTC_BOOTSTRAP", "1").args([
        "fuzz",
        "build",
        "--release",
        "--debug-assertions",
        "--sanitizer",
        sanitizer,
    ]);
    step::run(&mut command)
}

/// Where the targets' programs are.
fn programs(folder: &Path) -> PathBuf {
    let machine = std::env::consts::ARCH;
    folder.join(format!("target/{machine}-unknown-linux-gnu/release"))
}

/// Runs a target on its seeds and on what earlier runs have found.
fn run_target(folder: &Path, programs: &Path, target: &str, seconds: u32) -> Result<Outcome> {
    let place = |kind: &str| folder.join(kind).join(target);
    let (corpus, artifacts) = (place("corpus"), place("artifacts"));
    for directory in [&corpus, &artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut command = Command::new(programs.join(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-max_len=65536", "-print_final_stats=1"])
        .args([&corpus, &place("seeds")]);
    let dictionary = folder.join("dictionaries").join(target);
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", programs.join(target).display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    Ok(Outcome::read(&log, output.status.success()))
}

/// How a failure can be had again.
fn tell(programs: &Path, target: &str, artifact: Option<&Path>) {
    match artifact {
        Some(artifact) => {
            println!(
                "           again: {} {}",
                programs.join(target).display(),
                artifact.display()
            );
            println!("           smaller: cargo fuzz tmin {target} {}", artifact.display());
        }
        None => println!("           again: cargo xtask fuzz {target}"),
    }
}
