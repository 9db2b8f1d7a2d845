//! What somebody asks for beside the windows: how it begins, and how it ends.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{RecordError, Recorder, clock, waits::Stock};
use crate::{
    process::Life,
    profile::{Kind, Process, Profile, Window},
};

/// Which processes somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// The one that has this pid.
    Pid(u32),
    /// Those that have this comm.
    Comm(Arc<str>),
    /// Those of a cgroup whose path has this component.
    Cgroup(Arc<str>),
    /// Those that have these pids now, and with `true` what they start from now on.
    Tree(Arc<[u32]>, bool),
}

impl Scope {
    /// The pid of the only process that can be of it, if it is known.
    pub(super) fn only_pid(&self) -> Option<u32> {
        match self {
            Self::Pid(pid) => Some(*pid),
            Self::Tree(pids, false) => match pids[..] {
                [pid] => Some(pid),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a process is asked for.
    pub fn has(&self, process: &Process) -> bool {
        match self {
            Self::All => true,
            Self::Pid(pid) => process.pid == *pid,
            Self::Tree(pids, _) => pids.contains(&process.pid),
            Self::Comm(comm) => process.comm == *comm,
            Self::Cgroup(name) => process.cgroup.split('/').any(|part| part == &**name),
        }
    }
}

/// What somebody asks for.
#[derive(Debug)]
pub struct Request {
    /// What is to be measured.
    pub kind: Kind,
    /// Of which processes.
    pub scope: Scope,
    /// Samples per second and CPU, in Hz.
    pub hertz: u64,
    /// For how long.
    pub duration: Duration,
    /// Instead of samples: have these avmas named.
    pub addresses: Vec<u64>,
    /// Of processes that this user may see alone.
    pub viewer: Option<u32>,
    /// By which [`super::Order::End`] ends it before its time; 0: none does.
    pub tag: u64,
    /// Whether it is told how the processes' threads spent its time.
    pub tells_times: bool,
    /// Who is to be told when it begins.
    pub started: Option<oneshot::Sender<()>>,
    /// Where to send it; if nobody waits there any more, the recording ends.
    pub reply: oneshot::Sender<(Window, Vec<Profile>)>,
}

/// How long threads are looked at, at most.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// The most that one request has named: addresses, in each of its processes.
const MOST_PLACES: usize = 64 << 10;

impl Recorder {
    /// Begins what somebody asks for.
    pub(super) fn begin_request(&mut self, mut request: Request) -> Result<(), RecordError> {
        let addresses = std::mem::take(&mut request.addresses);
        if addresses.is_empty() {
            request.hertz = request.hertz.clamp(1, self.settings.most_hertz);
            let kind = request.kind;
            if kind.samples_cpus() {
                self.set_rate(self.collections.rate().max(request.hertz))?;
            }
            let waits = self.settings.closeness.waits(&[kind].into(), request.scope.only_pid());
            // Whoever waits for it hears that there is none.
            if !self.is_off
                && let Err(error) =
                    self.sampler.set_waits(self.sampler.waits().and(waits), clock::boot_ns())
            {
                tracing::error!("{} cannot be recorded here: {error}", kind.name());
                return self.follow_kinds();
            }
            let times = if request.tells_times { self.new_times() } else { None };
            let stock = if kind.counts_threads() { self.stock()? } else { Stock::default() };
            let before = self.counted()?;
            let there = self.table.lives().filter(|life| life.is_there());
            let members = match &request.scope {
                Scope::Tree(pids, _) => {
                    there.filter(|it| pids.contains(&it.process.pid)).map(|it| it.id).collect()
                }
                _ => HashSet::new(),
            };
            if kind == Kind::Goroutine {
                // It takes as long as it takes.
                request.duration = LONGEST_LOOK;
            }
            self.collections.request(request, members, before, &stock, times);
            return Ok(());
        }
        let time_ns = clock::boot_ns();
        let (scope, viewer) = (request.scope.clone(), request.viewer);
        request.duration = Duration::ZERO;
        let before = self.counted()?;
        let stock = Stock::default();
        let aggregate = self.collections.request(request, HashSet::new(), before, &stock, None);
        let is_seen = |life: &&Life| viewer.is_none_or(|uid| life.process.viewer_uid == uid);
        let lives = self.table.lives().filter(|life| life.is_there() && scope.has(&life.process));
        // The kernel's are the same for all.
        let most = if scope == Scope::All { 1 } else { (MOST_PLACES / addresses.len()).max(1) };
        let lives = lives.filter(is_seen).take(most);
        for life in lives {
            let mappings = if scope == Scope::All { None } else { life.current_mappings() };
            aggregate.add_addresses(life.id, &addresses, mappings, time_ns);
        }
        self.want_names();
        Ok(())
    }

    /// Ends what was asked for and is over, or is not waited for any more.
    pub(super) fn end_requests(&mut self) -> Result<(), RecordError> {
        let mut changed = self.collections.forget_abandoned();
        if self.collections.is_any_over() {
            self.end(false, false)?;
            self.symbolizer.retry_perf_maps();
            changed = true;
        }
        if changed {
            self.set_rate(self.collections.wanted_rate())?;
            self.follow_kinds()?;
            self.follow_times()?;
        }
        Ok(())
    }
}
