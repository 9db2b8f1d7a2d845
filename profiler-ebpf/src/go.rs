//! Labels that a Go program gives what its goroutines do (`pprof.Do`): where its runtime keeps them,
//! and the form in which they are sent.

/// Where the runtime of a program keeps labels. Offsets are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// avma of the number of the collector's cycle, times two (`runtime.mProfCycle`); 0: not known.
    pub cycle: u64,
    /// From the thread pointer to the pointer to what runs (`g`), on x86_64; aarch64 has that in a
    /// register.
    pub g: i32,
    /// `g.m`
    pub m: u16,
    /// `m.curg`
    pub curg: u16,
    /// `g.labels`
    pub labels: u16,
    /// One of [`form`].
    pub form: u16,
    /// `g.goid`
    pub goid: u16,
    /// Fills the size to a multiple of 8.
    pub reserved: u16,
}

/// What `g.labels` points to.
pub mod form {
    /// There are none that could be read.
    pub const NONE: u16 = 0;
    /// A slice of pairs of strings, from Go 1.24 on.
    pub const SLICE: u16 = 1;
    /// A map from string to string.
    pub const MAP: u16 = 2;
}

/// Bytes of a string's header: where it is, and its length.
pub const STRING_BYTES: usize = 16;

/// The most labels of a sample.
pub const MAX_LABELS: usize = 10;

/// Bytes of a label's key that are sent.
pub const KEY_BYTES: usize = 40;

/// Bytes of a label's value that are sent.
pub const VALUE_BYTES: usize = 80;

/// A label: strings are cut, and padded with zeroes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Bytes of the key as the program has it.
    pub key_bytes: u32,
    /// Bytes of the value as the program has it.
    pub value_bytes: u32,
    /// The key.
    pub key: [u8; KEY_BYTES],
    /// The value.
    pub value: [u8; VALUE_BYTES],
}

/// Words of a [`Label`].
pub const LABEL_WORDS: usize = size_of::<Label>() / 8;

/// A bucket of a map: so many entries, each with a byte of its hash in front of all, then the keys,
/// then the values (`bmap` in Go's `runtime/map.go`).
pub mod bucket {
    /// Entries of a bucket.
    pub const ENTRIES: u64 = 8;
    /// Where the keys are, in bytes; a string has 16.
    pub const KEYS: u64 = 8;
    /// Where the values are.
    pub const VALUES: u64 = KEYS + ENTRIES * 16;
    /// Where the pointer to a further bucket is, for what this one has no room for.
    pub const FURTHER: u64 = VALUES + ENTRIES * 16;
    /// Bytes of a bucket.
    pub const BYTES: u64 = FURTHER + 8;
    /// The least byte of a hash that stands for an entry.
    pub const LEAST_HASH: u8 = 5;
    /// Where a map has the logarithm of the number of its buckets, one byte.
    pub const MAP_SHIFT: u64 = 9;
    /// Where a map has the pointer to its buckets.
    pub const MAP_BUCKETS: u64 = 16;
    /// The largest logarithm of the number of buckets of a map that is looked through.
    pub const MAX_SHIFT: u8 = 2;
}

const _: () = assert!(LABEL_WORDS == 16 && size_of::<Labels>() == 24);
