//! The memory of another process, in which everything may be wrong and may change at any time.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::super::sys;

/// What is read from.
pub(super) trait Memory {
    /// Reads from an avma on, as far as memory is there. Returns the number of bytes.
    fn read(&self, start: u64, buffer: &mut [u8]) -> usize;

    /// Reads ranges (an avma and a length in bytes) one behind the other, up to the first that is not
    /// there. Returns the number of bytes.
    fn read_ranges(&self, ranges: &[(u64, usize)], buffer: &mut [u8]) -> usize;
}

/// A process that goes on meanwhile.
pub(super) struct ProcessMemory(pub(super) u32);

impl Memory for ProcessMemory {
    fn read(&self, start: u64, buffer: &mut [u8]) -> usize {
        sys::read_memory(self.0, start, buffer)
    }

    fn read_ranges(&self, ranges: &[(u64, usize)], buffer: &mut [u8]) -> usize {
        sys::read_ranges(self.0, ranges, buffer)
    }
}

/// Reads a word; `None` where nothing is.
pub(super) fn word(memory: &impl Memory, avma: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (memory.read(avma, &mut bytes) == bytes.len()).then(|| u64::from_le_bytes(bytes))
}

/// The same of half a word.
pub(super) fn half(memory: &impl Memory, avma: u64) -> Option<u32> {
    let mut bytes = [0; 4];
    (memory.read(avma, &mut bytes) == bytes.len()).then(|| u32::from_le_bytes(bytes))
}

/// The word at an offset of what was read.
pub(super) fn word_in(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Many ranges of memory, as they were read; used again and again, since fresh memory costs more than
/// reading does.
#[derive(Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where each range's bytes are.
    places: Vec<Range<usize>>,
}

impl Pieces {
    /// Reads these instead.
    pub(super) fn read(&mut self, memory: &impl Memory, ranges: &[(u64, usize)]) {
        self.places.clear();
        let all = ranges.iter().map(|(_, size)| size).sum();
        if self.bytes.len() < all {
            self.bytes.resize(all, 0);
        }
        let mut at = 0;
        while self.places.len() < ranges.len() {
            let part = &ranges[self.places.len()..];
            let part = &part[..part.len().min(sys::MOST_RANGES)];
            let size: usize = part.iter().map(|(_, size)| size).sum();
            let mut rest = memory.read_ranges(part, &mut self.bytes[at..at + size]);
            let mut whole = 0;
            for &(_, size) in part.iter().take_while(|(_, size)| {
                let is_whole = *size <= rest;
                rest = rest.saturating_sub(*size);
                is_whole
            }) {
                self.places.push(at..at + size);
                at += size;
                whole += 1;
            }
            if whole < part.len() {
                self.places.push(0..0);
            }
        }
    }

    /// The bytes of each range, in their order; none of one that is not all there.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| &self.bytes[place.clone()])
    }
}

/// A piece of memory that was read at once: what a runtime allocates one after the other lies side by
/// side.
#[derive(Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    const BYTES: usize = 16 << 10;

    /// What is at an avma: at least so many bytes, where memory is there.
    pub(super) fn bytes(&mut self, memory: &impl Memory, at: u64, least: usize) -> &[u8] {
        let has = |window: &Self| {
            let into = usize::try_from(at.wrapping_sub(window.start)).ok()?;
            window.bytes.get(into..).filter(|rest| rest.len() >= least).map(|_| into)
        };
        if has(self).is_none() {
            self.read(memory, at & !(Self::BYTES as u64 - 1), Self::BYTES);
        }
        if has(self).is_none() {
            self.read(memory, at, least.max(Self::BYTES));
        }
        let into = usize::try_from(at.wrapping_sub(self.start)).unwrap_or(usize::MAX);
        self.bytes.get(into..).unwrap_or_default()
    }

    fn read(&mut self, memory: &impl Memory, start: u64, size: usize) {
        self.bytes.resize(size, 0);
        let count = memory.read(start, &mut self.bytes);
        self.bytes.truncate(count);
        self.start = start;
    }
}

/// The end of the time that one answer may take.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    /// On the clock.
    wall: Instant,
    /// Of this thread's CPU time: on a busy machine an answer takes longer.
    cpu: Duration,
}

impl Deadline {
    /// So much of the CPU from now on, and `patience` by the clock.
    pub(super) fn after(cpu: Duration, patience: Duration) -> Self {
        Self { wall: Instant::now() + patience, cpu: cpu_time() + cpu }
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.wall || cpu_time() >= self.cpu
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Memory as a test has it: pieces, and what writes into them between two reads.
#[cfg(test)]
pub(super) mod fake {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeMap,
    };

    use super::Memory;

    /// What changes memory, given how many reads there were.
    pub(in super::super) type Change = Box<dyn Fn(usize, &mut BTreeMap<u64, Vec<u8>>)>;

    #[derive(Default)]
    pub(in super::super) struct Fake {
        pieces: RefCell<BTreeMap<u64, Vec<u8>>>,
        pub(in super::super) reads: Cell<usize>,
        pub(in super::super) change: Option<Change>,
    }

    impl Fake {
        pub(in super::super) fn put(&self, start: u64, bytes: &[u8]) {
            self.pieces.borrow_mut().insert(start, bytes.to_vec());
        }

        pub(in super::super) fn put_words(&self, start: u64, words: &[u64]) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.put(start, &bytes);
        }
    }

    impl Memory for Fake {
        fn read(&self, start: u64, buffer: &mut [u8]) -> usize {
            self.reads.set(self.reads.get() + 1);
            if let Some(change) = &self.change {
                change(self.reads.get(), &mut self.pieces.borrow_mut());
            }
            let pieces = self.pieces.borrow();
            let Some((at, bytes)) = pieces.range(..=start).next_back() else { return 0 };
            let bytes = usize::try_from(start - at).ok().and_then(|offset| bytes.get(offset..));
            let bytes = bytes.unwrap_or_default();
            let count = bytes.len().min(buffer.len());
            buffer[..count].copy_from_slice(&bytes[..count]);
            count
        }

        fn read_ranges(&self, ranges: &[(u64, usize)], buffer: &mut [u8]) -> usize {
            let mut at = 0;
            for &(start, size) in ranges {
                let count = self.read(start, &mut buffer[at..at + size]);
                if count < size {
                    break;
                }
                at += count;
            }
            at
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_leaves_the_rest() {
        let here = [7_u8; 64];
        let at = here.as_ptr() as u64;
        let memory = ProcessMemory(std::process::id());
        let ranges: Vec<_> =
            (0..3000).map(|number| if number % 3 == 1 { (8, 16) } else { (at + 8, 16) }).collect();
        let mut pieces = Pieces::default();
        pieces.read(&memory, &ranges);
        assert_eq!(pieces.iter().count(), 3000);
        for (number, bytes) in pieces.iter().enumerate() {
            assert_eq!(bytes.len(), if number % 3 == 1 { 0 } else { 16 }, "{number}");
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
        assert_eq!(word(&memory, at), Some(0x0707_0707_0707_0707));
        assert_eq!(word(&memory, 8), None);
    }
}
