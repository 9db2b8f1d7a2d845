//! What the kernel side knows of processes' executable mappings: written here.

use std::{
    collections::HashMap,
    sync::atomic::{Ordering, fence},
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use profiler_ebpf::{
    config,
    mappings::{Process, Range, state},
};

use super::{KernelError, runs::Runs, shared::SharedArray};

/// Runs have 8, 16, 32 … elements, so that a process's next run often fits where another's was.
const SMALLEST_RUN: u32 = 8;

/// Publishes the mappings of processes.
pub(super) struct RangeMap {
    elements: SharedArray<Range>,
    runs: Runs,
    /// And how many elements its run has.
    published: HashMap<u32, (Process, u32)>,
}

impl RangeMap {
    pub(super) fn new(map: &MapData) -> Result<Self, KernelError> {
        let mut runs = Runs::default();
        runs.grow(config::RANGES);
        let elements = SharedArray::new(map.fd(), config::RANGES)?;
        Ok(Self { elements, runs, published: HashMap::new() })
    }

    /// Tells the programs that the process with this pid, `start_ns` and `labels` has these mappings,
    /// sorted by start; with none, or if there is no room, that nothing is known of it.
    pub(super) fn publish(
        &mut self,
        processes: &mut BpfHashMap<MapData, u32, Process>,
        pid: u32,
        process: Process,
        ranges: &[Range],
    ) {
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        if let Some(&(known, _)) = self.published.get(&pid)
            && (known.start_ns, known.labels, known.count)
                == (process.start_ns, process.labels, count)
            && self.differs_in_tables_alone(known.first, ranges)
        {
            // An `exec` of a program that is always mapped at the same place.
            if processes.get(&pid, 0).is_err() {
                let _ = processes.insert(pid, known, 0);
            }
            return;
        }
        let size = count.max(SMALLEST_RUN).checked_next_power_of_two();
        let run = size.filter(|_| count > 0).and_then(|size| Some((self.runs.take(size)?, size)));
        let Some((first, size)) = run else {
            self.forget(processes, pid);
            return;
        };
        for (index, &range) in (first..).zip(ranges) {
            self.elements.set(index, range);
        }
        let process = Process { first, count, ..process };
        if processes.insert(pid, process, 0).is_err() {
            self.runs.give_back(first, size);
            self.forget(processes, pid);
            return;
        }
        if let Some((old, size)) = self.published.insert(pid, (process, size)) {
            self.runs.give_back(old.first, size);
        }
    }

    /// Whether the elements from `first` on are these mappings, if not with these tables; then they
    /// get them, where they are.
    fn differs_in_tables_alone(&mut self, first: u32, ranges: &[Range]) -> bool {
        let is_generated = |range: &Range| range.state == state::GENERATED;
        let place = |range: &Range| (range.start, range.end, is_generated(range));
        if (first..).zip(ranges).any(|(index, new)| place(&self.elements.get(index)) != place(new))
        {
            return false;
        }
        for (index, &new) in (first..).zip(ranges) {
            let old = self.elements.get(index);
            if old != new {
                // Never one file's table with another one's bias.
                self.elements.set(index, Range { table: 0, ..old });
                fence(Ordering::Release);
                self.elements.set(index, Range { table: 0, ..new });
                fence(Ordering::Release);
                self.elements.set(index, new);
            }
        }
        true
    }

    /// Tells the programs that nothing is known of the process any more.
    pub(super) fn forget(&mut self, processes: &mut BpfHashMap<MapData, u32, Process>, pid: u32) {
        if let Some((old, size)) = self.published.remove(&pid) {
            let _ = processes.remove(&pid);
            self.runs.give_back(old.first, size);
        }
    }
}
