//! Runs of numbered elements, given out and taken back.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// What was taken back rests before it is given out again: a program may still be reading it.
const REST: Duration = Duration::from_secs(1);

/// Which elements of a growing array are free.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// First element → number of elements; no two runs touch.
    free: BTreeMap<u32, u32>,
    /// The longest resting first.
    resting: VecDeque<(Instant, u32, u32)>,
    size: u32,
}

impl Runs {
    /// Adds free elements at the end.
    pub(super) fn grow(&mut self, count: u32) {
        let first = self.size;
        self.size += count;
        self.put(first, count);
    }

    /// A run of `count` elements, from the smallest free run that has as many: its first.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        self.wake();
        let fits = self.free.iter().filter(|&(_, &size)| size >= count);
        let (&first, &size) = fits.min_by_key(|&(_, &size)| size)?;
        self.free.remove(&first);
        if size > count {
            self.free.insert(first + count, size - count);
        }
        Some(first)
    }

    /// Takes a run back.
    pub(super) fn give_back(&mut self, first: u32, count: u32) {
        self.resting.push_back((Instant::now(), first, count));
    }

    fn wake(&mut self) {
        let is_rested = |it: &mut (Instant, u32, u32)| it.0.elapsed() >= REST;
        while let Some((_, first, count)) = self.resting.pop_front_if(is_rested) {
            self.put(first, count);
        }
    }

    fn put(&mut self, mut first: u32, mut count: u32) {
        if let Some((&before, &size)) = self.free.range(..first).next_back()
            && before + size == first
        {
            self.free.remove(&before);
            first = before;
            count += size;
        }
        if let Some(size) = self.free.remove(&(first + count)) {
            count += size;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_run_that_fits_is_taken() {
        let mut runs = Runs::default();
        assert_eq!(runs.take(1), None);
        runs.grow(10);
        assert_eq!(runs.take(3), Some(0));
        assert_eq!(runs.take(2), Some(3));
        runs.put(0, 3);
        assert_eq!(runs.take(5), Some(5));
        assert_eq!(runs.take(4), None);
        assert_eq!(runs.take(3), Some(0));
    }

    #[test]
    fn neighbours_join() {
        let mut runs = Runs::default();
        runs.grow(6);
        runs.grow(6);
        let parts: Vec<_> = (0..4).map(|_| runs.take(3).unwrap()).collect();
        for first in [parts[2], parts[0], parts[3], parts[1]] {
            runs.put(first, 3);
        }
        assert_eq!(runs.take(12), Some(0));
    }

    #[test]
    fn what_was_given_back_rests() {
        let mut runs = Runs::default();
        runs.grow(1);
        assert_eq!(runs.take(1), Some(0));
        runs.give_back(0, 1);
        assert_eq!(runs.take(1), None);
    }
}
