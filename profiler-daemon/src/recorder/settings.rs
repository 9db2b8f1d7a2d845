//! What a recording is asked for.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Closeness, Limits};
use crate::{kernel, process::Filter, profile::Kind};

/// What is to be recorded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What windows are of.
    pub kinds: Vec<Kind>,
    /// How closely it is looked at what waits.
    pub closeness: Closeness,
    /// Waits may be recorded: one of the kinds, or of a request, has to do with them.
    pub may_wait: bool,
    /// Samples per second and CPU, in Hz.
    pub hertz: u64,
    /// The most of them that a [`super::Request`] gets.
    pub most_hertz: u64,
    /// What makes a CPU take a sample.
    pub event: kernel::Event,
    /// Which processes.
    pub filter: Filter,
    /// The pid of the process that is to become the command: rprofd itself until then.
    pub becomes_command: Option<u32>,
    /// Take kernel stacks.
    pub kernel_stacks: bool,
    /// Take user stacks.
    pub user_stacks: bool,
    /// What unwind tables may take in the kernel.
    pub unwind_memory_bytes: u64,
    /// Where unwind tables are kept on disk.
    pub unwind_cache: Option<PathBuf>,
    /// A new profile each such time; `None`: one for all.
    pub window: Option<Duration>,
    /// Tell how threads spent the time of each window: all threads are looked at at its end.
    pub tells_times: bool,
    /// What rprofd may take; beyond that it gives something up.
    pub limits: Limits,
    /// Names from symbol tables alone.
    pub no_inlines: bool,
    /// Where separate debug files are.
    pub debug_dirs: Vec<PathBuf>,
    /// The BPF programs report what they do.
    pub log: bool,
    /// Take what the kernel's known defects make dangerous.
    pub ignore_defects: bool,
    /// When the program was started.
    pub started: Instant,
    /// Comments of each profile.
    pub comments: Vec<String>,
}
