//! The messages about names of addresses.

use super::FileKey;

/// Asks for the names of addresses in a file. Sent only for a file whose [`FileInfo`] this same
/// reader has sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameFile {
    /// The file.
    #[prost(message, required, tag = "1")]
    pub key: FileKey,
    /// Offsets in the file, at most [`MAX_ADDRESSES`].
    #[prost(uint64, repeated, tag = "2")]
    pub file_offsets: Vec<u64>,
    /// Do not read debug information: names from symbol tables alone.
    #[prost(bool, tag = "3")]
    pub no_inlines: bool,
}

/// Asks for the names of kernel addresses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameKernel {
    /// Addresses, at most [`MAX_ADDRESSES`].
    #[prost(uint64, repeated, tag = "1")]
    pub addresses: Vec<u64>,
}

/// Asks for the names of addresses that no file covers, from `/tmp/perf-PID.map` as the process
/// sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamePerfMap {
    /// The process.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Its pid in its own namespace.
    #[prost(uint32, tag = "2")]
    pub inner_pid: u32,
    /// Its user: the file's owner must be this user or root.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// avmas, at most [`MAX_ADDRESSES`].
    #[prost(uint64, repeated, tag = "4")]
    pub avmas: Vec<u64>,
    /// Also on file systems that may not answer. Without it such a map is
    /// [`reply::Kind::Elsewhere`].
    #[prost(bool, tag = "5")]
    pub anywhere: bool,
    /// Tells the process from others that had its pid or will.
    #[prost(uint32, tag = "6")]
    pub life: u32,
}

/// Names for the addresses of one request, in its order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Names {
    /// Distinct strings; `strings[0]` is empty.
    #[prost(string, repeated, tag = "1")]
    pub strings: Vec<String>,
    /// One entry per address.
    #[prost(message, repeated, tag = "2")]
    pub frames: Vec<FrameNames>,
    /// What could not be read, if anything: one sentence a user can act on.
    #[prost(string, tag = "3")]
    pub warning: String,
    /// CPU time that the answer took, in microseconds.
    #[prost(uint32, tag = "4")]
    pub cpu_us: u32,
}

/// The functions at one address, innermost inlined one first, the function that holds the code
/// last; empty where no name is known.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FrameNames {
    /// The functions.
    #[prost(message, repeated, tag = "1")]
    pub lines: Vec<NameLine>,
}

/// A function and a line in it.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NameLine {
    /// Index in [`Names::strings`]: the demangled name.
    #[prost(uint32, tag = "1")]
    pub function: u32,
    /// Index in [`Names::strings`]: the source file's path; 0 if unknown.
    #[prost(uint32, tag = "2")]
    pub file: u32,
    /// Line; 0 if unknown.
    #[prost(uint32, tag = "3")]
    pub line: u32,
    /// Line where the function begins; 0 if unknown.
    #[prost(uint32, tag = "4")]
    pub start_line: u32,
    /// Index in [`Names::strings`]: for kernel addresses the module's name (`[nf_tables]`); else 0.
    #[prost(uint32, tag = "5")]
    pub module: u32,
}
