//! What a run says that has no samples.

use super::{Summary, line};
use crate::profile::Kind;

/// What a run was to profile: that there are no samples has other reasons for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// All processes.
    #[default]
    Machine,
    /// Some by their pids.
    Pids,
    /// Those that fit patterns.
    Patterns,
    /// A command.
    Command,
}

impl Summary {
    /// Why there is nothing, and what to try.
    pub(super) fn nothing(&self) -> String {
        if self.kind != Kind::Cpu {
            return self.nothing_waited();
        }
        let no_file = if self.on_stdout.is_some() { "" } else { ", and so no file" };
        let seconds = self.duration.as_secs_f64();
        let did_not_run = format!("ran on a CPU in these {seconds:.1} s");
        let (reason, advice) = match (self.asked, self.found) {
            (Asked::Machine, _) => (format!("nothing {did_not_run}"), ""),
            (Asked::Pids, 0 | 1) => (
                format!("the process never {did_not_run}: it waited, or has ended"),
                "Record while it works, or without -d until Ctrl-C. ",
            ),
            (Asked::Pids, _) => (
                format!(
                    "none of the processes asked for {did_not_run}: they waited, or have ended"
                ),
                "Record while they work, or without -d until Ctrl-C. ",
            ),
            (Asked::Patterns, 0) => (
                format!("no process fitted the patterns in these {seconds:.1} s"),
                "`ps -eo pid,comm,cgroup,args` shows what there is; --comm sees the first 15 bytes \
                 of a name. ",
            ),
            (Asked::Patterns, 1) => (
                format!("the one process that fits never {did_not_run}: it waited"),
                "Record while it works, or without -d until Ctrl-C. ",
            ),
            (Asked::Patterns, found) => (
                format!("none of the {found} processes that fit {did_not_run}: they waited"),
                "Record while they work, or without -d until Ctrl-C. ",
            ),
            (Asked::Command, _) => {
                (format!("the command hardly {did_not_run}: it waited, or was done too soon"), "")
            }
        };
        let has_processes = self.asked != Asked::Patterns || self.found > 0;
        let faster = match self.period_ns {
            // A process that was not there is not found by more samples.
            _ if !has_processes => String::new(),
            1_500_000.. => format!(
                "What runs for less than {} ms at a time takes more samples: -F 999.",
                self.period_ns / 1_000_000
            ),
            200_000.. => "What runs very briefly takes more samples: -F 10000.".to_owned(),
            _ => String::new(),
        };
        let mut text = format!("No samples{no_file}: {reason}.\n");
        let advice = format!("{advice}{faster}");
        if !advice.is_empty() {
            line(&mut text, advice.trim_end());
        }
        text
    }

    /// The same, of kinds that are not samples of CPUs.
    fn nothing_waited(&self) -> String {
        let seconds = self.duration.as_secs_f64();
        let (what, advice) = match self.kind {
            Kind::Block => {
                ("no wait ended", "What waits all the time, or only runs, is seen with -k wall.")
            }
            Kind::Mutex => (
                "no thread ended the wait of another for a lock",
                "What else threads wait for is seen with -k block or -k wall.",
            ),
            Kind::Threadcreate => ("no thread was started", "Record while threads are started."),
            Kind::Goroutine => (
                "there was no thread at the begin",
                "Ask with --pid, for processes that are there already.",
            ),
            Kind::Goroutines | Kind::Goroutineleak | Kind::Heap | Kind::Allocs => (
                "there was no Go program",
                "Ask with --pid, for a Go program that is there already.",
            ),
            Kind::Wall | Kind::Cpu => ("there was no thread", "Record while it is there."),
        };
        format!("No samples, and so no file: {what} in these {seconds:.1} s.\n{advice}\n")
    }
}
