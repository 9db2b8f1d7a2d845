//! What all sources together come to, and where each value is from.

use std::{fmt, path::PathBuf};

use clap::{ArgAction, ArgMatches, Command, parser::ValueSource};

use super::KEYS;

/// Options, and where they are from.
#[derive(Debug)]
pub struct Resolved<P> {
    /// The options.
    pub options: P,
    /// The file that was read.
    pub file: Option<PathBuf>,
    pub(super) sources: Vec<Value>,
}

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    CommandLine,
    /// An environment variable.
    Environment(String),
    /// A line of the file.
    Line(usize),
    /// Nobody has said anything.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment(name) => f.write_str(name),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// An option's value.
#[derive(Debug)]
pub(super) struct Value {
    key: &'static str,
    /// As TOML; `None`: there is none.
    text: Option<String>,
    source: Source,
}

/// The values of all options of `command`.
pub(super) fn sources(
    command: &Command,
    matches: &ArgMatches,
    given: &ArgMatches,
    lines: &[(&str, usize)],
) -> Vec<Value> {
    let value = |&(key, option): &(&'static str, &str)| {
        let argument = command.get_arguments().find(|it| it.get_long() == Some(option))?;
        let id = argument.get_id().as_str();
        let line = lines.iter().find(|(it, _)| *it == option).map(|(_, line)| *line);
        let source = match (given.value_source(id), line) {
            (_, Some(line)) => Source::Line(line),
            (Some(ValueSource::CommandLine), _) => Source::CommandLine,
            (Some(ValueSource::EnvVariable), _) => {
                let name = argument.get_env().unwrap_or_default();
                Source::Environment(name.to_string_lossy().into_owned())
            }
            _ => Source::Default,
        };
        let quoted = |value: &std::ffi::OsStr| {
            let text = value.to_string_lossy();
            if text.parse::<i64>().is_ok() {
                return text.into_owned();
            }
            toml::Value::String(text.into_owned()).to_string()
        };
        let raw = || matches.get_raw(id).map(|values| values.map(quoted).collect::<Vec<_>>());
        let text = match argument.get_action() {
            ArgAction::SetTrue => Some(matches.get_flag(id).to_string()),
            ArgAction::Count => Some(matches.get_count(id).to_string()),
            ArgAction::Append => raw().map(|values| format!("[{}]", values.join(", "))),
            _ => raw().and_then(|values| values.into_iter().next()),
        };
        Some(Value { key, text, source })
    };
    KEYS.iter().filter_map(value).collect()
}

impl<P> Resolved<P> {
    /// The keys whose values are others than in `before`.
    pub fn differences<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'static str> {
        let pairs = self.sources.iter().zip(&before.sources);
        pairs.filter(|(now, before)| now.text != before.text).map(|(now, _)| now.key)
    }

    /// All of it as a configuration file, each value with where it is from.
    pub fn to_toml(&self) -> String {
        let mut text = match &self.file {
            Some(path) => format!("# Read: {}\n", path.display()),
            None => "# No file was read.\n".to_owned(),
        };
        let mut section = "";
        for value in &self.sources {
            let (own_section, name) = value.key.split_once('.').unwrap_or(("", value.key));
            if own_section != section {
                section = own_section;
                text += &format!("\n[{section}]\n");
            }
            let line = match &value.text {
                Some(value) => format!("{name} = {value}"),
                None => format!("# {name} ="),
            };
            text += &format!("{line:<40} # {}\n", value.source);
        }
        text
    }
}
