//! The figures that rprofd promises, measured.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rprofd_tests::{Rprofd, TestDir, rprofd, serve::Daemon};

use crate::checkout;

mod big_binary;
mod bpf_maps;
mod bpf_statistics;
mod cpu_time;
mod elf_bombs;
mod exec_latency;
mod go;
mod go_cost;
mod naming;
mod oracle;
mod outcomes;
mod pid_reuse;
mod population;
mod reader_kill;
mod serve;
mod shares;
mod short_lived;
mod start;
mod unwind_churn;
mod unwind_complete;
mod unwind_cost;
mod unwind_memory;
mod unwind_start;
mod unwind_tables;
mod whole_machine;

#[derive(Args)]
pub(crate) struct Options {
    /// Names of benchmarks
    #[arg(required_unless_present = "list")]
    names: Vec<String>,
    /// Print the names and what each measures
    #[arg(long)]
    list: bool,
}

/// A benchmark: its name, what it measures, and the function that does.
struct Entry {
    name: &'static str,
    about: &'static str,
    run: fn(&Bench) -> Result<Vec<Figure>>,
}

const ENTRIES: [Entry; 34] = [
    Entry {
        name: "cpu-time",
        about: "samples and counted losses against the CPU time the kernel accounts",
        run: cpu_time::run,
    },
    Entry {
        name: "shares",
        about: "shares of functions that burn 40/30/20/10 %",
        run: shares::run,
    },
    Entry {
        name: "short-lived",
        about: "named frames of 1,000 processes that live 20 to 50 ms",
        run: short_lived::run,
    },
    Entry {
        name: "overhead",
        about: "rprofd's own CPU time, both CPUs busy",
        run: whole_machine::overhead,
    },
    Entry { name: "memory", about: "its memory in that run", run: whole_machine::memory },
    Entry {
        name: "memory-big",
        about: "its memory with 200 MiB of debug information among the profiled",
        run: big_binary::run,
    },
    Entry { name: "start", about: "from start to the first sample", run: start::run },
    Entry {
        name: "naming",
        about: "naming 10,000 addresses of 50 binaries, beside `perf script`",
        run: naming::run,
    },
    Entry {
        name: "exec-latency",
        about: "from exec until the kernel side knows the mappings",
        run: exec_latency::run,
    },
    Entry {
        name: "reader-kill",
        about: "a run in which the reader is killed 200 times",
        run: reader_kill::run,
    },
    Entry {
        name: "unwind-tables",
        about: "making the unwind tables of libc, of a library of 200,000 functions, of the biggest found",
        run: unwind_tables::run,
    },
    Entry {
        name: "unwind-cost",
        about: "BPF time of a sample, by the depth of its stack",
        run: unwind_cost::run,
    },
    Entry {
        name: "unwind-overhead",
        about: "rprofd's own CPU time, both CPUs busy without frame pointers",
        run: whole_machine::unwind_overhead,
    },
    Entry {
        name: "unwind-complete",
        about: "complete user stacks of everyday programs under load",
        run: unwind_complete::run,
    },
    Entry {
        name: "unwind-memory",
        about: "BPF maps and memory, 100 processes of 60 binaries",
        run: unwind_memory::run,
    },
    Entry {
        name: "unwind-start",
        about: "from start until 100 processes of 60 binaries can be unwound",
        run: unwind_start::run,
    },
    Entry {
        name: "unwind-churn",
        about: "what 10,000 processes in 5 minutes leave behind",
        run: unwind_churn::run,
    },
    Entry {
        name: "pid-reuse",
        about: "100,000 processes with 200 pids: frames in another's profile",
        run: pid_reuse::run,
    },
    Entry {
        name: "elf-bombs",
        about: "files made to cost whoever reads them much time or memory",
        run: elf_bombs::run,
    },
    Entry {
        name: "serve-clients",
        about: "50 clients that ask a daemon for 5 seconds of a process each, at once",
        run: serve::clients,
    },
    Entry { name: "serve-index", about: "the page that lists 500 processes", run: serve::index },
    Entry {
        name: "serve-kills",
        about: "what 20 daemons that are killed leave behind",
        run: serve::kills,
    },
    Entry {
        name: "serve-discovery",
        about: "targets that Prometheus's own HTTP service discovery finds (needs Go and its proxy)",
        run: serve::discovery,
    },
    Entry {
        name: "serve-windows",
        about: "growth over as many windows as a day has, in 10 minutes",
        run: serve::many_windows,
    },
    Entry {
        name: "serve-storm",
        about: "growth over half an hour in which processes start and end without end",
        run: serve::fork_storm,
    },
    Entry {
        name: "serve-target",
        about: "throughput that a program and a server lose to being watched; 8 to 60 minutes, as quiet as it is",
        run: serve::target,
    },
    Entry {
        name: "waits-cost",
        about: "throughput that threads which wait lose to their waits being recorded; 8 to 60 minutes",
        run: serve::waits,
    },
    Entry {
        name: "threads-look",
        about: "what threads of a JVM, of PostgreSQL and of a deadlock do, and whether they notice",
        run: serve::threads,
    },
    Entry {
        name: "go-memory",
        about: "reading 100,000 goroutines, and 20,000 stacks that have allocated",
        run: go::memory,
    },
    Entry {
        name: "go-cpu",
        about: "shares of functions beside the CPU profile that Go takes of the same seconds",
        run: go::cpu,
    },
    Entry {
        name: "go-leak",
        about: "until a leak of 10 goroutines a second is told",
        run: go::leak,
    },
    Entry {
        name: "go-labels",
        about: "BPF time of a sample of a Go program with labels, beside one without",
        run: go_cost::labels,
    },
    Entry {
        name: "go-waits",
        about: "what a Go program loses while its waits are measured with probes",
        run: go_cost::waits,
    },
    Entry {
        name: "oracle",
        about: "agreement of our stacks with framehop's, frame by frame",
        run: oracle::run,
    },
];

/// Benchmarks that need no build of rprofd.
const WITHOUT_RPROFD: [&str; 2] = ["oracle", "unwind-tables"];

/// What a benchmark works with.
struct Bench {
    binary: PathBuf,
    dir: TestDir,
}

impl Bench {
    /// The release build of rprofd, its profiles in this benchmark's directory.
    fn rprofd(&self) -> Rprofd {
        Rprofd::at(&self.binary, &self.dir)
    }

    /// The same, its profiles in a directory of their own below that.
    fn rprofd_in(&self, name: &str) -> Result<Rprofd> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Rprofd::at(&self.binary, &dir))
    }

    /// A daemon that answers.
    fn daemon(&self, args: &[&str]) -> Daemon {
        Daemon::start(&self.dir, args)
    }

    /// This benchmark's directory.
    fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A measured value and what it must be.
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
}

/// What a value must be.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Within(f64, f64),
    /// Told, not judged.
    Open,
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self { what: what.into(), value, unit, bound }
    }

    fn passes(&self) -> bool {
        match self.bound {
            Bound::AtMost(limit) => self.value <= limit,
            Bound::AtLeast(limit) => self.value >= limit,
            Bound::Within(low, high) => (low..=high).contains(&self.value),
            Bound::Open => true,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, unit, bound } = self;
        write!(f, "{what}: {value:.2} {unit}")?;
        match bound {
            Bound::AtMost(limit) => write!(f, " (at most {limit})"),
            Bound::AtLeast(limit) => write!(f, " (at least {limit})"),
            Bound::Within(low, high) => write!(f, " ({low} to {high})"),
            Bound::Open => Ok(()),
        }
    }
}

/// Runs `cargo xtask bench …`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for Entry { name, about, .. } in &ENTRIES {
            println!("{name:17}{about}");
        }
        return Ok(());
    }
    let entries: Vec<&Entry> = options
        .names
        .iter()
        .map(|name| {
            let entry = ENTRIES.iter().find(|entry| entry.name == name);
            entry.with_context(|| format!("no benchmark {name}: see `cargo xtask bench --list`"))
        })
        .collect::<Result<_>>()?;
    ensure!(rustix::process::geteuid().is_root(), "benchmarks need root");
    if entries.iter().any(|entry| !WITHOUT_RPROFD.contains(&entry.name)) {
        rprofd::build("release");
    }

    let mut failed = Vec::new();
    for entry in entries {
        let bench = Bench {
            binary: checkout::root().join("target/release/rprofd"),
            dir: TestDir::new(&format!("bench-{}", entry.name)),
        };
        let figures = (entry.run)(&bench).with_context(|| entry.name.to_owned())?;
        for figure in &figures {
            println!("{}: {figure}", entry.name);
        }
        let passed = figures.iter().all(Figure::passes);
        println!("{}: {}", entry.name, if passed { "PASS" } else { "FAIL" });
        if !passed {
            failed.push(entry.name);
        }
    }
    if !failed.is_empty() {
        bail!("FAIL: {}", failed.join(", "));
    }
    Ok(())
}

/// Has files read from disk again, but for what is mapped or written to.
fn drop_page_cache() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "1")?;
    Ok(())
}

/// The number that follows `word` in `line`.
fn number_after(line: &str, word: &str) -> Result<f64> {
    let rest = line.split_once(word).map(|(_, rest)| rest);
    let number = rest.and_then(|rest| {
        let rest = rest.trim_start_matches([' ', ':', '=']);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').parse().ok()
    });
    number.with_context(|| format!("no number after “{word}” in: {line}"))
}

/// The last line of `text` that contains `what`.
fn line_with<'a>(text: &'a str, what: &str) -> Result<&'a str> {
    let line = text.lines().rev().find(|line| line.contains(what));
    line.with_context(|| format!("rprofd -v said no “{what}”; it said:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_log_lines() {
        let line = "exec to kernel mappings: p50 0.21 ms, p99 4.5 ms over 812 execs";
        assert_eq!(number_after(line, "p99").expect("p99"), 4.5);
        assert_eq!(number_after(line, "over").expect("over"), 812.0);
        assert_eq!(number_after("took 12ms.", "took").expect("took"), 12.0);
        assert!(number_after(line, "p75").is_err());
    }
}
