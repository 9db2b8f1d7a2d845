//! Options from the command line, the environment and a configuration file, in that order.
//!
//! An option is defined once, in [`crate::cli`]. Its key in the file is in [`KEYS`], and its value
//! there is read as if it stood on the command line, so that both mean the same.

mod file;
mod resolved;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, Parser, parser::ValueSource};

use self::file::Entry;
pub use self::resolved::{Resolved, Source};

/// Each option's key, by its long name. A file may have the options of all commands; each takes its
/// own.
const KEYS: &[(&str, &str)] = &[
    ("listen", "listen"),
    ("off_file", "off-file"),
    ("on_unsupported", "on-unsupported"),
    ("as_root", "as-root"),
    ("fail_on_goroutine_leak", "fail-on-goroutine-leak"),
    ("socket", "socket"),
    ("access.auth_file", "auth-file"),
    ("access.tls_cert", "tls-cert"),
    ("access.tls_key", "tls-key"),
    ("access.insecure", "insecure"),
    ("access.metrics_listen", "metrics-listen"),
    ("sampling.kind", "kind"),
    ("sampling.frequency", "frequency"),
    ("sampling.event", "event"),
    ("sampling.block_rate", "block-rate"),
    ("sampling.block_stacks", "block-stacks"),
    ("sampling.mutex_fraction", "mutex-fraction"),
    ("sampling.duration", "duration"),
    ("sampling.window", "window"),
    ("sampling.user_only", "user-only"),
    ("sampling.kernel_only", "kernel-only"),
    ("sampling.ignore_defects", "ignore-defects"),
    ("sampling.no_go_watch", "no-go-watch"),
    ("processes.pid", "pid"),
    ("processes.comm", "comm"),
    ("processes.exe", "exe"),
    ("processes.cgroup", "cgroup"),
    ("processes.unit", "unit"),
    ("processes.no_children", "no-children"),
    ("output.path", "output"),
    ("output.group_by", "group-by"),
    ("output.format", "format"),
    ("files.directory", "files"),
    ("files.max_age", "files-max-age"),
    ("files.max_size", "files-max-size"),
    ("names.no_inlines", "no-inlines"),
    ("names.debug_dir", "debug-dir"),
    ("unwinding.memory", "unwind-memory"),
    ("unwinding.cache", "unwind-cache"),
    ("limits.memory", "memory-limit"),
    ("limits.cpu", "cpu-limit"),
    ("limits.memory_windows", "memory-windows"),
    ("messages.log_format", "log-format"),
    ("messages.verbose", "verbose"),
    ("messages.quiet", "quiet"),
];

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the environment; or somebody asked for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {io_error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        io_error: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}:{line}: {text}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// What, and what would be right.
        text: String,
    },
}

impl Error {
    /// Ends the process with the message, as for any other option that is wrong.
    pub fn exit(self) -> ! {
        match self {
            Self::Usage(error) => error.exit(),
            error => {
                eprintln!("error: {error}");
                std::process::exit(2)
            }
        }
    }
}

/// The options that `arguments`, the program's name first, ask for, together with the environment
/// and the file that `--config` names, or else `default_file`, if that exists.
///
/// # Errors
///
/// [`Error`].
pub fn resolve<P: Parser>(
    arguments: &[OsString],
    default_file: Option<&Path>,
) -> Result<Resolved<P>, Error> {
    let command = P::command().mut_args(|argument| argument.hide_env(true));
    let given = command.clone().try_get_matches_from(arguments)?;
    let path = given.get_one::<PathBuf>("config").cloned();
    let path = path.or_else(|| default_file.filter(|path| path.exists()).map(Path::to_owned));
    let entries = match &path {
        Some(path) => file::read(path)?,
        None => Vec::new(),
    };
    let (mut from_file, mut lines) = (Vec::new(), Vec::new());
    for entry in &entries {
        let wrong =
            |text| Error::File { path: path.clone().unwrap_or_default(), line: entry.line, text };
        let Some(words) = words(&command, entry).map_err(wrong)? else { continue };
        let alone = [arguments[..1].to_vec(), words.clone()].concat();
        command
            .clone()
            .try_get_matches_from(alone)
            .map_err(|error| wrong(format!("{}: {}", entry.key, sentence(&error))))?;
        if !is_settled(&command, &given, entry.option) {
            from_file.extend(words);
            lines.push((entry.option, entry.line));
        }
    }
    let (program, rest) = arguments.split_at(1);
    let all = [program, &from_file, rest].concat();
    let matches = command.clone().try_get_matches_from(all)?;
    let options = P::from_arg_matches(&matches)?;
    let sources = resolved::sources(&command, &matches, &given, &lines);
    Ok(Resolved { options, file: path, sources })
}

/// The words of a command line that say what an entry says; `None`: it is for another command, or
/// says no more than is so without it.
fn words(command: &Command, entry: &Entry) -> Result<Option<Vec<OsString>>, String> {
    let mut arguments = command.get_arguments();
    let Some(argument) = arguments.find(|it| it.get_long() == Some(entry.option)) else {
        return Ok(None);
    };
    let flag = OsString::from(format!("--{}", entry.option));
    let with = |value: &String| OsString::from(format!("--{}={value}", entry.option));
    match (argument.get_action(), &*entry.values) {
        (ArgAction::SetTrue, [value]) if value == "true" => Ok(Some(vec![flag])),
        (ArgAction::SetTrue, [value]) if value == "false" => Ok(None),
        (ArgAction::SetTrue, _) => Err(format!("{}: give true or false", entry.key)),
        (ArgAction::Count, [value]) => match value.parse::<usize>() {
            Ok(count) if count <= 2 => Ok(Some(vec![flag; count])),
            _ => Err(format!("{}: give 0, 1 or 2", entry.key)),
        },
        (ArgAction::Set, [value]) => Ok(Some(vec![with(value)])),
        (ArgAction::Append, values) => Ok(Some(values.iter().map(with).collect())),
        _ => Err(format!("{}: give one value", entry.key)),
    }
}

/// Whether the command line or the environment has said something of an option, or the contrary.
fn is_settled(command: &Command, given: &ArgMatches, option: &str) -> bool {
    let is_given =
        |id: &str| given.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
    let id_of = |argument: &Arg| argument.get_id().clone();
    let find = || command.get_arguments().find(|it| it.get_long() == Some(option));
    let Some(argument) = find() else { return false };
    // A conflict is known to the one of the two that states it.
    let is_contrary = |other: &Arg| {
        let conflicts = |one: &Arg, with: &Arg| {
            command.get_arg_conflicts_with(one).iter().any(|it| id_of(it) == id_of(with))
        };
        conflicts(argument, other) || conflicts(other, argument)
    };
    command.get_arguments().any(|other| {
        (id_of(other) == id_of(argument) || is_contrary(other)) && is_given(other.get_id().as_str())
    })
}

/// The first sentence of what clap says, which is followed by advice on the command line.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    first.join(" ")
}

#[cfg(test)]
mod tests;
