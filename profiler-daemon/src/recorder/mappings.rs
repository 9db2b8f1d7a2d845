//! What the kernel side is told of processes' mappings: where they are, and which unwind table is
//! that of the file behind each.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use profiler_ebpf::{
    go::{Labels, form},
    mappings::{Range, state},
};

use super::{RecordError, Recorder, collection::CollectionId};
use crate::{
    kernel::{KernelError, Placed, Sampler},
    process::{LifeId, Mapping, MappingId},
    reader::protocol::{FileInfo, FileKey, GoBuild},
    symbolize::FileNews,
    unwind::Room,
};

/// Processes to be published anew once something is known.
#[derive(Default)]
pub(super) struct Waiting {
    /// The file behind a mapping.
    files: HashMap<MappingId, HashSet<LifeId>>,
    /// A file's table.
    tables: HashMap<FileKey, HashSet<LifeId>>,
}

impl Recorder {
    /// Tells the kernel side the mappings that a process has now.
    pub(super) fn publish(&mut self, id: LifeId) {
        let Some(life) = self.table.life(id).filter(|life| !life.is_withdrawn()) else { return };
        let mut ranges = Vec::new();
        let mut labels = Labels::default();
        for mapping in life.current() {
            let (start, end) = (mapping.start, mapping.end);
            let mut range = Range { start, end, ..Range::default() };
            if mapping.path.is_empty() {
                range.state = state::GENERATED;
            } else if let Some(file) = self.symbolizer.file(mapping.id) {
                range.table = self.tables.slot(&file.key);
                range.bias = bias(mapping, file);
                if let Some(build) = &file.go
                    && labels.form == form::NONE
                {
                    labels = labels_of(build, range.bias);
                }
                if self.tables.is_awaited(&file.key) {
                    range.state = state::AWAITED;
                    self.waiting.tables.entry(file.key).or_default().insert(id);
                }
            } else if !self.symbolizer.is_refused(mapping.id) {
                range.state = state::AWAITED;
                self.waiting.files.entry(mapping.id).or_default().insert(id);
            }
            ranges.push(range);
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let pid = life.process.pid;
        self.sampler.publish(pid, life.start_ns(), &ranges, labels);
        self.latencies.published(pid);
    }

    /// Takes what the reader said of files and of their tables.
    pub(super) fn take_file_news(&mut self) -> Result<(), RecordError> {
        let mut again = HashSet::new();
        let mut changed = HashSet::new();
        for news in self.symbolizer.take_news() {
            match news {
                FileNews::Opened(mapping, key) => {
                    again.extend(self.waiting.files.remove(&mapping).unwrap_or_default());
                    if self.settings.user_stacks && self.tables.want(key) {
                        self.symbolizer.want_table(key);
                    }
                }
                FileNews::Refused(mapping, _) => {
                    again.extend(self.waiting.files.remove(&mapping).unwrap_or_default());
                }
                FileNews::Table(key, table) => {
                    self.tables.answered(key, table.ok());
                    // At once: many may come together, and only so many may wait.
                    changed.extend(self.tables.place(&mut self.sampler)?);
                    if !self.tables.is_awaited(&key) {
                        again.extend(self.waiting.tables.remove(&key).unwrap_or_default());
                    }
                }
            }
        }
        changed.extend(self.tables.place(&mut self.sampler)?);
        for key in &changed {
            again.extend(self.waiting.tables.remove(key).unwrap_or_default());
        }
        if changed.iter().any(|key| self.tables.slot(key) == 0) {
            // Tables were dropped: nobody may refer to them any more.
            again.extend(self.table.lives().map(|life| life.id));
        }
        for life in again {
            self.publish(life);
        }
        Ok(())
    }

    /// Notes which files samples were in, so that their tables are kept.
    pub(super) fn touch(&mut self, stacks: &HashSet<(CollectionId, u32)>) {
        let mappings: HashSet<_> = stacks
            .iter()
            .filter_map(|&(id, stack)| Some(self.collections.get(id)?.mappings_of(stack)))
            .flatten()
            .collect();
        for mapping in mappings {
            if let Some(key) = self.symbolizer.file(mapping).map(|file| file.key)
                && self.tables.touch(&key)
            {
                self.symbolizer.want_table(key);
            }
        }
    }

    /// Forgets what waited for mappings and processes that are gone, and the tables of files that
    /// nobody maps.
    pub(super) fn forget_tables(&mut self) {
        let Self { waiting, table, symbolizer, tables, sampler, .. } = self;
        for lives in waiting.files.values_mut().chain(waiting.tables.values_mut()) {
            lives.retain(|life| table.life(*life).is_some());
        }
        waiting.files.retain(|_, lives| !lives.is_empty());
        waiting.tables.retain(|_, lives| !lives.is_empty());
        tables.retain(|key| symbolizer.knows(key), Instant::now(), sampler);
    }
}

/// Where a Go program has labels, as the reader says of its file.
fn labels_of(build: &GoBuild, bias: u64) -> Labels {
    let Some(found) = &build.labels else { return Labels::default() };
    let offset = |offset: u32| u16::try_from(offset).unwrap_or_default();
    Labels {
        cycle: if found.cycle == 0 { 0 } else { found.cycle.wrapping_add(bias) },
        g: found.g,
        m: offset(found.m),
        curg: offset(found.curg),
        labels: offset(found.labels),
        form: if found.is_map { form::MAP } else { form::SLICE },
        goid: offset(found.goid),
        reserved: 0,
    }
}

impl Room for Sampler {
    fn put(
        &mut self,
        table: &profiler_ebpf::unwind::table::Table,
        words: &[u8],
    ) -> Result<Option<Placed>, KernelError> {
        self.add_table(table, words)
    }

    fn take_back(&mut self, placed: &Placed) {
        self.remove_table(placed);
    }
}

/// What has to be taken from an avma in the mapping to have the svma in its file.
pub(crate) fn bias(mapping: &Mapping, file: &FileInfo) -> u64 {
    let end = mapping.file_offset.saturating_add(mapping.end - mapping.start);
    let segment = file.segments.iter().find(|segment| {
        segment.file_offset < end
            && segment.file_offset.saturating_add(segment.size_bytes) > mapping.file_offset
    });
    segment.map_or(0, |segment| {
        let svma = mapping.file_offset.wrapping_sub(segment.file_offset).wrapping_add(segment.svma);
        mapping.start.wrapping_sub(svma)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::protocol::Segment;

    #[test]
    fn the_bias_is_from_the_segment_that_is_mapped() {
        let file = FileInfo {
            segments: vec![
                Segment { file_offset: 0x1040, svma: 0x40_1040, size_bytes: 0x1000 },
                Segment { file_offset: 0x5010, svma: 0x60_6010, size_bytes: 0x800 },
            ],
            ..FileInfo::default()
        };
        let mapping = |start, end, file_offset| Mapping {
            id: MappingId(1),
            start,
            end,
            file_offset,
            path: "/a".into(),
            build_id: Vec::new(),
            device: 0,
            inode: 0,
        };
        assert_eq!(bias(&mapping(0x40_1000, 0x40_3000, 0x1000), &file), 0);
        assert_eq!(bias(&mapping(0x7f60_6000, 0x7f60_7000, 0x5000), &file), 0x7f00_0000);
    }
}
