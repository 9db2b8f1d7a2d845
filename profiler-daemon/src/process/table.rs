//! All processes that are known, from side-band records and from what the reader found in `/proc`.

mod life;
mod proc;
mod side_band;
mod verdict;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use profiler_ebpf::record::KERNEL_PID;

use self::life::Image;
pub use self::life::{ImageRef, Life, LifeId};
use super::{Filter, Mapping, MappingId};
use crate::profile::Process;

/// Start times from `/proc` are in hundredths of a second.
const TICK_NS: u64 = 10_000_000;

/// How long a process is remembered after its end, for samples that are still under way.
const MEMORY_NS: u64 = 4_000_000_000;

/// Samples of a process that was said to have ended are this late at most.
const LATE_NS: u64 = 100_000_000;

/// What the caller has to do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ask the reader to open the file behind a mapping of the process.
    Open(u32, Arc<Mapping>),
    /// Ask the reader what `/proc` says of the process.
    Describe(u32),
    /// The process's current mappings are different: tell the kernel side.
    Mappings(LifeId),
    /// The first process has started the second.
    Forked(LifeId, LifeId),
}

/// All processes that are known.
#[derive(Debug)]
pub struct Table {
    filter: Filter,
    lives: HashMap<LifeId, Life>,
    /// Newest last.
    by_pid: HashMap<u32, Vec<LifeId>>,
    next_life: u32,
    next_mapping: u32,
    changes: Vec<Change>,
    /// The pid of the process that is to become the command, until that process is known.
    becomes_command: Option<u32>,
    /// Ends of processes that are not known: records of different CPUs may come out of order.
    early_ends: VecDeque<(u32, u64)>,
}

/// The most ends of unknown processes that are remembered.
const MAX_EARLY_ENDS: usize = 256;

impl Table {
    /// A table that knows of no process.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            lives: HashMap::new(),
            by_pid: HashMap::new(),
            next_life: 0,
            next_mapping: 0,
            changes: Vec::new(),
            becomes_command: None,
            early_ends: VecDeque::new(),
        }
    }

    /// The next process with this pid is rprofd itself until its first `exec`.
    pub fn becomes_command(&mut self, pid: u32) {
        self.becomes_command = Some(pid);
    }

    /// What has to be done since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A process by its number.
    pub fn life(&self, id: LifeId) -> Option<&Life> {
        self.lives.get(&id)
    }

    /// A process by its number, to note what the kernel side was told.
    pub fn life_mut(&mut self, id: LifeId) -> Option<&mut Life> {
        self.lives.get_mut(&id)
    }

    /// All processes that are known.
    pub fn lives(&self) -> impl Iterator<Item = &Life> {
        self.lives.values()
    }

    /// The newest process with this pid.
    fn newest(&self, pid: u32) -> Option<LifeId> {
        self.by_pid.get(&pid)?.last().copied()
    }

    fn add(&mut self, pid: u32, comm: Arc<str>, from_ns: u64) -> LifeId {
        let id = LifeId(self.next_life);
        self.next_life = self.next_life.wrapping_add(1);
        let process = Process {
            pid,
            start_ns: 0,
            comm,
            exe: "".into(),
            cmdline: "".into(),
            cgroup: "".into(),
            viewer_uid: 0,
        };
        let ends = |end: &(u32, u64)| from_ns > 0 && end.0 == pid && end.1 >= from_ns;
        let early_end = self.early_ends.iter().position(ends);
        let exit_ns = early_end.and_then(|at| self.early_ends.remove(at)).map(|end| end.1);
        let life = Life {
            id,
            process: Arc::new(process),
            uid: u32::MAX,
            inner_pid: pid,
            is_listed: self.filter.pids.contains(&pid),
            profiled: self.verdict_by_pid(pid),
            told: None,
            inherited: false,
            from_ns,
            exit_ns,
            withdrawn: false,
            start_known: false,
            images: vec![Image {
                is_ours: self.becomes_command.take_if(|ours| *ours == pid).is_some(),
                ..Image::new(from_ns)
            }],
            described: false,
            asked_ns: 0,
            comm_ns: 0,
        };
        self.lives.insert(id, life);
        self.by_pid.entry(pid).or_default().push(id);
        id
    }

    fn mapping_id(&mut self) -> MappingId {
        self.next_mapping = self.next_mapping.wrapping_add(1);
        MappingId(self.next_mapping)
    }

    /// The process and image that a sample is of; it is made known if it was not.
    pub fn image_of(&mut self, pid: u32, start_ns: u64, exec_id: u32, time_ns: u64) -> ImageRef {
        let lives = self.by_pid.get(&pid).map_or(&[][..], Vec::as_slice);
        let is_it = |id: &LifeId, start_known: bool| {
            let life = self.lives.get(id).filter(|life| life.start_known == start_known);
            life.is_some_and(|life| life.started_at(start_ns))
        };
        let known = lives
            .iter()
            .rev()
            .find(|id| is_it(id, true))
            .or_else(|| lives.iter().find(|id| is_it(id, false)))
            .copied();
        let id = known.unwrap_or_else(|| {
            if pid == KERNEL_PID && start_ns == 0 {
                return self.add(pid, "kernel".into(), 0);
            }
            let id = self.add(pid, "".into(), start_ns);
            self.changes.push(Change::Describe(pid));
            id
        });
        let Some(life) = self.lives.get_mut(&id) else { return ImageRef { life: id, image: 0 } };
        if life.exit_ns.is_some_and(|exit| exit.saturating_add(LATE_NS) < time_ns) {
            // Its first thread has ended, but others go on.
            life.exit_ns = None;
            if std::mem::take(&mut life.withdrawn) {
                self.changes.push(Change::Mappings(id));
            }
        }
        if !life.start_known {
            life.start_known = true;
            life.edit(|process| process.start_ns = start_ns);
        }
        if self.filter.is_pids() && life.profiled == Some(false) {
            // The kernel side takes samples of those it was told of and their children alone: we
            // have missed a fork.
            life.profiled = Some(true);
            life.inherited = true;
            self.changes.push(Change::Describe(pid));
        }
        let image = life
            .images
            .iter()
            .rposition(|image| image.exec_id.is_some_and(|(known, _)| known == exec_id))
            .or_else(|| life.images.iter().rposition(|image| image.from_ns <= time_ns))
            .unwrap_or(0);
        if let Some(image) = life.images.get_mut(image)
            && image.exec_id.is_none_or(|(known, _)| known != exec_id)
        {
            image.exec_id = Some((exec_id, time_ns));
        }
        ImageRef { life: id, image: image as u32 }
    }

    /// Asks to have a process described again, since a sample of it lies in no known mapping; at
    /// most once a second and process.
    pub fn uncovered(&mut self, id: LifeId, time_ns: u64) {
        const PAUSE_NS: u64 = 1_000_000_000;
        if let Some(life) = self.lives.get_mut(&id)
            && life.asked_ns.saturating_add(PAUSE_NS) <= time_ns
            && life.exit_ns.is_none()
        {
            life.asked_ns = time_ns;
            self.changes.push(Change::Describe(life.process.pid));
        }
    }

    /// Notes that there was no such process any more when it was to be described. (A sample that is
    /// taken later brings it back.)
    pub fn gone(&mut self, pid: u32, time_ns: u64) {
        if let Some(life) = self.newest(pid).and_then(|id| self.lives.get_mut(&id)) {
            life.exit_ns.get_or_insert(time_ns);
        }
    }

    /// Names a thread's process after its first thread, as a sample saw it.
    pub fn seen_comm(&mut self, id: LifeId, comm: &str) {
        if let Some(life) = self.lives.get_mut(&id)
            && life.process.comm.is_empty()
        {
            life.edit(|process| process.comm = comm.into());
        }
    }

    /// The pids of processes that have ended before `time_ns`, each once: the kernel side need not
    /// know of them any more.
    pub fn take_ended(&mut self, time_ns: u64) -> Vec<u32> {
        let Self { lives, by_pid, .. } = self;
        let is_newest = |life: &Life| {
            by_pid.get(&life.process.pid).and_then(|ids| ids.last()) == Some(&life.id)
        };
        let mut ended = Vec::new();
        for life in lives.values_mut() {
            let is_over = |exit: u64| exit.saturating_add(LATE_NS) < time_ns;
            if !life.withdrawn && life.exit_ns.is_some_and(is_over) {
                life.withdrawn = true;
                if is_newest(life) {
                    ended.push(life.process.pid);
                }
            }
        }
        ended
    }

    /// Forgets processes that ended well before `time_ns`, but for those in `keep`, and mappings
    /// that did. Returns the pids that no process has any more.
    pub fn forget(&mut self, time_ns: u64, keep: &HashSet<LifeId>) -> Vec<u32> {
        let Self { lives, by_pid, .. } = self;
        let mut free = Vec::new();
        lives.retain(|id, life| {
            let ended = life.exit_ns.is_some_and(|exit| exit.saturating_add(MEMORY_NS) < time_ns);
            if ended && !keep.contains(id) {
                if let Some(ids) = by_pid.get_mut(&life.process.pid) {
                    ids.retain(|other| other != id);
                    if ids.is_empty() {
                        by_pid.remove(&life.process.pid);
                        free.push(life.process.pid);
                    }
                }
                return false;
            }
            if !keep.contains(id) {
                for image in &mut life.images {
                    image.mappings.forget_before(time_ns.saturating_sub(MEMORY_NS));
                }
            }
            true
        });
        free
    }
}

/// The path of a mapping as we keep it: empty without a file.
fn tidy_path(path: &str) -> Arc<str> {
    if path.starts_with('/') && !path.starts_with("//anon") || path == "[vdso]" {
        path.into()
    } else {
        "".into()
    }
}

#[cfg(test)]
mod tests;
