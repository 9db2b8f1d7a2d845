//! What is said on standard error beside the closing text.

use std::{
    env, fmt,
    io::{self, IsTerminal as _},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    registry::LookupSpan,
};

use crate::cli::{LogFormat, Messages};

/// Lets messages go to standard error: warnings, with `-v` information and times, with `-vv`
/// everything of ours.
pub fn to_stderr(messages: Messages) {
    let Messages { log_format: format, verbose, quiet } = messages;
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "warn,profiler_daemon=info",
        _ => "info,profiler_daemon=debug,rprofd_ebpf=debug",
    };
    let journald = env::var_os("JOURNAL_STREAM").is_some();
    let colors = io::stderr().is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_some_and(|term| term != "dumb");
    let log = tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(io::stderr)
        .with_target(verbose > 1)
        .with_ansi(colors);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text if verbose == 0 => log.event_format(Plain).init(),
        LogFormat::Text if journald => log.without_time().init(),
        LogFormat::Text => log.init(),
    }
}

/// `warning: text`, as other commands say it.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (word, color) = match *event.metadata().level() {
            Level::ERROR => ("error", "\x1b[1;31m"),
            Level::WARN => ("warning", "\x1b[1;33m"),
            _ => ("note", "\x1b[1m"),
        };
        if writer.has_ansi_escapes() {
            write!(writer, "{color}{word}:\x1b[0m ")?;
        } else {
            write!(writer, "{word}: ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
