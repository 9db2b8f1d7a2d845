//! A run of the command line: from options to files and a closing table.

mod error;
mod signals;

use std::{
    io::{self, Write as _},
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::mpsc::UnboundedReceiver, task::JoinHandle};

pub use error::RunError;

use crate::{
    cli::{self, Options},
    command::{self, Waiting},
    files::{
        self, Format, GroupBy, Output, Owner, Sink, Summary, Viewer,
        summary::{Asked, Style},
    },
    go_leaks::check::Check,
    go_snapshots::{self, Snapshots, Taken},
    process::{Filter, Glob},
    profile::{Kind, Profile, Window},
    progress::Progress,
    recorder::{Closeness, Control, News, Order, RecordError, Recorder, control::Orders},
    remote, rights, sudo,
    targets::Targets,
};

use error::explain;
use signals::Signals;

/// Exit status where the kernel does not let us sample.
pub(crate) const UNABLE: u8 = 3;

/// Exit status where the command ended well, and goroutines leaked.
const LEAKS: u8 = 1;

/// Does what the options say. Returns the exit status.
///
/// # Errors
///
/// [`RunError`].
pub async fn run(options: Options, started: Instant) -> Result<u8, RunError> {
    let start = SystemTime::now();
    let is_remote = match rights::check() {
        Ok(()) => false,
        Err(_) if remote::is_there(&options.socket) => {
            can_be_asked_for(&options)?;
            true
        }
        Err(error) => return Err(RecordError::from(error).into()),
    };
    let targets = existing(&options.pid)?;
    let mut signals = Signals::new()?;
    let owner = Owner::who_called_sudo();
    let sink = Sink::open(output_settings(&options, start, &owner))?;
    let mut filter = filter(&options, &targets)?;
    let asked = asked(&options, &filter);
    let kinds = kinds(&options.kind);
    if let (Some(_), Some(read)) =
        (options.window, kinds.iter().find(|kind| !Kind::ALL.contains(kind)))
    {
        return Err(RunError::Window(read.name()));
    }
    let waiting = if options.command.is_empty() {
        None
    } else {
        let owner = if options.as_root { &Owner::Myself } else { &owner };
        let waiting = Waiting::start(&options.command, owner).map_err(RunError::Command)?;
        filter.pids.insert(waiting.id());
        Some(waiting)
    };
    // The others are read.
    let recorded: Vec<Kind> =
        kinds.iter().copied().filter(|kind| Kind::ALL.contains(kind)).collect();
    let settings = crate::recorder::Settings {
        filter,
        becomes_command: waiting.as_ref().map(Waiting::id),
        kernel_stacks: !options.user_only,
        user_stacks: !options.kernel_only,
        window: options.window,
        tells_times: options.window.is_none_or(|window| window >= SHORTEST_TOLD),
        ..recorder_settings(
            options.frequency,
            &recorded,
            ALL_WAITS,
            &options.recording,
            options.messages,
            started,
        )
    };
    let (recording, orders, mut news) = if is_remote {
        remote::spawn(remote::Asked {
            socket: options.socket.clone(),
            pids: settings.filter.pids.iter().copied().collect(),
            children: settings.filter.follow,
            kind: kinds[0],
            hertz: settings.hertz,
        })?
    } else {
        spawn(settings)?
    };
    let progress = Progress::new(&options);
    let mut run = Run {
        orders,
        progress,
        summaries: kinds
            .iter()
            .map(|&kind| Summary::new(kind, asked, rights::advice_on_names()))
            .collect(),
        sink: Some(sink),
        writing: None,
        stops: 0,
        snapshots: None,
        taken: Taken::new(),
    };
    run.until_started(&mut news, &mut signals).await;
    let mut status = 0;
    let mut child = None;
    if let Some(waiting) = waiting
        && !recording.is_finished()
    {
        child = Some(waiting.go().map_err(RunError::Command)?);
    }
    if !is_remote && options.window.is_none() {
        run.snapshots = Snapshots::start(&run.orders, &kinds);
    }
    let leaks = options.fail_on_goroutine_leak.then(|| Check::start(&run.orders));
    // What threads do, and what Go programs keep, is seen at once.
    let is_seen = |kind: &Kind| matches!(kind, Kind::Goroutine | Kind::Heap | Kind::Allocs);
    let at_once = (options.command.is_empty() && kinds.iter().all(is_seen))
        .then_some(Duration::from_millis(1));
    let mut deadline =
        options.duration.or(at_once).map(|duration| Box::pin(tokio::time::sleep(duration)));
    let mut targets_ended = Box::pin(targets.ended());
    loop {
        tokio::select! {
            told = news.recv() => match told {
                Some(told) => run.take(told).await,
                None => break,
            },
            () = run.progress.due() => run.progress.samples(run.orders.samples()),
            signal = signals.next() => {
                if let Some(child) = &child {
                    child.pass_on(signal);
                }
                run.interrupted();
            }
            () = async { match &mut deadline { Some(timer) => timer.await, None => std::future::pending().await } } => {
                deadline = None;
                run.stop();
            }
            () = &mut targets_ended, if run.stops == 0 => run.stop(),
            taken = taken(&mut run.snapshots) => run.taken(taken),
            exit = ended(&mut child) => {
                child = None;
                status = exit;
                run.stop();
            }
        }
    }
    run.write_taken(&kinds, start).await;
    run.finish_writing().await;
    let result = recording.join().map_err(|_| RunError::Gone)?;
    run.progress.clear();
    let mut failed = result.is_err();
    if let (Err(error), true) = (&result, child.is_some()) {
        eprintln!("rprofd: {}; the command goes on", explain(error));
    }
    // A command that could not be run has said so; that there are no samples goes without saying.
    let was_not_run = matches!(status, command::NOT_FOUND | command::NOT_RUN);
    let is_brief = options.messages.quiet || (was_not_run && !run.has_samples());
    if result.is_ok() {
        failed = run.print_summary(is_brief);
    }
    // Where the recording ended first, the command goes on to its own end.
    while child.is_some() {
        tokio::select! {
            exit = ended(&mut child) => {
                child = None;
                status = exit;
            }
            signal = signals.next() => {
                if let Some(child) = &child {
                    child.pass_on(signal);
                }
            }
        }
    }
    result?;
    let leaks = leaks.and_then(|leaks| leaks.text());
    if let Some(text) = &leaks {
        eprint!("{text}");
    }
    let leaks = leaks.is_some();
    if options.command.is_empty() {
        return Ok(u8::from(failed || leaks));
    }
    if leaks && status == 0 {
        status = LEAKS;
    }
    if failed {
        eprintln!("rprofd: exit status {}; the command's own was {status}", command::OURSELVES);
        return Ok(command::OURSELVES);
    }
    Ok(status)
}

/// Whether a daemon can do for us what the options ask for.
fn can_be_asked_for(options: &Options) -> Result<(), RunError> {
    let asks_for_processes = !options.pid.is_empty() || !options.command.is_empty();
    let has_patterns = !(options.comm.is_empty()
        && options.exe.is_empty()
        && options.cgroup.is_empty()
        && options.unit.is_empty());
    let cli::Recording {
        event,
        no_inlines,
        ignore_defects,
        block_rate,
        block_stacks,
        mutex_fraction,
        ..
    } = options.recording;
    let is_plain = options.window.is_none()
        && matches!(options.kind[..], [kind] if Kind::ALL.contains(&kind.into()))
        && !options.user_only
        && !options.kernel_only
        && matches!(event, cli::EventOption::CpuClock)
        && !no_inlines
        && !ignore_defects
        && block_rate.is_none()
        && block_stacks == cli::BLOCK_STACKS
        && mutex_fraction == 1
        && !options.fail_on_goroutine_leak;
    if asks_for_processes && !has_patterns && is_plain {
        return Ok(());
    }
    Err(RunError::NotForUsers(options.socket.clone()))
}

/// What options that all recordings have ask for: of the whole machine, in one window.
pub(crate) fn recorder_settings(
    hertz: u64,
    kinds: &[Kind],
    block_rate_default: Duration,
    recording: &cli::Recording,
    messages: cli::Messages,
    started: Instant,
) -> crate::recorder::Settings {
    let cli::Recording {
        event,
        no_inlines,
        debug_dir,
        unwind_memory,
        unwind_cache,
        ignore_defects,
        block_rate,
        block_stacks,
        mutex_fraction,
    } = recording;
    crate::recorder::Settings {
        kinds: kinds.to_vec(),
        closeness: Closeness {
            block_rate_ns: block_rate.unwrap_or(block_rate_default).as_nanos() as u64,
            mutex_fraction: *mutex_fraction,
            thread_stacks: *block_stacks,
        },
        may_wait: kinds.iter().any(|kind| *kind != Kind::Cpu),
        hertz,
        most_hertz: hertz,
        event: (*event).into(),
        filter: Filter::default(),
        becomes_command: None,
        kernel_stacks: true,
        user_stacks: true,
        unwind_memory_bytes: *unwind_memory,
        unwind_cache: (*unwind_cache != *"off").then(|| unwind_cache.clone()),
        window: None,
        tells_times: false,
        limits: Default::default(),
        no_inlines: *no_inlines,
        debug_dirs: debug_dir.clone(),
        log: messages.verbose > 1,
        ignore_defects: *ignore_defects,
        started,
        comments: comments(),
    }
}

/// The command's exit status, once it has one; without a command, never.
async fn ended(command: &mut Option<command::Running>) -> u8 {
    match command {
        Some(command) => command.ended().await,
        None => std::future::pending().await,
    }
}

/// What Go programs keep, once it was read for the last time; where it is not read, never.
async fn taken(snapshots: &mut Option<Snapshots>) -> Taken {
    match snapshots {
        Some(snapshots) => snapshots.taken().await,
        None => std::future::pending().await,
    }
}

/// Starts the recording on a thread of its own.
#[expect(clippy::type_complexity, reason = "the three ends of one thing, taken apart at once")]
pub(crate) fn spawn(
    settings: crate::recorder::Settings,
) -> Result<
    (std::thread::JoinHandle<Result<(), RecordError>>, Orders, UnboundedReceiver<News>),
    RunError,
> {
    let (control, orders, news) = Control::new()?;
    let thread = std::thread::Builder::new()
        .name("recorder".into())
        .spawn(move || Recorder::new(settings, control)?.run())
        .map_err(RunError::of("clone"))?;
    Ok((thread, orders, news))
}

/// What goes on beside the recording.
struct Run {
    orders: Orders,
    progress: Progress,
    /// One for each kind.
    summaries: Vec<Summary>,
    sink: Option<Sink>,
    writing: Option<JoinHandle<(Sink, files::Report)>>,
    stops: u32,
    /// What Go programs keep, as it is being read.
    snapshots: Option<Snapshots>,
    /// What was read of it and is not written yet.
    taken: Taken,
}

impl Run {
    async fn until_started(&mut self, news: &mut UnboundedReceiver<News>, signals: &mut Signals) {
        loop {
            tokio::select! {
                told = news.recv() => match told {
                    Some(News::Started) | None => return,
                    Some(_) => {}
                },
                _ = signals.next() => self.interrupted(),
            }
        }
    }

    fn stop(&mut self) {
        self.stops += 1;
        self.progress.stopping();
        // What is read needs names, which a recording that ends does not look for.
        match &self.snapshots {
            Some(snapshots) => snapshots.end(),
            None => self.orders.give(Order::Stop),
        }
    }

    /// What Go programs keep was read for the last time: now the recording may end.
    fn taken(&mut self, taken: Taken) {
        self.taken = taken;
        self.snapshots = None;
        self.orders.give(Order::Stop);
    }

    /// Writes what was read of kinds that are not recorded.
    async fn write_taken(&mut self, kinds: &[Kind], start: SystemTime) {
        // Where the recording has ended first.
        if let Some(mut snapshots) = self.snapshots.take() {
            snapshots.end();
            self.taken = snapshots.taken().await;
        }
        for &kind in kinds.iter().filter(|kind| !Kind::ALL.contains(kind)) {
            let profiles = self.taken.remove(&kind).unwrap_or_default();
            self.write(go_snapshots::window(kind, start, &profiles), profiles).await;
        }
    }

    fn interrupted(&mut self) {
        if self.stops > 0 {
            self.orders.give(Order::Stop);
            self.orders.give(Order::SkipNames);
        }
        self.stop();
    }

    async fn take(&mut self, told: News) {
        match told {
            News::Started => {}
            News::Stopped(processes, spent) => {
                for summary in &mut self.summaries {
                    summary.found(processes);
                    summary.spent(spent);
                }
            }
            News::Window(window, recorded) => {
                let read = self.taken.remove(&window.kind).unwrap_or_default();
                self.write(window, go_snapshots::replaced(recorded, read)).await;
            }
        }
    }

    /// Writes a window beside everything else; one at a time.
    async fn write(&mut self, window: Window, profiles: Vec<Profile>) {
        self.finish_writing().await;
        if let Some(mut sink) = self.sink.take() {
            self.writing = Some(tokio::task::spawn_blocking(move || {
                let report = sink.write(&window, &profiles);
                (sink, report)
            }));
        }
    }

    async fn finish_writing(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Ok((sink, report)) = writing.await
        {
            self.sink = Some(sink);
            let kind = report.window.kind;
            if let Some(summary) = self.summaries.iter_mut().find(|it| it.kind() == kind) {
                summary.add(report);
            }
        }
    }

    /// Prints the closing text; in brief: what went wrong alone. Returns whether something could
    /// not be written.
    fn print_summary(&self, is_brief: bool) -> bool {
        let texts = self.summaries.iter().map(|summary| {
            if is_brief {
                summary.render_failures()
            } else {
                summary.render(Style::of(&io::stderr()))
            }
        });
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        let _ = io::stderr().lock().write_all(texts.join("\n").as_bytes());
        self.summaries.iter().any(Summary::has_failures)
    }

    fn has_samples(&self) -> bool {
        self.summaries.iter().any(|summary| summary.samples() > 0)
    }
}

/// The processes `pids`, as far as they exist; what does not is said.
fn existing(pids: &[u32]) -> Result<Targets, RunError> {
    let targets = Targets::open(pids).map_err(RunError::of("pidfd_open"))?;
    if targets.pids.is_empty() && !pids.is_empty() {
        return Err(RunError::NoProcess(targets.missing));
    }
    if !targets.missing.is_empty() {
        tracing::warn!("{}; the others are profiled", no_process(&targets.missing));
    }
    Ok(targets)
}

fn no_process(pids: &[u32]) -> String {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    format!("there is no process {} (any more): see `ps -e`", pids.join(", "))
}

fn filter(options: &Options, targets: &Targets) -> Result<Filter, RunError> {
    let mut cgroups = options.cgroup.clone();
    for unit in &options.unit {
        let unit = if unit.contains('.') { unit.clone() } else { format!("{unit}.service") };
        cgroups.push(Glob::new(&unit).map_err(|error| RunError::Unit(error.to_string()))?);
    }
    Ok(Filter {
        pids: targets.pids.iter().copied().collect(),
        comms: options.comm.clone(),
        exes: options.exe.clone(),
        cgroups,
        follow: !options.no_children,
    })
}

/// What the options ask for, for a run that finds nothing.
fn asked(options: &Options, filter: &Filter) -> Asked {
    if !options.command.is_empty() {
        Asked::Command
    } else if filter.is_pids() {
        Asked::Pids
    } else if filter.is_all() {
        Asked::Machine
    } else {
        Asked::Patterns
    }
}

/// How threads spend the time is told of windows that are not shorter: all threads are looked at
/// for it.
const SHORTEST_TOLD: Duration = Duration::from_secs(10);

/// The rate of waits where none is asked for: all are kept.
const ALL_WAITS: Duration = Duration::from_nanos(1);

/// Each kind once.
pub(crate) fn kinds(options: &[cli::KindOption]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for kind in options.iter().copied().map(Kind::from) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

fn output_settings(options: &Options, start: SystemTime, owner: &Owner) -> files::Settings {
    let output = Output::of_option(options.output.as_deref(), start);
    let group_by = options.group_by.map_or(
        if options.command.is_empty() { GroupBy::Pid } else { GroupBy::Comm },
        GroupBy::from,
    );
    files::Settings {
        format: output.format(options.format.map(Format::from)),
        output,
        group_by,
        kinds: kinds(&options.kind).len(),
        has_windows: options.window.is_some(),
        max_files: files::Settings::MAX_FILES,
        owner: owner.clone(),
        viewer: Viewer::on(&sudo::search_path()),
    }
}

/// What the profiles of a recording say of where they are from.
pub fn comments() -> Vec<String> {
    let system = rustix::system::uname();
    vec![
        format!("rprofd={}", env!("CARGO_PKG_VERSION")),
        format!("host={}", system.nodename().to_string_lossy()),
        format!("kernel={}", system.release().to_string_lossy()),
    ]
}
