//! What a run says at its end: the hottest functions, a table, and what to type next.

mod nothing;
mod table;

use std::{
    collections::{BTreeMap, HashMap},
    env,
    fmt::Write as _,
    io::IsTerminal,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use unicode_width::UnicodeWidthStr as _;

pub use self::nothing::Asked;
use super::{
    FirstLook, Format, Report, Row,
    name::Group,
    printable::{cut_middle, escape},
    quantity,
};
use crate::profile::{Kind, Process, Spent, top::Top};

/// Functions that are shown.
const FUNCTIONS: usize = 10;

/// Files that could not be written, of which one is told each.
const FAILURES: usize = 5;

/// Widest line where there is no terminal to fit.
const DEFAULT_WIDTH: usize = 120;

/// Columns that names keep however narrow a terminal is.
const MIN_NAME: usize = 8;

/// How a summary is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of a line.
    pub width: usize,
    /// Whether escape sequences are understood, and wanted.
    pub has_colors: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self { width: DEFAULT_WIDTH, has_colors: false }
    }
}

impl Style {
    /// What suits `stream`: its width and colours if it is a terminal, without colours under
    /// `NO_COLOR` or `TERM=dumb`.
    pub fn of(stream: &(impl IsTerminal + AsFd)) -> Self {
        if !stream.is_terminal() {
            return Self::default();
        }
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let columns = rustix::termios::tcgetwinsize(stream).map_or(0, |size| size.ws_col);
        Self {
            width: if columns == 0 { 80 } else { usize::from(columns) },
            has_colors: !is_set("NO_COLOR") && !is_dumb,
        }
    }

    fn bold(self, text: &str) -> String {
        if self.has_colors { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn faint(self, text: &str) -> String {
        if self.has_colors { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The windows of a run, added up.
#[derive(Debug, Default)]
pub struct Summary {
    kind: Kind,
    asked: Asked,
    /// How many processes were to be profiled, in the end.
    found: usize,
    spent: Spent,
    /// Why frames may be without names, and what to do about it.
    advice_on_names: Option<String>,
    duration: Duration,
    period_ns: u64,
    rows: HashMap<Group, (Row, usize)>,
    top: Top,
    directory: Option<PathBuf>,
    everything: Option<PathBuf>,
    /// Files of everything.
    everythings: usize,
    first_look: Option<FirstLook>,
    on_stdout: Option<Format>,
    failures: Vec<String>,
    losses: BTreeMap<&'static str, u64>,
    windows: usize,
    empty_windows: usize,
    /// An empty text.
    empty: Arc<str>,
}

impl Summary {
    /// The summary of a run that was to profile this. `advice_on_names`: what it lacks to name all
    /// frames, and what to do about it.
    pub fn new(kind: Kind, asked: Asked, advice_on_names: Option<String>) -> Self {
        Self { kind, asked, advice_on_names, ..Self::default() }
    }

    /// What was measured.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// So many processes were to be profiled, whether they ran or not.
    pub fn found(&mut self, processes: usize) {
        self.found = processes;
    }

    /// How the threads of the processes that were asked for have spent the time.
    pub fn spent(&mut self, spent: Spent) {
        self.spent = spent;
    }

    /// Adds a window of a run; all of one kind.
    pub fn add(&mut self, report: Report) {
        self.empty_windows += usize::from(report.is_empty());
        let Report { window, rows, top, directory, everything, first_look, on_stdout, failures } =
            report;
        self.duration += window.duration;
        self.period_ns = window.period;
        for (what, count) in window.losses {
            *self.losses.entry(what).or_default() += count;
        }
        self.windows += 1;
        self.top.unite(&top);
        for mut row in rows {
            row.process = self.name_alone(&row.process);
            let files = usize::from(row.file.is_some());
            match self.rows.get_mut(&row.group) {
                None => {
                    self.rows.insert(row.group.clone(), (row, files));
                }
                Some((known, known_files)) => {
                    known.totals =
                        std::array::from_fn(|i| known.totals[i].saturating_add(row.totals[i]));
                    known.outcomes += row.outcomes;
                    known.spent += row.spent;
                    known.processes = known.processes.max(row.processes);
                    known.process = row.process;
                    known.file = row.file.or(known.file.take());
                    *known_files += files;
                }
            }
        }
        self.directory = directory.or(self.directory.take());
        self.everythings += usize::from(everything.is_some());
        self.on_stdout = on_stdout;
        self.everything = everything.or(self.everything.take());
        self.first_look = first_look.or(self.first_look.take());
        self.failures.extend(failures.iter().map(ToString::to_string));
    }

    /// Of a process what the table shows: a run may see very many, and remembers each to its end.
    fn name_alone(&self, process: &Process) -> Arc<Process> {
        let empty = || Arc::clone(&self.empty);
        Arc::new(Process {
            pid: process.pid,
            start_ns: process.start_ns,
            comm: Arc::clone(&process.comm),
            exe: empty(),
            cmdline: empty(),
            viewer_uid: 0,
            cgroup: empty(),
        })
    }

    /// Whether something could not be written.
    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// The text, ending in a newline.
    pub fn render(&self, style: Style) -> String {
        let mut text = String::new();
        let samples = self.samples();
        if samples == 0 {
            text.push_str(&self.nothing());
        } else {
            // Standard output has them already.
            if self.on_stdout != Some(Format::Text) {
                self.write_functions(&mut text, style);
                text.push('\n');
            }
            self.write_table(&mut text, style);
        }
        self.write_spent(&mut text);
        self.write_losses(&mut text);
        text.push_str(&self.render_failures());
        self.write_next(&mut text, style, samples);
        text
    }

    /// What could not be written, a line each for the first few.
    pub fn render_failures(&self) -> String {
        let mut text = String::new();
        for failure in self.failures.iter().take(FAILURES) {
            line(&mut text, &format!("Not written: {}", escape(failure)));
        }
        if let Some(more @ 1..) = self.failures.len().checked_sub(FAILURES) {
            line(&mut text, &format!("… and {more} more."));
        }
        text
    }

    /// How many samples there are.
    pub fn samples(&self) -> i64 {
        self.rows.values().fold(0, |sum, (row, _)| sum.saturating_add(row.totals[Kind::COUNT]))
    }

    fn write_functions(&self, text: &mut String, style: Style) {
        let total = self.top.total();
        let hottest = self.top.hottest(FUNCTIONS);
        let heading = match self.kind {
            Kind::Cpu => "Hottest functions",
            Kind::Wall => "Where the time is",
            Kind::Block => "What waits",
            Kind::Mutex => "What held what others waited for",
            Kind::Goroutine => "What threads do",
            Kind::Threadcreate => "What starts threads",
            Kind::Goroutines => "What goroutines do",
            Kind::Goroutineleak => "What may wait for ever",
            Kind::Heap => "What is in use",
            Kind::Allocs => "What allocates",
        };
        line(text, &style.bold(&format!("{:>7} {:>7}  {heading}", "flat", "cum")));
        let used = 7 + 1 + 7 + 2;
        let room = style.width.saturating_sub(used).max(MIN_NAME);
        for entry in hottest {
            let mut binary = escape(&entry.binary).into_owned();
            if entry.name.starts_with('[') {
                binary.clear();
            }
            let binary = cut_middle(&binary, room / 3);
            let gap = if binary.is_empty() { 0 } else { binary.width() + 2 };
            let name = escape(&entry.name);
            let name = cut_middle(&name, room - gap);
            let gap = if binary.is_empty() { "" } else { "  " };
            line(
                text,
                &format!(
                    "{:>7} {:>7}  {name}{gap}{}",
                    quantity::percent(entry.flat, total),
                    quantity::percent(entry.cumulative, total),
                    style.faint(&binary)
                ),
            );
        }
    }

    /// How many windows there were, and which of their files the table names.
    fn windows_text(&self) -> String {
        let Self { windows, empty_windows, .. } = *self;
        let empty = match empty_windows {
            0 => String::new(),
            1 => " (1 without samples has no file)".to_owned(),
            _ => format!(" ({empty_windows} without samples have no files)"),
        };
        if self.everythings == 0 {
            return format!("{windows} windows{empty}.");
        }
        format!(
            "{windows} windows{empty}. FILE is the newest one; “+N earlier”: as many from the \
             windows before."
        )
    }

    /// How threads have spent the time, where that is known.
    fn write_spent(&self, text: &mut String) {
        let Spent { threads, running_ns, runnable_ns, waiting_ns } = self.spent;
        let all = running_ns + runnable_ns + waiting_ns;
        if all == 0 {
            return;
        }
        let whose = if threads == 1 { "its thread" } else { &format!("{threads} threads") };
        let mut told = format!(
            "Of the time of {whose}: {} on a CPU, {} ready and waiting for one, {} waiting.",
            share(running_ns, all),
            share(runnable_ns, all),
            share(waiting_ns, all)
        );
        if self.kind == Kind::Cpu && waiting_ns * 2 > all {
            told.push_str(" For what: -k wall.");
        }
        line(text, &told);
    }

    /// What is missing from the figures above, if anything is.
    fn write_losses(&self, text: &mut String) {
        let lost: Vec<_> = self
            .losses
            .iter()
            // "samples" is the sum of the other kinds of lost samples.
            .filter(|(what, count)| **count > 0 && **what != "samples")
            .map(|(what, count)| format!("{count} {}", what.replace('_', " ")))
            .collect();
        if !lost.is_empty() {
            line(text, &format!("Lost: {}.", lost.join(", ")));
        }
        let unnamed = self.top.unnamed();
        if let (1.., Some(advice)) = (unnamed, &self.advice_on_names) {
            let share = quantity::percent(unnamed, self.top.total());
            line(text, &format!("Without names: {share} of the time. {advice}"));
        }
    }

    fn write_next(&self, text: &mut String, style: Style, samples: i64) {
        if let Some(directory) = &self.directory {
            line(text, &format!("\nFiles are in {}", escape(&directory.to_string_lossy())));
        }
        if samples == 0 {
            return;
        }
        let next = match &self.first_look {
            Some(FirstLook::Pprof(file)) => {
                format!("Next: {}", style.bold(&format!("go tool pprof -http=: {}", quoted(file))))
            }
            Some(FirstLook::FlameGraph(file)) => {
                format!("Open in a browser: {}", style.bold(&escape(&file.to_string_lossy())))
            }
            Some(FirstLook::File(file)) => {
                format!("Look at {}", style.bold(&escape(&file.to_string_lossy())))
            }
            None => return,
        };
        line(text, &next);
    }
}

/// `path` as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "/._-+,:@%=~".contains(it);
    if path.chars().all(is_plain) {
        return path.into_owned();
    }
    format!("'{}'", escape(&path).replace('\'', r"'\''"))
}

/// A share in percent; 100% is said of all alone.
fn share(part: u64, of: u64) -> String {
    match part {
        0 => "0%".to_owned(),
        part if part == of => "100%".to_owned(),
        part => format!("{:.1}%", (1000.0 * part as f64 / of as f64).floor() / 10.0),
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests;
