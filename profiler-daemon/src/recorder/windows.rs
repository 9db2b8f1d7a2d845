//! Windows: how one ends, waits for its names, and is handed out.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{News, RecordError, Recorder, clock};
use crate::{
    kernel::Losses,
    process::MappingId,
    profile::{Kind, Window, aggregate::Aggregate, build::Builder},
};

/// How long a window that has ended waits for names before it is handed out without them.
const NAMING: Duration = Duration::from_secs(60);

/// Tells a window of a recording from its others.
pub(super) type WindowId = u64;

/// A window: the samples of a stretch of time.
struct Collection {
    id: WindowId,
    aggregate: Aggregate,
    start: SystemTime,
    /// Boot-time clock at its start.
    from_ns: u64,
}

/// A window that has ended and waits for its last samples, and for names.
struct Ended {
    collection: Collection,
    /// Boot-time clock at its end.
    until_ns: u64,
    losses: Losses,
    ended: Instant,
}

/// The window that is open, and those that have ended and are not handed out. Samples come late:
/// one that waits for unwind tables still belongs to the time it was taken at.
pub(super) struct Windows {
    open: Collection,
    ended: VecDeque<Ended>,
    losses_before: Losses,
}

impl Windows {
    /// Opens the first.
    pub(super) fn new() -> Self {
        let open = Collection {
            id: 0,
            aggregate: Aggregate::default(),
            start: SystemTime::now(),
            from_ns: clock::boot_ns(),
        };
        Self { open, ended: VecDeque::new(), losses_before: Losses::default() }
    }

    /// Begins again: sampling starts now.
    pub(super) fn begin(&mut self) {
        self.open.start = SystemTime::now();
        self.open.from_ns = clock::boot_ns();
    }

    /// Whether the open window is this old.
    pub(super) fn is_due(&self, length: Duration) -> bool {
        clock::boot_ns().saturating_sub(self.open.from_ns) >= length.as_nanos() as u64
    }

    /// Whether none waits to be handed out.
    pub(super) fn are_handed_out(&self) -> bool {
        self.ended.is_empty()
    }

    /// Ends the open window, and opens the next.
    fn next(&mut self, losses: Losses) {
        let until_ns = clock::boot_ns();
        let next = Collection {
            id: self.open.id + 1,
            aggregate: Aggregate::default(),
            start: SystemTime::now(),
            from_ns: until_ns,
        };
        let collection = std::mem::replace(&mut self.open, next);
        let before = std::mem::replace(&mut self.losses_before, losses);
        let losses = losses.since(&before);
        self.ended.push_back(Ended { collection, until_ns, losses, ended: Instant::now() });
    }

    /// The window that a sample of `time_ns` belongs to.
    pub(super) fn of(&mut self, time_ns: u64) -> (WindowId, &mut Aggregate) {
        let Self { open, ended, .. } = self;
        let late = ended.iter_mut().find(|ended| time_ns < ended.until_ns);
        let collection = late.map_or(open, |ended| &mut ended.collection);
        (collection.id, &mut collection.aggregate)
    }

    /// What was added up in a window, if it is still there.
    pub(super) fn get(&self, id: WindowId) -> Option<&Aggregate> {
        let mut all = self.collections();
        all.find(|collection| collection.id == id).map(|collection| &collection.aggregate)
    }

    fn collections(&self) -> impl Iterator<Item = &Collection> {
        self.ended.iter().map(|ended| &ended.collection).chain([&self.open])
    }

    /// What was added up in all that are there, oldest first.
    pub(super) fn aggregates(&mut self) -> impl Iterator<Item = &mut Aggregate> {
        let ended = self.ended.iter_mut().map(|ended| &mut ended.collection.aggregate);
        ended.chain([&mut self.open.aggregate])
    }
}

impl Recorder {
    pub(super) fn close_window(&mut self) -> Result<(), RecordError> {
        let losses = self.sampler.losses()?;
        self.windows.next(losses);
        self.symbolizer.retry_perf_maps();
        if !self.stopping {
            self.next_epoch()?;
        }
        Ok(())
    }

    /// Hands out windows whose samples and names have come, or are not waited for any more.
    pub(super) fn hand_out(&mut self) {
        while let Some(first) = self.windows.ended.front() {
            let is_whole = self.attributed_ns >= first.until_ns
                && self.copies.oldest_ns().is_none_or(|oldest_ns| oldest_ns >= first.until_ns);
            if !is_whole {
                return;
            }
            let settled = self.symbolizer.outstanding() == 0;
            if !settled && !self.skip_names && first.ended.elapsed() < NAMING {
                return;
            }
            let Some(ended) = self.windows.ended.pop_front() else { return };
            if !settled {
                tracing::warn!(
                    "{} addresses have no name yet, and are not waited for",
                    self.symbolizer.outstanding()
                );
            }
            let window = self.window(&ended);
            let profiles = Builder {
                aggregate: &ended.collection.aggregate,
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

    fn window(&self, ended: &Ended) -> Window {
        let losses = &ended.losses;
        let counts = [
            ("samples", losses.samples()),
            ("samples_missed", losses.missed),
            ("samples_ring_full", losses.counters.ring_full),
            ("samples_nested", losses.counters.busy),
            ("samples_unread", losses.counters.unread),
            ("stacks", ended.collection.aggregate.stacks_lost),
            ("stack_id_collisions", self.raw.collisions()),
            ("side_band", losses.side_band),
            ("forks", losses.counters.fork_lost),
        ];
        let losses: Vec<_> =
            counts.into_iter().filter(|(name, count)| *count > 0 || *name == "samples").collect();
        let lost = losses.iter().map(|(name, count)| format!("lost.{name}={count}"));
        Window {
            kind: Kind::Cpu,
            start: ended.collection.start,
            duration: Duration::from_nanos(ended.until_ns - ended.collection.from_ns),
            period: self.sampler.period_ns(),
            comments: self.settings.comments.iter().cloned().chain(lost).collect(),
            losses,
        }
    }

    /// Has the kernel side forget the mappings of processes that have ended. Their verdicts stay: of
    /// some, only the first thread has ended.
    pub(super) fn withdraw_ended(&mut self) {
        self.withdrew = Instant::now();
        for pid in self.table.take_ended(clock::boot_ns()) {
            self.sampler.withdraw(pid);
        }
    }

    /// Forgets what no window needs any more.
    fn forget(&mut self) {
        let aggregates = || self.windows.collections().map(|collection| &collection.aggregate);
        let keep = aggregates().flat_map(Aggregate::lives).collect();
        let free = self.table.forget(clock::boot_ns(), &keep);
        for &pid in &free {
            self.sampler.forget_target(pid);
            self.sampler.withdraw(pid);
        }
        self.symbolizer.forget_processes(&free);
        let mut mappings: HashSet<MappingId> =
            self.table.lives().flat_map(|life| life.current().map(|mapping| mapping.id)).collect();
        let aggregates = self.windows.collections().map(|collection| &collection.aggregate);
        mappings.extend(aggregates.flat_map(|aggregate| aggregate.mappings.keys()));
        let lives = self.table.lives().map(|life| life.id).collect();
        self.symbolizer.retain(&mappings, &lives);
        self.forget_tables();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_sample_belongs_to_the_window_of_its_time() {
        let mut windows = Windows::new();
        windows.next(Losses::default());
        windows.next(Losses::default());
        let (first_ns, second_ns) = (windows.ended[0].until_ns, windows.ended[1].until_ns);
        assert_eq!(windows.of(0).0, 0);
        assert_eq!(windows.of(first_ns - 1).0, 0);
        assert_eq!(windows.of(first_ns).0, 1);
        assert_eq!(windows.of(second_ns).0, 2);
        assert_eq!(windows.of(u64::MAX).0, 2);
    }
}
