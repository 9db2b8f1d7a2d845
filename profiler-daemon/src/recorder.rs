//! The recording: one thread that takes what the kernel sends, attributes it, has it named, and
//! hands out the profiles of each window.

mod clock;
pub mod control;
mod latency;

use std::{
    collections::{HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_ebpf::{
    mappings::Range,
    record::Sample,
    targets::{Mode, Target},
};
use rustix::event::epoll;

use crate::{
    kernel::{self, KernelError, Losses, Record, Sampler, SideBand, What},
    process::{Change, Filter, LifeId, MappingId, Table},
    profile::{
        Kind, Profile, Window,
        aggregate::{Aggregate, Code, RawStacks, comm_text},
        build::Builder,
    },
    reader::client::ReaderError,
    symbolize::Symbolizer,
};
pub use control::{Control, News, Order};
use latency::Latencies;

/// A sample waits this long until it is attributed: side-band records of its time may still come.
const HOLD_BACK_NS: u64 = 50_000_000;

/// How often samples are fetched.
const FETCH: Duration = Duration::from_millis(200);

/// How long a window that has ended waits for names before it is handed out without them.
const NAMING: Duration = Duration::from_secs(60);

/// Stacks of an epoch are forgotten when they take this many bytes.
const RAW_STACK_BYTES: usize = 16 << 20;

/// Why recording could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The reader could not be started.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// A system call of our own failed.
    #[error("{call}: {io_error}")]
    SystemCall {
        /// The system call.
        call: &'static str,
        /// What it returned.
        io_error: std::io::Error,
    },
}

impl RecordError {
    fn of(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::SystemCall { call, io_error: errno.into() }
    }
}

/// What is to be recorded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Samples per second and CPU, in Hz.
    pub hertz: u64,
    /// What makes a CPU take a sample.
    pub event: kernel::Event,
    /// Which processes.
    pub filter: Filter,
    /// Take kernel stacks.
    pub kernel_stacks: bool,
    /// Take user stacks.
    pub user_stacks: bool,
    /// A new profile each such time; `None`: one for all.
    pub window: Option<Duration>,
    /// Names from symbol tables alone.
    pub no_inlines: bool,
    /// Where separate debug files are.
    pub debug_dirs: Vec<PathBuf>,
    /// The BPF programs report what they do.
    pub log: bool,
    /// When the program was started.
    pub started: Instant,
    /// Comments of each profile.
    pub comments: Vec<String>,
}

/// A window that has ended and waits for names.
struct Closing {
    aggregate: Aggregate,
    start: SystemTime,
    duration: Duration,
    losses: Losses,
    ended: Instant,
}

/// The state of a recording.
pub struct Recorder {
    settings: Settings,
    sampler: Sampler,
    table: Table,
    symbolizer: Symbolizer,
    control: Control,
    epoll: std::os::fd::OwnedFd,
    /// How many readers' descriptors were put into `epoll`.
    readers: u32,
    events: Vec<SideBand>,
    queue: VecDeque<Sample>,
    raw: RawStacks,
    aggregate: Aggregate,
    window_start: (SystemTime, Instant),
    losses_before: Losses,
    closing: VecDeque<Closing>,
    fetched: Instant,
    samples: u64,
    stopping: bool,
    skip_names: bool,
    kernel_build_id: Arc<str>,
    latencies: Latencies,
}

impl Recorder {
    /// Attaches to the kernel and starts the reader. Call it on the thread that is to run it.
    ///
    /// # Errors
    ///
    /// [`RecordError`]; nothing stays attached.
    pub fn new(settings: Settings, control: Control) -> Result<Self, RecordError> {
        hurry();
        let filter = &settings.filter;
        let mode = if filter.is_all() {
            Mode::All
        } else if filter.is_pids() {
            Mode::Listed
        } else {
            Mode::Undecided
        };
        let mut sampler = Sampler::new(kernel::Settings {
            hertz: settings.hertz,
            event: settings.event,
            mode,
            follow: filter.follow,
            kernel_stacks: settings.kernel_stacks,
            user_stacks: settings.user_stacks,
            unwind_memory_bytes: 256 << 20,
            log: settings.log,
        })?;
        let symbolizer = Symbolizer::start(settings.debug_dirs.clone(), settings.no_inlines)?;
        for &pid in &filter.pids {
            let target = Target { start_ns: 0, exec_id: 0, profiled: 1, inherited: 1 };
            sampler.set_target(pid, target)?;
        }
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(RecordError::of("epoll_create1"))?;
        let table = Table::new(settings.filter.clone());
        let mut recorder = Self {
            settings,
            sampler,
            table,
            symbolizer,
            control,
            epoll,
            readers: 0,
            events: Vec::new(),
            queue: VecDeque::new(),
            raw: RawStacks::default(),
            aggregate: Aggregate::default(),
            window_start: (SystemTime::now(), Instant::now()),
            losses_before: Losses::default(),
            closing: VecDeque::new(),
            fetched: Instant::now(),
            samples: 0,
            stopping: false,
            skip_names: false,
            kernel_build_id: clock::kernel_build_id().into(),
            latencies: Latencies::new(),
        };
        recorder.watch()?;
        Ok(recorder)
    }

    /// Puts everything that may wake us into the epoll set.
    fn watch(&mut self) -> Result<(), RecordError> {
        let add = |fd, flags| {
            epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), flags)
                .map_err(RecordError::of("epoll_ctl"))
        };
        for fd in self.sampler.side_band_fds() {
            add(fd, epoll::EventFlags::IN)?;
        }
        // A ring of records is readable whenever something is in it; only its wake-ups count.
        add(self.sampler.records_fd(), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        add(self.control.wake_fd(), epoll::EventFlags::IN)?;
        self.watch_reader()
    }

    fn watch_reader(&mut self) -> Result<(), RecordError> {
        if self.readers == self.symbolizer.readers_started() {
            return Ok(());
        }
        self.readers = self.symbolizer.readers_started();
        for fd in self.symbolizer.fds() {
            epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
                .map_err(RecordError::of("epoll_ctl"))?;
        }
        Ok(())
    }

    /// Records until it is told to stop, and hands out what there is.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn run(mut self) -> Result<(), RecordError> {
        if self.settings.filter.is_pids() {
            for &pid in &self.settings.filter.pids {
                self.symbolizer.describe(Some(pid));
            }
        } else {
            self.symbolizer.describe(None);
        }
        self.sampler.enable()?;
        self.latencies.begin();
        self.window_start = (SystemTime::now(), Instant::now());
        tracing::info!("sampling {} CPUs at {} Hz", self.sampler.cpus(), self.settings.hertz);
        self.control.tell(News::Started);
        loop {
            self.wait()?;
            self.take_orders()?;
            self.take_side_band();
            self.serve_reader()?;
            if self.fetched.elapsed() >= FETCH || self.stopping {
                self.fetch()?;
            }
            if let Some(window) = self.settings.window
                && !self.stopping
                && self.window_start.1.elapsed() >= window
            {
                self.close_window()?;
            }
            self.hand_out();
            if self.stopping && self.closing.is_empty() {
                break;
            }
        }
        self.report();
        Ok(())
    }

    fn wait(&mut self) -> Result<(), RecordError> {
        let timeout = if self.stopping {
            Duration::from_millis(5)
        } else {
            FETCH.saturating_sub(self.fetched.elapsed())
        };
        let timeout = rustix::time::Timespec::try_from(timeout)
            .unwrap_or(rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 16];
        match epoll::wait(&self.epoll, &mut ready[..], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(RecordError::of("epoll_wait")(errno)),
        }
    }

    fn take_orders(&mut self) -> Result<(), RecordError> {
        for order in self.control.orders() {
            match order {
                Order::Stop if !self.stopping => self.stop()?,
                Order::Stop => {}
                Order::SkipNames => self.skip_names = true,
            }
        }
        Ok(())
    }

    /// Ends sampling, takes what is still under way, and closes the last window.
    fn stop(&mut self) -> Result<(), RecordError> {
        self.sampler.disable()?;
        let until = clock::boot_ns() + HOLD_BACK_NS;
        while clock::boot_ns() < until {
            self.take_side_band();
            self.serve_reader()?;
            self.wait()?;
        }
        self.take_side_band();
        self.fetch()?;
        self.stopping = true;
        self.attribute(u64::MAX)?;
        self.close_window()
    }

    fn take_side_band(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.sampler.drain_side_band(&mut events);
        for event in &events {
            match &event.what {
                What::Comm { exec: true, .. } => self.latencies.exec(event.pid, event.time_ns),
                What::Map(_) => self.latencies.mapped(event.pid),
                _ => {}
            }
            self.table.side_band(event);
        }
        events.clear();
        self.events = events;
        self.apply_changes();
    }

    /// Does what the table's changes ask for; the kernel side hears of mappings first.
    fn apply_changes(&mut self) {
        let changes = self.table.take_changes();
        let mut seen = HashSet::new();
        for change in &changes {
            if let Change::Mappings(life) = change
                && seen.insert(*life)
            {
                self.publish(*life);
            }
        }
        let mut described = HashSet::new();
        for change in changes {
            match change {
                Change::Open(pid, mapping) => self.symbolizer.open(pid, &mapping),
                Change::Describe(pid) => {
                    if described.insert(pid) {
                        self.symbolizer.describe(Some(pid));
                    }
                }
                Change::Mappings(_) => {}
            }
        }
    }

    fn publish(&mut self, id: LifeId) {
        let Some(life) = self.table.life(id) else { return };
        let range = |m: &std::sync::Arc<crate::process::Mapping>| Range {
            start: m.start,
            end: m.end,
            ..Range::default()
        };
        let mut ranges: Vec<_> = life.current().map(range).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let pid = life.process.pid;
        self.sampler.publish(pid, life.start_ns(), &ranges);
        self.latencies.published(pid);
    }

    fn serve_reader(&mut self) -> Result<(), RecordError> {
        let urgent = !self.closing.is_empty();
        for info in self.symbolizer.poll(urgent) {
            self.table.describe(&info);
        }
        self.apply_changes();
        self.watch_reader()
    }

    /// Takes what waits in the ring, and attributes the samples that are old enough.
    fn fetch(&mut self) -> Result<(), RecordError> {
        let now_ns = clock::boot_ns();
        self.fetched = Instant::now();
        let Self { sampler, raw, queue, samples, settings, .. } = self;
        let before = *samples;
        sampler.drain(|record| match record {
            Record::Stack(header, frames) => raw.add(&header, frames),
            Record::Sample(sample) => {
                *samples += 1;
                queue.push_back(sample);
            }
        });
        if before == 0 && *samples > 0 {
            let age = queue.front().map_or(0, |sample| now_ns.saturating_sub(sample.time_ns));
            let after = settings.started.elapsed().saturating_sub(Duration::from_nanos(age));
            tracing::info!("first sample after {} ms", after.as_millis());
        }
        self.attribute(now_ns.saturating_sub(HOLD_BACK_NS))?;
        if self.raw.bytes() > RAW_STACK_BYTES {
            self.sampler.next_epoch()?;
        }
        self.control.count(self.samples);
        Ok(())
    }

    /// Attributes the samples of up to `until_ns`.
    fn attribute(&mut self, until_ns: u64) -> Result<(), RecordError> {
        let decided = self.settings.filter.is_all();
        while let Some(sample) = self.queue.pop_front_if(|sample| sample.time_ns <= until_ns) {
            let Sample { pid, start_ns, exec_id, time_ns, .. } = sample;
            let image = self.table.image_of(pid, start_ns, exec_id, time_ns);
            if pid == sample.tid {
                self.table.seen_comm(image.life, &comm_text(&sample.comm));
            }
            if !decided && !self.is_profiled(image.life, start_ns, exec_id)? {
                continue;
            }
            let mappings = self.table.life(image.life).and_then(|life| life.mappings(image.image));
            let covered = self.aggregate.add(&sample, image, mappings, &mut self.raw);
            if !covered {
                self.table.uncovered(image.life, time_ns);
            }
        }
        self.want_names();
        Ok(())
    }

    /// Asks for the names of what was seen for the first time.
    fn want_names(&mut self) {
        let Self { aggregate, symbolizer, table, .. } = self;
        let from = aggregate.take_new_places();
        for place in &aggregate.places[from..] {
            match place.code {
                Code::Kernel => symbolizer.want_kernel(place.avma),
                Code::File(id) => {
                    if let Some(mapping) = aggregate.mappings.get(&id) {
                        symbolizer.want_file(id, mapping.file_offset_of(place.avma));
                    }
                }
                Code::Generated(life, _) => {
                    if let Some(life) = table.life(life) {
                        symbolizer.want_perf_map(life, place.avma);
                    }
                }
                Code::Unmapped(_) | Code::Lost => {}
            }
        }
    }

    /// Whether a sampled process is asked for; the kernel side is told, so that it asks no more.
    fn is_profiled(
        &mut self,
        id: LifeId,
        start_ns: u64,
        exec_id: u32,
    ) -> Result<bool, RecordError> {
        let Some(life) = self.table.life_mut(id) else { return Ok(false) };
        let Some(profiled) = life.profiled else { return Ok(false) };
        if life.told != Some(exec_id) {
            life.told = Some(exec_id);
            let pids = self.settings.filter.is_pids();
            let target = Target {
                start_ns,
                exec_id,
                profiled: u16::from(profiled),
                inherited: u16::from(profiled && (life.inherited || pids)),
            };
            self.sampler.set_target(life.process.pid, target)?;
        }
        Ok(profiled)
    }

    fn close_window(&mut self) -> Result<(), RecordError> {
        let now = (SystemTime::now(), Instant::now());
        let (start, started) = std::mem::replace(&mut self.window_start, now);
        let losses = self.sampler.losses()?;
        let aggregate = std::mem::take(&mut self.aggregate);
        let before = std::mem::replace(&mut self.losses_before, losses);
        self.closing.push_back(Closing {
            aggregate,
            start,
            duration: now.1.duration_since(started),
            losses: losses.since(&before),
            ended: now.1,
        });
        self.symbolizer.retry_perf_maps();
        if !self.stopping {
            self.sampler.next_epoch()?;
        }
        Ok(())
    }

    /// Hands out windows whose names have come, or are not waited for any more.
    fn hand_out(&mut self) {
        while let Some(closing) = self.closing.front() {
            let settled = self.symbolizer.outstanding() == 0;
            if !settled && !self.skip_names && closing.ended.elapsed() < NAMING {
                return;
            }
            let Some(closing) = self.closing.pop_front() else { return };
            if !settled {
                tracing::warn!(
                    "{} addresses have no name yet, and are not waited for",
                    self.symbolizer.outstanding()
                );
            }
            let window = self.window(&closing);
            let profiles = Builder {
                aggregate: &closing.aggregate,
                table: &self.table,
                symbolizer: &self.symbolizer,
                window: &window,
                kernel_build_id: Arc::clone(&self.kernel_build_id),
                inlines: !self.settings.no_inlines,
            }
            .build();
            self.control.tell(News::Window(window, profiles));
            self.forget();
        }
    }

    fn window(&self, closing: &Closing) -> Window {
        let losses = &closing.losses;
        let counts = [
            ("samples", losses.samples()),
            ("samples_missed", losses.missed),
            ("samples_ring_full", losses.counters.ring_full),
            ("samples_nested", losses.counters.busy),
            ("stacks", closing.aggregate.stacks_lost),
            ("stack_id_collisions", self.raw.collisions()),
            ("side_band", losses.side_band),
            ("forks", losses.counters.fork_lost),
        ];
        let losses: Vec<_> =
            counts.into_iter().filter(|(name, count)| *count > 0 || *name == "samples").collect();
        let lost = losses.iter().map(|(name, count)| format!("lost.{name}={count}"));
        Window {
            kind: Kind::Cpu,
            start: closing.start,
            duration: closing.duration,
            period: self.sampler.period_ns(),
            comments: self.settings.comments.iter().cloned().chain(lost).collect(),
            losses,
        }
    }

    /// Forgets what no window needs any more.
    fn forget(&mut self) {
        let mut keep = self.aggregate.lives();
        for closing in &self.closing {
            keep.extend(closing.aggregate.lives());
        }
        for pid in self.table.forget(clock::boot_ns(), &keep) {
            self.sampler.forget_target(pid);
            self.sampler.withdraw(pid);
        }
        let mut mappings: HashSet<MappingId> =
            self.table.lives().flat_map(|life| life.current().map(|mapping| mapping.id)).collect();
        mappings.extend(self.aggregate.mappings.keys());
        for closing in &self.closing {
            mappings.extend(closing.aggregate.mappings.keys());
        }
        let lives = self.table.lives().map(|life| life.id).collect();
        self.symbolizer.retain(&mappings, &lives);
    }

    /// Says how it went, to those who look closely.
    fn report(&self) {
        let figures = self.symbolizer.figures();
        tracing::info!(
            "naming took {} ms for {} addresses in {} files",
            figures.busy.as_millis(),
            figures.addresses,
            figures.files
        );
        if let Some(text) = self.latencies.text() {
            tracing::info!("exec to kernel mappings: {text}");
        }
        tracing::info!("readers started: {}", self.symbolizer.readers_started());
    }
}

/// Lets this thread, and the reader it starts, run soon when something happens, also on a busy
/// machine: a process may be gone in milliseconds. It takes little time when it runs.
fn hurry() {
    const NICE: i32 = -10;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("the recording's priority stays as it is: {error}");
    }
}
