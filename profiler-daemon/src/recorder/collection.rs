//! Samples that are added up for one purpose: which of them, and until when.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use profiler_ebpf::record::Wait;

use super::{
    rates::{Thinner, mean_rate},
    requests::Scope,
    spent::{ByLife, Times},
    waits::Threads,
};
use crate::{
    kernel::Losses,
    process::{Life, LifeId},
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
pub(super) enum LookFor {
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
    /// What is known of how threads spend its time, where that is asked for.
    pub(super) times: Option<Times>,
    /// How threads spent its time, once it has ended.
    pub(super) spent: ByLife,
    /// What else is to be said of it: comments.
    pub(super) notes: Vec<String>,
    pub(super) look: LookFor,
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
    pub(super) tag: u64,
    pub(super) scope: Scope,
    pub(super) viewer: Option<u32>,
    /// The processes of a [`Scope::Tree`].
    pub(super) members: HashSet<LifeId>,
    /// Boot-time clock at its start, and at its end: `u64::MAX` while that is open.
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
    pub(super) thinner: Thinner,
    pub(super) before: Counted,
    /// Places that have their names, or get none.
    pub(super) settled: usize,
}

impl Collection {
    /// How long it is, once it has ended.
    pub(super) const fn duration(&self) -> Duration {
        Duration::from_nanos(self.until_ns - self.from_ns)
    }

    /// It is over. `rates`: those in force, and since when.
    pub(super) fn end(&mut self, now_ns: u64, counted: Counted, rates: &VecDeque<(u64, u64)>) {
        self.until_ns = self.until_ns.min(now_ns);
        self.lost = counted.since(&self.before);
        let taken = mean_rate(rates, self.from_ns, self.until_ns);
        self.share = (self.hertz as f64 / taken).min(1.0);
        self.ended = Some(Instant::now());
    }

    /// Whether it takes a sample of a process that was taken at `rate` Hz. Ask once for each.
    pub(super) fn takes(&mut self, sample: &Taken<'_>, rate: u64) -> bool {
        self.kind.samples_cpus()
            && (self.from_ns..self.until_ns).contains(&sample.time_ns)
            && self.is_of(sample.life)
            && self.thinner.takes(sample.cpu, self.hertz, rate)
    }

    /// Whether a wait that is over is of it: of wall time each part, of other kinds the whole where
    /// it ends.
    pub(super) fn takes_wait(&self, kind: Kind, ended: &Taken<'_>, wait: &Wait) -> bool {
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

    pub(super) fn is_of(&self, life: Option<&Life>) -> bool {
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
    /// that wait, the oldest of which is of `oldest_ns`. Who asks for names alone waits for none.
    pub(super) fn is_whole(&self, attributed_ns: u64, oldest_ns: Option<u64>) -> bool {
        self.duration().is_zero()
            || matches!(self.look, LookFor::Nothing)
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
