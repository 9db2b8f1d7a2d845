//! All processes that are known, from side-band records and from what the reader found in `/proc`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use profiler_ebpf::record::KERNEL_PID;

use super::{Filter, Mapping, MappingId, Mappings};
use crate::{
    kernel::{Map, SideBand, What},
    profile::Process,
    reader::protocol::ProcessInfo,
};

/// Start times from `/proc` are in hundredths of a second.
const TICK_NS: u64 = 10_000_000;

/// How long a process is remembered after its end, for samples that are still under way.
const MEMORY_NS: u64 = 2_000_000_000;

/// Samples of a process that was said to have ended are this late at most.
const LATE_NS: u64 = 100_000_000;

/// Numbers a process: a pid from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LifeId(pub u32);

/// A program image of a process: what it runs between two `exec`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// The process.
    pub life: LifeId,
    /// Which of its images, from 0.
    pub image: u32,
}

/// What the caller has to do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ask the reader to open the file behind a mapping of the process.
    Open(u32, Arc<Mapping>),
    /// Ask the reader what `/proc` says of the process.
    Describe(u32),
    /// The process's current mappings are different: tell the kernel side.
    Mappings(LifeId),
}

#[derive(Clone, Debug)]
struct Image {
    from_ns: u64,
    /// From the first sample of it.
    exec_id: Option<u32>,
    mappings: Mappings,
}

/// A process: a pid from its start to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its number.
    pub id: LifeId,
    /// What profiles say of it.
    pub process: Arc<Process>,
    /// Its user.
    pub uid: u32,
    /// Its pid in its own namespace.
    pub inner_pid: u32,
    /// Whether it is asked for; `None`: not decided.
    pub profiled: Option<bool>,
    /// Whether the kernel side knows the verdict, for which exec count.
    pub told: Option<u32>,
    /// The verdict came from a parent, and outlives an `exec`.
    pub inherited: bool,
    from_ns: u64,
    exit_ns: Option<u64>,
    /// From the first sample, or known.
    start_known: bool,
    images: Vec<Image>,
    described: bool,
    asked_ns: u64,
    /// When it took the comm that a side-band record told; 0: none did.
    comm_ns: u64,
}

impl Life {
    /// The mappings of one of its images.
    pub fn mappings(&self, image: u32) -> Option<&Mappings> {
        self.images.get(image as usize).map(|image| &image.mappings)
    }

    /// The mappings of what it runs now.
    pub fn current(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.images.last().into_iter().flat_map(|image| image.mappings.current())
    }

    /// Its start if it is known, else 0; in nanoseconds of the boot-time clock.
    pub fn start_ns(&self) -> u64 {
        if self.start_known { self.process.start_ns } else { 0 }
    }

    fn edit(&mut self, change: impl FnOnce(&mut Process)) {
        change(Arc::make_mut(&mut self.process));
    }
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
}

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
        }
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
        };
        let profiled = if self.filter.is_pids() {
            Some(self.filter.pids.contains(&pid))
        } else {
            self.filter.is_all().then_some(true)
        };
        let life = Life {
            id,
            process: Arc::new(process),
            uid: u32::MAX,
            inner_pid: pid,
            profiled,
            told: None,
            inherited: false,
            from_ns,
            exit_ns: None,
            start_known: false,
            images: vec![Image { from_ns, exec_id: None, mappings: Mappings::default() }],
            described: false,
            asked_ns: 0,
            comm_ns: 0,
        };
        self.lives.insert(id, life);
        self.by_pid.entry(pid).or_default().push(id);
        id
    }

    /// Takes a side-band record; they come in the order of their times, nearly.
    pub fn side_band(&mut self, event: &SideBand) {
        match &event.what {
            What::Fork { parent_pid } => {
                if *parent_pid != event.pid {
                    self.fork(*parent_pid, event.pid, event.time_ns);
                }
            }
            What::Comm { comm, exec } => self.comm(event, comm, *exec),
            What::Map(map) => self.map(event.pid, map, event.time_ns),
            What::Exit => {
                if event.pid == event.tid
                    && let Some(id) = self.newest(event.pid)
                    && let Some(life) = self.lives.get_mut(&id)
                {
                    life.exit_ns = Some(event.time_ns);
                }
            }
            What::Lost(_) => {
                for life in self.lives.values().filter(|life| life.profiled != Some(false)) {
                    self.changes.push(Change::Describe(life.process.pid));
                }
            }
        }
    }

    fn fork(&mut self, parent_pid: u32, pid: u32, time_ns: u64) {
        // A process that was asked for may fork before `/proc` has been read.
        let is_listed = self.filter.is_pids() && self.filter.pids.contains(&parent_pid);
        let parent = self
            .newest(parent_pid)
            .or_else(|| is_listed.then(|| self.add(parent_pid, "".into(), 0)));
        let comm = parent
            .and_then(|id| self.lives.get(&id))
            .map_or_else(|| "".into(), |life| Arc::clone(&life.process.comm));
        let id = self.add(pid, comm, time_ns);
        let Some(parent) = parent.and_then(|id| self.lives.get(&id)) else { return };
        let mappings =
            parent.images.last().map(|image| image.mappings.forked(time_ns)).unwrap_or_default();
        let process = Arc::clone(&parent.process);
        let (uid, described, profiled) = (parent.uid, parent.described, parent.profiled);
        let follow = self.filter.follow && profiled == Some(true);
        let Some(life) = self.lives.get_mut(&id) else { return };
        life.uid = uid;
        life.described = described;
        if follow {
            life.profiled = Some(true);
            life.inherited = true;
        }
        life.edit(|child| {
            child.exe = Arc::clone(&process.exe);
            child.cmdline = Arc::clone(&process.cmdline);
            child.cgroup = Arc::clone(&process.cgroup);
        });
        if let Some(image) = life.images.last_mut() {
            image.mappings = mappings;
        }
        if life.profiled != Some(false) {
            if !described {
                self.changes.push(Change::Describe(pid));
            }
            self.changes.push(Change::Mappings(id));
        }
    }

    fn comm(&mut self, event: &SideBand, comm: &str, exec: bool) {
        if !exec && event.pid != event.tid {
            return;
        }
        let id = match self.newest(event.pid) {
            Some(id) => id,
            None if exec => self.add(event.pid, comm.into(), event.time_ns),
            None => return,
        };
        let Some(life) = self.lives.get_mut(&id) else { return };
        life.comm_ns = event.time_ns;
        life.edit(|process| process.comm = comm.into());
        if exec {
            life.images.push(Image {
                from_ns: event.time_ns,
                exec_id: None,
                mappings: Mappings::default(),
            });
            life.edit(|process| {
                process.exe = "".into();
                process.cmdline = "".into();
            });
            if life.profiled != Some(false) || !self.filter.is_pids() {
                self.changes.push(Change::Describe(event.pid));
                self.changes.push(Change::Mappings(id));
            }
        }
        self.decide(id, exec);
    }

    /// Decides anew whether a process is asked for.
    fn decide(&mut self, id: LifeId, exec: bool) {
        if self.filter.is_pids() || self.filter.is_all() {
            return;
        }
        let Some(life) = self.lives.get_mut(&id) else { return };
        if life.inherited || (life.profiled.is_some() && !exec && life.profiled != Some(false)) {
            return;
        }
        let process = &life.process;
        let verdict = self.filter.decide(process.pid, &process.comm, &process.exe, &process.cgroup);
        if life.profiled != verdict || exec {
            life.profiled = verdict;
            life.inherited = verdict == Some(true) && self.filter.follow;
            life.told = None;
        }
    }

    fn map(&mut self, pid: u32, map: &Map, time_ns: u64) {
        let id = match self.newest(pid) {
            Some(id) => id,
            None => {
                let id = self.add(pid, "".into(), time_ns);
                self.changes.push(Change::Describe(pid));
                id
            }
        };
        let mapping = Arc::new(Mapping {
            id: self.mapping_id(),
            start: map.start,
            end: map.end,
            file_offset: map.file_offset,
            path: tidy_path(&map.path),
            build_id: map.build_id.clone(),
            device: map.device,
            inode: map.inode,
        });
        let Some(life) = self.lives.get_mut(&id) else { return };
        let Some(image) = life.images.last_mut() else { return };
        let first = image.mappings.current().next().is_none();
        image.mappings.map(Arc::clone(&mapping), time_ns);
        if first && mapping.path.starts_with('/') && life.process.exe.is_empty() {
            life.edit(|process| process.exe = Arc::clone(&mapping.path));
            self.decide(id, false);
        }
        if self.lives.get(&id).is_some_and(|life| life.profiled != Some(false)) {
            if mapping.has_file() {
                self.changes.push(Change::Open(pid, mapping));
            }
            self.changes.push(Change::Mappings(id));
        }
    }

    fn mapping_id(&mut self) -> MappingId {
        self.next_mapping = self.next_mapping.wrapping_add(1);
        MappingId(self.next_mapping)
    }

    /// Takes what `/proc` says of a process.
    pub fn describe(&mut self, info: &ProcessInfo) {
        let start_ns = info.start_ticks.saturating_mul(TICK_NS);
        let id = match self.newest(info.pid) {
            Some(id) if self.could_be(id, start_ns) => id,
            _ => self.add(info.pid, "".into(), 0),
        };
        let shown: Vec<_> = info
            .mappings
            .iter()
            .map(|shown| {
                Arc::new(Mapping {
                    id: self.mapping_id(),
                    start: shown.start,
                    end: shown.end,
                    file_offset: shown.file_offset,
                    path: tidy_path(&shown.path),
                    build_id: Vec::new(),
                    device: shown.device,
                    inode: shown.inode,
                })
            })
            .collect();
        let Some(life) = self.lives.get_mut(&id) else { return };
        let Some(image) = life.images.last_mut() else { return };
        if image.from_ns >= info.read_from_ns {
            // It has called `exec` since: what was read is of the program before.
            self.changes.push(Change::Describe(info.pid));
            return;
        }
        let changed = image.mappings.rescan(&shown, info.read_from_ns);
        life.described = true;
        life.uid = info.uid;
        life.inner_pid = info.inner_pid;
        let start_known = life.start_known;
        let is_comm_older = life.comm_ns < info.read_from_ns;
        life.edit(|process| {
            if !start_known {
                process.start_ns = start_ns;
            }
            if is_comm_older {
                process.comm = info.comm.as_str().into();
            }
            process.exe = info.exe.as_str().into();
            process.cmdline = info.cmdline.as_str().into();
            process.cgroup = info.cgroup.as_str().into();
        });
        self.decide(id, false);
        let Some(life) = self.lives.get(&id) else { return };
        if changed && life.profiled != Some(false) {
            for mapping in life.current().filter(|mapping| mapping.has_file()) {
                if shown.iter().any(|new| new.id == mapping.id) {
                    self.changes.push(Change::Open(info.pid, Arc::clone(mapping)));
                }
            }
            self.changes.push(Change::Mappings(id));
        }
    }

    /// Whether a process that started at `start_ns`, give or take a tick, can be this one.
    fn could_be(&self, id: LifeId, start_ns: u64) -> bool {
        self.lives.get(&id).is_some_and(|life| {
            if life.start_known {
                life.process.start_ns.abs_diff(start_ns) <= 2 * TICK_NS
            } else {
                life.from_ns == 0 || life.from_ns + 2 * TICK_NS >= start_ns
            }
        })
    }

    /// The process and image that a sample is of; it is made known if it was not.
    pub fn image_of(&mut self, pid: u32, start_ns: u64, exec_id: u32, time_ns: u64) -> ImageRef {
        let lives = self.by_pid.get(&pid).map_or(&[][..], Vec::as_slice);
        let known = lives
            .iter()
            .rev()
            .find(|id| {
                self.lives
                    .get(id)
                    .is_some_and(|life| life.start_known && life.process.start_ns == start_ns)
            })
            .or_else(|| {
                lives.iter().find(|id| {
                    self.lives.get(id).is_some_and(|life| {
                        !life.start_known
                            && (life.from_ns >= start_ns
                                || life.process.start_ns.abs_diff(start_ns) <= 2 * TICK_NS)
                    })
                })
            })
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
        if life.exit_ns.is_some_and(|exit| exit + LATE_NS < time_ns) {
            // Its first thread has ended, but others go on.
            life.exit_ns = None;
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
            .rposition(|image| image.exec_id == Some(exec_id))
            .or_else(|| life.images.iter().rposition(|image| image.from_ns <= time_ns))
            .unwrap_or(0);
        if let Some(image) = life.images.get_mut(image) {
            image.exec_id = Some(exec_id);
        }
        ImageRef { life: id, image: image as u32 }
    }

    /// Asks to have a process described again, since a sample of it lies in no known mapping; at
    /// most once a second and process.
    pub fn uncovered(&mut self, id: LifeId, time_ns: u64) {
        const PAUSE_NS: u64 = 1_000_000_000;
        if let Some(life) = self.lives.get_mut(&id)
            && life.asked_ns + PAUSE_NS <= time_ns
            && life.exit_ns.is_none()
        {
            life.asked_ns = time_ns;
            self.changes.push(Change::Describe(life.process.pid));
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

    /// Forgets processes that ended well before `time_ns`, but for those in `keep`, and mappings
    /// that did. Returns the pids that no process has any more.
    pub fn forget(&mut self, time_ns: u64, keep: &HashSet<LifeId>) -> Vec<u32> {
        let Self { lives, by_pid, .. } = self;
        let mut free = Vec::new();
        lives.retain(|id, life| {
            let ended = life.exit_ns.is_some_and(|exit| exit + MEMORY_NS < time_ns);
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
