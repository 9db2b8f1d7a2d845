//! A process as the table keeps it: a pid from its start to its end, and the programs it ran.

use std::sync::Arc;

use super::TICK_NS;
use crate::{
    process::{Mapping, Mappings},
    profile::Process,
};

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

#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) from_ns: u64,
    /// From a sample of it, and when that was taken.
    pub(super) exec_id: Option<(u32, u64)>,
    /// It is rprofd itself, which will become the command.
    pub(super) is_ours: bool,
    pub(super) mappings: Mappings,
}

impl Image {
    pub(super) fn new(from_ns: u64) -> Self {
        Self { from_ns, exec_id: None, is_ours: false, mappings: Mappings::default() }
    }
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
    /// Its pid is asked for, or it descends from such a process and those are asked for, too.
    pub is_listed: bool,
    /// Whether it is asked for; `None`: not decided.
    pub profiled: Option<bool>,
    /// Whether the kernel side knows the verdict, for which exec count.
    pub told: Option<u32>,
    /// The verdict came from a parent, and outlives an `exec`.
    pub inherited: bool,
    pub(super) from_ns: u64,
    pub(super) exit_ns: Option<u64>,
    /// The kernel side was told to forget it.
    pub(super) withdrawn: bool,
    /// From the first sample, or known.
    pub(super) start_known: bool,
    pub(super) images: Vec<Image>,
    pub(super) described: bool,
    pub(super) asked_ns: u64,
    /// When it took the comm that a side-band record told; 0: none did.
    pub(super) comm_ns: u64,
}

impl Life {
    /// The mappings of one of its images.
    pub fn mappings(&self, image: u32) -> Option<&Mappings> {
        self.images.get(image as usize).map(|image| &image.mappings)
    }

    /// Whether one of its images is rprofd itself, on the way to the command that it was asked to
    /// start: of no interest to whoever profiles the command.
    pub fn is_ours(&self, image: u32) -> bool {
        self.images.get(image as usize).is_some_and(|image| image.is_ours)
    }

    /// Whether what it runs now is rprofd itself.
    pub fn is_ours_now(&self) -> bool {
        self.images.last().is_some_and(|image| image.is_ours)
    }

    /// The mappings of what it runs now, and before.
    pub fn current_mappings(&self) -> Option<&Mappings> {
        self.images.last().map(|image| &image.mappings)
    }

    /// The mappings of what it runs now.
    pub fn current(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.images.last().into_iter().flat_map(|image| image.mappings.current())
    }

    /// Its start if it is known, else 0; in nanoseconds of the boot-time clock.
    pub fn start_ns(&self) -> u64 {
        if self.start_known { self.process.start_ns } else { 0 }
    }

    /// Whether a process that the kernel side saw, with this start, can be this one: what `/proc` says
    /// of that is a tick's.
    pub fn started_at(&self, start_ns: u64) -> bool {
        let own_ns = self.process.start_ns;
        if self.start_known {
            own_ns == start_ns
        } else {
            self.from_ns >= start_ns || own_ns.abs_diff(start_ns) <= 2 * TICK_NS
        }
    }

    /// Whether it has not ended.
    pub const fn is_there(&self) -> bool {
        self.exit_ns.is_none()
    }

    /// Whether it has ended as far as the kernel side is concerned.
    pub const fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Process)) {
        change(Arc::make_mut(&mut self.process));
    }
}
