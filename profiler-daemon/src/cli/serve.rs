//! The options of `rprofd serve`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Parser};

use super::{EventOption, LogFormat, bytes, duration};
use crate::server::Address;

/// What makes the first argument this command.
pub const ARGUMENT: &str = "serve";

const AFTER_HELP: &str = "\
Examples:
  sudo rprofd serve
  go tool pprof http://127.0.0.1:6065/pid/1234/debug/pprof/profile?seconds=30
  go tool pprof http://127.0.0.1:6065/debug/pprof/profile?from=-5m
  curl --unix-socket /run/rprofd.sock http://localhost/debug/pprof/

Each option has an environment variable: --window is RPROFD_WINDOW.
Users see their own processes; root and the group rprofd see all.";

/// Profile all processes, all the time, and answer for each what net/http/pprof answers for a Go
/// program
#[derive(Debug, Parser)]
#[command(name = "rprofd serve", bin_name = "rprofd serve", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Options {
    /// Where to answer: `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH` (repeatable)
    #[arg(
        short,
        long,
        value_name = "ADDR",
        env = "RPROFD_LISTEN",
        value_delimiter = ',',
        default_values = ["127.0.0.1:6065", "unix:/run/rprofd.sock"]
    )]
    pub listen: Vec<Address>,

    /// Samples per second and CPU, all the time, 1 to 10000; a request may ask for more for its time
    #[arg(short = 'F', long, value_name = "HZ", env = "RPROFD_FREQUENCY", default_value_t = 19,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub frequency: u64,

    /// What makes a CPU take a sample
    #[arg(long, value_name = "EVENT", env = "RPROFD_EVENT", default_value = "cpu-clock")]
    pub event: EventOption,

    /// A new window each TIME
    #[arg(short, long, value_name = "TIME", env = "RPROFD_WINDOW", value_parser = duration, default_value = "10s")]
    pub window: Duration,

    /// What the windows of the last hour may take in memory; the oldest make room
    #[arg(long, value_name = "SIZE", env = "RPROFD_MEMORY_WINDOWS", value_parser = bytes, default_value = "64MiB")]
    pub memory_windows: u64,

    /// While this file is there nothing is sampled
    #[arg(long, value_name = "FILE", env = "RPROFD_OFF_FILE", default_value = "/run/rprofd/off")]
    pub off_file: PathBuf,

    /// Names from symbol tables alone: less memory, no lines, no inlined functions
    #[arg(help_heading = "Names", long, env = "RPROFD_NO_INLINES")]
    pub no_inlines: bool,

    /// Where separate debug files are
    #[arg(
        help_heading = "Names",
        long,
        value_name = "DIR",
        env = "RPROFD_DEBUG_DIR",
        default_value = "/usr/lib/debug"
    )]
    pub debug_dir: Vec<PathBuf>,

    /// What unwind tables may take in the kernel; the least recently used are dropped
    #[arg(
        help_heading = "Unwinding",
        long,
        value_name = "SIZE",
        env = "RPROFD_UNWIND_MEMORY",
        default_value = "256MiB",
        value_parser = bytes
    )]
    pub unwind_memory: u64,

    /// Where unwind tables are kept from run to run; `off`: nowhere
    #[arg(
        help_heading = "Unwinding",
        long,
        value_name = "DIR",
        env = "RPROFD_UNWIND_CACHE",
        default_value = "/var/cache/rprofd/unwind"
    )]
    pub unwind_cache: PathBuf,

    /// Take also what known defects of this kernel make dangerous; without it that is left out, and said
    #[arg(long, env = "RPROFD_IGNORE_DEFECTS")]
    pub ignore_defects: bool,

    /// Format of messages on standard error
    #[arg(
        help_heading = "Messages",
        long,
        value_name = "FORMAT",
        env = "RPROFD_LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// Say more; twice: much more
    #[arg(help_heading = "Messages", short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Say less: errors alone
    #[arg(help_heading = "Messages", short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Options {
    /// The options behind `serve`; ends the process with a message where they are wrong.
    pub fn from_arguments(arguments: impl Iterator<Item = std::ffi::OsString>) -> Self {
        use clap::{CommandFactory as _, FromArgMatches as _};
        let command = Self::command().mut_args(|argument| argument.hide_env(true));
        let matches =
            command.try_get_matches_from(std::iter::once("rprofd serve".into()).chain(arguments));
        matches
            .and_then(|matches| Self::from_arg_matches(&matches))
            .unwrap_or_else(|error| error.exit())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn where_it_answers() {
        let options = Options::try_parse_from(["rprofd serve"]).unwrap();
        let listen: Vec<_> = options.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["http://127.0.0.1:6065", "unix:/run/rprofd.sock"]);
        let options = Options::try_parse_from(["rprofd serve", "-l", "[::1]:80"]).unwrap();
        assert_eq!(options.listen, ["[::1]:80".parse().unwrap()]);
        assert!(Options::try_parse_from(["rprofd serve", "-l", "0.0.0.0:80"]).is_err());
    }
}
