//! The profile as every sink gets it: symbolized, self-contained, one kind, one window.

pub mod aggregate;
pub mod build;
pub mod command_line;
pub mod frame;
pub mod go;
mod hidden;
pub mod labels;
pub mod merge;
pub mod pprof;
pub mod raw_stacks;
mod reason;
#[cfg(test)]
pub(crate) mod sample;
mod spent;
pub mod top;

use std::{
    ops::AddAssign,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use self::{
    labels::Labels,
    spent::{SPENT_BYTES, Spent},
};

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Time on a CPU.
    #[default]
    Cpu,
    /// All time of all threads: on a CPU, waiting for one, or for something else.
    Wall,
    /// Time for which threads waited for something else than a CPU, by where they waited.
    Block,
    /// Time for which threads waited for a lock, by who held it.
    Mutex,
    /// What each thread does at a moment.
    Goroutine,
    /// Threads that were started.
    Threadcreate,
    /// What each goroutine of a Go program does at a moment.
    Goroutines,
    /// The same of those that may wait for ever.
    Goroutineleak,
    /// What a Go program has allocated and not given up, and all it has allocated.
    Heap,
    /// The same; what is shown unless asked otherwise is all it has allocated.
    Allocs,
}

impl Kind {
    /// All that are recorded: the others are read of a Go program's memory.
    pub const ALL: [Self; 6] =
        [Self::Cpu, Self::Wall, Self::Block, Self::Mutex, Self::Goroutine, Self::Threadcreate];

    /// The word users type and see in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Block => "block",
            Self::Mutex => "mutex",
            Self::Goroutine | Self::Goroutines => "goroutine",
            Self::Goroutineleak => "goroutineleak",
            Self::Threadcreate => "threadcreate",
            Self::Heap => "heap",
            Self::Allocs => "allocs",
        }
    }

    /// Sample types as (type, unit), in the order of [`Sample::values`]. [`Sample::others`] come
    /// before those of `Heap`, and behind those of `Allocs`.
    pub fn sample_types(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Cpu => &[("samples", "count"), ("cpu", "nanoseconds")],
            Self::Wall => &[("samples", "count"), ("wall", "nanoseconds")],
            Self::Block | Self::Mutex => &[("contentions", "count"), ("delay", "nanoseconds")],
            Self::Goroutine => &[("threads", "count")],
            Self::Threadcreate => &[("threadcreate", "count")],
            Self::Goroutines => &[("goroutine", "count")],
            Self::Goroutineleak => &[("goroutineleak", "count")],
            Self::Heap | Self::Allocs => &[
                ("alloc_objects", "count"),
                ("alloc_space", "bytes"),
                ("inuse_objects", "count"),
                ("inuse_space", "bytes"),
            ],
        }
    }

    /// The sample type that is shown unless asked otherwise, as (type, unit).
    pub fn default_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Allocs => ("alloc_space", "bytes"),
            _ => *self.sample_types().last().unwrap_or(&("samples", "count")),
        }
    }

    /// What a period counts, as (type, unit).
    pub fn period_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Cpu => ("cpu", "nanoseconds"),
            Self::Wall => ("wall", "nanoseconds"),
            Self::Block | Self::Mutex => ("contentions", "count"),
            Self::Goroutine => ("threads", "count"),
            Self::Threadcreate => ("threadcreate", "count"),
            Self::Goroutines => ("goroutine", "count"),
            Self::Goroutineleak => ("goroutineleak", "count"),
            Self::Heap | Self::Allocs => ("space", "bytes"),
        }
    }

    /// The label that says what a thread did, as [`Sample::state`] has it.
    pub fn state_label(self) -> &'static str {
        match self {
            Self::Block | Self::Mutex => "reason",
            Self::Cpu
            | Self::Wall
            | Self::Goroutine
            | Self::Threadcreate
            | Self::Goroutines
            | Self::Goroutineleak
            | Self::Heap
            | Self::Allocs => "state",
        }
    }

    /// Whether the CPUs have to be sampled for it.
    pub fn samples_cpus(self) -> bool {
        matches!(self, Self::Cpu | Self::Wall)
    }

    /// Whether threads are followed for it.
    pub fn follows_threads(self) -> bool {
        matches!(self, Self::Wall | Self::Block | Self::Mutex | Self::Threadcreate)
    }

    /// Whether it counts what there was of each thread.
    pub fn counts_threads(self) -> bool {
        matches!(self, Self::Wall | Self::Mutex)
    }

    /// Whether it is looked at what all threads do at its begin.
    pub fn looks_at_threads(self) -> bool {
        matches!(self, Self::Wall | Self::Goroutine)
    }

    /// Index in [`Sample::values`] of how often something was seen.
    pub const COUNT: usize = 0;
    /// Index in [`Sample::values`] of what is shown unless asked otherwise; of a kind that has one
    /// sample type, both are the same.
    pub const DEFAULT: usize = 1;
}

/// What all profiles of one kind and window have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What was measured.
    pub kind: Kind,
    /// Its start.
    pub start: SystemTime,
    /// Its length.
    pub duration: Duration,
    /// Units of [`Kind::period_type`] between two samples.
    pub period: u64,
    /// Comments that are of no process: host, kernel, version, frequency, losses. A merged profile
    /// has these, then those of the profiles.
    pub comments: Vec<String>,
    /// What was lost of the window, and how many of it; the comments have it, too.
    pub losses: Vec<(&'static str, u64)>,
}

impl Window {
    /// What can be lost, as [`Window::losses`] and the comments call it. The first is all samples that
    /// should have been taken of a running process and are not there.
    pub const LOSSES: [&'static str; 12] = [
        "samples",
        "samples_missed",
        "samples_ring_full",
        "samples_nested",
        "samples_unread",
        "stacks",
        "stack_id_collisions",
        "side_band",
        "forks",
        "waits",
        "threads",
        "label_sets",
    ];
}

/// Samples of one kind and window: of one process, or merged from several.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What was measured.
    pub kind: Kind,
    /// Start of the window.
    pub start: SystemTime,
    /// Length of the window.
    pub duration: Duration,
    /// Units of [`Kind::period_type`] between two samples.
    pub period: u64,
    /// The processes the samples are of; index 0 names the file.
    pub processes: Vec<Arc<Process>>,
    /// The program's own mapping first.
    pub mappings: Vec<Mapping>,
    /// Distinct code addresses.
    pub locations: Vec<Location>,
    /// Distinct functions.
    pub functions: Vec<Function>,
    /// Distinct stacks: indices into `locations`, leaf first.
    pub stacks: Vec<Box<[u32]>>,
    /// The samples; one per distinct (stack, process, thread).
    pub samples: Vec<Sample>,
    /// How unwinding ended, over all samples.
    pub outcomes: Outcomes,
    /// How the processes' threads have spent the time of the window, where that is known. It is in
    /// no file.
    pub spent: Spent,
    /// Host, kernel, version, frequency and each loss, one `key=value` per entry. The processes'
    /// command line and `outcomes` are not in it: [`pprof::encode`] adds them.
    pub comments: Vec<String>,
}

impl Profile {
    /// The sum over all samples, per sample type.
    pub fn totals(&self) -> [i64; 2] {
        self.samples.iter().fold([0; 2], |sum, sample| {
            std::array::from_fn(|i| sum[i].saturating_add(sample.values[i]))
        })
    }
}

/// A process: pid and start time tell it from every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// pid in the initial namespace; 2 for all kernel threads together.
    pub pid: u32,
    /// Boot-time clock at its start, in nanoseconds.
    pub start_ns: u64,
    /// Its last comm.
    pub comm: Arc<str>,
    /// Path of its executable; empty if unknown.
    pub exe: Arc<str>,
    /// Its arguments with a NUL between two; empty if unknown.
    pub cmdline: Arc<str>,
    /// Its cgroup's path; empty if unknown.
    pub cgroup: Arc<str>,
    /// The user who may look at it beside root; 0 if unknown.
    pub viewer_uid: u32,
}

/// A part of an address space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// First avma.
    pub start: u64,
    /// One past the last avma.
    pub end: u64,
    /// File offset of `start`, in bytes.
    pub file_offset: u64,
    /// Path as the kernel shows it, `[vdso]`, `[kernel.kallsyms]`, or empty.
    pub file: Arc<str>,
    /// Build ID as pprof has it; empty if unknown.
    pub build_id: Arc<str>,
    /// Each location of it that could be named has names.
    pub has_functions: bool,
    /// Some location of it has a source file.
    pub has_filenames: bool,
    /// Some location of it has a line number.
    pub has_line_numbers: bool,
    /// Inlined functions were looked for and would be shown.
    pub has_inline_frames: bool,
}

/// A code address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Index in [`Profile::mappings`], if one covers it.
    pub mapping: Option<u32>,
    /// avma: of the instruction for a leaf, inside the call instruction for a caller.
    pub avma: u64,
    /// Innermost inlined function first; empty where no name is known.
    pub lines: Box<[Line]>,
}

/// A function and a line in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Index in [`Profile::functions`].
    pub function: u32,
    /// Line number; 0 if unknown.
    pub line: u32,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// Demangled name.
    pub name: Arc<str>,
    /// Source file's path; empty if unknown.
    pub file: Arc<str>,
    /// Line where it begins; 0 if unknown.
    pub start_line: u32,
}

/// A distinct (stack, process, thread) and what was measured of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Index in [`Profile::stacks`].
    pub stack: u32,
    /// Index in [`Profile::processes`].
    pub process: u32,
    /// Thread's id in the initial namespace.
    pub tid: u32,
    /// Thread's name.
    pub thread: Arc<str>,
    /// What the thread did, or waited for; empty: it ran.
    pub state: Arc<str>,
    /// What the program itself says of what it did.
    pub labels: Labels,
    /// One value per [`Kind::sample_types`]; of a kind that has one, that twice; of allocations how
    /// many and how many bytes.
    pub values: [i64; 2],
    /// Of a `Heap` all allocations, of `Allocs` what is in use of them; else 0.
    pub others: [i64; 2],
    /// Of allocations: the size of each, in bytes; 0 if it is not known.
    pub object_bytes: i64,
}

/// How many samples' user stacks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The last frame is a known root.
    pub complete: u64,
    /// The last frame is a known root, but a frame pointer was followed where no rule existed.
    pub guessed: u64,
    /// More frames than are walked.
    pub truncated: u64,
    /// A program counter that no executable mapping covers.
    pub no_mapping: u64,
    /// No unwind rule for a program counter, and no frame pointer to follow.
    pub no_rule: u64,
    /// An unwind rule that is not supported.
    pub unsupported_rule: u64,
    /// Stack memory that could not be read.
    pub unreadable: u64,
    /// Samples without a user stack (kernel threads, `--kernel-only`).
    pub none: u64,
}

impl Outcomes {
    /// Each count and the word for it, as in the comment `outcome.truncated=3`.
    pub fn by_name(&self) -> [(&'static str, u64); 8] {
        let mut counts = *self;
        counts.by_name_mut().map(|(name, count)| (name, *count))
    }

    /// Takes a count from a comment such as `outcome.truncated=3`. Returns whether it is one.
    pub fn take_comment(&mut self, comment: &str) -> bool {
        let Some((name, count)) =
            comment.strip_prefix("outcome.").and_then(|it| it.split_once('='))
        else {
            return false;
        };
        let known = self.by_name_mut().into_iter().find(|(known, _)| *known == name);
        match (known, count.parse()) {
            (Some((_, own)), Ok(count)) => {
                *own = count;
                true
            }
            _ => false,
        }
    }

    /// The one list of them: what adds up and what names them goes through it.
    fn by_name_mut(&mut self) -> [(&'static str, &mut u64); 8] {
        let Self {
            complete,
            guessed,
            truncated,
            no_mapping,
            no_rule,
            unsupported_rule,
            unreadable,
            none,
        } = self;
        [
            ("complete", complete),
            ("guessed", guessed),
            ("truncated", truncated),
            ("no_mapping", no_mapping),
            ("no_rule", no_rule),
            ("unsupported_rule", unsupported_rule),
            ("unreadable", unreadable),
            ("none", none),
        ]
    }

    /// Samples with a user stack, however it ended.
    pub fn user_stacks(&self) -> u64 {
        let all =
            self.by_name().into_iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
        all - self.none
    }
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, other: Self) {
        for ((_, sum), (_, count)) in self.by_name_mut().into_iter().zip(other.by_name()) {
            *sum = sum.saturating_add(count);
        }
    }
}
