//! The command `rprofd`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use profiler_daemon::{
    cli::{self, Options},
    command,
    config::Resolved,
    doctor, messages,
    reader::child,
    run::{RunError, run},
    serve::serve,
    server,
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
    messages::to_stderr(options.messages);
    let is_command = !options.command.is_empty();
    let result = block_on(run(options, started));
    finish(result, is_command)
}

fn serve_main(arguments: impl Iterator<Item = std::ffi::OsString>, started: Instant) -> ExitCode {
    let resolved = cli::serve::Options::resolve(arguments).unwrap_or_else(|error| error.exit());
    if resolved.options.check {
        return checked(&resolved);
    }
    messages::to_stderr(resolved.options.messages);
    finish(block_on(serve(resolved, started)), false)
}

/// Prints what the options come to, or what is wrong with what they name.
fn checked(resolved: &Resolved<cli::serve::Options>) -> ExitCode {
    if let Err(error) = server::Access::of_options(&resolved.options, &resolved.options.listen) {
        return fail(&error.to_string(), 2, false);
    }
    match io::stdout().write_all(resolved.to_toml().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write to standard output: {error}"), 1, false),
    }
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
