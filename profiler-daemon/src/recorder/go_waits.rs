//! What the goroutines of Go programs wait for, where the programs do not count it themselves: taken
//! with probes in them, for those who ask, as long as that costs the programs little.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use profiler_ebpf::{
    go_waits::{GoWait, Program},
    record::Kind as RecordKind,
    waits::in_period,
};
use tokio::sync::oneshot;

use super::{Recorder, clock};
use crate::{
    kernel::{Probes, Scheduler},
    process::{Life, LifeId, Table},
    profile::{Kind, go::measured, raw_stacks::RawStacks},
    reader::protocol::{GoMemory, GoScheduler, GoWhat},
    symbolize::ReadGo,
};

/// How often in a second goroutines of a process may begin to wait, or go on, while it has probes:
/// each time takes it about a microsecond.
const BUDGET: u64 = 25_000;

/// How often it is looked whether that is kept.
const LOOK: Duration = Duration::from_millis(200);

/// So many stacks of goroutines are taken on a CPU in a second.
const CPU_STACKS: u32 = 2_000;

/// How long probes may take to be there: it depends on the program, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// What distinct stacks may take in memory that are kept for somebody, in bytes.
const MOST_BYTES: usize = 4 << 20;

/// The most who ask at a time.
const MOST_ASKED: usize = 16;

/// The most frames of a stack: as many as Go's own profiles have.
const MOST_FRAMES: usize = 128;

/// Who asks for what the goroutines of a process wait for from now on.
#[derive(Debug)]
pub struct GoWaitsRequest {
    /// The process.
    pub pid: u32,
    /// [`Kind::Block`]: where they wait; [`Kind::Mutex`]: where what they waited for was released.
    pub kind: Kind,
    /// For how long.
    pub duration: Duration,
    /// [`super::Order::End`] with this ends it before; 0: nothing does.
    pub tag: u64,
    /// Whoever this user may not look at is not there.
    pub viewer: Option<u32>,
    /// Where to send it.
    pub reply: oneshot::Sender<Result<GoMemory, NoGoWaits>>,
}

/// Why there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoGoWaits {
    /// A sentence.
    Refused(String),
    /// It would cost the program too much: so often in a second did its goroutines begin to wait, or
    /// go on.
    TooMany(u64),
}

impl fmt::Display for NoGoWaits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::TooMany(per_second) => {
                write!(f, "probes would be met {per_second} times a second")
            }
        }
    }
}

/// Processes that have probes, or will.
#[derive(Default)]
pub(super) struct GoWaits {
    watched: HashMap<u32, Watched>,
    generation: u32,
}

/// A process that is watched.
struct Watched {
    life: LifeId,
    /// How often it had called `exec` when its goroutines were first seen to wait: what it becomes later
    /// is another program.
    exec_id: Option<u32>,
    /// Events that the kernel side had no room for.
    lost: u64,
    state: State,
    since: Instant,
    version: String,
    all: Vec<Collector>,
}

enum State {
    /// It is being read where its scheduler is, under a tag.
    Reading(u64),
    /// It will have probes.
    Attaching(Probes),
    /// It has them.
    Watching {
        _probes: Probes,
        /// What was counted when it was last looked, and when that was.
        events: u64,
        looked: Instant,
    },
}

/// What is taken for somebody.
struct Collector {
    request: GoWaitsRequest,
    /// Boot-time clock, in nanoseconds, once there are probes.
    until_ns: Option<u64>,
    stacks: HashMap<Box<[u64]>, Weighed>,
    bytes: usize,
    lost: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Weighed {
    count: f64,
    delay_ns: f64,
}

impl Weighed {
    /// One that was kept by chance stands for others.
    fn add(&mut self, wait: &GoWait) {
        let delay_ns = wait.delay_ns.max(1) as f64;
        let stands_for = (wait.rate_ns as f64 / delay_ns).max(1.0);
        self.count += stands_for;
        self.delay_ns += delay_ns * stands_for;
    }
}

impl GoWaits {
    /// Ends what was asked for under this tag.
    pub(super) fn cut_short(&mut self, tag: u64) {
        let all = self.watched.values_mut().flat_map(|watched| &mut watched.all);
        for collector in all.filter(|it| tag != 0 && it.request.tag == tag) {
            collector.until_ns = Some(clock::boot_ns());
        }
    }

    /// A goroutine goes on.
    pub(super) fn take(
        &mut self,
        kind: RecordKind,
        wait: &GoWait,
        raw: &mut RawStacks,
        table: &Table,
    ) {
        let Some(watched) = self.watched.get_mut(&wait.sample.pid) else { return };
        // The first frame of what has released a lock is where it called the scheduler.
        let (kind, first) =
            if kind == RecordKind::GoMutex { (Kind::Mutex, 1) } else { (Kind::Block, 0) };
        let sample = &wait.sample;
        let is_of_it = table.life(watched.life).is_some_and(|it| it.started_at(sample.start_ns));
        if !is_of_it || sample.exec_id != *watched.exec_id.get_or_insert(sample.exec_id) {
            return;
        }
        let frames = raw.get(sample.epoch, sample.user_stack, sample.user_check);
        let frames = frames.and_then(|frames| frames.get(first..));
        let of_kind = watched.all.iter_mut().filter(|it| it.request.kind == kind);
        for collector in of_kind.filter(|it| it.until_ns.is_some_and(|end| sample.time_ns <= end)) {
            collector.take(frames, wait);
        }
    }
}

impl Collector {
    fn end_from_now(&self) -> u64 {
        let length_ns = u64::try_from(self.request.duration.as_nanos()).unwrap_or(u64::MAX);
        clock::boot_ns().saturating_add(length_ns)
    }

    fn take(&mut self, frames: Option<&[u64]>, wait: &GoWait) {
        let frames = frames.map(|frames| &frames[..frames.len().min(MOST_FRAMES)]);
        let known = frames.and_then(|frames| self.stacks.get_mut(frames));
        match (known, frames) {
            (Some(known), _) => known.add(wait),
            (None, Some(frames)) if self.bytes < MOST_BYTES => {
                self.bytes += size_of_val(frames) + size_of::<(Box<[u64]>, Weighed)>();
                self.stacks.entry(frames.into()).or_default().add(wait);
            }
            _ => self.lost += 1,
        }
    }

    /// What there is.
    fn memory(&self, version: &str, lost: u64) -> GoMemory {
        let source = "probes on runtime.gopark and runtime.ready".to_owned();
        let stacks = self.stacks.iter().map(|(stack, weighed)| {
            (&**stack, weighed.count.round() as i64, weighed.delay_ns.round() as i64)
        });
        GoMemory { left_out: self.lost + lost, ..measured(version, source, stacks) }
    }

    /// Somebody gets it.
    fn end(self, version: &str, lost: u64) {
        let memory = self.memory(version, lost);
        // Whoever asked may have gone.
        let _ = self.request.reply.send(Ok(memory));
    }

    fn refuse(self, why: NoGoWaits) {
        let _ = self.request.reply.send(Err(why));
    }
}

impl Recorder {
    pub(super) fn begin_go_waits(&mut self, request: GoWaitsRequest) {
        let pid = request.pid;
        let seen = self.seen(pid, request.viewer).map(|life| life.id);
        let asked: usize = self.go_waits.watched.values().map(|watched| watched.all.len()).sum();
        let life = match seen {
            Some(seen) if !self.is_off && self.settings.user_stacks && asked < MOST_ASKED => seen,
            other => {
                let why = match other {
                    None => format!("there is no process {pid}"),
                    _ if self.is_off => "rprofd is switched off".to_owned(),
                    _ if !self.settings.user_stacks => "user stacks are not taken".to_owned(),
                    _ => "too many ask what goroutines wait for: ask again later".to_owned(),
                };
                let _ = request.reply.send(Err(NoGoWaits::Refused(why)));
                return;
            }
        };
        let mut collector =
            Collector { request, until_ns: None, stacks: HashMap::new(), bytes: 0, lost: 0 };
        // It may be of another process that had the pid.
        if self.go_waits.watched.get(&pid).is_some_and(|watched| watched.life != life) {
            self.end_watch(pid, None);
        }
        if let Some(watched) = self.go_waits.watched.get_mut(&pid) {
            if matches!(watched.state, State::Watching { .. }) {
                collector.until_ns = Some(collector.end_from_now());
            }
            watched.all.push(collector);
            return;
        }
        let tag = self.read_go(pid, GoWhat::Scheduler);
        let watched = Watched {
            life,
            exec_id: None,
            lost: 0,
            state: State::Reading(tag),
            since: Instant::now(),
            version: String::new(),
            all: vec![collector],
        };
        self.go_waits.watched.insert(pid, watched);
    }

    /// It is known where the scheduler of a program is, or why it is not.
    pub(super) fn scheduler_read(&mut self, read: ReadGo) {
        let mut all = self.go_waits.watched.iter();
        let is_it = |state: &State| matches!(state, State::Reading(tag) if *tag == read.tag);
        let Some((&pid, _)) = all.find(|(_, watched)| is_it(&watched.state)) else { return };
        let found = match read.found {
            Ok(memory) if memory.refusal.is_empty() => {
                memory.scheduler.ok_or_else(String::new).map(|it| (it, memory.version))
            }
            Ok(memory) => Err(memory.refusal),
            Err(why) => Err(why),
        };
        let probes = found.and_then(|(scheduler, version)| {
            self.probe(pid, &scheduler).map(|probes| (probes, version))
        });
        match probes {
            Ok((probes, version)) => {
                if let Some(watched) = self.go_waits.watched.get_mut(&pid) {
                    watched.state = State::Attaching(probes);
                    watched.version = version;
                }
            }
            Err(why) => self.end_watch(pid, Some(&NoGoWaits::Refused(why))),
        }
    }

    fn probe(&mut self, pid: u32, found: &GoScheduler) -> Result<Probes, String> {
        let life = self.go_waits.watched.get(&pid).and_then(|it| self.table.life(it.life));
        let life = life.filter(|life| life.is_there());
        life.ok_or_else(|| format!("process {pid} has ended"))?;
        let offset = |offset: u32| u16::try_from(offset).unwrap_or_default();
        self.go_waits.generation += 1;
        let program = Program {
            begin_ns: clock::boot_ns(),
            waits: found.waits,
            locks: found.locks,
            events: 0,
            lost: 0,
            generation: self.go_waits.generation,
            rate_ns: 1,
            pace: in_period(CPU_STACKS),
            m: offset(found.m),
            curg: offset(found.curg),
            sched_sp: offset(found.sched_sp),
            sched_bp: offset(found.sched_bp),
        };
        let scheduler = Scheduler {
            park: found.park_offset,
            ready: found.ready_offset,
            file: (found.device, found.inode),
        };
        let probes = self.sampler.watch_go(pid, &program, scheduler, self.control.waker());
        probes.map_err(|error| format!("probes in process {pid}: {error}"))
    }

    /// Tells what there is so far of what was asked for under this tag.
    pub(super) fn tell_go_waits(&mut self, tag: u64, reply: oneshot::Sender<GoMemory>) {
        self.drain();
        for watched in self.go_waits.watched.values() {
            let collector = watched.all.iter().find(|it| tag != 0 && it.request.tag == tag);
            if let Some(collector) = collector {
                let _ = reply.send(collector.memory(&watched.version, watched.lost));
                return;
            }
        }
    }

    /// Looks how far those are that are watched, and ends what is over.
    pub(super) fn follow_go_waits(&mut self) {
        let pids: Vec<u32> = self.go_waits.watched.keys().copied().collect();
        for pid in pids {
            match self.follow_watched(pid) {
                Ok(()) => {}
                Err(why) => self.end_watch(pid, Some(&why)),
            }
            self.end_collectors(pid);
        }
    }

    fn follow_watched(&mut self, pid: u32) -> Result<(), NoGoWaits> {
        let refused = |why: String| Err(NoGoWaits::Refused(why));
        let Some(watched) = self.go_waits.watched.get_mut(&pid) else { return Ok(()) };
        match &mut watched.state {
            State::Reading(_) => Ok(()),
            State::Attaching(probes) => match probes.attached() {
                Some(Ok(())) => {
                    for collector in &mut watched.all {
                        let end = collector.end_from_now();
                        collector.until_ns.get_or_insert(end);
                    }
                    let attaching = std::mem::replace(&mut watched.state, State::Reading(0));
                    if let State::Attaching(_probes) = attaching {
                        // Some came while they were being attached.
                        let ((events, _), looked) = (self.sampler.go_events(pid), Instant::now());
                        watched.state = State::Watching { _probes, events, looked };
                    }
                    Ok(())
                }
                Some(Err(error)) => refused(format!("probes in process {pid}: {error}")),
                None if watched.since.elapsed() > PATIENCE => {
                    refused(format!("probes in process {pid} do not come to be"))
                }
                None => Ok(()),
            },
            State::Watching { events, looked, .. } if looked.elapsed() >= LOOK => {
                let (now, lost) = self.sampler.go_events(pid);
                watched.lost = lost;
                let per_second = (now - *events) as f64 / looked.elapsed().as_secs_f64();
                (*events, *looked) = (now, Instant::now());
                let per_second = per_second as u64;
                if per_second > BUDGET { Err(NoGoWaits::TooMany(per_second)) } else { Ok(()) }
            }
            State::Watching { .. } => Ok(()),
        }
    }

    /// Gives what is over to those who asked, and forgets those who have gone.
    fn end_collectors(&mut self, pid: u32) {
        let Some(watched) = self.go_waits.watched.get(&pid) else { return };
        let is_there = self.table.life(watched.life).is_some_and(Life::is_there);
        let is_over = |it: &Collector| {
            let is_due = it.until_ns.is_some_and(|end| end <= clock::boot_ns());
            it.request.reply.is_closed() || is_due
        };
        let ends_all = !is_there || self.stopping;
        if !ends_all && !watched.all.iter().any(is_over) {
            return;
        }
        self.drain();
        let Some(watched) = self.go_waits.watched.get_mut(&pid) else { return };
        for collector in watched.all.extract_if(.., |it| ends_all || is_over(it)) {
            collector.end(&watched.version, watched.lost);
        }
        if watched.all.is_empty() {
            self.end_watch(pid, None);
        }
    }

    /// No process is watched any more.
    pub(super) fn end_go_waits(&mut self, why: &str) {
        let pids: Vec<u32> = self.go_waits.watched.keys().copied().collect();
        for pid in pids {
            self.end_watch(pid, Some(&NoGoWaits::Refused(why.to_owned())));
        }
    }

    /// A process is not watched any more; whoever still asks hears why.
    fn end_watch(&mut self, pid: u32, why: Option<&NoGoWaits>) {
        let Some(watched) = self.go_waits.watched.remove(&pid) else { return };
        for collector in watched.all {
            match why {
                Some(why) => collector.refuse(why.clone()),
                None => collector.end(&watched.version, watched.lost),
            }
        }
        self.sampler.forget_go(pid);
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::record::{Sample, StackHeader};

    use super::*;
    use crate::{process::Filter, reader::protocol::ProcessInfo};

    fn wait(delay_ns: u64, rate_ns: u64) -> GoWait {
        GoWait { delay_ns, rate_ns, ..GoWait::default() }
    }

    fn collector() -> (Collector, oneshot::Receiver<Result<GoMemory, NoGoWaits>>) {
        let (reply, answer) = oneshot::channel();
        let request = GoWaitsRequest {
            pid: 1,
            kind: Kind::Block,
            duration: Duration::from_secs(1),
            tag: 0,
            viewer: None,
            reply,
        };
        let collector =
            Collector { request, until_ns: None, stacks: HashMap::new(), bytes: 0, lost: 0 };
        (collector, answer)
    }

    #[test]
    fn what_is_kept_by_chance_stands_for_others() {
        let mut weighed = Weighed::default();
        weighed.add(&wait(250, 1_000));
        weighed.add(&wait(2_000, 1_000));
        assert_eq!(weighed, Weighed { count: 5.0, delay_ns: 3_000.0 });
    }

    /// What is told of a process that has had no sample yet, of which `/proc` alone has told.
    #[test]
    fn waits_of_a_process_whose_start_is_known_to_a_tick_are_taken() {
        let filter = Filter { follow: true, ..Filter::default() };
        let mut table = Table::new(filter);
        table.describe(&ProcessInfo {
            pid: 7,
            start_ticks: 412_732,
            read_from_ns: 4_130_000_000_000,
            ..Default::default()
        });
        let (mut collector, _answer) = collector();
        collector.until_ns = Some(u64::MAX);
        let watched = Watched {
            life: table.lives().next().unwrap().id,
            exec_id: None,
            lost: 0,
            state: State::Reading(0),
            since: Instant::now(),
            version: String::new(),
            all: vec![collector],
        };
        let mut waits = GoWaits { watched: HashMap::from([(7, watched)]), generation: 1 };
        let mut raw = RawStacks::default();
        raw.add(&StackHeader { id: 5, check: 6, frames: 2, ..StackHeader::default() }, &[1, 2]);
        // The first one is of another process, which had the pid before.
        for (start_ns, exec_id) in [(3_927_321_339_493, 1), (4_127_321_339_493, 2)] {
            let sample = Sample { pid: 7, start_ns, exec_id, ..Sample::default() };
            let sample = Sample { user_stack: 5, user_check: 6, ..sample };
            let wait = GoWait { sample, ..wait(10, 1) };
            waits.take(RecordKind::GoBlock, &wait, &mut raw, &table);
        }
        let stacks = &waits.watched[&7].all[0].stacks;
        assert_eq!(stacks.values().map(|it| it.count).collect::<Vec<_>>(), [1.0]);
    }

    #[test]
    fn stacks_take_so_much_memory_at_most() {
        let (mut collector, _answer) = collector();
        for number in 0..20_000 {
            collector.take(Some(&[number; 200]), &wait(5, 1));
        }
        let kept = collector.stacks.len() as u64;
        assert!((1_000..10_000).contains(&kept) && collector.lost == 20_000 - kept, "{kept}");
        assert!(collector.stacks.keys().all(|stack| stack.len() == MOST_FRAMES));
    }

    #[test]
    fn waits_are_told_by_stack() {
        let (mut collector, mut answer) = collector();
        collector.take(Some(&[1, 2]), &wait(10, 1));
        collector.take(Some(&[1, 2]), &wait(20, 1));
        collector.take(Some(&[2, 3]), &wait(5, 1));
        collector.take(None, &wait(5, 1));
        collector.end("go1.26.8", 2);
        let memory = answer.try_recv().unwrap().unwrap();
        let mut told: Vec<_> = memory
            .buckets
            .iter()
            .map(|it| {
                let places = &memory.stacks[it.stack as usize].places;
                let avmas: Vec<_> = places.iter().map(|&it| memory.places[it as usize]).collect();
                (avmas, it.count, it.cycles)
            })
            .collect();
        told.sort();
        assert_eq!(told, [(vec![1, 2], 2, 30), (vec![2, 3], 1, 5)]);
        assert_eq!((memory.left_out, memory.places.len()), (3, 3));
    }
}
