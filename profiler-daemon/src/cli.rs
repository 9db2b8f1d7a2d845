//! The command line: every option's name, help, default and environment variable.

pub mod serve;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, ValueEnum, builder::RangedU64ValueParser};

use crate::{
    config,
    files::{Format, GroupBy},
    kernel::Event,
    process::Glob,
    profile::Kind,
};

/// Stacks of waits that are taken of a thread in a second.
pub(crate) const BLOCK_STACKS: u32 = 200;

const AFTER_HELP: &str = "\
Examples:
  sudo rprofd --pid 1234 -d 30        profile a process for 30 seconds
  sudo rprofd -d 10s                  profile the whole machine
  sudo rprofd -- make -j2             profile a command and what it starts
  sudo rprofd -p 1234 -o flame.svg    a flame graph, until Ctrl-C

Each option has an environment variable: --group-by is RPROFD_GROUP_BY.
It needs root, or the capabilities that it names when it has not got them. Where `rprofd serve`
runs, --pid and -- COMMAND need neither, for your own processes.";

const USAGE: &str = "rprofd [OPTIONS]                  the whole machine
       rprofd [OPTIONS] --pid PID        processes, and the children they start
       rprofd [OPTIONS] -- COMMAND ARGS  a command, and the children it starts
       rprofd serve [OPTIONS]            the daemon: profiles of every process, over HTTP
       rprofd doctor [--pid PID]         what this machine (this process) allows, and what is missing";

/// Commands that are planned: not typing errors, and yet unknown.
const PLANNED: [&str; 2] = ["view", "diff"];

/// Profile any program, without changing it: writes pprof files, flame graphs and tables.
///
/// Without a process or command the whole machine is profiled until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "rprofd", version, after_help = AFTER_HELP, override_usage = USAGE, max_term_width = 100)]
pub struct Options {
    /// Profile these processes and the children they start
    #[arg(help_heading = "Which processes", short, long, value_name = "PID", value_delimiter = ',', env = "RPROFD_PID",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=4_194_304))]
    pub pid: Vec<u32>,

    /// Profile processes whose name fits a pattern (`nginx*`)
    #[arg(help_heading = "Which processes", long, value_name = "GLOB", value_delimiter = ',', env = "RPROFD_COMM", value_parser = glob)]
    pub comm: Vec<Glob>,

    /// Profile processes whose executable fits a pattern (`/usr/sbin/*`, `nginx`)
    #[arg(help_heading = "Which processes", long, value_name = "GLOB", value_delimiter = ',', env = "RPROFD_EXE", value_parser = glob)]
    pub exe: Vec<Glob>,

    /// Profile processes whose cgroup fits a pattern (`*/docker/*`)
    #[arg(help_heading = "Which processes", long, value_name = "GLOB", value_delimiter = ',', env = "RPROFD_CGROUP", value_parser = glob)]
    pub cgroup: Vec<Glob>,

    /// Profile the processes of a systemd unit
    #[arg(
        help_heading = "Which processes",
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "RPROFD_UNIT"
    )]
    pub unit: Vec<String>,

    /// Do not follow the children that profiled processes start
    #[arg(help_heading = "Which processes", long, env = "RPROFD_NO_CHILDREN")]
    pub no_children: bool,

    /// What to measure
    #[arg(
        short,
        long,
        value_name = "KIND",
        value_delimiter = ',',
        env = "RPROFD_KIND",
        default_value = "cpu"
    )]
    pub kind: Vec<KindOption>,

    /// Samples per second and CPU, 1 to 10000
    #[arg(short = 'F', long, value_name = "HZ", env = "RPROFD_FREQUENCY", default_value_t = 99,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub frequency: u64,

    /// How long: `30` (seconds), `500ms`, `30s`, `5m`, `2h` [default: until Ctrl-C, or the processes end]
    #[arg(short, long, value_name = "TIME", env = "RPROFD_DURATION", value_parser = duration)]
    pub duration: Option<Duration>,

    /// A new profile each TIME [default: one for the whole run]
    #[arg(short, long, value_name = "TIME", env = "RPROFD_WINDOW", value_parser = duration)]
    pub window: Option<Duration>,

    /// A directory (a file per process); a file `*.pb.gz`, `*.svg`, `*.folded` or `*.txt`
    /// (everything in one); `-` (standard output) [default: profiles/<UTC start>/]
    #[arg(help_heading = "Output", short, long, value_name = "PATH", env = "RPROFD_OUTPUT")]
    pub output: Option<PathBuf>,

    /// What gets a file of its own [default: pid; comm with --]
    #[arg(help_heading = "Output", long, value_name = "WHAT", env = "RPROFD_GROUP_BY")]
    pub group_by: Option<GroupByOption>,

    /// The files' format [default: by the output's name, else pprof]
    #[arg(help_heading = "Output", long, value_name = "FORMAT", env = "RPROFD_FORMAT")]
    pub format: Option<FormatOption>,

    /// Leave out kernel stacks
    #[arg(long, env = "RPROFD_USER_ONLY", conflicts_with = "kernel_only")]
    pub user_only: bool,

    /// Leave out user stacks
    #[arg(long, env = "RPROFD_KERNEL_ONLY")]
    pub kernel_only: bool,

    /// Fail where goroutines of a Go program seem to leak: those of one stack only become more
    #[arg(long, env = "RPROFD_FAIL_ON_GOROUTINE_LEAK")]
    pub fail_on_goroutine_leak: bool,

    /// How it is recorded.
    #[command(flatten)]
    pub recording: Recording,

    /// Under sudo, run COMMAND as root instead of as the user who called
    #[arg(long, env = "RPROFD_AS_ROOT")]
    pub as_root: bool,

    /// What is said.
    #[command(flatten)]
    pub messages: Messages,

    /// Where the options are that are neither here nor in the environment: TOML
    #[arg(short, long, value_name = "FILE", env = "RPROFD_CONFIG")]
    pub config: Option<PathBuf>,

    /// Where `rprofd serve` answers: it records for users who may not sample, of their own processes
    #[arg(long, value_name = "PATH", env = "RPROFD_SOCKET", default_value = "/run/rprofd.sock")]
    pub socket: PathBuf,

    /// Start this command, profile it and its children, exit with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl Options {
    /// The options of this process; ends it with a message where they are wrong.
    pub fn from_command_line() -> Self {
        match config::resolve::<Self>(&std::env::args_os().collect::<Vec<_>>(), None) {
            Ok(resolved) => resolved.options,
            Err(config::Error::Usage(error)) => match planned(&error) {
                Some(text) => {
                    eprintln!("error: {text}");
                    std::process::exit(error.exit_code())
                }
                None => error.exit(),
            },
            Err(error) => error.exit(),
        }
    }
}

/// How anything is recorded.
#[derive(Clone, Debug, Args)]
pub struct Recording {
    /// What makes a CPU take a sample
    #[arg(long, value_name = "EVENT", env = "RPROFD_EVENT", default_value = "cpu-clock")]
    pub event: EventOption,

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

    /// Keep all waits of this length, and of shorter ones a share: `1ms`, `100us`, `1ns` (all)
    /// [default: 1ns; 1ms for `serve`]
    #[arg(help_heading = "Waits", long, value_name = "TIME", env = "RPROFD_BLOCK_RATE", value_parser = short_time)]
    pub block_rate: Option<Duration>,

    /// Take so many stacks of waits of a thread in a second; each stands for others then. 0: all
    #[arg(help_heading = "Waits", long, value_name = "COUNT", env = "RPROFD_BLOCK_STACKS", default_value_t = BLOCK_STACKS,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub block_stacks: u32,

    /// Keep one of so many waits for a lock
    #[arg(help_heading = "Waits", long, value_name = "COUNT", env = "RPROFD_MUTEX_FRACTION", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub mutex_fraction: u32,

    /// Take also what known defects of this kernel make dangerous; without it that is left out, and said
    #[arg(long, env = "RPROFD_IGNORE_DEFECTS")]
    pub ignore_defects: bool,
}

/// What is said on standard error.
#[derive(Clone, Copy, Debug, Args)]
pub struct Messages {
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

/// What to say where the argument that is wrong is a command that does not exist yet.
fn planned(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(name))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    PLANNED.contains(&name.as_str()).then(|| {
        format!(
            "`rprofd {name}` is not there yet: this version records and writes files, as \
             `rprofd --help` has it (a program of that name is profiled with `rprofd -- {name}`)"
        )
    })
}

/// `--kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindOption {
    /// Time on a CPU
    Cpu,
    /// All time of all threads: on a CPU, waiting for one, or for something else
    Wall,
    /// Time for which threads waited, by where they wait
    Block,
    /// Time for which threads waited for a lock, by who held it
    Mutex,
    /// What each thread does at this moment
    #[value(alias = "threads")]
    Goroutine,
    /// Threads that were started, by what started them
    Threadcreate,
    /// Of Go programs: where what is in use was allocated
    Heap,
    /// Of Go programs: where all was allocated
    Allocs,
}

impl From<KindOption> for Kind {
    fn from(option: KindOption) -> Self {
        match option {
            KindOption::Cpu => Self::Cpu,
            KindOption::Wall => Self::Wall,
            KindOption::Block => Self::Block,
            KindOption::Mutex => Self::Mutex,
            KindOption::Goroutine => Self::Goroutine,
            KindOption::Threadcreate => Self::Threadcreate,
            KindOption::Heap => Self::Heap,
            KindOption::Allocs => Self::Allocs,
        }
    }
}

/// `--event`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum EventOption {
    /// A timer of the kernel
    CpuClock,
    /// The CPU's own cycle counter, where the machine has one
    Cycles,
}

impl From<EventOption> for Event {
    fn from(option: EventOption) -> Self {
        match option {
            EventOption::CpuClock => Self::CpuClock,
            EventOption::Cycles => Self::Cycles,
        }
    }
}

/// `--group-by`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum GroupByOption {
    /// Each process
    Pid,
    /// Processes of one name
    Comm,
    /// Processes of one executable
    Exe,
    /// Everything in one file
    None,
}

impl From<GroupByOption> for GroupBy {
    fn from(option: GroupByOption) -> Self {
        match option {
            GroupByOption::Pid => Self::Pid,
            GroupByOption::Comm => Self::Comm,
            GroupByOption::Exe => Self::Exe,
            GroupByOption::None => Self::None,
        }
    }
}

/// `--format`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatOption {
    /// For `go tool pprof` and its kin
    Pprof,
    /// One line per stack
    Folded,
    /// A flame graph
    Svg,
    /// A table of the hottest functions
    Text,
}

impl From<FormatOption> for Format {
    fn from(option: FormatOption) -> Self {
        match option {
            FormatOption::Pprof => Self::Pprof,
            FormatOption::Folded => Self::Folded,
            FormatOption::Svg => Self::Svg,
            FormatOption::Text => Self::Text,
        }
    }
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines to read
    Text,
    /// One JSON object per line
    Json,
}

fn glob(text: &str) -> Result<Glob, String> {
    Glob::new(text).map_err(|error| error.to_string())
}

/// Parses `30`, `500ms`, `30s`, `5m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "give a time such as 30 (seconds), 500ms, 30s, 5m or 2h";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| WRONG.to_string())?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        _ => return Err(WRONG.into()),
    };
    match number.checked_mul(milliseconds) {
        Some(0) => Err("give a time above zero".into()),
        Some(milliseconds) if milliseconds <= 366 * 24 * 3600 * 1000 => {
            Ok(Duration::from_millis(milliseconds))
        }
        _ => Err("give a time of at most a year".into()),
    }
}

/// Parses `1ns`, `100us`, `1ms`, `1s`.
fn short_time(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "give a time such as 1ns, 100us, 1ms or 1s, of at most 10s";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| WRONG.to_string())?;
    let nanoseconds = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err(WRONG.into()),
    };
    match number.checked_mul(nanoseconds) {
        Some(time @ 1..=10_000_000_000) => Ok(Duration::from_nanos(time)),
        _ => Err(WRONG.into()),
    }
}

/// Parses `256MiB`, `1GiB`, `64M`, `1G`.
fn bytes(text: &str) -> Result<u64, String> {
    const WRONG: &str = "give a size such as 256MiB or 1GiB";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| WRONG.to_string())?;
    let shift = match unit {
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err(WRONG.into()),
    };
    match number.checked_shl(shift) {
        Some(bytes) if bytes >> shift == number && number > 0 => Ok(bytes),
        _ => Err(WRONG.into()),
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
    fn times() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in
            ["", "s", "0", "5x", "-1", "1.5s", "99999999999999999999", "18446744073709551615h"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn short_times() {
        assert_eq!(short_time("1ns"), Ok(Duration::from_nanos(1)));
        assert_eq!(short_time("250us"), Ok(Duration::from_micros(250)));
        for wrong in ["", "1", "0ns", "11s", "99999999999999s", "1m"] {
            assert!(short_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pids_come_in_lists_and_again() {
        let options = Options::try_parse_from(["rprofd", "-p", "1,2", "--pid", "3"]).unwrap();
        assert_eq!(options.pid, [1, 2, 3]);
    }

    #[test]
    fn what_is_behind_two_dashes_is_the_commands() {
        let options = Options::try_parse_from(["rprofd", "-d", "1", "--", "make", "-d"]).unwrap();
        assert_eq!(options.command, ["make", "-d"]);
        assert_eq!(options.duration, Some(Duration::from_secs(1)));
    }

    #[test]
    fn commands_that_are_not_there_yet() {
        let said = |args: &[&str]| planned(&Options::try_parse_from(args).unwrap_err());
        for args in [&["rprofd", "view"][..], &["rprofd", "-d", "1", "diff", "--pid", "1"]] {
            assert!(said(args).unwrap().contains("is not there yet"), "{args:?}");
        }
        assert_eq!(said(&["rprofd", "server"]), None);
        assert!(Options::try_parse_from(["rprofd", "--comm", "diff", "--", "view"]).is_ok());
    }

    #[test]
    fn a_frequency_out_of_range_is_refused() {
        for wrong in ["0", "10001", "-1", "x"] {
            assert!(Options::try_parse_from(["rprofd", "-F", wrong]).is_err(), "{wrong}");
        }
    }
}
