//! What the reader found in `/proc`.

use std::sync::Arc;

use super::{Change, LifeId, TICK_NS, Table, tidy_path};
use crate::{process::Mapping, reader::protocol::ProcessInfo};

/// So long after its `exec` a process may seem to have no arguments.
pub(super) const EARLY_NS: u64 = 1_000_000_000;

impl Table {
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
            // The reader may be anybody's by now.
            .filter(|shown| shown.start < shown.end)
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
        // `exec` is told of before the new program's arguments are in place (`begin_new_exec` and
        // `create_elf_tables`, `fs/exec.c` and `fs/binfmt_elf.c`).
        let is_early = info.cmdline.is_empty()
            && !info.exe.is_empty()
            && info.read_from_ns - image.from_ns < EARLY_NS;
        if is_early {
            self.changes.push(Change::Describe(info.pid));
        }
        // What is still rprofd itself is about to have other mappings.
        let changed = image.mappings.rescan(&shown, info.read_from_ns) && !image.is_ours;
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
            process.viewer_uid = info.viewer_uid;
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
                life.from_ns == 0 || life.from_ns.saturating_add(2 * TICK_NS) >= start_ns
            }
        })
    }
}
