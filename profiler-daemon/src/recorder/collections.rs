//! What samples are added up for: the windows of a recording one after another, and beside them
//! whatever somebody asked for, of some processes, for some time, at some rate.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_ebpf::record::Wait;

use super::{
    clock,
    collection::{Collection, CollectionId, Counted, LookFor, Taken},
    rates::Thinner,
    requests::{Request, Scope},
    spent::{ByLife, Times},
    waits::{Stock, Threads},
};
use crate::{
    process::{Life, LifeId, Table},
    profile::{Kind, Profile, Window, aggregate::Aggregate},
};

/// All that there are.
pub(super) struct Collections {
    all: Vec<Collection>,
    next_id: CollectionId,
    /// What windows are of.
    window_kinds: Vec<Kind>,
    /// Their rate, in Hz.
    window_hertz: u64,
    /// Rates in Hz, and since when: boot-time clock. Newest last.
    rates: VecDeque<(u64, u64)>,
}

/// A window may wait this long for names that are made when CPUs have nothing else to do.
const UNHURRIED: Duration = Duration::from_secs(2);

/// So long a rate is remembered after its end, for samples that are still under way.
const RATES: usize = 64;

impl Collections {
    /// With first windows, one of each kind, which are open.
    pub(super) fn new(hertz: u64, kinds: &[Kind]) -> Self {
        let mut collections = Self {
            all: Vec::new(),
            next_id: 0,
            window_kinds: kinds.to_vec(),
            window_hertz: hertz,
            rates: VecDeque::new(),
        };
        for &kind in kinds {
            collections.add(kind, Scope::All, hertz, None, None, Counted::default());
        }
        collections.rates.push_back((0, collections.wanted_rate()));
        collections
    }

    fn add(
        &mut self,
        kind: Kind,
        scope: Scope,
        hertz: u64,
        duration: Option<Duration>,
        reply: Option<tokio::sync::oneshot::Sender<(Window, Vec<Profile>)>>,
        before: Counted,
    ) -> &mut Collection {
        let at = self.all.len();
        let from_ns = clock::boot_ns();
        let length_ns = duration.map_or(u64::MAX, |duration| duration.as_nanos() as u64);
        self.all.push(Collection {
            id: self.next_id,
            kind,
            aggregate: Aggregate::default(),
            threads: Threads::at_begin(kind, &Stock::default()),
            times: None,
            spent: ByLife::default(),
            notes: Vec::new(),
            look: if kind.looks_at_threads() { LookFor::Wanted } else { LookFor::Nothing },
            start: SystemTime::now(),
            hertz,
            reply,
            lost: Counted::default(),
            share: 1.0,
            ended: None,
            tag: 0,
            scope,
            viewer: None,
            members: HashSet::new(),
            from_ns,
            until_ns: from_ns.saturating_add(length_ns),
            thinner: Thinner::default(),
            before,
            settled: 0,
        });
        self.next_id += 1;
        &mut self.all[at]
    }

    /// Sampling begins now.
    pub(super) fn begin(&mut self) {
        for collection in &mut self.all {
            collection.start = SystemTime::now();
            collection.from_ns = clock::boot_ns();
        }
    }

    /// The open windows, or what is asked for and over, and with `all` what is not: what ends now.
    pub(super) fn ending(&self, windows: bool, all: bool) -> HashSet<CollectionId> {
        let now_ns = clock::boot_ns();
        let ends = |it: &&Collection| {
            it.ended.is_none()
                && if it.reply.is_none() { windows } else { all || it.until_ns <= now_ns }
        };
        self.all.iter().filter(ends).map(|it| it.id).collect()
    }

    /// Whether one of those is of such a kind.
    pub(super) fn is_any(&self, ids: &HashSet<CollectionId>, is: impl Fn(Kind) -> bool) -> bool {
        self.all.iter().any(|it| ids.contains(&it.id) && is(it.kind))
    }

    /// Ends those. What threads did is as in `stock`.
    pub(super) fn end(
        &mut self,
        ends: &HashSet<CollectionId>,
        counted: Counted,
        stock: &Stock,
        spent: &ByLife,
        table: &Table,
    ) {
        let now_ns = clock::boot_ns();
        for it in self.all.iter_mut().filter(|it| ends.contains(&it.id)) {
            it.end(now_ns, counted, &self.rates);
            it.spent = Arc::clone(spent);
            let mut threads = std::mem::take(&mut it.threads);
            threads.close(stock, it.from_ns, |id| it.is_of(table.life(id)));
            it.threads = threads;
        }
    }

    /// Whether any asks how threads spend its time.
    pub(super) fn tells_times(&self) -> bool {
        self.all.iter().any(|it| it.times.is_some())
    }

    /// What those know of threads' times that ask for it and take an end that is of `life`.
    pub(super) fn times_of(&mut self, life: Option<&Life>) -> impl Iterator<Item = &mut Times> {
        let asked = self.all.iter_mut().filter(move |it| it.times.is_some() && it.is_of(life));
        asked.filter_map(|it| it.times.as_mut())
    }

    /// Those of them that have ended: what they know is theirs no more.
    pub(super) fn take_times(&mut self) -> Vec<(CollectionId, Times)> {
        let ended = self.all.iter_mut().filter(|it| it.ended.is_some());
        ended.filter_map(|it| Some((it.id, it.times.take()?))).collect()
    }

    /// How threads spent the time of one.
    pub(super) fn spent(&mut self, id: CollectionId, spent: ByLife) {
        if let Some(it) = self.all.iter_mut().find(|it| it.id == id) {
            it.spent = spent;
        }
    }

    /// Opens the windows that follow those that have just ended.
    pub(super) fn next_windows(&mut self, counted: Counted, stock: &Stock) {
        let ended = self.all.iter().filter(|it| it.reply.is_none() && it.ended.is_some());
        // Between the two no sample is lost, and none counted twice.
        let ended_ns = ended.map(|it| it.until_ns).max();
        for kind in self.window_kinds.clone() {
            let next = self.add(kind, Scope::All, self.window_hertz, None, None, counted);
            next.threads = Threads::at_begin(kind, stock);
            next.from_ns = ended_ns.unwrap_or(next.from_ns);
        }
    }

    /// Those of which waits count.
    pub(super) fn of_wait<'a>(
        &'a mut self,
        kind: Kind,
        ended: &'a Taken<'a>,
        wait: &'a Wait,
    ) -> impl Iterator<Item = (CollectionId, (u64, u64), &'a mut Aggregate)> {
        let takers = self.all.iter_mut().filter(move |it| it.takes_wait(kind, ended, wait));
        takers.map(|it| (it.id, (it.from_ns, it.until_ns), &mut it.aggregate))
    }

    /// What some know of threads.
    pub(super) fn threads_of(
        &mut self,
        ids: &HashSet<CollectionId>,
    ) -> impl Iterator<Item = &mut Threads> {
        self.all.iter_mut().filter(|it| ids.contains(&it.id)).map(|it| &mut it.threads)
    }

    /// What those know of threads that a thread which ended at a time is of.
    pub(super) fn open_threads<'a>(
        &'a mut self,
        life: Option<&'a Life>,
        time_ns: u64,
    ) -> impl Iterator<Item = &'a mut Threads> {
        let is_of = move |it: &&mut Collection| {
            it.kind.counts_threads()
                && (it.from_ns..it.until_ns).contains(&time_ns)
                && it.is_of(life)
        };
        self.all.iter_mut().filter(is_of).map(|it| &mut it.threads)
    }

    /// Those for which threads are to be looked at from now on: their kinds, and their begins on the
    /// boot-time clock.
    pub(super) fn take_wanted_looks(&mut self) -> Vec<(CollectionId, Kind, u64)> {
        let wanted = self.all.iter_mut().filter(|it| it.look == LookFor::Wanted);
        let begin = wanted.map(|it| {
            it.look = LookFor::Begun;
            (it.id, it.kind, it.from_ns)
        });
        begin.collect()
    }

    /// Whether a collection is there and not over.
    pub(super) fn is_open(&self, id: CollectionId) -> bool {
        self.all.iter().any(|it| it.id == id && it.ended.is_none())
    }

    /// Whether a collection asks for a process.
    pub(super) fn asks_for(&self, id: CollectionId, life: Option<&Life>) -> bool {
        self.all.iter().any(|it| it.id == id && it.is_of(life))
    }

    /// A look at threads is over: it took so long, and these wait for each other.
    pub(super) fn looked(&mut self, id: CollectionId, took: Duration, cycles: &[Vec<u32>]) {
        let now_ns = clock::boot_ns();
        for it in self.all.iter_mut().filter(|it| it.id == id) {
            it.look = LookFor::Nothing;
            if it.kind != Kind::Goroutine {
                continue;
            }
            it.notes.push(format!("looked_for_ms={}", took.as_millis()));
            it.notes.extend(cycles.iter().map(|cycle| {
                let tids: Vec<_> = cycle.iter().chain(cycle.first()).map(u32::to_string).collect();
                format!("deadlock: thread {}", tids.join(" waits for a lock that has thread "))
            }));
            if it.reply.is_some() {
                it.until_ns = it.until_ns.min(now_ns);
            }
        }
    }

    /// The kinds that are being recorded.
    pub(super) fn wanted_kinds(&self) -> HashSet<Kind> {
        self.all.iter().filter(|it| it.ended.is_none()).map(|it| it.kind).collect()
    }

    /// The only process of which waits are asked for; `None`: there are several, or none is known
    /// by its pid.
    pub(super) fn only_pid(&self) -> Option<u32> {
        let open = self.all.iter().filter(|it| it.ended.is_none() && it.kind.follows_threads());
        let mut pids = open.map(|it| it.scope.only_pid());
        let first = pids.next()??;
        pids.all(|pid| pid == Some(first)).then_some(first)
    }

    /// The rate of windows that begin from now on.
    pub(super) fn set_window_rate(&mut self, hertz: u64) {
        self.window_hertz = hertz;
    }

    /// The rate of windows.
    pub(super) fn window_rate(&self) -> u64 {
        self.window_hertz
    }

    /// Whether the open window is this old.
    pub(super) fn is_window_due(&self, length: Duration) -> bool {
        let mut open = self.all.iter().filter(|it| it.reply.is_none() && it.ended.is_none());
        open.any(|it| clock::boot_ns().saturating_sub(it.from_ns) >= length.as_nanos() as u64)
    }

    /// Begins what somebody asks for. The rate has to be [`Self::wanted_rate`] then.
    /// `members`: the processes of a [`Scope::Tree`].
    pub(super) fn request(
        &mut self,
        request: Request,
        members: HashSet<LifeId>,
        before: Counted,
        stock: &Stock,
        times: Option<Times>,
    ) -> &mut Aggregate {
        let Request { kind, scope, hertz, duration, viewer, tag, started, reply, .. } = request;
        let collection = self.add(kind, scope, hertz, Some(duration), Some(reply), before);
        collection.threads = Threads::at_begin(kind, stock);
        (collection.viewer, collection.tag, collection.members) = (viewer, tag, members);
        collection.times = times;
        if let Some(started) = started {
            // Whoever asked may have gone.
            let _ = started.send(());
        }
        &mut collection.aggregate
    }

    /// Whoever is asked for has started another process.
    pub(super) fn forked(&mut self, parent: LifeId, child: LifeId) {
        for collection in &mut self.all {
            if matches!(collection.scope, Scope::Tree(_, true))
                && collection.members.contains(&parent)
            {
                collection.members.insert(child);
            }
        }
    }

    /// Lets what has this tag be over.
    pub(super) fn cut_short(&mut self, tag: u64) {
        let now_ns = clock::boot_ns();
        for it in self.all.iter_mut().filter(|it| tag != 0 && it.tag == tag) {
            it.until_ns = it.until_ns.min(now_ns);
        }
    }

    /// How long until something is over: what was asked for, or the open window, if windows are so
    /// long. `None`: nothing is under way.
    pub(super) fn next_end(&self, window: Option<Duration>) -> Option<Duration> {
        let length_ns = window.map_or(u64::MAX, |window| window.as_nanos() as u64);
        let open = self.all.iter().filter(|it| it.ended.is_none());
        let ends = open.map(|it| match it.reply {
            Some(_) => it.until_ns,
            None => it.from_ns.saturating_add(length_ns),
        });
        let until_ns = ends.min()?;
        Some(Duration::from_nanos(until_ns.saturating_sub(clock::boot_ns())))
    }

    /// Forgets what nobody waits for any more. Returns whether there was such.
    pub(super) fn forget_abandoned(&mut self) -> bool {
        let before = self.all.len();
        self.all.retain(|it| it.reply.as_ref().is_none_or(|reply| !reply.is_closed()));
        self.all.len() < before
    }

    /// Whether something that was asked for is over and not yet ended.
    pub(super) fn is_any_over(&self) -> bool {
        let now_ns = clock::boot_ns();
        self.all.iter().any(|it| it.reply.is_some() && it.ended.is_none() && it.until_ns <= now_ns)
    }

    /// The rate that all need.
    pub(super) fn wanted_rate(&self) -> u64 {
        let open = self.all.iter().filter(|it| it.ended.is_none() && it.kind.samples_cpus());
        open.map(|it| it.hertz).max().unwrap_or(1)
    }

    /// The rate in force.
    pub(super) fn rate(&self) -> u64 {
        self.rates.back().map_or(1, |(_, hertz)| *hertz)
    }

    /// Notes that samples are taken at another rate from now on.
    pub(super) fn rate_changed(&mut self, hertz: u64) {
        self.rates.push_back((clock::boot_ns(), hertz));
        if self.rates.len() > RATES {
            self.rates.pop_front();
        }
    }

    /// Those that take a sample, and their rates in Hz. Ask once for each.
    pub(super) fn of<'a>(
        &'a mut self,
        sample: &'a Taken<'a>,
    ) -> impl Iterator<Item = (CollectionId, u64, &'a mut Aggregate)> {
        let mut rates = self.rates.iter().rev();
        let rate = rates.find(|(from_ns, _)| *from_ns <= sample.time_ns);
        let rate = rate.or(self.rates.front()).map_or(1, |(_, hertz)| *hertz);
        let takers = self
            .all
            .iter_mut()
            .filter_map(move |collection| collection.takes(sample, rate).then_some(collection));
        takers.map(|collection| (collection.id, collection.hertz, &mut collection.aggregate))
    }

    /// What was added up in one, if it is still there.
    pub(super) fn get(&self, id: CollectionId) -> Option<&Aggregate> {
        let mut all = self.all.iter();
        all.find(|collection| collection.id == id).map(|collection| &collection.aggregate)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: CollectionId) -> Option<&mut Aggregate> {
        let mut all = self.all.iter_mut();
        all.find(|collection| collection.id == id).map(|collection| &mut collection.aggregate)
    }

    /// The processes that something is known of beside what was added up.
    pub(super) fn lives(&self) -> impl Iterator<Item = LifeId> {
        self.all.iter().flat_map(|collection| collection.threads.lives())
    }

    /// What was added up in each.
    pub(super) fn aggregates(&self) -> impl Iterator<Item = &Aggregate> {
        self.all.iter().map(|collection| &collection.aggregate)
    }

    /// The same, to be changed.
    pub(super) fn aggregates_mut(&mut self) -> impl Iterator<Item = &mut Aggregate> {
        self.all.iter_mut().map(|collection| &mut collection.aggregate)
    }

    /// Whether one has ended, and waits for its samples and names.
    pub(super) fn is_any_ending(&self) -> bool {
        self.all.iter().any(|collection| collection.ended.is_some())
    }

    /// Whether names hold something up that somebody waits for.
    pub(super) fn is_any_held_up(&self) -> bool {
        self.all.iter().any(|collection| {
            let is_late = |ended: Instant| ended.elapsed() >= UNHURRIED;
            collection.ended.is_some_and(|ended| collection.reply.is_some() || is_late(ended))
        })
    }

    /// Takes one out that has ended and is `ready`; windows in their order.
    pub(super) fn take_ready(
        &mut self,
        mut ready: impl FnMut(&mut Collection) -> bool,
    ) -> Option<Collection> {
        let mut is_window_waiting = false;
        let at = self.all.iter_mut().position(|collection| {
            if collection.ended.is_none() || (collection.reply.is_none() && is_window_waiting) {
                return false;
            }
            let is_ready = ready(collection);
            is_window_waiting |= collection.reply.is_none() && !is_ready;
            is_ready
        })?;
        Some(self.all.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(collections: &mut Collections, time_ns: u64) -> Vec<CollectionId> {
        let taken = Taken { time_ns, cpu: 0, life: None };
        collections.of(&taken).map(|(id, ..)| id).collect()
    }

    fn next_window(collections: &mut Collections) {
        let ends = collections.ending(true, false);
        let table = Table::new(Default::default());
        let spent = ByLife::default();
        collections.end(&ends, Counted::default(), &Stock::default(), &spent, &table);
        collections.next_windows(Counted::default(), &Stock::default());
    }

    #[test]
    fn a_late_sample_belongs_to_the_window_of_its_time() {
        let mut collections = Collections::new(99, &[Kind::Cpu]);
        collections.begin();
        next_window(&mut collections);
        next_window(&mut collections);
        let from_ns: Vec<_> = collections.all.iter().map(|it| it.from_ns).collect();
        assert_eq!(ids(&mut collections, from_ns[0]), [0]);
        assert_eq!(ids(&mut collections, from_ns[1] - 1), [0]);
        assert_eq!(ids(&mut collections, from_ns[1]), [1]);
        assert_eq!(ids(&mut collections, from_ns[2] - 1), [1]);
        assert_eq!(ids(&mut collections, from_ns[2]), [2]);
        assert_eq!(ids(&mut collections, u64::MAX - 1), [2]);
    }

    #[test]
    fn children_belong_to_the_tree_that_asks_for_them() {
        for follow in [true, false] {
            let mut collections = Collections::new(19, &[Kind::Cpu]);
            let (reply, _answer) = tokio::sync::oneshot::channel();
            let request = Request {
                kind: Kind::Cpu,
                scope: Scope::Tree([1].into(), follow),
                hertz: 19,
                duration: Duration::from_secs(9),
                addresses: Vec::new(),
                viewer: None,
                tag: 0,
                tells_times: false,
                started: None,
                reply,
            };
            let members = HashSet::from([LifeId(1)]);
            collections.request(request, members, Counted::default(), &Stock::default(), None);
            for (parent, child) in [(1, 2), (2, 3), (8, 9)] {
                collections.forked(LifeId(parent), LifeId(child));
            }
            let mut members: Vec<_> = collections.all[1].members.iter().map(|it| it.0).collect();
            members.sort_unstable();
            assert_eq!(members, if follow { vec![1, 2, 3] } else { vec![1] });
        }
    }

    #[test]
    fn threads_of_one_process_are_followed_while_nobody_asks_for_others() {
        let mut collections = Collections::new(19, &[Kind::Cpu]);
        let mut ask = |kind, scope| {
            let (reply, answer) = tokio::sync::oneshot::channel();
            let request = Request {
                kind,
                scope,
                hertz: 19,
                duration: Duration::from_secs(9),
                addresses: Vec::new(),
                viewer: None,
                tag: 0,
                tells_times: false,
                started: None,
                reply,
            };
            collections.request(
                request,
                HashSet::new(),
                Counted::default(),
                &Stock::default(),
                None,
            );
            (answer, collections.only_pid())
        };
        let (_cpu, pid) = ask(Kind::Cpu, Scope::All);
        assert_eq!(pid, None);
        let (_wall, pid) = ask(Kind::Wall, Scope::Pid(7));
        assert_eq!(pid, Some(7));
        let (_block, pid) = ask(Kind::Block, Scope::Tree([7].into(), false));
        assert_eq!(pid, Some(7));
        let (_other, pid) = ask(Kind::Mutex, Scope::Tree([7].into(), true));
        assert_eq!(pid, None, "nor its children's");
    }

    #[test]
    fn the_rate_is_the_highest_that_is_asked_for() {
        let mut collections = Collections::new(19, &[Kind::Cpu]);
        let (reply, answer) = tokio::sync::oneshot::channel();
        let request = Request {
            kind: Kind::Cpu,
            scope: Scope::Pid(1),
            hertz: 499,
            duration: Duration::from_secs(9),
            addresses: Vec::new(),
            viewer: None,
            tag: 7,
            tells_times: false,
            started: None,
            reply,
        };
        collections.request(request, HashSet::new(), Counted::default(), &Stock::default(), None);
        assert_eq!(collections.wanted_rate(), 499);
        assert!(!collections.is_any_over());
        collections.cut_short(8);
        assert!(!collections.is_any_over());
        collections.cut_short(7);
        assert!(collections.is_any_over());
        drop(answer);
        assert!(collections.forget_abandoned());
        assert_eq!(collections.wanted_rate(), 19);
    }
}
