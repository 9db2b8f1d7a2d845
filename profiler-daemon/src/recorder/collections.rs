//! What samples are added up for: the windows of a recording one after another, and beside them
//! whatever somebody asked for, of some processes, for some time, at some rate.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use super::{
    clock,
    requests::{Request, Scope},
};
use crate::{
    kernel::Losses,
    process::{Life, LifeId},
    profile::{Profile, Window, aggregate::Aggregate},
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

/// Tells a collection from all others.
pub(super) type CollectionId = u64;

/// Samples that are added up.
pub(super) struct Collection {
    pub(super) id: CollectionId,
    pub(super) aggregate: Aggregate,
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
        (self.from_ns..self.until_ns).contains(&sample.time_ns)
            && sample.life.is_none_or(|life| self.is_asked_for(life))
            && (sample.life.is_some() || (self.scope == Scope::All && self.viewer.is_none()))
            && self.thinner.takes(sample.cpu, self.hertz, rate)
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
        attributed_ns >= self.until_ns && oldest_ns.is_none_or(|oldest| oldest >= self.until_ns)
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
    /// That of windows, in Hz.
    window_hertz: u64,
    /// Rates in Hz, and since when: boot-time clock. Newest last.
    rates: VecDeque<(u64, u64)>,
}

/// So long a rate is remembered after its end, for samples that are still under way.
const RATES: usize = 64;

impl Collections {
    /// With a first window, which is open.
    pub(super) fn new(hertz: u64) -> Self {
        let rates = VecDeque::from([(0, hertz)]);
        let mut collections = Self { all: Vec::new(), next_id: 0, window_hertz: hertz, rates };
        collections.add(Scope::All, hertz, None, None, Counted::default());
        collections
    }

    fn add(
        &mut self,
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
            aggregate: Aggregate::default(),
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

    /// Ends the open window, and opens the next.
    pub(super) fn next_window(&mut self, counted: Counted) {
        let mut ended_ns = None;
        for open in self.all.iter_mut().filter(|it| it.reply.is_none() && it.ended.is_none()) {
            end(open, counted, &self.rates);
            ended_ns = Some(open.until_ns);
        }
        self.add(Scope::All, self.window_hertz, None, None, counted);
        // Between the two no sample is lost, and none counted twice.
        if let (Some(next), Some(ended_ns)) = (self.all.last_mut(), ended_ns) {
            next.from_ns = ended_ns;
        }
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
    ) -> &mut Aggregate {
        let Request { scope, hertz, duration, addresses: _, viewer, tag, started, reply } = request;
        let collection = self.add(scope, hertz, Some(duration), Some(reply), before);
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

    /// Ends what was asked for and is over; `all`: or not.
    pub(super) fn end_requests(&mut self, counted: Counted, all: bool) {
        let now_ns = clock::boot_ns();
        for it in &mut self.all {
            if it.reply.is_some() && it.ended.is_none() && (all || it.until_ns <= now_ns) {
                end(it, counted, &self.rates);
            }
        }
    }

    /// The rate that all need.
    pub(super) fn wanted_rate(&self) -> u64 {
        let open = self.all.iter().filter(|it| it.ended.is_none());
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

    /// Those that take a sample. Ask once for each.
    pub(super) fn of<'a>(
        &'a mut self,
        sample: &'a Taken<'a>,
    ) -> impl Iterator<Item = (CollectionId, &'a mut Aggregate)> {
        let mut rates = self.rates.iter().rev();
        let rate = rates.find(|(from_ns, _)| *from_ns <= sample.time_ns);
        let rate = rate.or(self.rates.front()).map_or(1, |(_, hertz)| *hertz);
        let takers = self
            .all
            .iter_mut()
            .filter_map(move |collection| collection.takes(sample, rate).then_some(collection));
        takers.map(|collection| (collection.id, &mut collection.aggregate))
    }

    /// What was added up in one, if it is still there.
    pub(super) fn get(&self, id: CollectionId) -> Option<&Aggregate> {
        let mut all = self.all.iter();
        all.find(|collection| collection.id == id).map(|collection| &collection.aggregate)
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

fn end(collection: &mut Collection, counted: Counted, rates: &VecDeque<(u64, u64)>) {
    collection.until_ns = collection.until_ns.min(clock::boot_ns());
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
        collections.of(&taken).map(|(id, _)| id).collect()
    }

    #[test]
    fn a_late_sample_belongs_to_the_window_of_its_time() {
        let mut collections = Collections::new(99);
        collections.begin();
        collections.next_window(Counted::default());
        collections.next_window(Counted::default());
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
            let mut collections = Collections::new(19);
            let (reply, _answer) = tokio::sync::oneshot::channel();
            let request = Request {
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
            collections.request(request, members, Counted::default());
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
        let mut collections = Collections::new(19);
        let (reply, answer) = tokio::sync::oneshot::channel();
        let request = Request {
            scope: Scope::Pid(1),
            hertz: 499,
            duration: Duration::from_secs(9),
            addresses: Vec::new(),
            viewer: None,
            tag: 7,
            started: None,
            reply,
        };
        collections.request(request, HashSet::new(), Counted::default());
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
