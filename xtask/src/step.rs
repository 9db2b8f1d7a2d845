//! Running other programs, so that what fails says which command it was.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Runs `command` with our standard streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {}", line(command)))?;
    ensure!(status.success(), "{}: {status}", line(command));
    Ok(())
}

/// Runs `command` and returns what it printed on standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let Output { status, stdout, .. } = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start {}", line(command)))?;
    ensure!(status.success(), "{}: {status}", line(command));
    String::from_utf8(stdout).with_context(|| format!("{}: not UTF-8", line(command)))
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
