//! The reader: a child process that alone touches files, paths and memory of other processes.
//!
//! [`client`] is the core's side, [`protocol`] and [`wire`] are what both sides share, and
//! [`child`] is the process itself.

pub mod child;
pub mod client;
mod complaints;
mod debug_file;
mod demangle;
mod dwarf;
mod elf;
mod file_namer;
mod file_pages;
pub(crate) mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod go;
mod go_build;
mod go_table;
mod kallsyms;
mod lane;
pub mod link;
mod mounts;
mod name_places;
mod name_table;
mod names;
mod patience;
mod perf_map;
mod plausible;
pub mod probe;
mod processes;
pub mod protocol;
pub mod sandbox;
mod seccomp;
mod stacks;
mod surroundings;
mod sys;
mod target_path;
pub mod unwind;
mod unwinder;
pub mod wire;

pub(crate) use sys::trim_heap;

#[cfg(test)]
mod tests {
    /// A small seeded generator (xorshift64*), so that a failing case can be run again.
    pub(super) struct Random(u64);

    impl Random {
        pub(super) fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        pub(super) fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        pub(super) fn below(&mut self, end: u64) -> u64 {
            (self.next() >> 11) % end
        }

        /// Fewer than `end` random bytes.
        pub(super) fn bytes(&mut self, end: u64) -> Vec<u8> {
            (0..self.below(end)).map(|_| self.next() as u8).collect()
        }
    }
}
