//! The command `rprofd`.

use std::{process::ExitCode, time::Instant};

use profiler_daemon::{
    cli::{LogFormat, Options},
    command,
    reader::child,
    run::{RunError, run},
};

fn main() -> ExitCode {
    let started = Instant::now();
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == child::ARGUMENT => return child::main(),
        Some(first) if first == command::ARGUMENT => return command::main(arguments),
        _ => {}
    }
    let options = Options::from_command_line();
    log_to_stderr(&options);
    let is_command = !options.command.is_empty();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime: {error}"), 1, is_command),
    };
    let result: Result<u8, RunError> = runtime.block_on(run(options, started));
    runtime.shutdown_background();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => fail(&error.to_string(), error.exit_status(), is_command),
    }
}

fn fail(text: &str, status: u8, is_command: bool) -> ExitCode {
    eprintln!("rprofd: {text}");
    // With a command, statuses below 125 are its own.
    ExitCode::from(if is_command { command::OURSELVES } else { status })
}

/// Messages go to standard error: warnings, with `-v` information, with `-vv` everything of ours.
fn log_to_stderr(options: &Options) {
    use std::io::IsTerminal as _;
    let level = match (options.quiet, options.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "warn,profiler_daemon=info",
        _ => "info,profiler_daemon=debug,rprofd_ebpf=debug",
    };
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let colors = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    let log = tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .with_target(options.verbose > 1)
        .with_ansi(colors);
    match (options.log_format, journald) {
        (LogFormat::Json, _) => log.json().init(),
        (LogFormat::Text, true) => log.without_time().init(),
        (LogFormat::Text, false) => log.init(),
    }
}
