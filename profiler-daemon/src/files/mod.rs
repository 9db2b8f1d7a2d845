//! The sink of a run on the command line: files, or standard output.
//!
//! [`Sink::open`] before the recording fails where nothing could be written after it;
//! [`Sink::write`] takes the profiles of a window; [`Summary`] is what the run says at its end.

mod directory;
mod error;
pub(crate) mod format;
mod name;
mod owner;
pub(crate) mod printable;
mod quantity;
mod report;
mod sink;
pub mod summary;
mod utc;

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::SystemTime,
};

pub use self::{
    error::Error,
    format::{Format, UnknownFormat},
    name::GroupBy,
    owner::{Owner, OwnerError},
    report::{FirstLook, Report, Row},
    sink::Sink,
    summary::Summary,
};

/// Where profiles go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A new directory in `base`, named by the start of the run; `base/latest` points to it.
    Dated {
        /// Where such directories are.
        base: PathBuf,
        /// Start of the run.
        start: SystemTime,
    },
    /// A directory, which is made unless it is there.
    Directory(PathBuf),
    /// A file that takes everything.
    File(PathBuf),
    /// Standard output, which takes everything.
    Stdout,
}

impl Output {
    /// What `-o PATH`, or its absence, means for a run that starts at `start`.
    pub fn of_option(path: Option<&Path>, start: SystemTime) -> Self {
        match path {
            None => Self::Dated { base: "profiles".into(), start },
            Some(path) if path.as_os_str() == "-" => Self::Stdout,
            Some(path) if Format::of_path(path).is_some() => Self::File(path.to_owned()),
            Some(path) => Self::Directory(path.to_owned()),
        }
    }

    /// The format of what is written: the one that was asked for, else the one that the file's
    /// name says, else pprof.
    pub fn format(&self, asked: Option<Format>) -> Format {
        let named = match self {
            Self::File(path) => Format::of_path(path),
            Self::Dated { .. } | Self::Directory(_) | Self::Stdout => None,
        };
        match (asked, named) {
            // "pprof" is both.
            (Some(Format::Pprof), Some(Format::PprofPlain)) => Format::PprofPlain,
            (asked, named) => asked.or(named).unwrap_or_default(),
        }
    }
}

/// What users have to look at a profile with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// `go tool pprof`.
    Pprof,
    /// A browser: a flame graph of the busiest process is written, too.
    Browser,
}

impl Viewer {
    /// What there is on `search_path`, a `PATH`: under sudo that of the user who called it.
    pub fn on(search_path: &OsStr) -> Self {
        let has_go = env::split_paths(search_path).any(|directory| directory.join("go").is_file());
        if has_go { Self::Pprof } else { Self::Browser }
    }
}

/// How profiles are written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to.
    pub output: Output,
    /// In which format: [`Output::format`].
    pub format: Format,
    /// What gets a file of its own; of no meaning for one file or standard output.
    pub group_by: GroupBy,
    /// How many kinds are recorded.
    pub kinds: usize,
    /// Whether there is more than one window: names say which.
    pub has_windows: bool,
    /// How many files a window has, beside the one of everything; the busiest have theirs.
    pub max_files: usize,
    /// Whose the files are.
    pub owner: Owner,
    /// What they will be looked at with.
    pub viewer: Viewer,
}

impl Settings {
    /// [`Settings::max_files`] unless someone knows better.
    pub const MAX_FILES: usize = 200;
}

#[cfg(test)]
mod tests;
