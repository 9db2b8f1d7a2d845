//! What a target's run came to, from what libFuzzer prints.

use std::{fmt, path::PathBuf};

/// What a target's run came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It found nothing.
    Passed(Figures),
    /// It found an input that fails, takes too long or too much.
    Failed {
        figures: Figures,
        /// What libFuzzer says of it.
        why: String,
        /// Where the input is.
        artifact: Option<PathBuf>,
    },
}

/// How far a run came.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Figures {
    executions: u64,
    /// Edges of the control flow that were taken.
    edges: u64,
    /// The most that was resident, in MiB.
    peak_mib: u64,
    /// What the slowest input took, in seconds.
    slowest: u64,
}

impl Outcome {
    /// Reads a log.
    pub(crate) fn read(log: &str, has_passed: bool) -> Self {
        let statistic = |name: &str| {
            let line = log.lines().find(|line| line.starts_with(&format!("stat::{name}:")));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        };
        // `#4096 pulse  cov: 812 ft: 1650 corp: 201/31Kb lim: 128 exec/s: 1365 rss: 44Mb`
        let last = log.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: "));
        let after = |name: &str| {
            let rest = last?.split_once(name)?.1;
            rest.split_whitespace().next()?.parse().ok()
        };
        let count = || last?.trim_start_matches('#').split_whitespace().next()?.parse().ok();
        let figures = Figures {
            executions: statistic("number_of_executed_units").or_else(count).unwrap_or(0),
            edges: after(" cov: ").unwrap_or(0),
            peak_mib: statistic("peak_rss_mb").unwrap_or(0),
            slowest: statistic("slowest_unit_time_sec").unwrap_or(0),
        };
        if has_passed && figures.executions > 0 {
            return Self::Passed(figures);
        }
        let says = |line: &&str| line.contains("panicked at") || line.contains("ERROR: ");
        let why = log.lines().find(says).or_else(|| log.lines().last()).unwrap_or_default();
        let written = log.lines().find_map(|line| line.split_once("Test unit written to "));
        let artifact = written.map(|(_, path)| PathBuf::from(path.trim()));
        Self::Failed { figures, why: why.trim().to_owned(), artifact }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (figures, verdict) = match self {
            Self::Passed(figures) => (figures, "PASS"),
            Self::Failed { figures, .. } => (figures, "FAIL"),
        };
        let Figures { executions, edges, peak_mib, slowest } = figures;
        write!(
            formatter,
            "{executions:>10} inputs  {edges:>6} edges  {peak_mib:>5} MiB  \
             slowest {slowest} s  {verdict}"
        )?;
        match self {
            Self::Passed(_) => Ok(()),
            Self::Failed { why, .. } => write!(formatter, ": {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "INFO: Seed: 1\n\
        #2\tINITED cov: 14 ft: 15 corp: 1/1b exec/s: 0 rss: 40Mb\n\
        #4096\tpulse  cov: 812 ft: 1650 corp: 201/31Kb lim: 128 exec/s: 1365 rss: 44Mb\n";

    #[test]
    fn a_run_that_ends_by_itself_passes() {
        let log = format!(
            "{RUN}Done 5000 runs in 61 second(s)\nstat::number_of_executed_units: 5000\n\
             stat::slowest_unit_time_sec:   2\nstat::peak_rss_mb:             51\n"
        );
        let figures = Figures { executions: 5000, edges: 812, peak_mib: 51, slowest: 2 };
        assert_eq!(Outcome::read(&log, true), Outcome::Passed(figures));
    }

    #[test]
    fn a_crash_names_its_input() {
        let log = format!(
            "{RUN}thread '<unnamed>' panicked at src/a.rs:1:2:\n==7== ERROR: libFuzzer: deadly \
             signal\nartifact_prefix='/x/'; Test unit written to /x/crash-01\n"
        );
        let Outcome::Failed { figures, why, artifact } = Outcome::read(&log, false) else {
            panic!("it passed")
        };
        assert_eq!((figures.executions, figures.edges), (4096, 812));
        assert_eq!(why, "thread '<unnamed>' panicked at src/a.rs:1:2:");
        assert_eq!(artifact, Some(PathBuf::from("/x/crash-01")));
    }

    #[test]
    fn a_program_that_does_not_start_fails() {
        let outcome = Outcome::read("", true);
        assert!(matches!(outcome, Outcome::Failed { artifact: None, .. }));
    }
}
