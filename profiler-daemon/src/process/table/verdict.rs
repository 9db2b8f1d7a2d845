//! Which of the processes are asked for.

use super::{LifeId, Table};

impl Table {
    /// The verdict on a process of which nothing but its pid is known.
    pub(super) fn verdict_by_pid(&self, pid: u32) -> Option<bool> {
        if self.filter.is_pids() {
            Some(self.filter.pids.contains(&pid))
        } else {
            self.filter.is_all().then_some(true)
        }
    }

    /// Decides anew whether a process is asked for.
    pub(super) fn decide(&mut self, id: LifeId, exec: bool) {
        if self.filter.is_pids() || self.filter.is_all() {
            return;
        }
        let Some(life) = self.lives.get_mut(&id) else { return };
        if life.inherited || (life.profiled.is_some() && !exec && life.profiled != Some(false)) {
            return;
        }
        let process = &life.process;
        let verdict =
            self.filter.decide(life.is_listed, &process.comm, &process.exe, &process.cgroup);
        if life.profiled != verdict || exec {
            life.profiled = verdict;
            life.inherited = verdict == Some(true) && self.filter.follow;
            life.told = None;
        }
    }
}
