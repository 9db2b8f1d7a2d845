//! What the table's changes ask for: of the kernel side, and of the reader.

use std::collections::HashSet;

use profiler_ebpf::mappings::Range;

use super::Recorder;
use crate::process::{Change, LifeId};

impl Recorder {
    /// Does what the table's changes ask for; the kernel side hears of mappings first.
    pub(super) fn apply_changes(&mut self) {
        let changes = self.table.take_changes();
        let mut seen = HashSet::new();
        for change in &changes {
            if let Change::Mappings(life) = change
                && seen.insert(*life)
            {
                self.publish(*life);
            }
        }
        let mut described = HashSet::new();
        for change in changes {
            match change {
                Change::Open(pid, mapping) => self.symbolizer.open(pid, &mapping),
                Change::Describe(pid) => {
                    if described.insert(pid) {
                        self.symbolizer.describe(Some(pid));
                    }
                }
                Change::Mappings(_) => {}
            }
        }
    }

    fn publish(&mut self, id: LifeId) {
        let Some(life) = self.table.life(id) else { return };
        let mut ranges: Vec<_> =
            life.current().map(|m| Range { start: m.start, end: m.end }).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let pid = life.process.pid;
        self.sampler.publish(pid, life.start_ns(), ranges.into_iter());
        self.latencies.published(pid);
    }
}
