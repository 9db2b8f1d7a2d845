//! Watching ourselves: what we take is noted, and kept within the limits.

use std::time::Instant;

use super::{
    RecordError, Recorder,
    own::{Own, Usage},
};
use crate::reader::trim_heap;

impl Recorder {
    pub(super) fn give_caches_up(&mut self) -> Result<(), RecordError> {
        self.symbolizer.relieve();
        self.next_epoch()?;
        trim_heap();
        Ok(())
    }

    /// Notes what we take, and keeps within the limits.
    pub(super) fn watch_ourselves(&mut self) -> Result<(), RecordError> {
        self.watched = Instant::now();
        let mut usage = Usage::now(self.symbolizer.readers());
        // That of a reader which was killed and has not ended yet is in neither place.
        usage.cpu_ns = usage.cpu_ns.max(self.cpu_ns);
        self.cpu_ns = usage.cpu_ns;
        let bpf_ns = self.sampler.losses()?.counters.time_ns();
        if self.keeper.look(usage, bpf_ns, Instant::now()) {
            self.obey_limits()?;
        }
        if self.keeper.is_over(usage) {
            self.give_caches_up()?;
        }
        self.control.note(Own {
            cpu_ns: usage.cpu_ns,
            bpf_ns,
            memory_bytes: usage.memory_bytes,
            readers: self.symbolizer.readers_started(),
            processes: self.table.lives().filter(|life| life.is_there()).count(),
            refused_files: self.symbolizer.refused(),
            named: self.symbolizer.figures().addresses,
            tables_cached: self.symbolizer.figures().tables_cached,
            tables_made: self.symbolizer.figures().tables_made,
            tables_dropped: self.tables.dropped(),
            tables_bytes: self.sampler.table_bytes(),
            hertz: self.collections.rate(),
            shed: self.keeper.shed().steps(),
        });
        Ok(())
    }

    /// Gives up, or takes up again, what the limits have it.
    pub(super) fn obey_limits(&mut self) -> Result<(), RecordError> {
        let shed = self.keeper.shed();
        self.symbolizer.set_no_inlines(self.has_no_inlines());
        self.set_window_rate(shed.rate(self.settings.hertz))
    }

    pub(super) fn has_no_inlines(&self) -> bool {
        self.settings.no_inlines || self.keeper.shed().detail
    }
}
