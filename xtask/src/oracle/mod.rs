//! Our stacks, judged by other unwinders of the same samples.
//!
//! A sample is an event that carries the registers and a copy of the stack. Our walk, the one that
//! the BPF program runs, and the oracle ([`judge`]) see nothing else, and are compared frame by
//! frame.

use std::{ffi::OsString, sync::mpsc, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Args;

pub(crate) use self::{files::Files, recording::Recording, report::Report};

mod cfi;
mod file;
mod files;
mod judge;
mod mappings;
mod perf;
mod recording;
mod report;
mod stack;
#[cfg(test)]
mod tests;
mod walked;

#[derive(Args)]
pub(crate) struct Options {
    /// End COMMAND after so many seconds [default: when it ends]
    #[arg(long)]
    seconds: Option<u64>,
    /// Samples in a second of CPU time
    #[arg(long, default_value_t = 499, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    frequency: u64,
    /// What to run, with its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs `cargo xtask oracle …`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let recording = Recording {
        command: &options.command,
        hertz: options.frequency,
        limit: options.seconds.map(Duration::from_secs),
    };
    let mut report = Report::default();
    compare(&recording, &mut Files::new(&|_, _| ()), &mut report)?;
    print!("{report}");
    if report.disagreed() > 0 {
        bail!("{} disagreements", report.disagreed());
    }
    Ok(())
}

/// Records and compares at the same time.
pub(crate) fn compare(
    recording: &Recording<'_>,
    files: &mut Files<'_>,
    report: &mut Report,
) -> Result<()> {
    can_record()?;
    let before = report.samples;
    let (sender, records) = mpsc::channel();
    thread::scope(|scope| {
        let recorder = scope.spawn(move || recording.run(&sender));
        report.add(records, files);
        recorder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(report.samples > before, "no samples: does the command start, and run user code?");
    Ok(())
}

/// # Errors
///
/// If this machine cannot do it.
pub(crate) fn can_record() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the oracle knows x86_64 alone");
    ensure!(rustix::process::geteuid().is_root(), "the oracle needs root");
    Ok(())
}
