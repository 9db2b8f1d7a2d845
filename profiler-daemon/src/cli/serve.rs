//! The options of `rprofd serve`.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Parser, ValueEnum,
    builder::{EnumValueParser, TypedValueParser as _},
};

use super::{KindOption, Messages, Recording, bytes, duration};
use crate::{
    config::{self, Resolved},
    profile::Kind,
    server::Address,
};

/// What makes the first argument this command.
pub const ARGUMENT: &str = "serve";

/// The configuration, where no other is named.
const FILE: &str = "/etc/rprofd/config.toml";

const AFTER_HELP: &str = "\
Examples:
  sudo rprofd serve
  go tool pprof http://127.0.0.1:6065/pid/1234/debug/pprof/profile?seconds=30
  go tool pprof http://127.0.0.1:6065/debug/pprof/profile?from=-5m
  curl --unix-socket /run/rprofd.sock http://localhost/debug/pprof/

Each option has an environment variable, --window is RPROFD_WINDOW, and a key in the
configuration file: `rprofd serve --check` prints them all. SIGHUP reads the file again.
Users see their own processes; root and the group rprofd see all.";

/// Profile all processes, all the time, and answer for each what net/http/pprof answers for a Go
/// program
#[derive(Debug, Parser)]
#[command(name = "rprofd serve", bin_name = "rprofd serve", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Options {
    /// Where to answer: `ADDRESS:PORT` or `unix:PATH` (repeatable). Other machines need a password or
    /// a token
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

    /// What is measured all the time; whatever else is asked for is measured for its time
    #[arg(
        short,
        long,
        value_name = "KIND",
        value_delimiter = ',',
        env = "RPROFD_KIND",
        default_value = "cpu",
        value_parser = EnumValueParser::<KindOption>::new().try_map(recorded)
    )]
    pub kind: Vec<KindOption>,

    /// A new window each TIME
    #[arg(short, long, value_name = "TIME", env = "RPROFD_WINDOW", value_parser = duration, default_value = "10s")]
    pub window: Duration,

    /// What the windows of the last hour may take in memory; the oldest make room
    #[arg(long, value_name = "SIZE", env = "RPROFD_MEMORY_WINDOWS", value_parser = bytes, default_value = "64MiB")]
    pub memory_windows: u64,

    /// Look at the goroutines of Go programs only when somebody asks: no suspected leaks, and nothing of
    /// Go in the metrics
    #[arg(long, env = "RPROFD_NO_GO_WATCH")]
    pub no_go_watch: bool,

    /// While this file is there nothing is sampled
    #[arg(long, value_name = "FILE", env = "RPROFD_OFF_FILE", default_value = "/run/rprofd/off")]
    pub off_file: PathBuf,

    /// What to do where the kernel does not let rprofd sample: `idle` answers and says why, for fleets
    #[arg(long, value_name = "WHAT", env = "RPROFD_ON_UNSUPPORTED", default_value = "fail")]
    pub on_unsupported: OnUnsupported,

    /// Where the options are that are neither here nor in the environment: TOML
    /// [default: /etc/rprofd/config.toml, if it is there]
    #[arg(short, long, value_name = "FILE", env = "RPROFD_CONFIG")]
    pub config: Option<PathBuf>,

    /// Print what all options come to, and where each value is from, and end
    #[arg(long)]
    pub check: bool,

    /// Who may ask from elsewhere: lines of htpasswd (bcrypt), and `token NAME SHA256`
    #[arg(help_heading = "Access", long, value_name = "FILE", env = "RPROFD_AUTH_FILE")]
    pub auth_file: Option<PathBuf>,

    /// HTTPS: the chain of certificates, PEM
    #[arg(help_heading = "Access", long, value_name = "FILE", env = "RPROFD_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// HTTPS: the private key, PEM
    #[arg(help_heading = "Access", long, value_name = "FILE", env = "RPROFD_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Answer other machines without HTTPS: passwords can be read on the way
    #[arg(help_heading = "Access", long, env = "RPROFD_INSECURE")]
    pub insecure: bool,

    /// Where `/metrics`, `/healthz` and `/readyz` alone are answered, to anybody, without HTTPS
    #[arg(help_heading = "Access", long, value_name = "ADDR", env = "RPROFD_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,

    /// Write each window to this directory, too: a pprof file per process
    #[arg(help_heading = "Files", long, value_name = "DIR", env = "RPROFD_FILES")]
    pub files: Option<PathBuf>,

    /// Remove files that are older
    #[arg(help_heading = "Files", long, value_name = "TIME", env = "RPROFD_FILES_MAX_AGE",
          value_parser = duration, default_value = "24h")]
    pub files_max_age: Duration,

    /// What all files may take; the oldest make room
    #[arg(help_heading = "Files", long, value_name = "SIZE", env = "RPROFD_FILES_MAX_SIZE",
          value_parser = bytes, default_value = "1GiB")]
    pub files_max_size: u64,

    /// What rprofd's processes may have in memory: above it caches, then detail, then samples are given up
    #[arg(help_heading = "Limits", long, value_name = "SIZE", env = "RPROFD_MEMORY_LIMIT", value_parser = bytes)]
    pub memory_limit: Option<u64>,

    /// What rprofd may take of one CPU, in percent: above it detail, then samples are given up
    #[arg(help_heading = "Limits", long, value_name = "PERCENT", env = "RPROFD_CPU_LIMIT",
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub cpu_limit: Option<u64>,

    /// How it is recorded.
    #[command(flatten)]
    pub recording: Recording,

    /// What is said.
    #[command(flatten)]
    pub messages: Messages,
}

/// `--on-unsupported`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnUnsupported {
    /// End with status 3
    Fail,
    /// Stay, unready, and say why
    Idle,
}

/// A kind that is recorded: others are read when somebody asks.
fn recorded(kind: KindOption) -> Result<KindOption, String> {
    let read = Kind::from(kind);
    if Kind::ALL.contains(&read) {
        return Ok(kind);
    }
    let name = read.name();
    Err(format!("{name} is not recorded all the time: ask /pid/PID/debug/pprof/{name} for it"))
}

impl Options {
    /// The options behind `serve`, with the environment and the file.
    ///
    /// # Errors
    ///
    /// [`config::Error`].
    pub fn resolve(
        arguments: impl Iterator<Item = OsString>,
    ) -> Result<Resolved<Self>, config::Error> {
        let program = std::iter::once("rprofd serve".into());
        let arguments: Vec<_> = program.chain(arguments).collect();
        config::resolve(&arguments, Some(Path::new(FILE)))
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
        assert_eq!(listen, ["127.0.0.1:6065", "unix:/run/rprofd.sock"]);
        let options = Options::try_parse_from(["rprofd serve", "-l", "[::1]:80"]).unwrap();
        assert_eq!(options.listen, ["[::1]:80".parse().unwrap()]);
        assert!(Options::try_parse_from(["rprofd serve", "-l", "localhost"]).is_err());
    }
}
