//! The messages between the core and the reader, and their framing.
//!
//! A connection (a *lane*) is a Unix stream socket. A message on it is a little-endian `u32`
//! length, then that many bytes of protobuf. The core sends [`Request`]s with increasing ids and
//! the reader answers each with one [`Reply`] of the same id, in order. There are four lanes:
//!
//! * the *files* lane: quick questions (`Pids`, `Process`, `Stacks`, `Go`, `Open`, `HoldPerfMap`), answered in microseconds
//!   to milliseconds, so that a file is opened before a short-lived process is gone;
//! * two *names* lanes: `NameFile`, `NameKernel`, `NamePerfMap`, which parse debug information and
//!   may take seconds. Both know the same open files, and each keeps what it parsed to itself, so
//!   that a file is best named on one lane alone, and all heavy ones on the same
//!   ([`HEAVY_BYTES`]);
//! * the *tables* lane: `UnwindDigest` and `Unwind`, whose answers stacks wait for, and not behind
//!   naming; and `Open` and `HoldPerfMap` of what may never answer, which must not keep processes from
//!   being described.
//!
//! There are two readers that speak it. What may never answer, and so costs the reader that is asked,
//! is asked of the *expendable* one: what a process says of itself (`/proc/PID/maps` waits for a lock
//! that the process holds, `cmdline` for its memory), and files that `Open::anywhere` is needed for.
//!
//! The reader may be compromised by what it reads: the core checks every length and index of a
//! reply before use. Both sides refuse a message longer than [`MAX_MESSAGE_BYTES`], and the core a
//! reply longer than [`MAX_REPLY_BYTES`].

/// The longest message either side accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The longest reply that the core takes, in bytes: decoded, it takes several times its size.
pub const MAX_REPLY_BYTES: usize = 16 << 20;

/// The most addresses one naming request may carry.
pub const MAX_ADDRESSES: usize = 16_384;

/// A file that takes more than this to name, by [`FileInfo::weight_bytes`], is heavy: a names lane
/// keeps nothing else beside it, and forgets it after the request.
pub const HEAVY_BYTES: u64 = 8 << 20;

/// What the vDSO is called in `/proc/PID/maps`, and so in [`Open::path`].
pub const VDSO: &str = "[vdso]";

mod files;
mod go;
mod go_stacks;
mod names;

pub use files::{FileInfo, FileKey, NamesFrom, Open, Segment};
pub use go::{
    GO_RUNNING, GO_WAITS, GoBucket, GoBuild, GoLabelSet, GoLabels, GoMemory, GoRead, GoScheduler,
    GoStack, GoStats, GoWhat, Goroutine, go_minor,
};
pub use go_stacks::GoStacks;
pub use names::{FrameNames, NameFile, NameKernel, NameLine, NamePerfMap, Names};

/// A question to the reader.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Echoed in the reply; increases by one on each lane.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is asked.
    #[prost(oneof = "request::Kind", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub kind: Option<request::Kind>,
}

/// The kinds of [`Request`].
pub mod request {
    use super::{
        GoRead, NameFile, NameKernel, NamePerfMap, Open, Pids, Process, Rest, Stacks, Unwind,
        UnwindDigest,
    };

    /// What is asked.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// The pids of all processes that run now.
        #[prost(message, tag = "2")]
        Pids(Pids),
        /// One process.
        #[prost(message, tag = "3")]
        Process(Process),
        /// Open a mapped file and keep it open.
        #[prost(message, tag = "4")]
        Open(Open),
        /// Names of addresses in a file opened before.
        #[prost(message, tag = "5")]
        NameFile(NameFile),
        /// Names of kernel addresses.
        #[prost(message, tag = "6")]
        NameKernel(NameKernel),
        /// Names of addresses in just-in-time compiled code, from the process's perf map.
        #[prost(message, tag = "7")]
        NamePerfMap(NamePerfMap),
        /// The unwind table of a file opened before.
        #[prost(message, tag = "8")]
        Unwind(Unwind),
        /// A digest of what the unwind table of a file opened before is made from.
        #[prost(message, tag = "9")]
        UnwindDigest(UnwindDigest),
        /// What `doctor` says of a process beside its files.
        #[prost(message, tag = "10")]
        Surroundings(Process),
        /// Open a process's perf map and keep it open: its file system may end with it.
        #[prost(message, tag = "11")]
        HoldPerfMap(NamePerfMap),
        /// Give up what is kept between requests.
        #[prost(message, tag = "12")]
        Rest(Rest),
        /// The stacks of a process's threads.
        #[prost(message, tag = "13")]
        Stacks(Stacks),
        /// What the Go runtime of a process keeps.
        #[prost(message, tag = "14")]
        Go(GoRead),
    }
}

/// An answer of the reader.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The request's id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The answer.
    #[prost(oneof = "reply::Kind", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub kind: Option<reply::Kind>,
}

/// The kinds of [`Reply`].
pub mod reply {
    use super::{
        FileInfo, GoMemory, Names, PidList, Process, ProcessInfo, StackBytes, Surroundings,
        UnwindTable,
    };

    /// The answer.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// Why there is no answer: one sentence that names the file or process.
        #[prost(string, tag = "2")]
        Error(String),
        /// To `Process`.
        #[prost(message, tag = "3")]
        Description(ProcessInfo),
        /// To `Open`.
        #[prost(message, tag = "4")]
        File(FileInfo),
        /// To the three naming requests, and, with nothing in it, to `HoldPerfMap` and `Rest`.
        #[prost(message, tag = "5")]
        Names(Names),
        /// To `Unwind`.
        #[prost(message, tag = "6")]
        Table(UnwindTable),
        /// To `UnwindDigest`: 32 bytes.
        #[prost(bytes, tag = "7")]
        Digest(Vec<u8>),
        /// To `Pids`.
        #[prost(message, tag = "8")]
        Pids(PidList),
        /// To `Open` and `NamePerfMap` without `anywhere`: it is not to be had without touching what
        /// may not answer. Why, for the log.
        #[prost(string, tag = "9")]
        Elsewhere(String),
        /// To `Surroundings`.
        #[prost(message, tag = "10")]
        Surroundings(Surroundings),
        /// To `Process`: it has ended.
        #[prost(message, tag = "11")]
        Gone(Process),
        /// To `Stacks`.
        #[prost(message, tag = "12")]
        Stacks(StackBytes),
        /// To `Go`.
        #[prost(message, boxed, tag = "13")]
        Go(Box<GoMemory>),
    }
}

/// Asks for the pids of all processes that run now.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Pids {}

/// Pids in the initial namespace, those of kernel threads among them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PidList {
    /// One for each process.
    #[prost(uint32, repeated, tag = "1")]
    pub pids: Vec<u32>,
}

/// Asks a lane to give up what it keeps.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Rest {}

/// Asks for the stacks of a process's threads, as they are while they are read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stacks {
    /// The process.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// First avma of each, at most [`MAX_STACKS`].
    #[prost(uint64, repeated, tag = "2")]
    pub starts: Vec<u64>,
    /// So many bytes of each; [`STACK_BYTES`] at most.
    #[prost(uint32, tag = "3")]
    pub bytes: u32,
}

/// Stacks as they were asked for: at most [`STACK_BYTES`] of each, none where it cannot be read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StackBytes {
    /// One for each start.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub stacks: Vec<Vec<u8>>,
}

/// The most stacks of one request.
pub const MAX_STACKS: usize = 64;

/// The most bytes of a stack.
pub const STACK_BYTES: usize = 64 << 10;

/// Asks for one process.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Process {
    /// Its pid.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
}

/// One process as `/proc/PID` shows it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessInfo {
    /// Its pid in the initial namespace.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Its parent's pid.
    #[prost(uint32, tag = "2")]
    pub parent_pid: u32,
    /// Its start, in clock ticks (1/100 s) since boot (field 22 of `/proc/PID/stat`).
    #[prost(uint64, tag = "3")]
    pub start_ticks: u64,
    /// Its comm, lossily decoded.
    #[prost(string, tag = "4")]
    pub comm: String,
    /// Its arguments with a NUL between two, lossily decoded, of at most the first 4 KiB; what looks
    /// like a secret is replaced.
    #[prost(string, tag = "5")]
    pub cmdline: String,
    /// Target of `/proc/PID/exe`, lossily decoded; empty where unreadable.
    #[prost(string, tag = "6")]
    pub exe: String,
    /// Its path in the unified cgroup hierarchy (or the `name=systemd` one where that is `/`).
    #[prost(string, tag = "7")]
    pub cgroup: String,
    /// Effective user id.
    #[prost(uint32, tag = "8")]
    pub uid: u32,
    /// Its pid in its own namespace (last number of `NSpid`).
    #[prost(uint32, tag = "9")]
    pub inner_pid: u32,
    /// Boot-time clock before anything of it was read, in nanoseconds.
    #[prost(uint64, tag = "10")]
    pub read_from_ns: u64,
    /// Boot-time clock after `maps` was read, in nanoseconds.
    #[prost(uint64, tag = "11")]
    pub read_to_ns: u64,
    /// Its executable mappings, sorted by start.
    #[prost(message, repeated, tag = "12")]
    pub mappings: Vec<MappingInfo>,
    /// The user who may look at it beside root: the one that all its user ids name and that its
    /// files in `/proc` belong to, else root.
    #[prost(uint32, tag = "13")]
    pub viewer_uid: u32,
}

/// One executable line of `/proc/PID/maps`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MappingInfo {
    /// First avma.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// One past the last avma.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// File offset of `start`, in bytes.
    #[prost(uint64, tag = "3")]
    pub file_offset: u64,
    /// `st_dev` as `makedev(major, minor)` of the file as `maps` shows it; 0 without a file.
    #[prost(uint64, tag = "4")]
    pub device: u64,
    /// Inode of the file; 0 without a file.
    #[prost(uint64, tag = "5")]
    pub inode: u64,
    /// Path as the kernel shows it, lossily decoded: may end in ` (deleted)`, may be `[vdso]` or
    /// empty.
    #[prost(string, tag = "6")]
    pub path: String,
}

/// What is around a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Surroundings {
    /// `GOMAXPROCS`, `GOMEMLIMIT`, `GOGC` and `GODEBUG` of its environment, as far as it had them at
    /// its start.
    #[prost(map = "string, string", tag = "1")]
    pub go_variables: std::collections::HashMap<String, String>,
    /// Its paths in cgroup hierarchies, by controller: `memory`, `cpu`, and `` for the unified one.
    #[prost(map = "string, string", tag = "2")]
    pub cgroups: std::collections::HashMap<String, String>,
    /// It sees the mounts that we see.
    #[prost(bool, tag = "3")]
    pub sees_our_mounts: bool,
    /// Why the environment could not be read; empty if it could.
    #[prost(string, tag = "4")]
    pub environment_error: String,
}

/// Asks for the unwind table of a file. Sent only for a file whose [`FileInfo`] this same reader has
/// sent.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Unwind {
    /// The file.
    #[prost(message, required, tag = "1")]
    pub key: FileKey,
}

/// Asks for the SHA-256 of what a file's unwind table is made from: its call frame information and
/// its headers. Sent under the same condition.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UnwindDigest {
    /// The file.
    #[prost(message, required, tag = "1")]
    pub key: FileKey,
}

/// A file's unwind table, as [`profiler_ebpf::unwind::table`] describes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnwindTable {
    /// svma at which the first page begins.
    #[prost(uint64, tag = "1")]
    pub base: u64,
    /// Number of pages.
    #[prost(uint32, tag = "2")]
    pub pages: u32,
    /// Binary logarithm of a page's bytes.
    #[prost(uint32, tag = "3")]
    pub shift: u32,
    /// The rules' first block.
    #[prost(uint32, tag = "4")]
    pub rules: u32,
    /// The blocks, of little-endian words.
    #[prost(bytes = "vec", tag = "5")]
    pub blocks: Vec<u8>,
}
