//! What the kernel tells the table: forks, execs, names, mappings, ends.

use std::sync::Arc;

use super::{Change, MAX_EARLY_ENDS, Table, life::Image, tidy_path};
use crate::{
    kernel::{Map, SideBand, What},
    process::Mapping,
};

impl Table {
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
                if event.pid == event.tid {
                    self.exit(event.pid, event.time_ns);
                }
            }
            What::Lost(_) => {
                for life in self.lives.values().filter(|life| life.profiled != Some(false)) {
                    self.changes.push(Change::Describe(life.process.pid));
                }
                // The command's `exec` may be among them: rather some samples too many than none.
                self.becomes_command = None;
                for image in self.lives.values_mut().flat_map(|life| &mut life.images) {
                    image.is_ours = false;
                }
            }
        }
    }

    fn exit(&mut self, pid: u32, time_ns: u64) {
        let newest = self.newest(pid).and_then(|id| self.lives.get_mut(&id));
        match newest.filter(|life| life.exit_ns.is_none()) {
            Some(life) => life.exit_ns = Some(time_ns),
            None => {
                if self.early_ends.len() >= MAX_EARLY_ENDS {
                    self.early_ends.pop_front();
                }
                self.early_ends.push_back((pid, time_ns));
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
        self.changes.push(Change::Forked(parent.id, id));
        let mappings =
            parent.images.last().map(|image| image.mappings.forked(time_ns)).unwrap_or_default();
        let process = Arc::clone(&parent.process);
        let (uid, described, profiled) = (parent.uid, parent.described, parent.profiled);
        let is_listed = parent.is_listed && self.filter.follow;
        let follow = self.filter.follow && profiled == Some(true);
        let Some(life) = self.lives.get_mut(&id) else { return };
        life.uid = uid;
        life.described = described;
        life.is_listed |= is_listed;
        if follow {
            life.profiled = Some(true);
            life.inherited = true;
        }
        life.edit(|child| {
            child.exe = Arc::clone(&process.exe);
            child.cmdline = Arc::clone(&process.cmdline);
            child.cgroup = Arc::clone(&process.cgroup);
            child.viewer_uid = process.viewer_uid;
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
            // A sample that overtook this record was taken for one of the image before.
            let overtook = |(_, time_ns): &mut (u32, u64)| *time_ns >= event.time_ns;
            let exec_id =
                life.images.last_mut().and_then(|before| before.exec_id.take_if(overtook));
            life.images.push(Image { exec_id, ..Image::new(event.time_ns) });
            life.edit(|process| {
                process.exe = "".into();
                process.cmdline = "".into();
                // Until it is described: it may have become another user's.
                process.viewer_uid = 0;
            });
            if life.profiled != Some(false) || !self.filter.is_pids() {
                self.changes.push(Change::Describe(event.pid));
                self.changes.push(Change::Mappings(id));
            }
        }
        self.decide(id, exec);
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
}
