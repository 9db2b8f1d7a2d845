//! What became of a window's profiles.

use std::{path::PathBuf, sync::Arc};

use super::{Error, Format, name::Group};
use crate::profile::{Kind, Outcomes, Process, Spent, Window, top::Top};

/// What was written of a window, and what of it a user wants to know at once.
#[derive(Debug)]
pub struct Report {
    /// The window.
    pub window: Window,
    /// Processes, or groups of them, the busiest first.
    pub rows: Vec<Row>,
    /// All functions of the window.
    pub top: Top,
    /// Where the files are, by the shortest name; none for standard output.
    pub directory: Option<PathBuf>,
    /// The file of everything; none if it could not be written, or for standard output.
    pub everything: Option<PathBuf>,
    /// What to look at first.
    pub first_look: Option<FirstLook>,
    /// The format of what went to standard output; none where files are written.
    pub on_stdout: Option<Format>,
    /// Files that could not be written.
    pub failures: Vec<Error>,
}

impl Report {
    /// Whether there was no sample in the window.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(|row| row.totals[Kind::COUNT] == 0)
    }
}

/// What was measured of a process, or a group of them.
#[derive(Clone, Debug)]
pub struct Row {
    pub(super) group: Group,
    /// The first one.
    pub process: Arc<Process>,
    /// How many they are.
    pub processes: usize,
    /// Sums, as in [`Sample::values`](crate::profile::Sample::values).
    pub totals: [i64; 2],
    /// How unwinding ended.
    pub outcomes: Outcomes,
    /// How the threads spent the time, where that is known.
    pub spent: Spent,
    /// The name of its own file; none if it is in the file of everything alone.
    pub file: Option<String>,
}

/// What a user is told to look at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstLook {
    /// A profile, with `go tool pprof`.
    Pprof(PathBuf),
    /// A flame graph, with a browser.
    FlameGraph(PathBuf),
    /// A file, by whatever shows such files.
    File(PathBuf),
}
