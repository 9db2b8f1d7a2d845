//! `rprofd doctor`: what this machine allows; with `--pid`, what can be unwound and named of a process.

mod access;
mod finding;
mod go;
mod machine;
mod packages;
mod perf_limits;
mod process;
mod profilers;
mod text;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, builder::RangedU64ValueParser};
use serde::Serialize;

use self::finding::Mark;
use crate::reader::client::ReaderError;

/// The first argument that asks for it.
pub const ARGUMENT: &str = "doctor";

/// Exit status where this machine does not let rprofd record.
const UNABLE: u8 = 3;

/// What this machine allows, what is missing, and the command that mends it.
///
/// With --pid: which of a process's files can be unwound and named, and why not.
#[derive(Debug, Parser)]
#[command(name = "rprofd doctor", bin_name = "rprofd doctor", max_term_width = 100)]
struct Options {
    /// Look at this process instead of the machine
    #[arg(short, long, value_name = "PID",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=4_194_304))]
    pid: Option<u32>,

    /// Where separate debug files are
    #[arg(long, value_name = "DIR", env = "RPROFD_DEBUG_DIR", default_value = "/usr/lib/debug")]
    debug_dir: Vec<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    /// There is no such process.
    #[error("there is no process {0}; `ps -e` lists them")]
    NoProcess(u32),
    /// It has not been described.
    #[error(
        "process {0} cannot be read: it has just ended, is a kernel thread, or belongs to somebody \
         else (run rprofd with sudo)"
    )]
    NotRead(u32),
    /// There is no reader.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// We cannot wait for it.
    #[error("poll: {0}")]
    Poll(io::Error),
    /// It cannot be written as JSON.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// The machine's part as JSON has it.
#[derive(Serialize)]
struct MachineReport {
    able: bool,
    findings: Vec<finding::Finding>,
}

/// Runs `rprofd doctor` with these arguments, the word itself left out.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = Options::parse_from([ARGUMENT.into()].into_iter().chain(arguments));
    run(&options).unwrap_or_else(|error| {
        eprintln!("rprofd: {error}");
        ExitCode::FAILURE
    })
}

fn run(options: &Options) -> Result<ExitCode, DoctorError> {
    if let Some(pid) = options.pid {
        let report = process::examine(pid, options.debug_dir.clone())?;
        print(options.json, &report, || text::process(&report))?;
        return Ok(ExitCode::SUCCESS);
    }
    let findings = machine::examine(&options.debug_dir);
    let able = findings.iter().all(|finding| finding.mark != Mark::Bad);
    let report = MachineReport { able, findings };
    print(options.json, &report, || text::machine(&report))?;
    Ok(if able { ExitCode::SUCCESS } else { ExitCode::from(UNABLE) })
}

fn print(
    json: bool,
    report: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), DoctorError> {
    let text = if json { serde_json::to_string_pretty(report)? + "\n" } else { text() };
    io::stdout().write_all(text.as_bytes()).map_err(DoctorError::Output)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Options::command().debug_assert();
    }
}
