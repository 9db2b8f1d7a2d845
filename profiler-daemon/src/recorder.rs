//! The recording: one thread that takes what the kernel sends, attributes it, has it named, and
//! hands out the profiles of each window.

mod account;
mod attribution;
mod caution;
mod changes;
mod clock;
mod collection;
mod collections;
pub mod control;
mod copies;
mod error;
mod go;
mod go_running;
mod go_waits;
mod latency;
mod limits;
mod looks;
mod mappings;
mod own;
mod pressure;
mod rates;
mod requests;
mod settings;
mod spent;
mod throttle;
mod waits;
mod watch;
mod windows;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_ebpf::targets::{Mode, Target};
use rustix::event::epoll;

use crate::{
    kernel::{self, Record, Sampler, SideBand, What, defects::Version},
    process::Table,
    profile::raw_stacks::RawStacks,
    symbolize::Symbolizer,
    unwind::{Tables, cache::Cache},
};
use account::Account;
use attribution::Queued;
use collections::Collections;
pub use control::{Control, News, Order};
use copies::Copies;
pub use error::RecordError;
pub use go::GoRequest;
use go::GoRequests;
use go_waits::GoWaits;
pub use go_waits::{GoWaitsRequest, NoGoWaits};
use latency::Latencies;
use limits::Keeper;
pub use limits::Limits;
use looks::Look;
use mappings::Waiting;
pub use own::Own;
use pressure::Pressure;
pub use requests::{Request, Scope};
pub use settings::Settings;
use spent::Times;
use throttle::Throttle;
pub use waits::Closeness;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {copies::return_address, mappings::bias, waits::weighed};

/// A sample waits this long until it is attributed: side-band records of its time may still come.
const HOLD_BACK_NS: u64 = 50_000_000;

/// So many records are taken from the ring before other things have their turn: milliseconds' work.
const DRAIN: usize = 16_384;

/// How often samples are fetched.
const FETCH: Duration = Duration::from_millis(200);

/// How often samples are fetched that somebody waits for.
const SEEK: Duration = Duration::from_millis(20);

/// How often the kernel side is told of processes that have ended.
const WITHDRAW: Duration = Duration::from_secs(2);

/// How often we look which CPUs are online.
const FOLLOW: Duration = Duration::from_secs(1);

/// How often we look what we take ourselves.
const WATCH: Duration = Duration::from_secs(5);

/// Stacks of an epoch are forgotten when they take this many bytes.
const RAW_STACK_BYTES: usize = 16 << 20;

/// What epoll says of the records' wake-ups, and of everything else.
const RECORDS: u64 = 1;
const ANYTHING: u64 = 0;

/// How long the end waits for unwind tables that the last samples lack.
const LAST_TABLES: Duration = Duration::from_secs(1);

/// How long the end waits until threads have been looked at.
const LAST_LOOKS: Duration = Duration::from_secs(4);

/// The state of a recording.
pub struct Recorder {
    settings: Settings,
    sampler: Sampler,
    table: Table,
    symbolizer: Symbolizer,
    tables: Tables,
    waiting: Waiting,
    control: Control,
    epoll: std::os::fd::OwnedFd,
    events: Vec<SideBand>,
    /// All side-band records from before this time have been taken.
    side_band_ns: u64,
    /// Records were left in the ring.
    more_waits: bool,
    queue: VecDeque<Queued>,
    copies: Copies,
    looks: Vec<Look>,
    times: Option<Times>,
    /// Threads as they were when the recording was told to stop, and when that was.
    last_threads: Option<(Vec<kernel::Snapshot>, u64)>,
    go: GoRequests,
    go_waits: GoWaits,
    /// Waits whose begin is not known, by thread and when they were first seen.
    seeded: HashMap<u32, u64>,
    raw: RawStacks,
    collections: Collections,
    /// All samples from before this time are attributed, or wait for unwind tables.
    attributed_ns: u64,
    fetched: Instant,
    withdrew: Instant,
    followed: Instant,
    watched: Instant,
    /// CPU time of ours, as it was last looked at.
    cpu_ns: u64,
    throttle: Throttle,
    pressure: Pressure,
    keeper: Keeper,
    account: Account,
    stopping: bool,
    is_off: bool,
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
        let settings = if settings.ignore_defects {
            settings
        } else {
            let limit = throttle::limit().unwrap_or(u64::MAX);
            caution::careful(settings, Version::upstream(), limit)
        };
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
            most_hertz: settings.most_hertz,
            event: settings.event,
            mode,
            follow: filter.follow,
            kernel_stacks: settings.kernel_stacks,
            user_stacks: settings.user_stacks,
            may_wait: settings.may_wait,
            unwind_memory_bytes: settings.unwind_memory_bytes,
            log: settings.log,
        })?;
        let cache = settings.unwind_cache.as_deref().filter(|_| settings.user_stacks);
        let cache = cache.and_then(|dir| {
            let warn = |error: &_| {
                tracing::warn!(
                    "unwind tables are not kept for the next run: {error}; or give another \
                     directory with --unwind-cache, or `off`"
                );
            };
            Cache::open(dir).inspect_err(warn).ok()
        });
        let symbolizer =
            Symbolizer::start(settings.debug_dirs.clone(), settings.no_inlines, cache)?;
        for &pid in &filter.pids {
            let target = Target { start_ns: 0, exec_id: 0, profiled: 1, inherited: 1 };
            sampler.set_target(pid, target)?;
        }
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(RecordError::of("epoll_create1"))?;
        let mut table = Table::new(settings.filter.clone());
        if let Some(pid) = settings.becomes_command {
            table.becomes_command(pid);
        }
        let collections = Collections::new(settings.hertz, &settings.kinds);
        let keeper = Keeper::new(settings.limits);
        let mut recorder = Self {
            settings,
            sampler,
            table,
            symbolizer,
            tables: Tables::default(),
            waiting: Waiting::default(),
            control,
            epoll,
            events: Vec::new(),
            side_band_ns: 0,
            more_waits: false,
            queue: VecDeque::new(),
            copies: Copies::default(),
            looks: Vec::new(),
            times: None,
            last_threads: None,
            go: GoRequests::default(),
            go_waits: GoWaits::default(),
            seeded: HashMap::new(),
            raw: RawStacks::default(),
            collections,
            attributed_ns: 0,
            fetched: Instant::now(),
            withdrew: Instant::now(),
            followed: Instant::now(),
            watched: Instant::now(),
            cpu_ns: 0,
            throttle: Throttle::default(),
            pressure: Pressure::new(),
            keeper,
            account: Account::default(),
            stopping: false,
            is_off: false,
            skip_names: false,
            kernel_build_id: clock::kernel_build_id().into(),
            latencies: Latencies::new(),
        };
        recorder.watch()?;
        Ok(recorder)
    }

    /// Puts everything that may wake us into the epoll set.
    fn watch(&mut self) -> Result<(), RecordError> {
        let add = |fd, flags, data| {
            epoll::add(&self.epoll, fd, epoll::EventData::new_u64(data), flags)
                .map_err(RecordError::of("epoll_ctl"))
        };
        self.watch_cpus()?;
        // A ring of records is readable whenever something is in it; only its wake-ups count.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        add(self.sampler.records_fd(), flags, RECORDS)?;
        add(self.control.wake_fd(), epoll::EventFlags::IN, ANYTHING)?;
        if let Some(fd) = self.symbolizer.cache_fd() {
            add(fd, epoll::EventFlags::IN, ANYTHING)?;
        }
        self.watch_reader()
    }

    fn watch_cpus(&self) -> Result<(), RecordError> {
        for fd in self.sampler.side_band_fds() {
            let data = epoll::EventData::new_u64(ANYTHING);
            match epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(RecordError::of("epoll_ctl")(errno)),
            }
        }
        Ok(())
    }

    /// Samples CPUs that have come online, and notices what went, or is throttled.
    fn follow_machine(&mut self) -> Result<(), RecordError> {
        self.followed = Instant::now();
        let moves = self.sampler.follow_cpus()?;
        for cpu in moves.gone {
            let why = if self.is_off { "is not sampled any more" } else { "went offline" };
            tracing::info!("CPU {cpu} {why}");
        }
        if !moves.came.is_empty() {
            tracing::info!("sampling CPUs that came online: {:?}", moves.came);
            self.watch_cpus()?;
        }
        self.throttle.look(self.settings.hertz);
        if self.pressure.is_high() {
            self.give_caches_up()?;
        }
        if self.watched.elapsed() >= WATCH {
            self.watch_ourselves()?;
        }
        Ok(())
    }

    fn watch_reader(&mut self) -> Result<(), RecordError> {
        for fd in self.symbolizer.new_fds() {
            let data = epoll::EventData::new_u64(ANYTHING);
            epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)
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
        // Before the first sample, which would be of no window.
        self.follow_kinds()?;
        let looks_at_threads = self.settings.kinds.iter().any(|kind| kind.looks_at_threads());
        if self.settings.tells_times || looks_at_threads {
            self.sampler.prepare_snapshot()?;
        }
        if self.collections.rate() != self.settings.hertz {
            self.sampler.set_rate(self.collections.rate())?;
        }
        // Before anybody is told that it begins: a thread may end at once.
        if let Err(error) = self.begin_times() {
            tracing::warn!("how threads spend their time is not told: {error}");
        }
        self.collections.begin();
        self.sampler.enable()?;
        self.latencies.begin();
        tracing::info!("sampling {} CPUs at {} Hz", self.sampler.cpus(), self.collections.rate());
        self.control.tell(News::Started);
        loop {
            let much_waits = self.wait()?;
            self.take_orders()?;
            self.take_side_band();
            self.serve_reader()?;
            if much_waits || self.more_waits || self.seeks_samples() {
                self.drain();
            }
            self.follow_looks();
            self.follow_go();
            self.follow_running()?;
            self.follow_go_waits();
            if self.fetched.elapsed() >= FETCH || self.copies.has_more() || self.stopping {
                self.fetch()?;
            }
            if let Some(window) = self.settings.window
                && !self.stopping
                && self.collections.is_window_due(window)
            {
                self.close_window()?;
            }
            if !self.stopping {
                self.end_requests()?;
            }
            self.hand_out();
            if self.withdrew.elapsed() >= WITHDRAW {
                self.withdraw_ended();
            }
            if self.followed.elapsed() >= FOLLOW && !self.stopping {
                self.follow_machine()?;
            }
            if self.stopping && !self.collections.is_any_ending() {
                break;
            }
        }
        self.report()
    }

    /// Waits until there is something to do. Returns whether the kernel side has said that much
    /// waits for us.
    fn wait(&mut self) -> Result<bool, RecordError> {
        let timeout = if self.more_waits || self.copies.has_more() {
            Duration::ZERO
        } else if self.stopping {
            Duration::from_millis(5)
        } else {
            let fetch = FETCH.saturating_sub(self.fetched.elapsed());
            let end = self.collections.next_end(self.settings.window);
            let seek = self.seeks_samples().then_some(SEEK);
            [end, seek].into_iter().flatten().fold(fetch, Duration::min)
        };
        let timeout = rustix::time::Timespec::try_from(timeout)
            .unwrap_or(rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 16];
        match epoll::wait(&self.epoll, &mut ready[..], Some(&timeout)) {
            Ok(count) => Ok(ready[..count].iter().any(|event| event.data.u64() == RECORDS)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(RecordError::of("epoll_wait")(errno)),
        }
    }

    /// Whether somebody waits for what the clock meets next.
    fn seeks_samples(&self) -> bool {
        self.go.running.is_sought() || self.looks.iter().any(Look::seeks_samples)
    }

    fn take_orders(&mut self) -> Result<(), RecordError> {
        for order in self.control.orders() {
            match order {
                Order::Stop if !self.stopping => self.stop()?,
                Order::Stop => {}
                Order::SkipNames => self.skip_names = true,
                Order::Record(request) if !self.stopping => self.begin_request(*request)?,
                // Whoever waits for it hears that it is gone.
                Order::Record(_) => {}
                Order::ReadGo(request) => self.begin_go(*request),
                Order::WatchGo(request) => self.begin_go_waits(*request),
                Order::TellGo(tag, reply) => self.tell_go_waits(tag, reply),
                Order::End(tag) => {
                    self.collections.cut_short(tag);
                    self.go_waits.cut_short(tag);
                }
                Order::Off(off) => {
                    self.sampler.set_off(off);
                    self.is_off = off;
                    if off {
                        self.end_go_waits("rprofd is switched off");
                    }
                    self.follow_kinds()?;
                    self.follow_machine()?;
                }
                Order::Configure { hertz, window, limits } if !self.stopping => {
                    self.settings.hertz = hertz.clamp(1, self.settings.most_hertz);
                    self.settings.window = Some(window);
                    self.keeper.set(limits);
                    self.obey_limits()?;
                }
                Order::Configure { .. } => {}
                Order::List(reply) => {
                    let there = self.table.lives().filter(|life| life.is_there());
                    let _ = reply.send(there.map(|life| Arc::clone(&life.process)).collect());
                }
                Order::ListProfiled(reply) => {
                    let is_meant = |life: &&crate::process::Life| {
                        life.is_there() && life.profiled == Some(true) && !life.is_ours_now()
                    };
                    let there = self.table.lives().filter(is_meant);
                    let _ = reply.send(there.map(|life| Arc::clone(&life.process)).collect());
                }
            }
        }
        Ok(())
    }

    /// Ends sampling, takes what is still under way, and closes the last window.
    fn stop(&mut self) -> Result<(), RecordError> {
        let begin = Instant::now();
        self.follow_looks();
        while !self.looks.is_empty() && begin.elapsed() < LAST_LOOKS {
            self.wait()?;
            self.take_side_band();
            self.serve_reader()?;
            self.fetch()?;
            self.follow_looks();
        }
        self.stop_times()?;
        self.sampler.disable()?;
        let until = clock::boot_ns() + HOLD_BACK_NS;
        while clock::boot_ns() < until {
            self.take_side_band();
            self.serve_reader()?;
            self.wait()?;
        }
        self.take_side_band();
        self.fetch()?;
        while self.more_waits {
            self.fetch()?;
        }
        self.stopping = true;
        self.attribute(u64::MAX)?;
        let begin = Instant::now();
        while self.copies.has_more() || !self.copies.is_empty() && begin.elapsed() < LAST_TABLES {
            self.serve_reader()?;
            self.attribute(u64::MAX)?;
            self.wait()?;
        }
        self.give_copies_up(u32::MAX)?;
        let profiled = self.table.lives().filter(|life| life.profiled == Some(true)).count();
        self.close_window()?;
        self.control.tell(News::Stopped(profiled, self.spent()));
        self.follow_kinds()
    }

    fn take_side_band(&mut self) {
        self.side_band_ns = clock::boot_ns();
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

    fn serve_reader(&mut self) -> Result<(), RecordError> {
        self.symbolizer.hurry(self.stopping || self.collections.is_any_held_up());
        let urgent = self.collections.is_any_ending();
        for info in self.symbolizer.poll(urgent) {
            self.table.describe(&info);
        }
        for pid in self.symbolizer.take_gone() {
            self.table.gone(pid, clock::boot_ns());
        }
        self.apply_changes();
        self.take_file_news()?;
        self.watch_reader()
    }

    /// Takes what waits in the ring, or much of it: the side band is not to wait for long.
    fn drain(&mut self) {
        let Self { sampler, raw, queue, account, settings, looks, go, go_waits, table, .. } = self;
        let before = account.received;
        self.more_waits = !sampler.drain(DRAIN, |record| match record {
            Record::Stack(header, frames) => raw.add(&header, frames),
            Record::Sample(sample) => {
                account.received += 1;
                looks.iter_mut().for_each(|look| look.take_sample(&sample, None));
                queue.push_back(Queued::Sample(sample, None));
            }
            Record::Copy(sample, copy) => {
                account.received += 1;
                looks.iter_mut().for_each(|look| look.take_sample(&sample, Some(&copy)));
                queue.push_back(Queued::Sample(sample, Some(copy)));
            }
            Record::WaitCopy(sample, copy) => queue.push_back(Queued::WaitCopy(sample, copy)),
            Record::Wait(kind, wait) => queue.push_back(Queued::Wait(kind, Box::new(wait))),
            Record::Spawn(sample) => queue.push_back(Queued::Spawn(sample)),
            Record::GoWait(kind, wait) => go_waits.take(kind, &wait, raw, table),
            Record::RunningGoroutine(told) => go.running.take(&told, raw, table),
        });
        if before == 0 && account.received > 0 {
            let now_ns = clock::boot_ns();
            let age = queue.front().map_or(0, |queued| now_ns.saturating_sub(queued.time_ns()));
            let after = settings.started.elapsed().saturating_sub(Duration::from_nanos(age));
            tracing::info!("first sample after {} ms", after.as_millis());
        }
    }

    /// Takes what waits in the ring, and attributes the samples whose side band is here.
    fn fetch(&mut self) -> Result<(), RecordError> {
        self.fetched = Instant::now();
        self.drain();
        self.attribute(self.side_band_ns.saturating_sub(HOLD_BACK_NS))?;
        if self.raw.bytes() > RAW_STACK_BYTES {
            self.next_epoch()?;
        }
        self.control.count(self.account.received);
        Ok(())
    }

    /// Lets stacks be sent again, and those of the epoch before this one be forgotten.
    fn next_epoch(&mut self) -> Result<(), RecordError> {
        self.pin_stacks()?;
        let epoch = self.sampler.next_epoch()?;
        self.give_copies_up(epoch - 1)
    }

    /// Says how it went, to those who look closely.
    fn report(&mut self) -> Result<(), RecordError> {
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
        if self.tables.dropped() > 0 {
            tracing::info!("unwind tables dropped for want of room: {}", self.tables.dropped());
        }
        tracing::info!("readers started: {}", self.symbolizer.readers_started());
        tracing::info!("{}", self.account.close(self.sampler.losses()?.counters));
        Ok(())
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
