//! The command `rprofd`.

use std::{process::ExitCode, time::Instant};

use profiler_daemon::{
    cli::Options,
    command, doctor, messages,
    reader::child,
    run::{RunError, run},
};

fn main() -> ExitCode {
    let started = Instant::now();
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == child::ARGUMENT => return child::main(),
        Some(first) if first == command::ARGUMENT => return command::main(arguments),
        Some(first) if first == doctor::ARGUMENT => return doctor::main(arguments),
        _ => {}
    }
    let options = Options::from_command_line();
    messages::to_stderr(&options);
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
