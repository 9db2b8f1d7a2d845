//! The executable mappings of the command's processes, as the kernel reports them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use profiler_daemon::kernel::{Map, SideBand, What};

/// A file, by what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    /// `[vdso]`, or a path; anything else is no file.
    pub(crate) path: Arc<str>,
    device: u64,
    inode: u64,
}

impl FileKey {
    /// Whether there is a file (or the vDSO): else the process has made the code itself.
    pub(crate) fn is_file(&self) -> bool {
        &*self.path == "[vdso]" || self.path.starts_with('/') && !self.path.starts_with("//")
    }
}

/// An executable mapping.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// First avma.
    pub(crate) start: u64,
    /// One past the last avma.
    pub(crate) end: u64,
    /// File offset of `start`, in bytes.
    pub(crate) file_offset: u64,
    pub(crate) file: FileKey,
}

/// The mappings of a process, by their first avma; they do not overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mappings(BTreeMap<u64, Mapping>);

impl Mappings {
    /// The mapping that covers `avma`.
    pub(crate) fn find(&self, avma: u64) -> Option<&Mapping> {
        let (_, mapping) = self.0.range(..=avma).next_back()?;
        (avma < mapping.end).then_some(mapping)
    }

    /// Adds a mapping; what it overlaps is gone there.
    fn insert(&mut self, map: &Map) {
        let &Map { start, end, file_offset, build_id: _, device, inode, ref path } = map;
        let overlapped: Vec<u64> = self
            .0
            .range(..end)
            .rev()
            .take_while(|(_, old)| old.end > start)
            .map(|(&at, _)| at)
            .collect();
        for at in overlapped {
            let Some(old) = self.0.remove(&at) else { continue };
            if old.start < start {
                self.0.insert(old.start, Mapping { end: start, ..old.clone() });
            }
            if end < old.end {
                let file_offset = old.file_offset + (end - old.start);
                self.0.insert(end, Mapping { start: end, file_offset, ..old });
            }
        }
        let file = FileKey { path: path.as_str().into(), device, inode };
        self.0.insert(start, Mapping { start, end, file_offset, file });
    }
}

/// The command's processes.
#[derive(Default)]
pub(crate) struct Processes {
    by_pid: HashMap<u32, Mappings>,
    /// Records that the kernel had no room for.
    pub(crate) lost: u64,
}

impl Processes {
    /// What the process has mapped now.
    pub(crate) fn mappings(&self, pid: u32) -> Option<&Mappings> {
        self.by_pid.get(&pid)
    }

    /// Notes what happened.
    pub(crate) fn apply(&mut self, side_band: &SideBand) {
        let pid = side_band.pid;
        match &side_band.what {
            What::Map(map) => self.by_pid.entry(pid).or_default().insert(map),
            What::Comm { exec: true, .. } => {
                self.by_pid.insert(pid, Mappings::default());
            }
            What::Fork { parent_pid } if *parent_pid != pid => {
                let mappings = self.by_pid.get(parent_pid).cloned().unwrap_or_default();
                self.by_pid.insert(pid, mappings);
            }
            What::Lost(count) => self.lost += count,
            What::Comm { .. } | What::Fork { .. } | What::Exit => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(start: u64, end: u64, file_offset: u64, path: &str) -> Map {
        let path = path.to_owned();
        Map { start, end, file_offset, build_id: Vec::new(), device: 1, inode: 2, path }
    }

    fn happened(pid: u32, what: What) -> SideBand {
        SideBand { time_ns: 0, pid, tid: pid, what }
    }

    #[test]
    fn a_mapping_replaces_what_it_overlaps() {
        let mut mappings = Mappings::default();
        mappings.insert(&map(0x1000, 0x9000, 0, "/a"));
        mappings.insert(&map(0x3000, 0x5000, 0x100, "/b"));
        let at = |avma| {
            let mapping = mappings.find(avma)?;
            Some((mapping.file.path.to_string(), mapping.start, mapping.file_offset))
        };
        assert_eq!(at(0x2fff), Some(("/a".into(), 0x1000, 0)));
        assert_eq!(at(0x3000), Some(("/b".into(), 0x3000, 0x100)));
        assert_eq!(at(0x5000), Some(("/a".into(), 0x5000, 0x4000)));
        assert_eq!(at(0x9000), None);
        assert_eq!(at(0xfff), None);
    }

    #[test]
    fn a_child_inherits_until_it_runs_another_program() {
        let mut processes = Processes::default();
        processes.apply(&happened(1, What::Map(map(0x1000, 0x2000, 0, "/a"))));
        processes.apply(&happened(2, What::Fork { parent_pid: 1 }));
        let has = |processes: &Processes, pid| {
            processes.mappings(pid).is_some_and(|mappings| mappings.find(0x1000).is_some())
        };
        assert!(has(&processes, 2));
        processes.apply(&happened(2, What::Comm { comm: "b".into(), exec: true }));
        assert!(has(&processes, 1) && !has(&processes, 2));
    }

    #[test]
    fn code_of_no_file() {
        for (path, is_file) in
            [("/bin/a", true), ("[vdso]", true), ("//anon", false), ("[heap]", false), ("", false)]
        {
            let key = FileKey { path: path.into(), device: 0, inode: 0 };
            assert_eq!(key.is_file(), is_file, "{path}");
        }
    }
}
