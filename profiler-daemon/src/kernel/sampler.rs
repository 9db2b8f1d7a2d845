//! Everything attached to the kernel, as one value.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use profiler_ebpf::{
    config::Control,
    counters::Counters,
    go::Labels,
    go_waits::GoWait,
    mappings::{Process, Range},
    record::{self, RunningGoroutine, STACK_HEADER_BYTES, Sample, StackHeader, Wait},
    stack_id::StackId,
    targets::{Mode, Target},
    unwind::{rule::Rule, table::Table},
};

use super::{
    Event, KernelError, Moves, SideBand, btf,
    cpu_events::CpuSet,
    cpus,
    error::from_aya,
    go_waits,
    object::{Load, Object},
    ranges::RangeMap,
    side_band::What,
    stack_copy::StackCopy,
    tables::{Placed, TableMap},
    waits::{self, Waits},
};

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// What is to be sampled.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Samples per second and CPU, in Hz.
    pub hertz: u64,
    /// The most that [`Sampler::set_rate`] will ask for.
    pub most_hertz: u64,
    /// What makes a CPU take a sample.
    pub event: Event,
    /// What is done with processes that no [`Sampler::set_target`] spoke of.
    pub mode: Mode,
    /// Children of a target are targets.
    pub follow: bool,
    /// Take kernel stacks.
    pub kernel_stacks: bool,
    /// Take user stacks.
    pub user_stacks: bool,
    /// What unwind tables may take in the kernel.
    pub unwind_memory_bytes: u64,
    /// [`Sampler::set_waits`] may be called.
    pub may_wait: bool,
    /// The programs report what they do.
    pub log: bool,
}

/// A record of the sampling programs.
#[derive(Debug)]
pub enum Record<'a> {
    /// A sample.
    Sample(Sample),
    /// A stack: its header, and its frames as avmas, leaf first; or labels: their words.
    Stack(StackHeader, &'a [u64]),
    /// A sample that lacked an unwind table, and what is needed to walk its stack once more.
    Copy(Sample, Box<StackCopy>),
    /// A wait is over: by the record's kind, of the thread that waited, of the one that ended it, or
    /// the thread has ended, which was followed or not.
    Wait(record::Kind, Wait),
    /// The stack of a wait, or of a thread that starts another, that lacked an unwind table.
    WaitCopy(Sample, Box<StackCopy>),
    /// A thread has started another.
    Spawn(Sample),
    /// A goroutine that waited goes on: by the record's kind, with its own stack, or with that of
    /// what released the lock that it waited for.
    GoWait(record::Kind, GoWait),
    /// Which goroutine a sample is of.
    RunningGoroutine(RunningGoroutine),
}

/// What was counted and what was lost, since sampling began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The programs' counts, of all CPUs.
    pub counters: Counters,
    /// Periods of the clock at which no program ran though the CPU was not idle: what the event
    /// counted, less the CPU's idle time, less the times the program was entered. (An idle CPU's
    /// timer need not fire.)
    pub missed: u64,
    /// Side-band records lost for want of room.
    pub side_band: u64,
}

impl Losses {
    /// Samples that should have been taken of a running process and are not there.
    pub fn samples(&self) -> u64 {
        self.missed + self.counters.busy + self.counters.ring_full + self.counters.unread
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            counters: self.counters.since(&before.counters),
            missed: self.missed.saturating_sub(before.missed),
            side_band: self.side_band.saturating_sub(before.side_band),
        }
    }
}

/// The programs, attached; drop it to detach them.
pub struct Sampler {
    pub(super) object: Object,
    pub(super) waits: Waits,
    /// Since when threads are followed: boot-time clock.
    pub(super) followed_ns: u64,
    tells_goroutines: bool,
    /// Cloned for each process that is watched.
    pub(super) go_watches: Arc<()>,
    ranges: RangeMap,
    tables: TableMap,
    cpus: CpuSet,
    /// Side-band records of CPUs that have just come online are missing.
    has_gaps: bool,
    epoch: u32,
    seed: u64,
    ring_bytes: u32,
    buffer: Vec<u8>,
    frames: Vec<u64>,
}

impl Sampler {
    /// Loads the programs and opens the events. Side-band records flow from now on, samples from
    /// [`Self::enable`] on.
    pub fn new(settings: Settings) -> Result<Self, KernelError> {
        check_namespace()?;
        let config = profiler_ebpf::config::Config {
            mode: settings.mode as u32,
            follow: u32::from(settings.follow && settings.mode != Mode::All),
            kernel_stacks: u32::from(settings.kernel_stacks),
            user_stacks: u32::from(settings.user_stacks),
            seed: seed(),
            ..btf::offsets()?
        };
        raise_memory_lock();
        let ring_bytes = ring_bytes(cpus::online()?.len(), settings.most_hertz);
        let object = Object::load(&Load {
            config,
            ring_bytes,
            cpus: cpus::possible()?,
            has_threads: settings.may_wait,
            log: settings.log,
        })?;
        let ranges = RangeMap::new(&object.ranges)?;
        let tables = TableMap::new(&object.slabs, &object.tables, settings.unwind_memory_bytes)?;
        // Last, since loading takes a while in which nobody would empty their rings.
        let cpus = CpuSet::open(settings.event, settings.hertz, object.cpu.as_fd())?;
        let mut sampler = Self {
            object,
            waits: Waits::default(),
            followed_ns: 0,
            tells_goroutines: false,
            go_watches: Arc::default(),
            ranges,
            tables,
            cpus,
            has_gaps: false,
            epoch: 0,
            seed: config.seed,
            ring_bytes,
            buffer: Vec::new(),
            frames: Vec::new(),
        };
        sampler.next_epoch()?;
        Ok(sampler)
    }

    /// Starts sampling.
    pub fn enable(&mut self) -> Result<(), KernelError> {
        self.cpus.enable()
    }

    /// Stops sampling; what waits can still be drained.
    pub fn disable(&mut self) -> Result<(), KernelError> {
        self.cpus.disable()
    }

    /// Number of CPUs that are sampled.
    pub fn cpus(&self) -> usize {
        self.cpus.count()
    }

    /// Closes all events, or opens them again: at the next [`Self::follow_cpus`].
    pub fn set_off(&mut self, off: bool) {
        self.cpus.set_off(off);
    }

    /// Looks for CPUs that went offline or came online; from here on those that came are sampled.
    /// Their [`Self::side_band_fds`] are new.
    pub fn follow_cpus(&mut self) -> Result<Moves, KernelError> {
        let moves = self.cpus.follow(self.object.cpu.as_fd())?;
        self.has_gaps |= !moves.came.is_empty();
        Ok(moves)
    }

    /// Samples at another rate from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError`]; CPUs may then differ.
    pub fn set_rate(&mut self, hertz: u64) -> Result<(), KernelError> {
        self.cpus.set_rate(hertz)
    }

    /// Becomes readable at each side-band record.
    pub fn side_band_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.cpus.fds()
    }

    /// Becomes readable when much waits for [`Self::drain`].
    pub fn records_fd(&self) -> BorrowedFd<'_> {
        self.object.records.as_fd()
    }

    /// Hands over the side-band records that wait, sorted by time.
    pub fn drain_side_band(&mut self, events: &mut Vec<SideBand>) {
        let Self { cpus, buffer, has_gaps, .. } = self;
        let first = events.len();
        if std::mem::take(has_gaps) {
            events.push(SideBand { time_ns: 0, pid: 0, tid: 0, what: What::Lost(0) });
        }
        for ring in cpus.rings() {
            ring.drain(buffer, |record| {
                events.extend(SideBand::parse(record));
            });
        }
        events[first..].sort_by_key(|event| event.time_ns);
    }

    /// Hands over records that wait, at most `limit`: on a busy machine they may come as fast as
    /// they are taken. Returns whether that was all.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(Record<'_>)) -> bool {
        let Self { object, frames, .. } = self;
        let mut taken = 0;
        while taken < limit
            && let Some(item) = object.records.next()
        {
            if let Some(record) = decode(&item, frames) {
                take(record);
            }
            taken += 1;
        }
        if let Some(log) = &mut object.log {
            log.flush();
        }
        taken < limit
    }

    /// Begins a new epoch: every stack is sent again when it is next seen. Samples that wait may
    /// still belong to the epoch before.
    pub fn next_epoch(&mut self) -> Result<u32, KernelError> {
        self.epoch += 1;
        self.tell()?;
        Ok(self.epoch)
    }

    /// Whether it is told of which goroutines samples are.
    pub const fn tells_goroutines(&self) -> bool {
        self.tells_goroutines
    }

    /// Has it told, or not any more.
    pub fn tell_goroutines(&mut self, wanted: bool) -> Result<(), KernelError> {
        self.tells_goroutines = wanted;
        self.tell()
    }

    /// Tells the programs what has changed.
    pub(super) fn tell(&mut self) -> Result<(), KernelError> {
        let mut control = Control {
            epoch: self.epoch,
            wake_bytes: self.ring_bytes / 8,
            crowded_bytes: self.ring_bytes / 2,
            ..Control::default()
        };
        self.waits.tell(&mut control);
        control.followed_ns = self.followed_ns;
        control.tells_goroutines = self.tells_goroutines.into();
        self.object.control.set(0, control, 0).map_err(|error| from_aya(&error))
    }

    /// The epoch in force.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Decides whether a process is profiled.
    pub fn set_target(&mut self, pid: u32, target: Target) -> Result<(), KernelError> {
        self.object.targets.insert(pid, target, 0).map_err(|error| from_aya(&error))
    }

    /// Forgets the verdict on a process that has ended.
    pub fn forget_target(&mut self, pid: u32) {
        let _ = self.object.targets.remove(&pid);
    }

    /// Tells the programs a process's executable mappings, sorted by start, and where it has labels.
    pub fn publish(&mut self, pid: u32, start_ns: u64, ranges: &[Range], labels: Labels) {
        let process = Process { start_ns, labels, ..Process::default() };
        self.ranges.publish(&mut self.object.processes, pid, process, ranges);
    }

    /// Makes a file's unwind table known to the programs: `words` are those of whole blocks. `None`:
    /// there is no room.
    pub fn add_table(
        &mut self,
        table: &Table,
        words: &[u8],
    ) -> Result<Option<Placed>, KernelError> {
        self.tables.insert(table, words)
    }

    /// What is set aside for unwind tables, in bytes.
    pub fn table_bytes(&self) -> u64 {
        self.tables.bytes()
    }

    /// The rule in force at `svma` of the file whose table is in this slot.
    pub fn rule(&self, slot: u32, svma: u64) -> Rule {
        self.tables.rule(slot, svma)
    }

    /// What the programs make the IDs of user stacks with.
    pub const fn user_stack_id(&self) -> StackId {
        StackId::new(self.seed ^ record::USER_SEED)
    }

    /// Takes back a table that no published mapping refers to any more.
    pub fn remove_table(&mut self, placed: &Placed) {
        self.tables.remove(placed);
    }

    /// Tells the programs that nothing is known of a process any more.
    pub fn withdraw(&mut self, pid: u32) {
        self.ranges.forget(&mut self.object.processes, pid);
    }

    /// What was counted and lost so far.
    pub fn losses(&mut self) -> Result<Losses, KernelError> {
        let expected = self.cpus.expected()?;
        let mut counters = Counters::default();
        let per_cpu = self.object.counters.get(&0, 0).map_err(|error| from_aya(&error))?;
        for cpu in per_cpu.iter() {
            counters.add(cpu);
        }
        Ok(Losses {
            counters,
            missed: expected.saturating_sub(counters.entered - counters.idle),
            side_band: self.cpus.side_band_lost()?,
        })
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Decodes a record; `frames` is where a stack's frames are put.
pub(crate) fn decode<'a>(bytes: &[u8], frames: &'a mut Vec<u64>) -> Option<Record<'a>> {
    let kind = word(bytes, 0)?;
    if kind == record::Kind::Stack as u32 || kind == record::Kind::Labels as u32 {
        let header = StackHeader {
            kind,
            epoch: word(bytes, 4)?,
            id: long(bytes, 8)?,
            check: word(bytes, 16)?,
            frames: word(bytes, 20)?,
        };
        frames.clear();
        let rest = bytes[STACK_HEADER_BYTES..].chunks_exact(8).take(header.frames as usize);
        frames.extend(rest.filter_map(|bytes| long(bytes, 0)));
        return Some(Record::Stack(header, frames));
    }
    if kind == record::Kind::Copy as u32 || kind == record::Kind::WaitCopy as u32 {
        let (sample, copy) = StackCopy::decode(bytes)?;
        return Some(match kind == record::Kind::Copy as u32 {
            true => Record::Copy(sample, copy),
            false => Record::WaitCopy(sample, copy),
        });
    }
    let of_waits = [record::Kind::Wait, record::Kind::Wake, record::Kind::Gone, record::Kind::End];
    for of_wait in of_waits {
        if kind == of_wait as u32 {
            return waits::decode(bytes).map(|wait| Record::Wait(of_wait, wait));
        }
    }
    for of_go in [record::Kind::GoBlock, record::Kind::GoMutex] {
        if kind == of_go as u32 {
            return go_waits::decode(bytes).map(|wait| Record::GoWait(of_go, wait));
        }
    }
    if kind == record::Kind::RunningGoroutine as u32 {
        return running_goroutine(bytes).map(Record::RunningGoroutine);
    }
    if kind == record::Kind::Spawn as u32 {
        return sample(bytes).map(Record::Spawn);
    }
    sample(bytes).map(Record::Sample)
}

fn running_goroutine(bytes: &[u8]) -> Option<RunningGoroutine> {
    Some(RunningGoroutine {
        kind: word(bytes, 0)?,
        epoch: word(bytes, 4)?,
        goid: long(bytes, 8)?,
        start_ns: long(bytes, 16)?,
        user_stack: long(bytes, 24)?,
        pid: word(bytes, 32)?,
        user_check: word(bytes, 36)?,
        outcome: word(bytes, 40)?,
        reserved: 0,
    })
}

/// Decodes a sample.
pub(super) fn sample(bytes: &[u8]) -> Option<Sample> {
    Some(Sample {
        kind: word(bytes, 0)?,
        epoch: word(bytes, 4)?,
        time_ns: long(bytes, 8)?,
        start_ns: long(bytes, 16)?,
        user_stack: long(bytes, 24)?,
        kernel_stack: long(bytes, 32)?,
        pid: word(bytes, 40)?,
        tid: word(bytes, 44)?,
        exec_id: word(bytes, 48)?,
        user_check: word(bytes, 52)?,
        kernel_check: word(bytes, 56)?,
        cpu: word(bytes, 60)?,
        comm: bytes.get(64..80)?.try_into().ok()?,
        outcome: word(bytes, 80)?,
        stack_lost: word(bytes, 84)?,
        labels: long(bytes, 88)?,
    })
}

/// The ring holds what comes in about a second: 16 KiB for each CPU at 99 Hz; and some copies of
/// stacks, so at least 2 MiB; at most 64 MiB.
fn ring_bytes(cpus: usize, hertz: u64) -> u32 {
    let bytes = cpus as u64 * hertz * 512;
    bytes.clamp(2 << 20, 64 << 20).next_power_of_two() as u32
}

/// A number that programs on this machine cannot know.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => std::process::id().into(),
    }
}

/// Kernels before 5.11 count BPF memory as locked; where the limit cannot be raised it is not
/// needed either.
fn raise_memory_lock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!("the memory-lock limit stays as it is: {error}");
    }
}

fn check_namespace() -> Result<(), KernelError> {
    if is_initial_pid_namespace()? { Ok(()) } else { Err(KernelError::PidNamespace) }
}

/// Whether this is the pid namespace whose pids the kernel reports.
///
/// # Errors
///
/// [`KernelError::File`].
pub fn is_initial_pid_namespace() -> Result<bool, KernelError> {
    const PATH: &str = "/proc/self/ns/pid";
    let stat = rustix::fs::stat(PATH)
        .map_err(|error| KernelError::File { path: PATH, io_error: error.into() })?;
    Ok(stat.st_ino == INITIAL_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_grows_with_the_load() {
        assert_eq!(ring_bytes(2, 99), 2 << 20);
        assert_eq!(ring_bytes(2, 9999), 16 << 20);
        assert_eq!(ring_bytes(256, 9999), 64 << 20);
    }

    #[test]
    fn a_short_record_is_none() {
        let mut frames = Vec::new();
        for length in 0..95 {
            let mut bytes = vec![0; length];
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            assert!(decode(&bytes, &mut frames).is_none(), "{length}");
        }
    }
}
