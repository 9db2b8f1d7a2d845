//! `rprofd serve`: from options to a daemon that answers.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior},
};

use crate::{
    cli::serve::Options,
    process::Filter,
    recorder::{News, Order, RecordError, control::Orders},
    rights,
    run::{self, RunError},
    server::{self, App, Server},
};

/// The most samples per second and CPU that a request may ask for.
const MOST_HERTZ: u64 = 10_000;

/// The rate of a request that does not ask for another, in Hz.
const DEFAULT_HERTZ: u64 = 99;

/// How often the switch is looked at: nothing is sampled a second after it was thrown.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until it is told to end. Returns the exit status.
///
/// # Errors
///
/// [`RunError`].
pub async fn serve(options: Options, started: Instant) -> Result<u8, RunError> {
    rights::check().map_err(RecordError::from)?;
    let server = Server::bind(&options.listen).await?;
    let mut ends = Ends::new()?;
    let (recording, orders, mut news) = run::spawn(recorder_settings(&options, started))?;
    let app = App::new(
        orders.clone(),
        server::Settings {
            default_hertz: DEFAULT_HERTZ,
            most_hertz: MOST_HERTZ,
            recent_bytes: usize::try_from(options.memory_windows).unwrap_or(usize::MAX),
        },
    );
    let addresses = server.addresses();
    let mut switch = Switch::new(options.off_file.clone());
    let mut watchdog = Watchdog::new();
    let mut stopping = false;
    let mut answering = Box::pin(server.run(app.clone()));
    loop {
        tokio::select! {
            () = &mut answering => {}
            told = news.recv() => match told {
                Some(News::Started) => {
                    eprintln!("rprofd: answering at {}", addresses.join(" and "));
                    app.set_unready("");
                    notify(&[NotifyState::Ready]);
                }
                Some(News::Window(window, profiles)) => app.add(window, profiles),
                Some(News::Stopped(_)) => {}
                None => break,
            },
            () = switch.turned() => switch.obey(&orders, &app),
            () = watchdog.due() => notify(&[NotifyState::Watchdog]),
            () = ends.next() => {
                if !std::mem::replace(&mut stopping, true) {
                    notify(&[NotifyState::Stopping]);
                    orders.give(Order::Stop);
                }
                // What has no name yet is not waited for.
                orders.give(Order::SkipNames);
            }
        }
    }
    recording.join().map_err(|_| RunError::Gone)??;
    Ok(0)
}

fn recorder_settings(options: &Options, started: Instant) -> crate::recorder::Settings {
    crate::recorder::Settings {
        hertz: options.frequency,
        most_hertz: MOST_HERTZ,
        event: options.event.into(),
        filter: Filter::default(),
        becomes_command: None,
        kernel_stacks: true,
        user_stacks: true,
        unwind_memory_bytes: options.unwind_memory,
        unwind_cache: (options.unwind_cache != *"off").then(|| options.unwind_cache.clone()),
        window: Some(options.window),
        no_inlines: options.no_inlines,
        debug_dirs: options.debug_dir.clone(),
        log: options.verbose > 1,
        ignore_defects: options.ignore_defects,
        started,
        comments: run::comments(),
    }
}

/// Tells systemd, where it is that which has started us.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!("systemd is not told: {error}");
    }
}

/// Ctrl-C, and being told to end.
struct Ends([Signal; 2]);

impl Ends {
    fn new() -> Result<Self, RunError> {
        let listen = |kind| {
            signal(kind).map_err(|io_error| RunError::SystemCall { call: "sigaction", io_error })
        };
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// A file that, while it is there, keeps rprofd from sampling.
struct Switch {
    path: PathBuf,
    is_off: bool,
    looks: Interval,
}

impl Switch {
    fn new(path: PathBuf) -> Self {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { path, is_off: false, looks }
    }

    /// Returns once it was turned.
    async fn turned(&mut self) {
        loop {
            self.looks.tick().await;
            // The file is root's, in a directory of root's: that it is there is all that counts.
            if self.path.symlink_metadata().is_ok() != self.is_off {
                self.is_off = !self.is_off;
                return;
            }
        }
    }

    fn obey(&self, orders: &Orders, app: &App) {
        orders.give(Order::Off(self.is_off));
        if self.is_off {
            let text = format!("sampling is off while {} is there", self.path.display());
            tracing::warn!("{text}");
            app.set_unready(&text);
        } else {
            tracing::warn!("sampling is on again");
            app.set_unready("");
        }
    }
}

/// Shows systemd that we still turn round.
struct Watchdog(Option<Interval>);

impl Watchdog {
    fn new() -> Self {
        let mut microseconds = 0;
        let is_asked_for = sd_notify::watchdog_enabled(false, &mut microseconds);
        let period = Duration::from_micros(microseconds) / 3;
        Self((is_asked_for && !period.is_zero()).then(|| tokio::time::interval(period)))
    }

    async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
