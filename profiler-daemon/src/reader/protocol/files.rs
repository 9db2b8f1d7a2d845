//! The messages about mapped files.

use super::GoBuild;

/// What a file is: two files are the same if all four agree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct FileKey {
    /// `st_dev`.
    #[prost(uint64, tag = "1")]
    pub device: u64,
    /// `st_ino`.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
    /// `st_ctime` in nanoseconds since the epoch.
    #[prost(int64, tag = "3")]
    pub ctime_ns: i64,
    /// `st_size` in bytes.
    #[prost(uint64, tag = "4")]
    pub size_bytes: u64,
}

/// Asks to open the file behind an executable mapping and to keep it open (at least until many
/// newer files are), so that it can be named after the process has ended or the file is deleted.
///
/// It is opened by `path` below `/proc/PID/root`, then below `/`, and taken only if its GNU build ID
/// equals `build_id`, or if that is empty, its device and inode equal `device` and `inode`. With
/// `anywhere` it is opened by `/proc/PID/map_files/START-END` first, which waits for a lock that the
/// process may hold.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Open {
    /// The process that maps it.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// First avma of the mapping.
    #[prost(uint64, tag = "2")]
    pub start: u64,
    /// One past the last avma of the mapping.
    #[prost(uint64, tag = "3")]
    pub end: u64,
    /// Path as the kernel shows it. `[vdso]` stands for the vDSO.
    #[prost(string, tag = "4")]
    pub path: String,
    /// GNU build ID the kernel reported; empty if it did not.
    #[prost(bytes = "vec", tag = "5")]
    pub build_id: Vec<u8>,
    /// `st_dev` the kernel reported; 0 if it did not.
    #[prost(uint64, tag = "6")]
    pub device: u64,
    /// Inode the kernel reported; 0 if it did not.
    #[prost(uint64, tag = "7")]
    pub inode: u64,
    /// Also by its mapping, and on file systems that may not answer. Without it such a file is
    /// [`reply::Kind::Elsewhere`].
    #[prost(bool, tag = "8")]
    pub anywhere: bool,
}

/// What an opened file is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileInfo {
    /// Its identity; names are asked for by it.
    #[prost(message, required, tag = "1")]
    pub key: FileKey,
    /// What goes into a pprof mapping's `build_id`: the GNU build ID in hexadecimal; without one,
    /// the Go build ID as its text; without one, a digest of the file's head, tail and size in
    /// hexadecimal, prefixed with `digest-`. Empty for what is no ELF file.
    #[prost(string, tag = "2")]
    pub build_id: String,
    /// The file's executable load segments, at most 64.
    #[prost(message, repeated, tag = "3")]
    pub segments: Vec<Segment>,
    /// Owner.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Size in bytes of what must be read to name addresses: the file and its debug file.
    #[prost(uint64, tag = "5")]
    pub symbol_bytes: u64,
    /// An estimate of the memory that naming it takes, in bytes; see [`HEAVY_BYTES`].
    #[prost(uint64, tag = "6")]
    pub weight_bytes: u64,
    /// The best that it can be named from.
    #[prost(enumeration = "NamesFrom", tag = "7")]
    pub names_from: i32,
    /// Where its separate debug file is; empty without one.
    #[prost(string, tag = "8")]
    pub debug_path: String,
    /// Only of Go programs: how it was built.
    #[prost(message, optional, boxed, tag = "9")]
    pub go: Option<Box<GoBuild>>,
}

/// What names come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NamesFrom {
    /// There are none.
    Nothing = 0,
    /// Symbols for linking: functions that the file offers to others.
    DynamicSymbols = 1,
    /// A symbol table: all functions.
    Symbols = 2,
    /// Debug information: functions, inlined ones, lines.
    DebugInformation = 3,
    /// The same, in a file of its own.
    DebugFile = 4,
    /// The table that Go's runtime has of its functions: functions, inlined ones, lines.
    GoTable = 5,
}

/// An executable `PT_LOAD` segment: `svma = file_offset - self.file_offset + self.svma`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Segment {
    /// `p_offset`.
    #[prost(uint64, tag = "1")]
    pub file_offset: u64,
    /// `p_vaddr`.
    #[prost(uint64, tag = "2")]
    pub svma: u64,
    /// `p_filesz`, in bytes.
    #[prost(uint64, tag = "3")]
    pub size_bytes: u64,
}
