//! The executable mappings of a process, as the kernel side knows them: a run of elements, sorted
//! by start, of one array.

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
}

/// An executable mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First avma.
    pub start: u64,
    /// One past the last avma.
    pub end: u64,
}

/// Where ranges are read from.
pub trait Ranges {
    /// The element at `index`, if there is one.
    fn range(&self, index: u32) -> Option<Range>;
}

/// Halvings that find any element of the array.
const HALVINGS: u32 = 17;

/// Finds the mapping of `process` that covers `avma`.
#[inline(always)]
pub fn find(ranges: &impl Ranges, process: &Process, avma: u64) -> Option<Range> {
    let mut low = 0_u32;
    let mut high = process.count;
    let mut step = 0;
    while step < HALVINGS && low < high {
        step += 1;
        let middle = low + (high - low) / 2;
        let range = ranges.range(process.first.wrapping_add(middle))?;
        if avma < range.start {
            high = middle;
        } else if avma >= range.end {
            low = middle + 1;
        } else {
            return Some(range);
        }
    }
    None
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

    #[test]
    fn agrees_with_a_linear_search() {
        for count in 0..70_u64 {
            let ranges = Slice(
                (0..count + 3)
                    .map(|n| Range { start: n * 100 + 10, end: n * 100 + 60 + n % 41 })
                    .collect(),
            );
            let process = Process { start_ns: 1, first: 3, count: count as u32 };
            for avma in 0..(count + 4) * 100 {
                let expected =
                    ranges.0[3..].iter().find(|r| r.start <= avma && avma < r.end).copied();
                assert_eq!(find(&ranges, &process, avma), expected, "{count} {avma}");
            }
        }
    }

    #[test]
    fn a_run_beyond_the_array_ends() {
        let process = Process { start_ns: 1, first: u32::MAX - 2, count: u32::MAX };
        assert_eq!(find(&Slice(vec![Range { start: 1, end: 2 }]), &process, 1), None);
    }
}
