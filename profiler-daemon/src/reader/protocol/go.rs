//! The messages about what a Go runtime keeps.

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
}
