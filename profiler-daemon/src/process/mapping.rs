//! The executable mappings of a program image, each with the time it was there.

use std::sync::Arc;

/// Numbers a mapping; processes that inherited it by `fork` share the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(pub u32);

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its number.
    pub id: MappingId,
    /// First avma.
    pub start: u64,
    /// One past the last avma.
    pub end: u64,
    /// File offset of `start`, in bytes.
    pub file_offset: u64,
    /// Path as the kernel shows it, `[vdso]`, or empty without a file.
    pub path: Arc<str>,
    /// GNU build ID; empty if the kernel did not read one.
    pub build_id: Vec<u8>,
    /// `st_dev` of the file; 0 if unknown.
    pub device: u64,
    /// Inode of the file; 0 if unknown.
    pub inode: u64,
}

impl Mapping {
    /// Whether code in it comes from a file (or is the vDSO) rather than from a compiler at run
    /// time.
    pub fn has_file(&self) -> bool {
        self.path.starts_with('/') || &*self.path == "[vdso]"
    }

    /// The file offset of a code address in it.
    pub fn file_offset_of(&self, avma: u64) -> u64 {
        avma.wrapping_sub(self.start).wrapping_add(self.file_offset)
    }

    fn same_as(&self, other: &Self) -> bool {
        self.start == other.start
            && self.end == other.end
            && self.file_offset == other.file_offset
            && self.path == other.path
    }
}

#[derive(Clone, Debug)]
struct Timed {
    mapping: Arc<Mapping>,
    from_ns: u64,
    to_ns: u64,
}

/// The mappings of one image over time: asked "as of" a sample's time.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    timed: Vec<Timed>,
    /// When something changed, ascending.
    changes_ns: Vec<u64>,
}

const STILL: u64 = u64::MAX;

impl Mappings {
    /// A mapping was made at `time_ns`; what it overlaps ends there.
    pub fn map(&mut self, mapping: Arc<Mapping>, time_ns: u64) {
        for old in &mut self.timed {
            if old.to_ns == STILL
                && old.mapping.start < mapping.end
                && mapping.start < old.mapping.end
            {
                old.to_ns = time_ns;
            }
        }
        self.timed.push(Timed { mapping, from_ns: time_ns, to_ns: STILL });
        self.changed(time_ns);
    }

    fn changed(&mut self, time_ns: u64) {
        let at = self.changes_ns.partition_point(|&change| change <= time_ns);
        self.changes_ns.insert(at, time_ns);
    }

    /// `/proc/PID/maps` was read between `from_ns` and `to_ns` and showed exactly `shown`: what is
    /// new there has been there all along (nobody told us), what is missing was unmapped. What was
    /// mapped while it was read is left alone. Returns whether anything changed.
    pub fn rescan(&mut self, shown: &[Arc<Mapping>], from_ns: u64) -> bool {
        let mut changed = false;
        for old in &mut self.timed {
            if old.to_ns == STILL
                && old.from_ns < from_ns
                && !shown.iter().any(|mapping| mapping.same_as(&old.mapping))
            {
                old.to_ns = from_ns;
                changed = true;
            }
        }
        for mapping in shown {
            let known = self.timed.iter().any(|old| {
                old.to_ns == STILL
                    && old.mapping.start < mapping.end
                    && mapping.start < old.mapping.end
            });
            if !known {
                self.timed.push(Timed { mapping: Arc::clone(mapping), from_ns: 0, to_ns: STILL });
                changed = true;
            }
        }
        if changed {
            self.changed(from_ns);
        }
        changed
    }

    /// The mapping that covered `avma` at `time_ns`; if none did then, one that did later.
    pub fn find(&self, avma: u64, time_ns: u64) -> Option<&Arc<Mapping>> {
        let covers = |timed: &&Timed| timed.mapping.start <= avma && avma < timed.mapping.end;
        self.timed
            .iter()
            .rev()
            .filter(covers)
            .find(|timed| timed.from_ns <= time_ns && time_ns < timed.to_ns)
            .or_else(|| self.timed.iter().filter(covers).find(|timed| timed.from_ns > time_ns))
            .map(|timed| &timed.mapping)
    }

    /// How many changes there had been by `time_ns`: stacks of one generation mean the same.
    pub fn generation(&self, time_ns: u64) -> u32 {
        self.changes_ns.partition_point(|&change| change <= time_ns) as u32
    }

    /// What is mapped now.
    pub fn current(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.timed.iter().filter(|timed| timed.to_ns == STILL).map(|timed| &timed.mapping)
    }

    /// A copy of what is mapped now, for a child.
    pub fn forked(&self, time_ns: u64) -> Self {
        let timed = self.timed.iter().filter(|timed| timed.to_ns == STILL).cloned().collect();
        Self { timed, changes_ns: vec![time_ns] }
    }

    /// Drops what ended before `time_ns`.
    pub fn forget_before(&mut self, time_ns: u64) {
        self.timed.retain(|timed| timed.to_ns >= time_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(id: u32, start: u64, end: u64) -> Arc<Mapping> {
        Arc::new(Mapping {
            id: MappingId(id),
            start,
            end,
            file_offset: 0,
            path: format!("/lib/{id}").into(),
            build_id: Vec::new(),
            device: 0,
            inode: 0,
        })
    }

    fn id_at(mappings: &Mappings, avma: u64, time_ns: u64) -> Option<u32> {
        mappings.find(avma, time_ns).map(|mapping| mapping.id.0)
    }

    #[test]
    fn an_address_means_what_it_meant_then() {
        let mut mappings = Mappings::default();
        mappings.map(mapping(1, 0x1000, 0x3000), 10);
        mappings.map(mapping(2, 0x2000, 0x4000), 20);
        assert_eq!(id_at(&mappings, 0x2500, 15), Some(1));
        assert_eq!(id_at(&mappings, 0x2500, 25), Some(2));
        assert_eq!(id_at(&mappings, 0x3500, 15), Some(2), "a sample that was a little early");
        assert_eq!(id_at(&mappings, 0x9000, 15), None);
        let generations = [5, 10, 15, 20, 25].map(|time_ns| mappings.generation(time_ns));
        assert_eq!(generations, [0, 1, 1, 2, 2]);
    }

    #[test]
    fn a_rescan_adds_what_nobody_told_and_ends_what_is_gone() {
        let mut mappings = Mappings::default();
        mappings.map(mapping(1, 0x1000, 0x2000), 10);
        mappings.map(mapping(2, 0x2000, 0x3000), 20);
        mappings.map(mapping(3, 0x3000, 0x4000), 55);
        assert!(mappings.rescan(&[mapping(1, 0x1000, 0x2000), mapping(4, 0x8000, 0x9000)], 50));
        assert_eq!(id_at(&mappings, 0x1000, 60), Some(1));
        assert_eq!(id_at(&mappings, 0x2000, 40), Some(2));
        assert_eq!(id_at(&mappings, 0x2000, 60), None);
        assert_eq!(id_at(&mappings, 0x3000, 60), Some(3), "mapped while maps was read");
        assert_eq!(id_at(&mappings, 0x8000, 5), Some(4));
        assert!(!mappings.rescan(
            &[mapping(1, 0x1000, 0x2000), mapping(3, 0x3000, 0x4000), mapping(4, 0x8000, 0x9000)],
            70
        ));
    }

    #[test]
    fn a_child_begins_with_what_its_parent_has() {
        let mut mappings = Mappings::default();
        mappings.map(mapping(1, 0x1000, 0x2000), 10);
        mappings.map(mapping(2, 0x1000, 0x2000), 20);
        let child = mappings.forked(30);
        assert_eq!(child.current().map(|mapping| mapping.id.0).collect::<Vec<_>>(), [2]);
    }
}
