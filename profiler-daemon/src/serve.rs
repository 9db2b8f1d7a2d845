//! `rprofd serve`: from options to a daemon that answers.

mod archive;
mod descriptors;
mod switch;
mod systemd;

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
};

use self::{
    archive::Archive,
    switch::Switch,
    systemd::{Watchdog, notify},
};
use crate::{
    cli::serve::{OnUnsupported, Options},
    config::Resolved,
    profile::Profile,
    recorder::{self, Limits, News, Order, RecordError, control::Orders},
    rights,
    run::{self, RunError},
    server::{self, Access, App, Server},
};

/// The most samples per second and CPU that a request may ask for.
const MOST_HERTZ: u64 = 10_000;

/// The rate of a request that does not ask for another, in Hz.
const DEFAULT_HERTZ: u64 = 99;

/// The rate of waits where none is asked for.
const BLOCK_RATE: Duration = Duration::from_millis(1);

/// How long the end waits for names that the last samples lack.
const LAST_NAMES: Duration = Duration::from_secs(3);

/// How long the end waits until recordings that it cut short are answered.
const LAST_ANSWERS: Duration = Duration::from_millis(1500);

/// The keys of the configuration that take effect when it is read again.
const RELOADED: [&str; 14] = [
    "off_file",
    "access.auth_file",
    "access.tls_cert",
    "access.tls_key",
    "access.insecure",
    "sampling.frequency",
    "sampling.window",
    "files.directory",
    "files.max_age",
    "files.max_size",
    "limits.memory",
    "limits.cpu",
    "limits.memory_windows",
    "on_unsupported",
];

/// Serves until it is told to end. Returns the exit status.
///
/// # Errors
///
/// [`RunError`].
pub async fn serve(resolved: Resolved<Options>, started: Instant) -> Result<u8, RunError> {
    let options = &resolved.options;
    let access = Access::of_options(options, &options.listen)?;
    let idles = options.on_unsupported == OnUnsupported::Idle;
    if let Err(error) = rights::check()
        && !idles
    {
        return Err(RecordError::from(error).into());
    }
    let server = Server::bind(&options.listen, options.metrics_listen)?;
    let descriptors = descriptors::raise();
    rights::drop_others();
    // With the rights that it is to be written with.
    let archive = Archive::of_options(options)?;
    let mut signals = Signals::new()?;
    let kinds = run::kinds(&options.kind);
    let watches_go = !options.no_go_watch;
    let settings = recorder::Settings {
        most_hertz: MOST_HERTZ,
        window: Some(options.window),
        limits: limits(options),
        may_wait: true,
        ..run::recorder_settings(
            options.frequency,
            &kinds,
            BLOCK_RATE,
            &options.recording,
            options.messages,
            started,
        )
    };
    let (recording, orders, news) = run::spawn(settings)?;
    let recent_bytes = recent_bytes(options);
    let app = App::new(
        orders.clone(),
        access,
        server::Settings { kinds, default_hertz: DEFAULT_HERTZ, most_hertz: MOST_HERTZ },
        recent_bytes,
    );
    let mut addresses = server.urls(options.tls_cert.is_some());
    if let Some(metrics) = server.metrics_url() {
        addresses.push(metrics);
    }
    let mut daemon = Daemon {
        switch: Switch::new(options.off_file.clone()),
        resolved,
        app: app.clone(),
        orders,
        news,
        recording: Some(recording),
        archive,
        addresses,
        stopping: false,
        skips_names: None,
    };
    let mut watchdog = Watchdog::new();
    let mut watching = Box::pin(server::watch_go(app.clone()));
    let mut answering = Box::pin(server.run(app, descriptors::for_connections(descriptors)));
    while !daemon.has_ended() {
        tokio::select! {
            () = &mut answering => {}
            () = &mut watching, if watches_go => {}
            told = daemon.news.recv(), if daemon.recording.is_some() => match told {
                Some(told) => daemon.take(told),
                None => daemon.recording_ended()?,
            },
            report = Archive::written(&mut daemon.archive) => daemon.app.wrote(&report),
            is_off = daemon.switch.turned() => daemon.turn(is_off),
            () = watchdog.due() => notify(&[NotifyState::Watchdog]),
            () = until(daemon.skips_names) => daemon.skip_names(),
            asked = signals.next() => match asked {
                Asked::ToEnd => daemon.stop(),
                Asked::ToReload => daemon.reload(),
            },
        }
    }
    // Whoever waits for an answer gets it.
    tokio::select! {
        () = &mut answering => {}
        () = daemon.app.idle() => {}
        () = tokio::time::sleep(LAST_ANSWERS) => {}
    }
    Ok(0)
}

/// What goes on beside the answering.
struct Daemon {
    resolved: Resolved<Options>,
    app: App,
    orders: Orders,
    news: UnboundedReceiver<News>,
    /// `None`: it has ended.
    recording: Option<JoinHandle<Result<(), RecordError>>>,
    archive: Option<Archive>,
    switch: Switch,
    addresses: Vec<String>,
    stopping: bool,
    /// When names are not waited for any longer.
    skips_names: Option<Instant>,
}

impl Daemon {
    fn take(&mut self, told: News) {
        match told {
            News::Started => {
                eprintln!("rprofd: answering at {}", self.addresses.join(" and "));
                self.app.set_unready(&self.switch.why());
                notify(&[NotifyState::Ready]);
            }
            News::Window(window, profiles) => {
                let profiles: Vec<Arc<Profile>> = profiles.into_iter().map(Arc::new).collect();
                if let Some(archive) = &mut self.archive {
                    archive.add(window.clone(), profiles.clone());
                }
                self.app.add(window, profiles);
            }
            News::Stopped(..) => {}
        }
    }

    /// The recording is over: since it was told to, or since it could not begin.
    fn recording_ended(&mut self) -> Result<(), RunError> {
        let Some(recording) = self.recording.take() else { return Ok(()) };
        let result = recording.join().map_err(|_| RunError::Gone)?;
        let idles = self.resolved.options.on_unsupported == OnUnsupported::Idle;
        match result.map_err(RunError::from) {
            Err(error) if idles && error.exit_status() == run::UNABLE => {
                let text = format!("nothing is sampled: {error}");
                eprintln!("rprofd: answering at {}; {text}", self.addresses.join(" and "));
                self.app.set_unready(&text);
                // Whoever waits for the start of a service is not to wait for ever.
                notify(&[NotifyState::Ready, NotifyState::Status("nothing is sampled")]);
                Ok(())
            }
            result => {
                self.stopping = true;
                result
            }
        }
    }

    fn has_ended(&self) -> bool {
        let is_writing = self.archive.as_ref().is_some_and(Archive::is_busy);
        self.stopping && self.recording.is_none() && !is_writing
    }

    /// Ends the recording; told so again, does not wait for names.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            self.skip_names();
            return;
        }
        notify(&[NotifyState::Stopping]);
        self.orders.give(Order::Stop);
        self.skips_names = Some(Instant::now() + LAST_NAMES);
    }

    fn skip_names(&mut self) {
        self.skips_names = None;
        self.orders.give(Order::SkipNames);
    }

    fn turn(&mut self, is_off: bool) {
        self.orders.give(Order::Off(is_off));
        if self.recording.is_none() {
            return;
        }
        let why = self.switch.why();
        tracing::warn!("{}", if is_off { &why } else { "sampling is on again" });
        self.app.set_unready(&why);
    }

    /// Reads the configuration again; one that is wrong changes nothing.
    fn reload(&mut self) {
        match self.read_again() {
            Ok(()) => tracing::warn!("the configuration was read again"),
            Err(error) => {
                tracing::error!("the configuration stays as it was: {error}");
            }
        }
    }

    fn read_again(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let resolved = Options::resolve(std::env::args_os().skip(2))?;
        let options = &resolved.options;
        // The sockets stay as they are until it is started again: they, too, need what is said of them.
        let both = [&*options.listen, &*self.resolved.options.listen].concat();
        let access = Access::of_options(options, &both)?;
        Archive::replace(&mut self.archive, options)?;
        let (hertz, window, limits) = (options.frequency, options.window, limits(options));
        self.orders.give(Order::Configure { hertz, window, limits });
        self.app.set_access(access);
        self.app.set_recent_bytes(recent_bytes(options));
        self.switch.set_path(options.off_file.clone());
        for key in resolved.differences(&self.resolved) {
            if !RELOADED.contains(&key) {
                tracing::warn!("{key} takes effect when rprofd is started again");
            }
        }
        self.resolved = resolved;
        Ok(())
    }
}

/// Comes at a time; never, if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

fn recent_bytes(options: &Options) -> usize {
    usize::try_from(options.memory_windows).unwrap_or(usize::MAX)
}

fn limits(options: &Options) -> Limits {
    Limits { memory_bytes: options.memory_limit, cpu_percent: options.cpu_limit }
}

/// What a signal asks for.
enum Asked {
    ToEnd,
    ToReload,
}

/// Ctrl-C, being told to end, and to read the configuration again.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, RunError> {
        let listen = |kind| {
            signal(kind).map_err(|io_error| RunError::SystemCall { call: "sigaction", io_error })
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) -> Asked {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => Asked::ToEnd,
            _ = terminate.recv() => Asked::ToEnd,
            _ = hangup.recv() => Asked::ToReload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_are_keys() {
        let resolved = Options::resolve(["-c".into(), "/dev/null".into()].into_iter()).unwrap();
        let text = resolved.to_toml();
        for key in RELOADED {
            let name = key.rsplit('.').next().unwrap_or_default();
            assert!(text.lines().any(|line| line.contains(&format!("{name} ="))), "{key}");
        }
    }
}
