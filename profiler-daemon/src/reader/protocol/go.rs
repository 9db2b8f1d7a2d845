//! The messages about Go programs: how they were built, and what their runtimes keep.

/// What is read of a Go runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum GoWhat {
    /// Allocations.
    Heap = 0,
    /// Waits, where the program has set a rate.
    Block = 1,
    /// Contentions, where the program has set a fraction.
    Mutex = 2,
    /// Goroutines.
    Goroutines = 3,
    /// Where its scheduler is.
    Scheduler = 4,
    /// What it has of memory, and its collector has counted.
    Counts = 5,
    /// Goroutines without their labels.
    BareGoroutines = 6,
}

/// The state of a goroutine that has a CPU.
pub const GO_RUNNING: &str = "running";

/// Go's block profile has the waits for these, as states of goroutines have it; but a semaphore may
/// also be the runtime's own.
pub const GO_WAITS: [&str; 13] = [
    "chan receive",
    "chan send",
    "select",
    "semacquire",
    "sync.Cond.Wait",
    "sync.Mutex.Lock",
    "sync.RWMutex.RLock",
    "sync.RWMutex.Lock",
    "sync.WaitGroup.Wait",
    "chan receive (durable)",
    "chan send (durable)",
    "select (durable)",
    "sync.WaitGroup.Wait (durable)",
];

/// 26 of `go1.26.8`.
pub fn go_minor(version: &str) -> Option<u32> {
    let digits = version.strip_prefix("go1.")?;
    let end = digits.find(|it: char| !it.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Asks for what the Go runtime of a process keeps. Takes a second at most.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GoRead {
    /// The process.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// What of it.
    #[prost(enumeration = "GoWhat", tag = "2")]
    pub what: i32,
}

/// What was read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoMemory {
    /// Why there is nothing, in a sentence; empty if there is.
    #[prost(string, tag = "1")]
    pub refusal: String,
    /// It is no Go program.
    #[prost(bool, tag = "2")]
    pub is_other: bool,
    /// The version of Go.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Distinct avmas: return addresses, but that the first of a function that has not run yet is
    /// where it begins.
    #[prost(uint64, repeated, tag = "4")]
    pub places: Vec<u64>,
    /// One for each of them: avma at which its function begins; 0 where that is not known.
    #[prost(uint64, repeated, tag = "5")]
    pub entries: Vec<u64>,
    /// Distinct stacks.
    #[prost(message, repeated, tag = "6")]
    pub stacks: Vec<GoStack>,
    /// Of what is counted by stack.
    #[prost(message, repeated, tag = "7")]
    pub buckets: Vec<GoBucket>,
    /// Goroutines that are there.
    #[prost(message, repeated, tag = "8")]
    pub goroutines: Vec<Goroutine>,
    /// Distinct states of goroutines.
    #[prost(string, repeated, tag = "9")]
    pub states: Vec<String>,
    /// `MemProfileRate` in bytes, the block rate in ticks, or the mutex fraction, as the program has it
    /// now.
    #[prost(uint64, tag = "10")]
    pub rate: u64,
    /// Of waits: what their ticks are, in Hz.
    #[prost(uint64, tag = "11")]
    pub ticks_per_second: u64,
    /// The runtime had not measured that.
    #[prost(bool, tag = "12")]
    pub is_measured: bool,
    /// The collector's cycle that allocations are of.
    #[prost(uint32, tag = "13")]
    pub cycle: u32,
    /// Goroutines that were not read, or 1 for buckets: there are more than are.
    #[prost(uint64, tag = "14")]
    pub left_out: u64,
    /// Contentions are scaled by the fraction already.
    #[prost(bool, tag = "15")]
    pub scales_mutexes: bool,
    /// With allocations: what the runtime has of memory, and its collector has counted, if that is known.
    #[prost(message, optional, tag = "16")]
    pub stats: Option<GoStats>,
    /// Where its scheduler is.
    #[prost(message, optional, tag = "17")]
    pub scheduler: Option<GoScheduler>,
    /// Stacks begin in the runtime, as it was waited or released: what Go's own profiles leave out of
    /// that is still there.
    #[prost(bool, tag = "18")]
    pub is_whole: bool,
    /// Where it comes from, if the runtime has not counted it: in words.
    #[prost(string, tag = "19")]
    pub source: String,
    /// Distinct sets of labels of goroutines.
    #[prost(message, repeated, tag = "20")]
    pub label_sets: Vec<GoLabelSet>,
    /// Goroutines that have labels which could not be read, or which there was no room for.
    #[prost(uint64, tag = "21")]
    pub labels_left_out: u64,
}

/// Labels that a program gives what it does (`pprof.Do`), sorted. What is long is cut.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoLabelSet {
    /// Their keys.
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
    /// Their values, as many.
    #[prost(string, repeated, tag = "2")]
    pub values: Vec<String>,
}

/// Where the functions of a scheduler are in the program's file, as offsets in bytes, and what it
/// needs to be understood: [`profiler_ebpf::go_waits::Program`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GoScheduler {
    /// Where a goroutine begins to wait.
    #[prost(uint64, tag = "1")]
    pub park_offset: u64,
    /// Where one is to go on.
    #[prost(uint64, tag = "2")]
    pub ready_offset: u64,
    /// The file's `st_dev`.
    #[prost(uint64, tag = "3")]
    pub device: u64,
    /// The file's `st_ino`.
    #[prost(uint64, tag = "4")]
    pub inode: u64,
    /// Bit n: waits for reason n are of Go's block profile.
    #[prost(uint64, tag = "5")]
    pub waits: u64,
    /// Bit n: ends of waits for reason n are of its mutex profile.
    #[prost(uint64, tag = "6")]
    pub locks: u64,
    /// Offset of `g.m`.
    #[prost(uint32, tag = "7")]
    pub m: u32,
    /// Offset of `m.curg`.
    #[prost(uint32, tag = "8")]
    pub curg: u32,
    /// Offset of `g.sched.sp`.
    #[prost(uint32, tag = "9")]
    pub sched_sp: u32,
    /// Offset of `g.sched.bp`.
    #[prost(uint32, tag = "10")]
    pub sched_bp: u32,
}

/// What the runtime has of memory, and its collector has counted:
/// [`runtime.MemStats`](https://pkg.go.dev/runtime#MemStats), and what a program would ask
/// `runtime/debug` for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoStats {
    /// Bytes of objects that were allocated and not freed.
    #[prost(uint64, tag = "1")]
    pub alloc_bytes: u64,
    /// Bytes of all objects that were allocated.
    #[prost(uint64, tag = "2")]
    pub total_alloc_bytes: u64,
    /// Objects that were allocated.
    #[prost(uint64, tag = "3")]
    pub mallocs: u64,
    /// Objects that were freed.
    #[prost(uint64, tag = "4")]
    pub frees: u64,
    /// All bytes that the system has given.
    #[prost(uint64, tag = "5")]
    pub sys_bytes: u64,
    /// Bytes of the heap without objects.
    #[prost(uint64, tag = "6")]
    pub heap_idle_bytes: u64,
    /// Bytes of the heap where objects are.
    #[prost(uint64, tag = "7")]
    pub heap_in_use_bytes: u64,
    /// Bytes of the heap that were given back.
    #[prost(uint64, tag = "8")]
    pub heap_released_bytes: u64,
    /// Bytes of goroutines' stacks.
    #[prost(uint64, tag = "9")]
    pub stack_in_use_bytes: u64,
    /// The same, and those of the system's.
    #[prost(uint64, tag = "10")]
    pub stack_sys_bytes: u64,
    /// Bytes of `mspan` structures that are in use.
    #[prost(uint64, tag = "11")]
    pub span_in_use_bytes: u64,
    /// Bytes that the system has given for those.
    #[prost(uint64, tag = "12")]
    pub span_sys_bytes: u64,
    /// Bytes of `mcache` structures that are in use.
    #[prost(uint64, tag = "13")]
    pub cache_in_use_bytes: u64,
    /// Bytes that the system has given for those.
    #[prost(uint64, tag = "14")]
    pub cache_sys_bytes: u64,
    /// Bytes of the runtime's own profiles.
    #[prost(uint64, tag = "15")]
    pub profile_sys_bytes: u64,
    /// Bytes of what the collector notes.
    #[prost(uint64, tag = "16")]
    pub collector_sys_bytes: u64,
    /// Bytes of what else the runtime has.
    #[prost(uint64, tag = "17")]
    pub other_sys_bytes: u64,
    /// The heap's size at which the collection that comes next is to be over.
    #[prost(uint64, tag = "18")]
    pub next_bytes: u64,
    /// When the last collection was over, in nanoseconds since 1970.
    #[prost(uint64, tag = "19")]
    pub last_ns: u64,
    /// How long each of the last 256 collections has stopped the program, in nanoseconds: cycle n
    /// is at (n + 255) % 256.
    #[prost(uint64, repeated, tag = "20")]
    pub pause_ns: Vec<u64>,
    /// When each of these pauses was over, in nanoseconds since 1970.
    #[prost(uint64, repeated, tag = "21")]
    pub pause_ends_ns: Vec<u64>,
    /// Collections that are over.
    #[prost(uint32, tag = "22")]
    pub cycles: u32,
    /// Those of them that the program has asked for.
    #[prost(uint32, tag = "23")]
    pub forced_cycles: u32,
    /// Share of the program's CPU time that collections have taken.
    #[prost(double, tag = "24")]
    pub cpu_fraction: f64,
    /// The most that was ever in memory of the whole process since it runs this program; 0: not known.
    #[prost(uint64, tag = "25")]
    pub most_resident_bytes: u64,
    /// For how long collections have stopped the program, all in all, in nanoseconds.
    #[prost(uint64, tag = "26")]
    pub pauses_ns: u64,
    /// GOGC; negative: off.
    #[prost(sint32, tag = "27")]
    pub percent: i32,
    /// GOMEMLIMIT, in bytes; the highest number: none.
    #[prost(sint64, tag = "28")]
    pub limit_bytes: i64,
    /// What the last collection has found in use, in bytes.
    #[prost(uint64, tag = "29")]
    pub live_bytes: u64,
}

/// A stack.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoStack {
    /// Indices in [`GoMemory::places`], leaf first.
    #[prost(uint32, repeated, tag = "1")]
    pub places: Vec<u32>,
}

/// What is counted of a stack.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GoBucket {
    /// Index in [`GoMemory::stacks`].
    #[prost(uint32, tag = "1")]
    pub stack: u32,
    /// Objects that were sampled.
    #[prost(uint64, tag = "2")]
    pub allocs: u64,
    /// Those of them that were freed.
    #[prost(uint64, tag = "3")]
    pub frees: u64,
    /// Their bytes.
    #[prost(uint64, tag = "4")]
    pub alloc_bytes: u64,
    /// Bytes of those that were freed.
    #[prost(uint64, tag = "5")]
    pub free_bytes: u64,
    /// Waits or contentions.
    #[prost(int64, tag = "6")]
    pub count: i64,
    /// How long they took, in ticks.
    #[prost(int64, tag = "7")]
    pub cycles: i64,
}

/// A goroutine.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Goroutine {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub goid: u64,
    /// Index in [`GoMemory::stacks`].
    #[prost(uint32, tag = "2")]
    pub stack: u32,
    /// Index in [`GoMemory::states`].
    #[prost(uint32, tag = "3")]
    pub state: u32,
    /// For how long it has waited, in nanoseconds; 0 where the runtime did not note it.
    #[prost(uint64, tag = "4")]
    pub wait_ns: u64,
    /// Index in [`GoMemory::places`], and one more, of where it was started; 0 where that is not known.
    #[prost(uint32, tag = "5")]
    pub creator: u32,
    /// The number of the one that started it; 0 where that is not known.
    #[prost(uint64, tag = "6")]
    pub parent: u64,
    /// It stays on its thread.
    #[prost(bool, tag = "7")]
    pub is_locked: bool,
    /// It runs, or did not hold still: its stack is where it began, and no more.
    #[prost(bool, tag = "8")]
    pub is_moving: bool,
    /// How often it has stopped to run, modulo 256.
    #[prost(uint32, tag = "9")]
    pub stops: u32,
    /// Index in [`GoMemory::label_sets`], and one more, of its labels; 0: it has none.
    #[prost(uint32, tag = "10")]
    pub labels: u32,
}

/// How a Go program was built.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoBuild {
    /// The toolchain's own name for itself, such as `go1.26.8`, in printable ASCII; empty where it is
    /// not known.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Why it is not known: a sentence's rest, of which the file is the subject.
    #[prost(string, tag = "2")]
    pub not_known: String,
    /// Settings of `GODEBUG` that the program was built with, `NAME=VALUE` joined by commas.
    #[prost(string, tag = "3")]
    pub default_godebug: String,
    /// Where the runtime keeps the labels of its goroutines, if that is known.
    #[prost(message, tag = "4")]
    pub labels: Option<GoLabels>,
    /// The version of the program's own module, such as `v1.4.2`; empty where it has none.
    #[prost(string, tag = "5")]
    pub module_version: String,
    /// The revision that the program was built from; empty where that is not known.
    #[prost(string, tag = "6")]
    pub vcs_revision: String,
}

/// Where a Go runtime keeps the labels of its goroutines: [`profiler_ebpf::go::Labels`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GoLabels {
    /// From the thread pointer to the pointer to what runs (`g`), in bytes; on x86_64.
    #[prost(sint32, tag = "1")]
    pub g: i32,
    /// Offset of `g.m`.
    #[prost(uint32, tag = "2")]
    pub m: u32,
    /// Offset of `m.curg`.
    #[prost(uint32, tag = "3")]
    pub curg: u32,
    /// Offset of `g.labels`.
    #[prost(uint32, tag = "4")]
    pub labels: u32,
    /// They are a map.
    #[prost(bool, tag = "5")]
    pub is_map: bool,
    /// svma of the number of the collector's cycle, times two; 0: not known.
    #[prost(uint64, tag = "6")]
    pub cycle: u64,
    /// Offset of `g.goid`.
    #[prost(uint32, tag = "7")]
    pub goid: u32,
}
