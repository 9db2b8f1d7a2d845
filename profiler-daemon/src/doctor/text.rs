//! What the doctor says, as text.

use std::fmt::Write as _;

use super::{
    MachineReport, finding,
    process::{Names, Report, Row, Verdict},
};
use crate::files::printable::escape;

/// What padding and tables between functions leave of most files, in thousandths.
const MOST: u64 = 800;

/// What they take in small ones, in bytes.
const PADDING_BYTES: u64 = 4096;

/// The machine's findings, and what they come to.
pub(super) fn machine(report: &MachineReport) -> String {
    let mut text = finding::text(&report.findings);
    text.push_str(if report.able {
        "\nrprofd can record here.\n"
    } else {
        "\nrprofd cannot record here: see the lines marked BAD.\n"
    });
    text
}

/// A process's files, one line each, and what its Go runtime was told.
pub(super) fn process(report: &Report) -> String {
    let mut text =
        format!("Executable code of process {} ({}):\n\n", report.pid, escape(&report.comm));
    let names: Vec<_> = report.files.iter().map(|row| escape(&row.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(4);
    // Writing to a String does not fail.
    let _ =
        writeln!(text, "{:<width$}  {:>9}  {:>6}  UNWINDING AND NAMES", "FILE", "CODE", "RULES");
    for (row, name) in report.files.iter().zip(names) {
        let (rules, unwinding) = unwinding(&row.unwinding, row.code_bytes);
        let size = format!("{} KiB", row.code_bytes.div_ceil(1024));
        let _ = writeln!(text, "{name:<width$}  {size:>9}  {rules:>6}  {}", escape(&unwinding));
        let _ = writeln!(text, "{:<width$}  {:>9}  {:>6}  {}", "", "", "", escape(&named(row)));
    }
    if let Some(go) = &report.go {
        let _ = writeln!(text, "\nGo runtime:");
        for line in go.lines() {
            let _ = writeln!(text, "  {}", escape(&line));
        }
    }
    text
}

/// The share of code that has rules, and what that means for stacks.
fn unwinding(verdict: &Verdict, code_bytes: u64) -> (String, String) {
    let share = |thousandths: u64| format!("{:.1}%", thousandths as f64 / 10.0);
    match verdict {
        Verdict::ByRules(covered)
            if *covered >= MOST || code_bytes * (1000 - covered) / 1000 <= PADDING_BYTES =>
        {
            (share(*covered), "unwound by rules".to_owned())
        }
        Verdict::ByRules(covered) => (
            share(*covered),
            "unwound by rules where there are some; elsewhere along frame pointers, and then \
             stacks are guessed"
                .to_owned(),
        ),
        Verdict::Generated => (
            "-".to_owned(),
            "unwound along frame pointers, which the compiler of it has to keep (Java: \
             -XX:+PreserveFramePointer)"
                .to_owned(),
        ),
        Verdict::No(why) => (
            "-".to_owned(),
            format!(
                "unwound along frame pointers alone: {why}; compile it with \
                 -fasynchronous-unwind-tables or -fno-omit-frame-pointer"
            ),
        ),
        Verdict::Unknown => ("-".to_owned(), "not known: the reader gave no answer".to_owned()),
    }
}

/// Where names come from, and what would make them better.
fn named(row: &Row) -> String {
    let mut text = match &row.names {
        Names::DebugFile(path) => format!("names and lines from {path}"),
        Names::DebugInformation => "names and lines from its debug information".to_owned(),
        Names::GoTable => "names and lines from Go's table of functions".to_owned(),
        Names::Symbols => "names from its symbol table, no lines".to_owned(),
        Names::DynamicSymbols => {
            "names of the functions that it offers to others alone: it is stripped".to_owned()
        }
        Names::Nothing => "no names: it is stripped".to_owned(),
        Names::PerfMap => "names from /tmp/perf-PID.map, if the process writes one (Node.js: \
                           --perf-basic-prof; Java: a JVMTI agent such as perf-map-agent, or \
                           jcmd PID Compiler.perfmap)"
            .to_owned(),
        Names::Unknown => "names not known: the file could not be opened".to_owned(),
    };
    if let Some(install) = &row.install {
        let _ = write!(text, "; more with: {install}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_is_said() {
        let row = |name: &str, unwinding, names, install: Option<&str>| Row {
            name: name.into(),
            code_bytes: 9000,
            unwinding,
            names,
            install: install.map(str::to_owned),
        };
        let install = Some("sudo apt-get install x-dbgsym");
        let report = Report {
            pid: 7,
            comm: "x\u{1b}".into(),
            files: vec![
                row("/lib/libc.so.6", Verdict::ByRules(987), Names::DebugFile("/d/x".into()), None),
                row("/usr/bin/node", Verdict::ByRules(301), Names::DynamicSymbols, install),
                row("/opt/\u{1b}[31mx", Verdict::No("no rules".into()), Names::Nothing, None),
                row("(made at run time)", Verdict::Generated, Names::PerfMap, None),
            ],
            go: None,
        };
        let text = process(&report);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Executable code of process 7 (x\\u{1b}):");
        assert_eq!(lines[2], "FILE                     CODE   RULES  UNWINDING AND NAMES");
        assert_eq!(lines[3], "/lib/libc.so.6          9 KiB   98.7%  unwound by rules");
        assert!(lines[4].ends_with(" names and lines from /d/x"), "{text}");
        assert!(lines[5].contains("30.1%  unwound by rules where there are some"), "{text}");
        assert!(lines[6].ends_with("; more with: sudo apt-get install x-dbgsym"), "{text}");
        assert!(lines[7].starts_with(r"/opt/\u{1b}[31mx"), "{text}");
        assert!(lines[7].contains("along frame pointers alone: no rules; compile it"), "{text}");
        assert!(lines[9].contains("-  unwound along frame pointers, which"), "{text}");
    }
}
