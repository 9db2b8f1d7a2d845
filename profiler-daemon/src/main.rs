//! The command `rprofd`.

use std::process::ExitCode;

use profiler_daemon::reader::child;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == child::ARGUMENT) {
        return child::main();
    }
    ExitCode::SUCCESS
}
