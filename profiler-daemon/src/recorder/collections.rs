//! What samples are added up for: the windows of a recording one after another, and beside them
//! whatever somebody asked for, of some processes, for some time, at some rate.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use profiler_ebpf::record::Wait;

use super::{
    clock,
    requests::{Request, Scope},
    waits::{Stock, Threads},
};
use crate::{
    kernel::Losses,
    process::{Life, LifeId, Table},
    profile::{Kind, Profile, Window, aggregate::Aggregate},
};

/// What was counted as lost since sampling began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) losses: Losses,
    /// Stacks that were taken for others.
    pub(super) collisions: u64,
}

impl Counted {
    fn since(&self, before: &Self) -> Self {
        Self {
            losses: self.losses.since(&before.losses),
            collisions: self.collisions.saturating_sub(before.collisions),
        }
    }
}

/// Whether threads are looked at for a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookFor {
    Wanted,
    Begun,
    /// Or not any more.
    Nothing,
}

/// Tells a collection from all others.
pub(super) type CollectionId = u64;

/// Samples that are added up.
pub(super) struct Collection {
    pub(super) id: CollectionId,
    pub(super) kind: Kind,
    pub(super) aggregate: Aggregate,
    /// Of a kind that has to do with waits.
    pub(super) threads: Threads,
    /// What else is to be said of it: comments.
    pub(super) notes: Vec<String>,
    look: LookFor,
    pub(super) start: SystemTime,
    /// Samples per second and CPU.
    pub(super) hertz: u64,
    /// Where it goes; `None`: it is a window.
    pub(super) reply: Option<tokio::sync::oneshot::Sender<(Window, Vec<Profile>)>>,
    /// What was lost in its time, once it has ended.
    pub(super) lost: Counted,
    /// Its share of the samples that were taken in its time.
    pub(super) share: f64,
    /// When it ended.
    pub(super) ended: Option<Instant>,
    tag: u64,
    scope: Scope,
    viewer: Option<u32>,
    /// The processes of a [`Scope::Tree`].
    members: HashSet<LifeId>,
    /// Boot-time clock at its start, and at its end: `u64::MAX` while that is open.
    from_ns: u64,
    until_ns: u64,
    thinner: Thinner,
    before: Counted,
    /// Places that have their names, or get none.
    settled: usize,
}

impl Collection {
    /// How long it is, once it has ended.
    pub(super) const fn duration(&self) -> Duration {
        Duration::from_nanos(self.until_ns - self.from_ns)
    }

    /// Whether it takes a sample of a process that was taken at `rate` Hz. Ask once for each.
    fn takes(&mut self, sample: &Taken<'_>, rate: u64) -> bool {
        self.kind.samples_cpus()
            && (self.from_ns..self.until_ns).contains(&sample.time_ns)
            && self.is_of(sample.life)
            && self.thinner.takes(sample.cpu, self.hertz, rate)
    }

    /// Whether a wait that is over is of it: of wall time each part, of other kinds the whole where
    /// it ends.
    fn takes_wait(&self, kind: Kind, ended: &Taken<'_>, wait: &Wait) -> bool {
        let is_in_time = match kind {
            Kind::Wall => {
                wait.begin_ns < self.until_ns
                    && ended.time_ns > self.from_ns
                    && !self.threads.has_counted(wait)
            }
            _ => (self.from_ns..self.until_ns).contains(&ended.time_ns),
        };
        self.kind == kind && is_in_time && self.is_of(ended.life)
    }

    fn is_of(&self, life: Option<&Life>) -> bool {
        match life {
            Some(life) => self.is_asked_for(life),
            None => self.scope == Scope::All && self.viewer.is_none(),
        }
    }

    fn is_asked_for(&self, life: &Life) -> bool {
        if self.viewer.is_some_and(|uid| life.process.viewer_uid != uid) {
            return false;
        }
        match self.scope {
            Scope::Tree(..) => self.members.contains(&life.id),
            _ => self.scope.has(&life.process),
        }
    }

    /// Whether all its samples are here, if those from before `attributed_ns` are but for those
    /// that wait, the oldest of which is of `oldest_ns`.
    pub(super) fn is_whole(&self, attributed_ns: u64, oldest_ns: Option<u64>) -> bool {
        matches!(self.look, LookFor::Nothing)
            && attributed_ns >= self.until_ns
            && oldest_ns.is_none_or(|oldest| oldest >= self.until_ns)
    }

    /// How many of its places wait for names.
    pub(super) fn outstanding(
        &mut self,
        is_pending: impl Fn(&Aggregate, &crate::profile::aggregate::Place) -> bool,
    ) -> usize {
        let Self { aggregate, settled, .. } = self;
        let rest = &aggregate.places[*settled..];
        *settled += rest.iter().take_while(|place| !is_pending(aggregate, place)).count();
        aggregate.places[*settled..].iter().filter(|place| is_pending(aggregate, place)).count()
    }
}

/// What decides where a sample goes.
pub(super) struct Taken<'a> {
    pub(super) time_ns: u64,
    pub(super) cpu: u32,
    pub(super) life: Option<&'a Life>,
}

/// Takes an even share of the samples of each CPU.
#[derive(Debug, Default)]
struct Thinner(HashMap<u32, u64>);

impl Thinner {
    /// Whether one that was taken at `rate` Hz is among those of `hertz`.
    fn takes(&mut self, cpu: u32, hertz: u64, rate: u64) -> bool {
        if hertz >= rate {
            return true;
        }
        // Half a period ahead: on average neither too many nor too few.
        let credit = self.0.entry(cpu).or_insert(rate / 2);
        *credit += hertz;
        if *credit < rate {
            return false;
        }
        *credit = (*credit - rate).min(rate);
        true
    }
}

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

    /// Ends those. What threads did is as in `stock`.
    pub(super) fn end(
        &mut self,
        ends: &HashSet<CollectionId>,
        counted: Counted,
        stock: &Stock,
        table: &Table,
    ) {
        let now_ns = clock::boot_ns();
        for it in self.all.iter_mut().filter(|it| ends.contains(&it.id)) {
            end(it, now_ns, counted, &self.rates);
            let mut threads = std::mem::take(&mut it.threads);
            threads.close(stock, it.from_ns, |id| it.is_of(table.life(id)));
            it.threads = threads;
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
            matches!(it.kind, Kind::Wall | Kind::Mutex)
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
    ) -> &mut Aggregate {
        let Request { kind, scope, hertz, duration, addresses: _, viewer, tag, started, reply } =
            request;
        let collection = self.add(kind, scope, hertz, Some(duration), Some(reply), before);
        collection.threads = Threads::at_begin(kind, stock);
        (collection.viewer, collection.tag, collection.members) = (viewer, tag, members);
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

fn end(collection: &mut Collection, now_ns: u64, counted: Counted, rates: &VecDeque<(u64, u64)>) {
    collection.until_ns = collection.until_ns.min(now_ns);
    collection.lost = counted.since(&collection.before);
    let taken = mean_rate(rates, collection.from_ns, collection.until_ns);
    collection.share = (collection.hertz as f64 / taken).min(1.0);
    collection.ended = Some(Instant::now());
}

/// The mean of the rates in force from one time to another, in Hz.
fn mean_rate(rates: &VecDeque<(u64, u64)>, from_ns: u64, until_ns: u64) -> f64 {
    let ends = rates.iter().skip(1).map(|(begin_ns, _)| *begin_ns).chain([u64::MAX]);
    let (mut taken, mut length) = (0.0, 0.0);
    for ((begin_ns, hertz), end_ns) in rates.iter().zip(ends) {
        let part_ns = until_ns.min(end_ns).saturating_sub(from_ns.max(*begin_ns));
        taken += *hertz as f64 * part_ns as f64;
        length += part_ns as f64;
    }
    let last = rates.back().map_or(1.0, |(_, hertz)| *hertz as f64);
    if length > 0.0 { taken / length } else { last }
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
        collections.end(&ends, Counted::default(), &Stock::default(), &table);
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
    fn a_share_is_of_the_rates_in_its_time() {
        let rates = VecDeque::from([(0, 19), (100, 99), (200, 999)]);
        for (from_ns, until_ns, mean) in
            [(0, 100, 19.0), (50, 150, 59.0), (100, 200, 99.0), (300, 400, 999.0), (0, 0, 999.0)]
        {
            let found = mean_rate(&rates, from_ns, until_ns);
            assert!((found - mean).abs() < 1e-9, "{from_ns} to {until_ns}: {found}");
        }
    }

    #[test]
    fn each_gets_its_share_of_each_cpu() {
        let mut thinners: Vec<_> = (0..3).map(|_| Thinner::default()).collect();
        let mut taken = [[0; 2]; 3];
        for n in 0..9_990_u32 {
            for (at, hertz) in [19, 99, 999].into_iter().enumerate() {
                let cpu = n % 2;
                taken[at][cpu as usize] += u32::from(thinners[at].takes(cpu, hertz, 999));
            }
        }
        assert_eq!(taken, [[95, 95], [495, 495], [4_995, 4_995]]);
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
                started: None,
                reply,
            };
            let members = HashSet::from([LifeId(1)]);
            collections.request(request, members, Counted::default(), &Stock::default());
            for (parent, child) in [(1, 2), (2, 3), (8, 9)] {
                collections.forked(LifeId(parent), LifeId(child));
            }
            let mut members: Vec<_> = collections.all[1].members.iter().map(|it| it.0).collect();
            members.sort_unstable();
            assert_eq!(members, if follow { vec![1, 2, 3] } else { vec![1] });
        }
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
            started: None,
            reply,
        };
        collections.request(request, HashSet::new(), Counted::default(), &Stock::default());
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
