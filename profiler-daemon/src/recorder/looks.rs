//! What all threads do at a moment: their stacks, taken while they go on.
//!
//! The kernel side tells each thread's registers and state, a reader copies the stacks, and the
//! kernel side is asked again: a thread that has not given its CPU up in between, and has none, has
//! stayed where it was, and its stack is whole. The others are looked at once more. One that has a
//! CPU is met by the clock ([`met`]).

mod met;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use profiler_ebpf::{
    record::Sample,
    unwind::Outcome,
    waits::{State, may_wait_for_futex},
};

use super::{RecordError, Recorder, collection::CollectionId};
use crate::{
    kernel::{Snapshot, StackCopy},
    process::ImageRef,
    profile::{
        Kind,
        aggregate::{Measured, Weighed},
    },
    reader::protocol::{MAX_STACKS, STACK_BYTES},
};
use met::ToMeet;

/// How often threads are looked at that moved meanwhile.
const MOST_ROUNDS: u32 = 4;

/// How long stacks and unwind tables are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Stacks of a look take so many bytes at most: those of threads that come later are left out.
const MOST_BYTES: usize = 64 << 20;

/// Bytes of a lock that are read to know who has it.
const LOCK_BYTES: usize = 16;

/// Somebody looks at threads.
pub(super) struct Look {
    /// For this.
    id: CollectionId,
    /// Those that wait are only made known to the kernel side, as of this time on the boot-time
    /// clock.
    seeds_ns: Option<u64>,
    begun: Instant,
    round: u32,
    /// Those that are being looked at, by process, and stacks that have come.
    asked: BTreeMap<u32, Vec<Looked>>,
    /// Requests without an answer.
    outstanding: usize,
    /// Those that have a CPU, or have not held still.
    to_meet: ToMeet,
    /// Those that are done with.
    done: Vec<Looked>,
    /// What was found out of locks that threads wait for: who has them.
    owners: HashMap<u32, u32>,
    /// Bytes of stacks that were read.
    bytes: usize,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stacks,
    Locks,
    Walks,
}

/// A thread, and its stack.
struct Looked {
    thread: Snapshot,
    image: ImageRef,
    stack: Option<StackCopy>,
    /// It has not held still.
    has_moved: bool,
    /// It was met by the clock: what is known of it is what the sample says.
    is_met: bool,
}

impl Looked {
    const fn new(thread: Snapshot, image: ImageRef) -> Self {
        Self { thread, image, stack: None, has_moved: false, is_met: false }
    }
}

impl Look {
    /// Whether it waits for samples of threads.
    pub(super) fn seeks_samples(&self) -> bool {
        !self.to_meet.is_empty()
    }

    /// Takes a sample that the kernel side has sent, with what it has copied of the stack.
    pub(super) fn take_sample(&mut self, sample: &Sample, copy: Option<&StackCopy>) {
        self.to_meet.take(sample, copy);
    }
}

impl Recorder {
    /// Looks at the threads that a collection asks for.
    fn begin_look(&mut self, id: CollectionId, seeds_ns: Option<u64>) -> Result<(), RecordError> {
        let mut look = Look {
            id,
            seeds_ns,
            begun: Instant::now(),
            round: 0,
            asked: BTreeMap::new(),
            outstanding: 0,
            to_meet: ToMeet::default(),
            done: Vec::new(),
            owners: HashMap::new(),
            bytes: 0,
            phase: Phase::Stacks,
        };
        let mut threads = self.snapshot_for(id)?;
        if seeds_ns.is_some() {
            let known: HashSet<u32> = self.sampler.threads()?.iter().map(|(tid, _)| *tid).collect();
            threads.retain(|it| {
                it.thread.state == State::Waiting && !known.contains(&it.thread.sample.tid)
            });
        }
        self.ask_stacks(&mut look, threads);
        self.looks.push(look);
        Ok(())
    }

    /// The threads that a collection asks for, as they are now.
    fn snapshot_for(&mut self, id: CollectionId) -> Result<Vec<Looked>, RecordError> {
        let mut looked = Vec::new();
        for thread in self.sampler.snapshot()? {
            let Some(image) = self.profiled_image(&thread.sample)? else { continue };
            if self.collections.asks_for(id, self.table.life(image.life)) {
                looked.push(Looked::new(thread, image));
            }
        }
        Ok(looked)
    }

    /// Has the stacks of threads read, those that have a CPU excepted.
    fn ask_stacks(&mut self, look: &mut Look, threads: Vec<Looked>) {
        look.asked.clear();
        for looked in threads {
            if looked.thread.is_on_cpu {
                look.to_meet.push(looked);
            } else {
                look.asked.entry(looked.thread.sample.pid).or_default().push(looked);
            }
        }
        for (&pid, threads) in &look.asked {
            for (number, part) in threads.chunks(MAX_STACKS).enumerate() {
                let starts = part.iter().map(|looked| looked.thread.stack_start()).collect();
                let tag = tag(look.id, look.round, number);
                look.outstanding +=
                    usize::from(self.symbolizer.read_stacks(tag, pid, starts, STACK_BYTES));
            }
        }
    }

    /// Goes on with looks as far as that goes now.
    pub(super) fn follow_looks(&mut self) {
        for (id, kind, from_ns) in self.collections.take_wanted_looks() {
            if let Err(error) = self.begin_look(id, (kind == Kind::Wall).then_some(from_ns)) {
                tracing::error!("it cannot be seen what threads do: {error}");
                self.collections.looked(id, Duration::ZERO, &[]);
            }
        }
        for read in self.symbolizer.take_stacks() {
            // What comes too late is of a round before.
            let is_of = |look: &&mut Look| tag(look.id, look.round, 0) == read.tag & !0xffff;
            let Some(look) = self.looks.iter_mut().find(is_of) else { continue };
            look.outstanding = look.outstanding.saturating_sub(1);
            let from = (read.tag & 0xffff) as usize * MAX_STACKS;
            let threads = look.asked.get_mut(&read.pid).map_or(&mut [][..], |it| &mut it[..]);
            let threads = threads.get_mut(from..).unwrap_or_default();
            for (looked, bytes) in threads.iter_mut().zip(read.stacks) {
                match look.phase {
                    // What cannot be read, or is too much, is left out.
                    Phase::Stacks if !bytes.is_empty() && look.bytes <= MOST_BYTES => {
                        look.bytes += bytes.len();
                        looked.stack = Some(looked.thread.stack(bytes));
                    }
                    Phase::Stacks => {}
                    _ => {
                        if let Some(owner) = owner(&bytes) {
                            look.owners.insert(looked.thread.sample.tid, owner);
                        }
                    }
                }
            }
        }
        let mut looks = std::mem::take(&mut self.looks);
        looks.retain_mut(|look| {
            self.follow_look(look).unwrap_or_else(|error| {
                tracing::error!("it cannot be seen what threads do: {error}");
                self.collections.looked(look.id, look.begun.elapsed(), &[]);
                false
            })
        });
        self.looks.extend(looks);
    }

    /// Goes on with one; `false`: it is over.
    fn follow_look(&mut self, look: &mut Look) -> Result<bool, RecordError> {
        let is_late = look.begun.elapsed() >= PATIENCE;
        if look.outstanding > 0 && !is_late {
            return Ok(true);
        }
        // What has not come by now is not waited for.
        look.outstanding = 0;
        if look.phase == Phase::Stacks {
            if !look.asked.is_empty() {
                self.check_stacks(look)?;
            }
            if look.outstanding > 0 {
                return Ok(true);
            }
            look.phase = Phase::Locks;
            if look.seeds_ns.is_none() {
                self.ask_locks(look);
            }
            if look.outstanding > 0 {
                return Ok(true);
            }
        }
        if look.phase == Phase::Locks {
            look.phase = Phase::Walks;
            let asked = std::mem::take(&mut look.asked);
            look.done.extend(asked.into_values().flatten());
            self.check_owners(look)?;
        }
        // What is made known has to be so now.
        let is_late = is_late || look.seeds_ns.is_some();
        look.done.extend(look.to_meet.take_done(self.collections.rate(), is_late));
        let mut waiting = Vec::new();
        for looked in std::mem::take(&mut look.done) {
            if let Some(looked) = self.add_looked(look, looked, is_late) {
                waiting.push(looked);
            }
        }
        look.done = waiting;
        if !look.done.is_empty() || look.seeks_samples() {
            return Ok(true);
        }
        let cycles = cycles(&look.owners);
        self.collections.looked(look.id, look.begun.elapsed(), &cycles);
        self.want_names();
        Ok(false)
    }

    /// Looks once more at what has moved while its stack was read.
    fn check_stacks(&mut self, look: &mut Look) -> Result<(), RecordError> {
        look.round += 1;
        let now: HashMap<u32, Looked> = self
            .snapshot_for(look.id)?
            .into_iter()
            .map(|looked| (looked.thread.sample.tid, looked))
            .collect();
        let asked: Vec<Looked> = std::mem::take(&mut look.asked).into_values().flatten().collect();
        let mut moved = Vec::new();
        for mut looked in asked {
            // What has ended meanwhile was there.
            let Some(again) = now.get(&looked.thread.sample.tid) else { continue };
            if again.thread.switches == looked.thread.switches && !again.thread.is_on_cpu {
                look.done.push(looked);
            } else if look.round < MOST_ROUNDS && look.begun.elapsed() < PATIENCE {
                moved.push(Looked::new(again.thread.clone(), again.image));
            } else {
                looked.stack = None;
                looked.has_moved = true;
                looked.thread = again.thread.clone();
                look.to_meet.push(looked);
            }
        }
        if !moved.is_empty() {
            self.ask_stacks(look, moved);
        }
        Ok(())
    }

    /// Leaves of the owners of locks those that have them still, while the same threads wait.
    fn check_owners(&mut self, look: &mut Look) -> Result<(), RecordError> {
        if look.owners.is_empty() {
            return Ok(());
        }
        let now: HashMap<u32, u64> = self
            .snapshot_for(look.id)?
            .into_iter()
            .map(|looked| (looked.thread.sample.tid, looked.thread.switches))
            .collect();
        let before: HashMap<u32, (u32, u64)> = look
            .done
            .iter()
            .filter(|looked| {
                // Its lock has the id that the owner has in its own namespace.
                let life = self.table.life(looked.image.life);
                life.is_some_and(|life| life.inner_pid == life.process.pid)
            })
            .map(|looked| {
                let Sample { tid, pid, .. } = looked.thread.sample;
                (tid, (pid, looked.thread.switches))
            })
            .collect();
        let held_still = |tid: &u32| {
            let (pid, switches) = before.get(tid)?;
            (now.get(tid) == Some(switches)).then_some(*pid)
        };
        look.owners.retain(|waiter, owner| {
            held_still(waiter).is_some_and(|pid| held_still(owner) == Some(pid))
        });
        Ok(())
    }

    /// Has the locks read that threads wait for.
    fn ask_locks(&mut self, look: &mut Look) {
        look.round += 1;
        let is_waiting = |looked: &Looked| {
            looked.thread.state == State::Waiting && may_wait_for_futex(looked.thread.system_call.0)
        };
        for looked in std::mem::take(&mut look.done) {
            look.asked.entry(looked.thread.sample.pid).or_default().push(looked);
        }
        for (&pid, threads) in &mut look.asked {
            // Those that wait come first, in the order of the answers.
            threads.sort_by_key(|looked| !is_waiting(looked));
            let waiting = threads.iter().take_while(|looked| is_waiting(looked)).count();
            for (number, part) in threads[..waiting].chunks(MAX_STACKS).enumerate() {
                let starts = part.iter().map(|looked| looked.thread.system_call.1).collect();
                let tag = tag(look.id, look.round, number);
                look.outstanding +=
                    usize::from(self.symbolizer.read_stacks(tag, pid, starts, LOCK_BYTES));
            }
        }
    }

    /// Adds a thread to a collection, or makes it known; it comes back if it has to wait for unwind
    /// tables, unless it is late for that.
    fn add_looked(&mut self, look: &Look, looked: Looked, is_late: bool) -> Option<Looked> {
        let Looked { thread, image, stack, has_moved, is_met } = &looked;
        let mut sample = thread.sample;
        if !is_met {
            sample.epoch = self.sampler.epoch();
            sample.outcome = Outcome::None as u32;
        }
        if let Some(stack) = stack {
            let (frames, outcome) = match self.walk(*image, sample.time_ns, stack) {
                Ok(found) => found,
                Err(lacking) if !is_late => {
                    self.want_lacking(lacking);
                    return Some(looked);
                }
                Err(_) => (vec![stack.walk_registers().pc], Outcome::NoMapping),
            };
            (sample.user_stack, sample.user_check) = self.add_stack(sample.epoch, &frames);
            sample.outcome = outcome as u32;
        }
        if !is_met && !thread.kernel.is_empty() && self.settings.kernel_stacks {
            (sample.kernel_stack, sample.kernel_check) =
                self.add_stack(sample.epoch, &thread.kernel);
        }
        if let Some(since_ns) = look.seeds_ns {
            let is_wanted = self.collections.is_open(look.id) && self.sampler.waits().wall;
            if !has_moved && is_wanted {
                let tid = sample.tid;
                self.sampler.seed(tid, &thread.waiting(sample, since_ns));
                self.seeded.insert(tid, since_ns);
            }
            return None;
        }
        let weighed = Weighed {
            state: if *has_moved { State::Running } else { thread.state },
            system_call: thread.system_call.0,
            measured: Measured { count: 1.0, time_ns: 0.0 },
        };
        let life = self.table.life(image.life);
        let mappings = life.and_then(|life| life.mappings(image.image));
        if let Some(aggregate) = self.collections.get_mut(look.id) {
            aggregate.add(&sample, *image, mappings, &mut self.raw, &[weighed]);
        }
        None
    }
}

/// Marks requests: for which collection, in which round, and which of its round.
const fn tag(id: CollectionId, round: u32, number: usize) -> u64 {
    id << 20 | (round as u64 & 0xf) << 16 | number as u64 & 0xffff
}

/// Who has a lock: glibc's `pthread_mutex_t` begins with its futex, which is 2 while somebody waits,
/// and has its owner's thread id behind a count (`sysdeps/nptl/bits/struct_mutex.h`).
fn owner(lock: &[u8]) -> Option<u32> {
    const CONTENDED: u32 = 2;
    let lock = lock.get(..LOCK_BYTES)?;
    let word = |at: usize| Some(u32::from_ne_bytes(lock.get(at..at + 4)?.try_into().ok()?));
    (word(0)? == CONTENDED).then_some(word(8)?).filter(|owner| *owner != 0)
}

/// Threads that wait for each other: each has what the one before it waits for. `owners`: who has
/// what a thread waits for.
fn cycles(owners: &HashMap<u32, u32>) -> Vec<Vec<u32>> {
    let mut seen = HashSet::new();
    let mut cycles = Vec::new();
    let mut begins: Vec<u32> = owners.keys().copied().collect();
    begins.sort_unstable();
    for begin in begins {
        let mut path = Vec::new();
        let mut at = begin;
        while seen.insert(at) {
            path.push(at);
            match owners.get(&at) {
                Some(&owner) => at = owner,
                None => break,
            }
        }
        if owners.contains_key(&at)
            && let Some(from) = path.iter().position(|&tid| tid == at)
        {
            cycles.push(path.split_off(from));
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_whom() {
        let owners = |pairs: &[(u32, u32)]| pairs.iter().copied().collect::<HashMap<_, _>>();
        assert!(cycles(&owners(&[(1, 2), (2, 3)])).is_empty());
        assert_eq!(cycles(&owners(&[(1, 2), (2, 1)])), [[1, 2]]);
        let found = cycles(&owners(&[(9, 1), (1, 2), (2, 3), (3, 1), (5, 5), (6, 7)]));
        assert_eq!(found, [vec![1, 2, 3], vec![5]]);
    }

    #[test]
    fn the_owner_of_a_contended_lock() {
        let lock =
            |words: [u32; 4]| words.iter().flat_map(|it| it.to_ne_bytes()).collect::<Vec<_>>();
        assert_eq!(owner(&lock([2, 1, 77, 1])), Some(77));
        assert_eq!(owner(&lock([1, 1, 77, 1])), None, "nobody waits");
        assert_eq!(owner(&lock([2, 1, 0, 1])), None);
        assert_eq!(owner(&[2, 0, 0]), None);
    }
}
