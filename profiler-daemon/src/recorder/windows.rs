//! Windows: how one ends, waits for its names, and is handed out.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Closeness, News, RecordError, Recorder, clock,
    collection::{Collection, Counted},
    spent::ByLife,
    waits::{Stock, Threads},
};
use crate::{
    kernel::period_ns,
    process::MappingId,
    profile::{
        Kind, Window,
        aggregate::{Aggregate, Code},
        build::Builder,
    },
};

/// How long a window that has ended waits for names before it is handed out without them.
const NAMING: Duration = Duration::from_secs(60);

/// The same for what somebody waits for, and half its length more: `go tool pprof` waits for one and
/// a half times that, and 5 s.
const NAMING_ASKED: Duration = Duration::from_secs(4);
const NAMING_ASKED_LONGEST: Duration = Duration::from_secs(20);

impl Recorder {
    pub(super) fn close_window(&mut self) -> Result<(), RecordError> {
        self.end(true, self.stopping)?;
        self.symbolizer.retry_perf_maps();
        if !self.stopping {
            self.next_epoch()?;
        }
        Ok(())
    }

    /// Ends the open windows, or what is asked for and over, and with `all` what is not.
    pub(super) fn end(&mut self, windows: bool, all: bool) -> Result<(), RecordError> {
        let counted = self.counted()?;
        let ends = self.collections.ending(windows, all);
        // What follows a window is of its kind.
        let counts_threads = self.collections.is_any(&ends, Kind::counts_threads);
        let stock = if counts_threads { self.stock()? } else { Stock::default() };
        if self.collections.is_any(&ends, |kind| kind == Kind::Wall) {
            // The stacks of what waits may still be on their way.
            self.drain();
            self.count_open_waits(&stock, &ends);
        }
        let spent = if windows { self.take_spent()? } else { ByLife::default() };
        self.collections.end(&ends, counted, &stock, &spent, &self.table);
        self.tell_spent()?;
        if windows && !self.stopping {
            self.collections.next_windows(counted, &stock);
        }
        Ok(())
    }

    /// What was counted as lost so far.
    pub(super) fn counted(&mut self) -> Result<Counted, RecordError> {
        Ok(Counted { losses: self.sampler.losses()?, collisions: self.raw.collisions() })
    }

    /// Samples windows at another rate from now on: the open one ends.
    pub(super) fn set_window_rate(&mut self, hertz: u64) -> Result<(), RecordError> {
        if hertz == self.collections.window_rate() {
            return Ok(());
        }
        self.set_rate(self.collections.rate().max(hertz))?;
        self.collections.set_window_rate(hertz);
        self.close_window()?;
        self.set_rate(self.collections.wanted_rate())
    }

    pub(super) fn set_rate(&mut self, hertz: u64) -> Result<(), RecordError> {
        if hertz != self.collections.rate() {
            self.sampler.set_rate(hertz)?;
            self.collections.rate_changed(hertz);
            tracing::debug!("sampling at {hertz} Hz");
        }
        Ok(())
    }

    /// Hands out what has ended, and whose samples and names have come or are not waited for any
    /// more.
    pub(super) fn hand_out(&mut self) {
        if !self.collections.is_any_ending() {
            return;
        }
        let oldest_ns = self.copies.oldest_ns();
        let mut handed_out = false;
        loop {
            let Self { collections, symbolizer, attributed_ns, skip_names, .. } = self;
            let mut missing = 0;
            let ready = collections.take_ready(|collection| {
                if !collection.is_whole(*attributed_ns, oldest_ns) {
                    return false;
                }
                missing = collection.outstanding(|aggregate, place| match place.code {
                    Code::Kernel => symbolizer.is_kernel_pending(place.avma),
                    Code::File(id) => aggregate.mappings.get(&id).is_some_and(|mapping| {
                        symbolizer.is_file_pending(id, mapping.file_offset_of(place.avma))
                    }),
                    Code::Generated(life, _) => symbolizer.is_perf_map_pending(life, place.avma),
                    Code::Unmapped(_) | Code::Lost | Code::NotTaken => false,
                });
                let patience = if collection.reply.is_some() {
                    (NAMING_ASKED + collection.duration() / 2).min(NAMING_ASKED_LONGEST)
                } else {
                    NAMING
                };
                missing == 0
                    || *skip_names
                    || collection.ended.is_some_and(|ended| ended.elapsed() >= patience)
            });
            let Some(mut collection) = ready else { break };
            if missing > 0 {
                tracing::warn!("{missing} addresses have no name yet, and are not waited for");
            }
            if collection.kind == Kind::Wall {
                collection.aggregate.stretch(&collection.threads.take_all());
            }
            let window = self.window(&collection);
            let profiles = Builder {
                aggregate: &collection.aggregate,
                table: &self.table,
                symbolizer: &self.symbolizer,
                window: &window,
                spent: &collection.spent,
                kernel_build_id: Arc::clone(&self.kernel_build_id),
                inlines: !self.has_no_inlines(),
            }
            .build();
            match collection.reply.take() {
                Some(reply) => {
                    // Whoever asked may have gone.
                    let _ = reply.send((window, profiles));
                }
                None => self.control.tell(News::Window(window, profiles)),
            }
            handed_out = true;
        }
        if handed_out {
            self.forget();
        }
    }

    fn window(&self, collection: &Collection) -> Window {
        let Counted { losses, collisions } = &collection.lost;
        // Of what was lost, too, only a share would have been its own.
        let own = |count: u64| (count as f64 * collection.share).round() as u64;
        let counts = [
            own(losses.samples()),
            own(losses.missed),
            own(losses.counters.ring_full),
            own(losses.counters.busy),
            own(losses.counters.unread),
            collection.aggregate.stacks_lost,
            *collisions,
            losses.side_band,
            losses.counters.fork_lost,
            losses.counters.waits_lost,
            losses.counters.threads_lost,
            collection.aggregate.labels.left_out,
        ];
        let named = Window::LOSSES.into_iter().zip(counts);
        let losses: Vec<_> =
            named.filter(|(name, count)| *count > 0 || *name == "samples").collect();
        let lost = losses.iter().map(|(name, count)| format!("lost.{name}={count}"));
        let comments = self.settings.comments.iter().cloned();
        let kind = collection.kind;
        let how = self.how(collection);
        Window {
            kind,
            start: collection.start,
            duration: collection.duration(),
            period: if kind.samples_cpus() { period_ns(collection.hertz) } else { 1 },
            comments: comments.chain(how).chain(lost).collect(),
            losses,
        }
    }

    /// How closely it was looked at, as comments.
    fn how(&self, collection: &Collection) -> Vec<String> {
        let Closeness { block_rate_ns, mutex_fraction, thread_stacks } = self.settings.closeness;
        let mut how = Vec::new();
        if collection.kind.samples_cpus() {
            how.push(format!("frequency_hz={}", collection.hertz));
        }
        if matches!(collection.kind, Kind::Wall | Kind::Block) {
            how.push(format!("block_rate_ns={block_rate_ns}"));
            how.push(format!("block_stacks_per_second={thread_stacks}"));
        }
        if collection.kind == Kind::Mutex {
            how.push(format!("mutex_fraction={mutex_fraction}"));
            let Threads { unattributed, unattributed_ns, .. } = collection.threads;
            how.push(format!("unattributed.contentions={unattributed}"));
            how.push(format!("unattributed.delay_ns={unattributed_ns}"));
        }
        how.extend(collection.notes.iter().cloned());
        how
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
        let mut keep: HashSet<_> =
            self.collections.aggregates().flat_map(Aggregate::lives).collect();
        keep.extend(self.collections.lives());
        let free = self.table.forget(clock::boot_ns(), &keep);
        for &pid in &free {
            self.sampler.forget_target(pid);
            self.sampler.withdraw(pid);
        }
        self.symbolizer.forget_processes(&free);
        let mut mappings: HashSet<MappingId> =
            self.table.lives().flat_map(|life| life.current().map(|mapping| mapping.id)).collect();
        let aggregates = self.collections.aggregates();
        mappings.extend(aggregates.flat_map(|aggregate| aggregate.mappings.keys()));
        let lives = self.table.lives().map(|life| life.id).collect();
        self.symbolizer.retain(&mappings, &lives);
        self.forget_tables();
    }
}
