//! What the table's changes ask for: of the kernel side, and of the reader.

use std::collections::HashSet;

use super::Recorder;
use crate::process::Change;

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
                Change::Forked(parent, child) => self.collections.forked(parent, child),
                Change::Mappings(_) => {}
            }
        }
    }
}
