//! The executable mappings of a process, as the kernel side knows them: a run of elements, sorted
//! by start, of one array.

use crate::go::Labels;

/// Value of the map `PROCESSES`, whose key is the pid: where the process's mappings are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// `start_boottime` of the process's first thread, in nanoseconds; 0: not known yet, fits any.
    pub start_ns: u64,
    /// First of its elements in `RANGES`.
    pub first: u32,
    /// Number of its elements.
    pub count: u32,
    /// How many of its stacks were copied since this was published.
    pub copies: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
    /// Where it has the labels of its goroutines.
    pub labels: Labels,
}

/// An executable mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First avma.
    pub start: u64,
    /// One past the last avma.
    pub end: u64,
    /// `avma - bias` is the svma in its file.
    pub bias: u64,
    /// Its file's element of the map `TABLES`; 0: none.
    pub table: u32,
    /// One of [`state`].
    pub state: u32,
}

/// What is known of a mapping beside its table.
pub mod state {
    /// Its file's table is the one that is given; there is none if none is.
    pub const SETTLED: u32 = 0;
    /// No file is behind it: the code was made by the process itself.
    pub const GENERATED: u32 = 1;
    /// Its file's table is not there yet.
    pub const AWAITED: u32 = 2;
}

/// Where ranges are read from.
pub trait Ranges {
    /// The element at `index`, if there is one.
    fn range(&self, index: u32) -> Option<Range>;
}

/// A search for the mapping that covers an avma, halving by halving: the kernel side takes each
/// step in a loop of its own, which the verifier follows once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Search {
    avma: u64,
    /// The last element that starts at or below `avma` is in `low..low + size`, if there is one.
    low: u32,
    size: u32,
}

impl Search {
    /// A search among the mappings of `process`.
    #[inline(always)]
    pub const fn new(process: &Process, avma: u64) -> Self {
        Self { avma, low: process.first, size: process.count }
    }

    /// Steps that are enough.
    #[inline(always)]
    pub const fn steps(&self) -> u32 {
        32 - self.size.leading_zeros()
    }

    /// Halves what is left; `false`: there is nothing to halve.
    #[inline(always)]
    pub fn step(&mut self, ranges: &impl Ranges) -> bool {
        let half = self.size / 2;
        let middle = self.low.wrapping_add(half);
        if half == 0 {
            return false;
        }
        let Some(range) = ranges.range(middle) else { return false };
        if range.start <= self.avma {
            self.low = middle;
            self.size -= half;
        } else {
            self.size = half;
        }
        true
    }

    /// What was found.
    #[inline(always)]
    pub fn result(&self, ranges: &impl Ranges) -> Option<Range> {
        if self.size == 0 {
            return None;
        }
        let range = ranges.range(self.low)?;
        if range.start <= self.avma && self.avma < range.end { Some(range) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slice(Vec<Range>);

    impl Ranges for Slice {
        fn range(&self, index: u32) -> Option<Range> {
            self.0.get(index as usize).copied()
        }
    }

    fn find(ranges: &Slice, process: &Process, avma: u64) -> Option<Range> {
        let mut search = Search::new(process, avma);
        for _ in 0..search.steps() {
            if !search.step(ranges) {
                break;
            }
        }
        search.result(ranges)
    }

    #[test]
    fn agrees_with_a_linear_search() {
        for count in 0..70_u64 {
            let ranges = Slice(
                (0..count + 3)
                    .map(|n| Range {
                        start: n * 100 + 10,
                        end: n * 100 + 60 + n % 41,
                        ..Range::default()
                    })
                    .collect(),
            );
            let process =
                Process { start_ns: 1, first: 3, count: count as u32, ..Process::default() };
            for avma in 0..(count + 4) * 100 {
                let expected =
                    ranges.0[3..].iter().find(|r| r.start <= avma && avma < r.end).copied();
                assert_eq!(find(&ranges, &process, avma), expected, "{count} {avma}");
            }
        }
    }

    #[test]
    fn a_run_beyond_the_array_ends() {
        let process =
            Process { start_ns: 1, first: u32::MAX - 2, count: u32::MAX, ..Process::default() };
        assert_eq!(
            find(&Slice(vec![Range { start: 1, end: 2, ..Range::default() }]), &process, 1),
            None
        );
    }
}
