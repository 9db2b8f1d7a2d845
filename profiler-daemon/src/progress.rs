//! What a terminal shows while a recording runs.

use std::{
    env,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Options;

/// How often it is drawn.
const PERIOD: Duration = Duration::from_millis(200);

/// A line on standard error: none unless that is a terminal which understands to draw it.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    duration: Option<Duration>,
    started: Instant,
    /// A command has the terminal to itself as long as it is recorded.
    has_command: bool,
    stopping: bool,
}

impl Progress {
    /// A line for the recording that the options ask for.
    pub(crate) fn new(options: &Options) -> Self {
        let (duration, quiet) = (options.duration, options.messages.quiet);
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let wanted = io::stderr().is_terminal() && !dumb && !quiet;
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(
                duration.map(|duration| duration.as_millis() as u64),
                ProgressDrawTarget::stderr_with_hz(5),
            );
            let template = if duration.is_some() {
                "{elapsed:>4} [{bar:30}] {msg}"
            } else {
                "{elapsed:>4} {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self {
            bar,
            duration,
            started: Instant::now(),
            has_command: !options.command.is_empty(),
            stopping: false,
        }
    }

    /// Returns when the line is to be drawn again; never without one.
    pub(crate) async fn due(&self) {
        match self.bar {
            Some(_) => tokio::time::sleep(PERIOD).await,
            None => std::future::pending().await,
        }
    }

    /// Shows how many samples there are.
    pub(crate) fn samples(&self, samples: u64) {
        let Some(bar) = &self.bar else { return };
        if self.has_command && !self.stopping {
            return;
        }
        bar.set_message(message(samples, self.stopping));
        if self.duration.is_some() {
            bar.set_position(self.started.elapsed().as_millis() as u64);
        } else {
            bar.tick();
        }
    }

    /// Sampling ends; names are waited for.
    pub(crate) fn stopping(&mut self) {
        self.stopping = true;
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn message(samples: u64, stopping: bool) -> String {
    let hint = if stopping { "naming (Ctrl-C: go without)" } else { "Ctrl-C ends the recording" };
    let plural = if samples == 1 { "" } else { "s" };
    format!("{samples} sample{plural} · {hint}")
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn what_ctrl_c_does_next_is_said() {
        assert_eq!(message(1, false), "1 sample · Ctrl-C ends the recording");
        assert_eq!(message(20, true), "20 samples · naming (Ctrl-C: go without)");
    }
}
