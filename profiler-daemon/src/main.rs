//! The command `rprofd`.

use std::{process::ExitCode, time::Instant};

use profiler_daemon::{
    cli::{self, Options},
    command, doctor, messages,
    reader::child,
    run::{RunError, run},
    serve::serve,
};

fn main() -> ExitCode {
    let started = Instant::now();
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == child::ARGUMENT => return child::main(),
        Some(first) if first == command::ARGUMENT => return command::main(arguments),
        Some(first) if first == doctor::ARGUMENT => return doctor::main(arguments),
        Some(first) if first == cli::serve::ARGUMENT => return serve_main(arguments, started),
        _ => {}
    }
    let options = Options::from_command_line();
    messages::to_stderr(options.quiet, options.verbose, options.log_format);
    let is_command = !options.command.is_empty();
    let result = block_on(run(options, started));
    finish(result, is_command)
}

fn serve_main(arguments: impl Iterator<Item = std::ffi::OsString>, started: Instant) -> ExitCode {
    let options = cli::serve::Options::from_arguments(arguments);
    messages::to_stderr(options.quiet, options.verbose, options.log_format);
    finish(block_on(serve(options, started)), false)
}

fn block_on(work: impl Future<Output = Result<u8, RunError>>) -> Result<u8, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|io_error| RunError::SystemCall { call: "a runtime", io_error })?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

fn finish(result: Result<u8, RunError>, is_command: bool) -> ExitCode {
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
