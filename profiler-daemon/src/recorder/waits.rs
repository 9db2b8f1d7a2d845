//! What threads wait for: which of it is recorded, and what becomes of each wait.

use std::collections::{HashMap, HashSet};

use profiler_ebpf::{
    record::{Kind as RecordKind, Sample, Wait},
    waits::{STATES, State, Thread},
};

use super::{
    RecordError, Recorder, clock,
    collection::{CollectionId, Taken},
};
use crate::{
    kernel::Waits,
    process::LifeId,
    profile::{
        Kind,
        aggregate::{Measured, Totals, Weighed, comm_text},
    },
};

/// How closely it is looked at what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closeness {
    /// Waits of this length are all kept, and of shorter ones a share; in nanoseconds.
    pub block_rate_ns: u64,
    /// Of so many ends of waits for a lock one is kept.
    pub mutex_fraction: u32,
    /// So many stacks of waits are taken of a thread in a second; 0: all.
    pub thread_stacks: u32,
}

/// So many stacks of waits are taken on a CPU in a second, unless all are.
const CPU_STACKS: u32 = 1_000;

impl Default for Closeness {
    fn default() -> Self {
        Self { block_rate_ns: 1, mutex_fraction: 1, thread_stacks: 200 }
    }
}

impl Closeness {
    /// What is to be recorded where these kinds are asked for, of one process or of all.
    pub(super) fn waits(self, kinds: &HashSet<Kind>, pid: Option<u32>) -> Waits {
        let Self { block_rate_ns, mutex_fraction, thread_stacks } = self;
        Waits {
            block: kinds.contains(&Kind::Block),
            wall: kinds.contains(&Kind::Wall),
            mutex: kinds.contains(&Kind::Mutex),
            spawns: kinds.contains(&Kind::Threadcreate),
            block_rate_ns: block_rate_ns.max(1),
            mutex_fraction,
            thread_stacks,
            cpu_stacks: if thread_stacks == 0 { 0 } else { CPU_STACKS },
            pid,
        }
    }
}

/// What the kernel side keeps of each thread, as it was at one time.
#[derive(Default)]
pub(super) struct Stock {
    /// Boot-time clock.
    now_ns: u64,
    threads: Vec<(LifeId, Thread)>,
}

/// What a collection knows of threads as they were at its begin, and as they ended.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// All of it is of use: of wall time. Else only what nobody was charged with.
    is_of_wall: bool,
    /// By thread: its process's start, and how much there was of it.
    begin: HashMap<u32, (u64, Sums)>,
    /// Those that have ended since: how much there was of each.
    ended: HashMap<(LifeId, u32), (Totals, [u8; 16])>,
    /// How much there was of those that were there at the end.
    closed: HashMap<(LifeId, u32), (Totals, [u8; 16])>,
    /// Waits that were not over at the end, by thread and begin: they count until then, and are
    /// over later.
    open: HashSet<(u32, u64)>,
    /// Waits for a futex that nobody who held it ended.
    pub(super) unattributed: u64,
    pub(super) unattributed_ns: u64,
}

/// How much there was of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    total_ns: Totals,
    unattributed: u64,
    unattributed_ns: u64,
}

impl Sums {
    fn of(thread: &Thread, now_ns: u64) -> Self {
        let mut total_ns = thread.total_ns;
        // What it does now is not in it yet.
        let open_ns = now_ns.saturating_sub(thread.since_ns);
        if thread.state == State::Waiting as u32 && thread.woken_ns > thread.since_ns {
            let woken_ns = thread.woken_ns.min(now_ns);
            total_ns[State::Waiting as usize] += woken_ns.saturating_sub(thread.since_ns);
            total_ns[State::Runnable as usize] += now_ns - woken_ns;
        } else if let Some(total) = total_ns.get_mut(thread.state as usize) {
            *total += open_ns;
        }
        let Thread { unattributed, unattributed_ns, .. } = *thread;
        Self { total_ns, unattributed, unattributed_ns }
    }

    fn since(&self, before: &Self) -> Self {
        let mut total_ns = [0; STATES];
        let mut too_much_ns = 0;
        for (state, total) in total_ns.iter_mut().enumerate() {
            *total = self.total_ns[state].saturating_sub(before.total_ns[state]);
            too_much_ns += before.total_ns[state].saturating_sub(self.total_ns[state]);
        }
        // What a thread seemed to wait for at that time was over: it was ready.
        let ready_ns = &mut total_ns[State::Runnable as usize];
        *ready_ns = ready_ns.saturating_sub(too_much_ns);
        Self {
            total_ns,
            unattributed: self.unattributed.saturating_sub(before.unattributed),
            unattributed_ns: self.unattributed_ns.saturating_sub(before.unattributed_ns),
        }
    }
}

impl Threads {
    /// Those that are there at a collection's begin.
    pub(super) fn at_begin(kind: Kind, stock: &Stock) -> Self {
        if !kind.counts_threads() {
            return Self::default();
        }
        let begin = stock.threads.iter().map(|(_, thread)| {
            let sums = Sums::of(thread, stock.now_ns);
            (thread.sample.tid, (thread.sample.start_ns, sums))
        });
        Self { is_of_wall: kind == Kind::Wall, begin: begin.collect(), ..Self::default() }
    }

    /// What came on top for a thread.
    fn since_begin(&self, tid: u32, start_ns: u64, sums: &Sums) -> Sums {
        match self.begin.get(&tid) {
            Some((of, before)) if *of == start_ns => sums.since(before),
            _ => *sums,
        }
    }

    /// A thread has ended.
    fn end(&mut self, life: LifeId, wait: &Wait) {
        let Sample { tid, start_ns, comm, .. } = wait.sample;
        let Wait { total_ns, unattributed, unattributed_ns, .. } = *wait;
        let sums = Sums { total_ns, unattributed, unattributed_ns };
        let sums = self.since_begin(tid, start_ns, &sums);
        self.unattributed += sums.unattributed;
        self.unattributed_ns += sums.unattributed_ns;
        self.begin.remove(&tid);
        if !self.is_of_wall {
            return;
        }
        let (totals, known) = self.ended.entry((life, tid)).or_insert(([0; STATES], comm));
        *known = comm;
        for (total, more) in totals.iter_mut().zip(sums.total_ns) {
            *total += more;
        }
    }

    /// The collection ends as `stock` is taken.
    pub(super) fn close(
        &mut self,
        stock: &Stock,
        from_ns: u64,
        is_asked_for: impl Fn(LifeId) -> bool,
    ) {
        let length_ns = stock.now_ns.saturating_sub(from_ns);
        for (life, thread) in stock.threads.iter().filter(|(life, _)| is_asked_for(*life)) {
            let Sample { tid, start_ns, comm, .. } = thread.sample;
            let mut sums = self.since_begin(tid, start_ns, &Sums::of(thread, stock.now_ns));
            self.unattributed += sums.unattributed;
            self.unattributed_ns += sums.unattributed_ns;
            if !self.is_of_wall {
                continue;
            }
            // One that was not known at the begin ran before that, too.
            let all: u64 = sums.total_ns.iter().sum();
            let running_ns = &mut sums.total_ns[State::Running as usize];
            *running_ns = running_ns.saturating_sub(all.saturating_sub(length_ns));
            self.closed.insert((*life, tid), (sums.total_ns, comm));
        }
    }

    /// How long each thread was in each state, once all is here.
    pub(super) fn take_all(&mut self) -> HashMap<(LifeId, u32), (Totals, [u8; 16])> {
        let mut all = std::mem::take(&mut self.closed);
        for (thread, (totals, comm)) in std::mem::take(&mut self.ended) {
            let (sum, _) = all.entry(thread).or_insert(([0; STATES], comm));
            for (sum, total) in sum.iter_mut().zip(totals) {
                *sum += total;
            }
        }
        all
    }

    /// The processes that something is known of.
    pub(super) fn lives(&self) -> impl Iterator<Item = LifeId> {
        self.ended.keys().chain(self.closed.keys()).map(|(life, _)| *life)
    }

    /// A wait was not over when the collection ended, and counts until then.
    fn note_open(&mut self, tid: u32, begin_ns: u64) {
        if self.is_of_wall {
            self.open.insert((tid, begin_ns));
        }
    }

    /// Whether a wait that is over now has counted already.
    pub(super) fn has_counted(&self, wait: &Wait) -> bool {
        self.open.contains(&(wait.sample.tid, wait.begin_ns))
    }
}

/// The parts of a wait within a stretch of time: for something else, and for a CPU.
fn parts(wait: &Wait, from_ns: u64, until_ns: u64) -> [(State, u64); 2] {
    let overlap =
        |begin_ns: u64, end_ns: u64| end_ns.min(until_ns).saturating_sub(begin_ns.max(from_ns));
    let end_ns = wait.sample.time_ns;
    let state = State::from_number(wait.state).unwrap_or(State::Waiting);
    match state {
        State::Waiting | State::Throttled => {
            let woken_ns = if wait.woken_ns == 0 { end_ns } else { wait.woken_ns.min(end_ns) };
            [
                (state, overlap(wait.begin_ns, woken_ns)),
                (State::Runnable, overlap(woken_ns, end_ns)),
            ]
        }
        State::Running | State::Runnable => [(state, overlap(wait.begin_ns, end_ns)), (state, 0)],
    }
}

/// What a wait counts for in a profile of `kind`, from one time to another.
pub(crate) fn weighed(kind: Kind, wait: &Wait, from_ns: u64, until_ns: u64) -> Vec<Weighed> {
    let weight = f64::from(wait.weight);
    let system_call = wait.system_call;
    let length_ns = wait.sample.time_ns.saturating_sub(wait.begin_ns).max(1) as f64;
    // One that was kept by chance stands for others.
    let stands_for = weight * (wait.rate_ns as f64 / length_ns).max(1.0);
    let one = |state, time_ns: f64| {
        let measured = Measured { count: stands_for, time_ns: time_ns * stands_for };
        Weighed { state, system_call, measured }
    };
    match kind {
        Kind::Wall => {
            let parts = parts(wait, from_ns, until_ns).into_iter();
            let parts = parts.filter(|(_, time_ns)| *time_ns > 0);
            parts.map(|(state, time_ns)| one(state, time_ns as f64)).collect()
        }
        _ => vec![one(State::Waiting, length_ns)],
    }
}

impl Recorder {
    /// What is kept of each thread now.
    pub(super) fn stock(&mut self) -> Result<Stock, RecordError> {
        let threads = self.sampler.threads()?;
        let now_ns = clock::boot_ns();
        let is_all = self.settings.filter.is_all();
        let threads = threads.into_iter().filter_map(|(_, thread)| {
            let Sample { pid, start_ns, exec_id, .. } = thread.sample;
            let image = self.table.image_of(pid, start_ns, exec_id, now_ns);
            let life = self.table.life(image.life)?;
            let is_wanted = (is_all || life.profiled == Some(true)) && !life.is_ours(image.image);
            is_wanted.then_some((image.life, thread))
        });
        let threads = threads.collect();
        Ok(Stock { now_ns, threads })
    }

    /// Adds waits that are not over to the collections that end now.
    pub(super) fn count_open_waits(&mut self, stock: &Stock, ends: &HashSet<CollectionId>) {
        for (_, thread) in &stock.threads {
            if thread.weight == 0 || thread.state == State::Running as u32 {
                continue;
            }
            let mut wait = Wait {
                sample: thread.sample,
                begin_ns: thread.since_ns,
                woken_ns: thread.woken_ns,
                total_ns: thread.total_ns,
                unattributed: 0,
                unattributed_ns: 0,
                rate_ns: 0,
                weight: thread.weight,
                state: thread.state,
                system_call: thread.system_call,
                reserved: 0,
            };
            wait.sample.time_ns = stock.now_ns;
            if let Some(outcome) = self.copies.outcome(wait.sample.user_stack) {
                wait.sample.outcome = outcome as u32;
            }
            self.add_wait(Kind::Wall, &wait, |id| ends.contains(&id));
            for threads in self.collections.threads_of(ends) {
                threads.note_open(wait.sample.tid, wait.begin_ns);
            }
        }
    }

    /// What is over goes to whoever asks for it, unless its stack is to be walked first. Notes where
    /// it went, and the index of its stack there.
    pub(super) fn attribute_wait(
        &mut self,
        kind: RecordKind,
        wait: Box<Wait>,
        stacks: &mut HashSet<(CollectionId, u32)>,
    ) -> Result<(), RecordError> {
        let Some(mut wait) = self.copies.hold(kind, wait) else { return Ok(()) };
        let Sample { pid, start_ns, exec_id, time_ns, tid, user_stack, .. } = wait.sample;
        if let Some(outcome) = self.copies.outcome(user_stack) {
            wait.sample.outcome = outcome as u32;
            self.copies.forget(user_stack);
        }
        let image = self.table.image_of(pid, start_ns, exec_id, time_ns);
        let is_asked_for =
            self.settings.filter.is_all() || self.is_profiled(image.life, start_ns, exec_id)?;
        let is_ours = self.table.life(image.life).is_some_and(|life| life.is_ours(image.image));
        if is_ours || !is_asked_for {
            let life = self.table.life(image.life);
            if life.is_some_and(|life| life.profiled == Some(false)) {
                // Its threads are left alone from now on.
                self.sampler.forget_thread(tid);
            }
            return Ok(());
        }
        let added = match kind {
            RecordKind::End => {
                self.thread_ended(image.life, &wait);
                return Ok(());
            }
            RecordKind::Gone => {
                self.seeded.remove(&tid);
                let life = self.table.life(image.life);
                for threads in self.collections.open_threads(life, time_ns) {
                    threads.end(image.life, &wait);
                }
                return Ok(());
            }
            RecordKind::Wake => self.add_wait(Kind::Mutex, &wait, |_| true),
            RecordKind::Spawn => self.add_wait(Kind::Threadcreate, &wait, |_| true),
            _ => {
                if pid == tid {
                    self.table.seen_comm(image.life, &comm_text(&wait.sample.comm));
                }
                // Of some the begin is not known, and so not the length.
                let is_seeded = self.seeded.remove(&tid) == Some(wait.begin_ns);
                let mut added = None;
                if wait.state == State::Waiting as u32 && !is_seeded {
                    added = self.add_wait(Kind::Block, &wait, |_| true);
                }
                self.add_wait(Kind::Wall, &wait, |_| true).or(added)
            }
        };
        stacks.extend(added);
        Ok(())
    }

    /// Adds a wait to the collections of a kind that it is of. Returns one of them, and the index of
    /// its stack there.
    fn add_wait(
        &mut self,
        kind: Kind,
        wait: &Wait,
        is_wanted: impl Fn(CollectionId) -> bool,
    ) -> Option<(CollectionId, u32)> {
        let Sample { pid, start_ns, exec_id, time_ns, .. } = wait.sample;
        let image = self.table.image_of(pid, start_ns, exec_id, time_ns);
        let life = self.table.life(image.life);
        let mappings = life.and_then(|life| life.mappings(image.image));
        // Its stack is of its begin; that of a wake, of its end.
        let mut sample = wait.sample;
        if kind != Kind::Mutex {
            sample.time_ns = wait.begin_ns;
        }
        let taken = Taken { time_ns, cpu: wait.sample.cpu, life };
        let mut is_covered = true;
        let mut added = None;
        for (id, (from_ns, until_ns), aggregate) in self.collections.of_wait(kind, &taken, wait) {
            if !is_wanted(id) {
                continue;
            }
            let weighed = weighed(kind, wait, from_ns, until_ns);
            if weighed.is_empty() {
                continue;
            }
            let (stack, covered) = aggregate.add(&sample, image, mappings, &mut self.raw, &weighed);
            is_covered &= covered;
            added = Some((id, stack));
        }
        if !is_covered {
            self.table.uncovered(image.life, time_ns);
        }
        added
    }

    /// Records what is asked for now, and nothing else.
    pub(super) fn follow_kinds(&mut self) -> Result<(), RecordError> {
        let kinds = if self.is_off { HashSet::new() } else { self.collections.wanted_kinds() };
        let waits = self.settings.closeness.waits(&kinds, self.collections.only_pid());
        if waits != self.sampler.waits() {
            self.sampler.set_waits(waits, clock::boot_ns())?;
        }
        if !waits.has_threads() {
            self.seeded.clear();
        }
        Ok(())
    }

    /// Keeps the stacks of waits that are not over.
    pub(super) fn pin_stacks(&mut self) -> Result<(), RecordError> {
        let threads = self.sampler.threads()?;
        let held = threads.iter().filter(|(_, thread)| thread.weight != 0);
        let stacks = held.flat_map(|(_, thread)| {
            let Sample { epoch, user_stack, kernel_stack, .. } = thread.sample;
            [(epoch, user_stack), (epoch, kernel_stack)]
        });
        self.raw.pin(stacks.filter(|(_, id)| *id != 0));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(begin_ns: u64, woken_ns: u64, end_ns: u64) -> Wait {
        Wait {
            sample: Sample { tid: 7, time_ns: end_ns, ..Sample::default() },
            begin_ns,
            woken_ns,
            weight: 1,
            rate_ns: 1,
            state: State::Waiting as u32,
            ..Wait::default()
        }
    }

    #[test]
    fn a_wait_is_cut_where_a_window_ends() {
        let wait = wait(100, 300, 350);
        assert_eq!(parts(&wait, 0, 1000), [(State::Waiting, 200), (State::Runnable, 50)]);
        assert_eq!(parts(&wait, 0, 200), [(State::Waiting, 100), (State::Runnable, 0)]);
        assert_eq!(parts(&wait, 200, 320), [(State::Waiting, 100), (State::Runnable, 20)]);
        assert_eq!(parts(&wait, 310, 1000), [(State::Waiting, 0), (State::Runnable, 40)]);
        let preempted = Wait { state: State::Runnable as u32, ..wait };
        assert_eq!(parts(&preempted, 0, 1000)[0], (State::Runnable, 250));
        let throttled = Wait { state: State::Throttled as u32, ..wait };
        assert_eq!(parts(&throttled, 0, 1000), [(State::Throttled, 200), (State::Runnable, 50)]);
    }

    #[test]
    fn what_is_kept_by_chance_stands_for_others() {
        let short = Wait { rate_ns: 1_000, ..wait(100, 0, 350) };
        let [weighed] = weighed(Kind::Block, &short, 0, u64::MAX)[..] else { panic!() };
        assert_eq!(weighed.measured, Measured { count: 4.0, time_ns: 1_000.0 });
        let long = Wait { rate_ns: 100, weight: 8, ..wait(100, 0, 350) };
        let [weighed] = super::weighed(Kind::Block, &long, 0, u64::MAX)[..] else { panic!() };
        assert_eq!(weighed.measured, Measured { count: 8.0, time_ns: 2_000.0 });
    }

    fn thread(tid: u32, total_ns: Totals, state: State, since_ns: u64) -> (LifeId, Thread) {
        let thread = Thread {
            sample: Sample { tid, start_ns: 5, ..Sample::default() },
            total_ns,
            state: state as u32,
            since_ns,
            ..Thread::default()
        };
        (LifeId(1), thread)
    }

    #[test]
    fn what_was_over_before_the_begin_is_not_of_it() {
        // It was throttled until 950, and got a CPU at 1,010, when that was told.
        let begin =
            Stock { now_ns: 1_000, threads: vec![thread(1, [0; STATES], State::Throttled, 900)] };
        let mut threads = Threads::at_begin(Kind::Wall, &begin);
        let end = Stock {
            now_ns: 1_100,
            threads: vec![thread(1, [0, 60, 50, 0], State::Running, 1_010)],
        };
        threads.close(&end, 1_000, |_| true);
        assert_eq!(threads.take_all()[&(LifeId(1), 1)].0, [90, 10, 0, 0]);
    }

    #[test]
    fn each_thread_is_somewhere_all_the_time() {
        let begin =
            Stock { now_ns: 1_000, threads: vec![thread(1, [500, 0, 0, 0], State::Waiting, 900)] };
        let mut threads = Threads::at_begin(Kind::Wall, &begin);
        let ended = Wait {
            sample: Sample { tid: 2, start_ns: 5, ..Sample::default() },
            total_ns: [40, 0, 0, 60],
            ..Wait::default()
        };
        threads.end(LifeId(1), &ended);
        let end = Stock {
            now_ns: 2_000,
            threads: vec![
                thread(1, [500, 10, 0, 300], State::Running, 1_210),
                thread(2, [0, 0, 0, 100], State::Waiting, 1_800),
            ],
        };
        threads.close(&end, 1_000, |_| true);
        let all = threads.take_all();
        assert_eq!(all[&(LifeId(1), 1)].0, [790, 10, 0, 200]);
        assert_eq!(all[&(LifeId(1), 2)].0, [40, 0, 0, 360], "its id was used again");
    }
}
