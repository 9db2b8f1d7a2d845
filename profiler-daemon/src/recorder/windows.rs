//! Windows: how one ends, waits for its names, and is handed out.

use std::{
    collections::HashSet,
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

/// A window that has ended and waits for names.
pub(super) struct Closing {
    aggregate: Aggregate,
    start: SystemTime,
    duration: Duration,
    losses: Losses,
    ended: Instant,
}

impl Recorder {
    pub(super) fn close_window(&mut self) -> Result<(), RecordError> {
        let now = (SystemTime::now(), Instant::now());
        let (start, started) = std::mem::replace(&mut self.window_start, now);
        let losses = self.sampler.losses()?;
        let aggregate = std::mem::take(&mut self.aggregate);
        let before = std::mem::replace(&mut self.losses_before, losses);
        self.closing.push_back(Closing {
            aggregate,
            start,
            duration: now.1.duration_since(started),
            losses: losses.since(&before),
            ended: now.1,
        });
        self.symbolizer.retry_perf_maps();
        if !self.stopping {
            self.next_epoch()?;
        }
        Ok(())
    }

    /// Hands out windows whose names have come, or are not waited for any more.
    pub(super) fn hand_out(&mut self) {
        while let Some(closing) = self.closing.front() {
            let settled = self.symbolizer.outstanding() == 0;
            if !settled && !self.skip_names && closing.ended.elapsed() < NAMING {
                return;
            }
            let Some(closing) = self.closing.pop_front() else { return };
            if !settled {
                tracing::warn!(
                    "{} addresses have no name yet, and are not waited for",
                    self.symbolizer.outstanding()
                );
            }
            let window = self.window(&closing);
            let profiles = Builder {
                aggregate: &closing.aggregate,
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

    fn window(&self, closing: &Closing) -> Window {
        let losses = &closing.losses;
        let counts = [
            ("samples", losses.samples()),
            ("samples_missed", losses.missed),
            ("samples_ring_full", losses.counters.ring_full),
            ("samples_nested", losses.counters.busy),
            ("samples_unread", losses.counters.unread),
            ("stacks", closing.aggregate.stacks_lost),
            ("stack_id_collisions", self.raw.collisions()),
            ("side_band", losses.side_band),
            ("forks", losses.counters.fork_lost),
        ];
        let losses: Vec<_> =
            counts.into_iter().filter(|(name, count)| *count > 0 || *name == "samples").collect();
        let lost = losses.iter().map(|(name, count)| format!("lost.{name}={count}"));
        Window {
            kind: Kind::Cpu,
            start: closing.start,
            duration: closing.duration,
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
        let mut keep = self.aggregate.lives();
        for closing in &self.closing {
            keep.extend(closing.aggregate.lives());
        }
        let free = self.table.forget(clock::boot_ns(), &keep);
        for &pid in &free {
            self.sampler.forget_target(pid);
            self.sampler.withdraw(pid);
        }
        self.symbolizer.forget_processes(&free);
        let mut mappings: HashSet<MappingId> =
            self.table.lives().flat_map(|life| life.current().map(|mapping| mapping.id)).collect();
        mappings.extend(self.aggregate.mappings.keys());
        for closing in &self.closing {
            mappings.extend(closing.aggregate.mappings.keys());
        }
        let lives = self.table.lives().map(|life| life.id).collect();
        self.symbolizer.retain(&mappings, &lives);
        self.forget_tables();
    }
}
