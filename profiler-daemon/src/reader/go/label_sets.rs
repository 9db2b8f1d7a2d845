//! Labels that goroutines have (`pprof.Do`): distinct sets of them, read by where the runtime has each.

use std::collections::HashMap;

use profiler_ebpf::go::bucket;

use super::{
    super::protocol::{GoLabelSet, GoMemory},
    layout::Layout,
    memory::{Memory, Pieces, word_in},
};

/// The most labels of a goroutine that are read.
const MOST_LABELS: usize = 16;

/// So much of a key, or a value, is read.
const MOST_TEXT_BYTES: u64 = 256;

/// So much do all distinct sets take at most.
const MOST_BYTES: usize = 4 << 20;

/// Bytes of a string's header: where it is, and its length.
const STRING: usize = 16;

/// What is read of a map: up to the pointer to its buckets.
const MAP_BYTES: usize = bucket::MAP_BUCKETS as usize + 8;

/// The largest logarithm of the number of buckets of a map that is looked through.
const MAX_SHIFT: u8 = 2;

/// The header of a string as it was read.
#[derive(Clone, Copy)]
struct Text {
    start: u64,
    bytes: u64,
}

impl Text {
    fn parse(bytes: &[u8], at: usize) -> Option<Self> {
        Some(Self { start: word_in(bytes, at)?, bytes: word_in(bytes, at + 8)? })
    }

    const fn range(self) -> (u64, usize) {
        let bytes = if self.bytes < MOST_TEXT_BYTES { self.bytes } else { MOST_TEXT_BYTES };
        (self.start, bytes as usize)
    }

    /// What was read of it, ending in `…` if that is not all.
    fn of(self, read: Option<&[u8]>) -> Option<String> {
        let (_, bytes) = self.range();
        let read = read.filter(|read| read.len() == bytes)?;
        if self.bytes <= MOST_TEXT_BYTES {
            return Some(String::from_utf8_lossy(read).into_owned());
        }
        // Not in the middle of a character.
        let valid = match std::str::from_utf8(read) {
            Err(error) if error.error_len().is_none() => &read[..error.valid_up_to()],
            _ => read,
        };
        Some(format!("{}…", String::from_utf8_lossy(valid)))
    }
}

/// Distinct sets of labels.
#[derive(Default)]
pub(super) struct LabelSets {
    sets: Vec<GoLabelSet>,
    /// Numbers of sets, from 1 on, by their labels.
    ids: HashMap<Vec<(String, String)>, u32>,
    bytes: usize,
    /// Goroutines whose labels there was no room for.
    left_out: u64,
    pieces: [Pieces; 2],
}

impl LabelSets {
    /// The numbers of the labels, from 1 on, that are where `pointers` point; 0: none, or they cannot be
    /// read. What a pointer points to is read anew with each call: memory is used again.
    pub(super) fn read(
        &mut self,
        memory: &impl Memory,
        layout: &Layout,
        pointers: &[u64],
    ) -> Vec<u32> {
        let mut distinct: Vec<u64> = pointers.iter().copied().filter(|it| *it != 0).collect();
        if distinct.is_empty() {
            return vec![0; pointers.len()];
        }
        distinct.sort_unstable();
        distinct.dedup();
        let texts = if layout.labels_are_map {
            self.of_maps(memory, &distinct)
        } else {
            self.of_slices(memory, &distinct)
        };
        let sets = self.with_texts(memory, &texts);
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        for (pointer, labels) in distinct.into_iter().zip(sets) {
            let number = self.add(labels).unwrap_or_else(|| {
                self.left_out += pointers.iter().filter(|it| **it == pointer).count() as u64;
                0
            });
            numbers.insert(pointer, number);
        }
        pointers.iter().map(|it| numbers.get(it).copied().unwrap_or_default()).collect()
    }

    /// Sets of labels, sorted, whose strings have these headers.
    fn with_texts(
        &mut self,
        memory: &impl Memory,
        sets: &[Vec<[Text; 2]>],
    ) -> Vec<Vec<(String, String)>> {
        let [pieces, _] = &mut self.pieces;
        let ranges: Vec<_> = sets.iter().flatten().flatten().map(|text| text.range()).collect();
        pieces.read(memory, &ranges);
        let mut read = pieces.iter();
        let mut labels_of = |texts: &Vec<[Text; 2]>| {
            // Both are taken from what was read, also of one that cannot be.
            let labels =
                texts.iter().map(|[key, value]| (key.of(read.next()), value.of(read.next())));
            let mut labels: Vec<_> = labels.filter_map(|(key, value)| key.zip(value)).collect();
            labels.sort_unstable();
            labels
        };
        sets.iter().map(&mut labels_of).collect()
    }

    /// The headers of the strings of slices of pairs.
    fn of_slices(&mut self, memory: &impl Memory, sets: &[u64]) -> Vec<Vec<[Text; 2]>> {
        let [headers, arrays] = &mut self.pieces;
        headers.read(memory, &sets.iter().map(|&it| (it, STRING)).collect::<Vec<_>>());
        let ranges: Vec<_> = headers
            .iter()
            .map(|header| match (word_in(header, 0), word_in(header, 8)) {
                (Some(start), Some(count)) => {
                    (start, count.min(MOST_LABELS as u64) as usize * 2 * STRING)
                }
                _ => (0, 0),
            })
            .collect();
        arrays.read(memory, &ranges);
        let pairs = |array: &[u8]| -> Vec<[Text; 2]> {
            let pairs = array.chunks_exact(2 * STRING);
            pairs.filter_map(|it| Some([Text::parse(it, 0)?, Text::parse(it, STRING)?])).collect()
        };
        arrays.iter().map(pairs).collect()
    }

    /// The same of maps, as Go had them until 1.23.
    fn of_maps(&mut self, memory: &impl Memory, sets: &[u64]) -> Vec<Vec<[Text; 2]>> {
        let [pointers, maps] = &mut self.pieces;
        pointers.read(memory, &sets.iter().map(|&it| (it, 8)).collect::<Vec<_>>());
        let ranges: Vec<_> =
            pointers.iter().map(|it| word_in(it, 0).map_or((0, 0), |at| (at, MAP_BYTES))).collect();
        maps.read(memory, &ranges);
        maps.iter().map(|map| of_map(memory, map).unwrap_or_default()).collect()
    }

    /// The number of a set; `None`: there is no room.
    fn add(&mut self, labels: Vec<(String, String)>) -> Option<u32> {
        if labels.is_empty() {
            return Some(0);
        }
        if let Some(&number) = self.ids.get(&labels) {
            return Some(number);
        }
        let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
        if self.bytes + bytes > MOST_BYTES {
            return None;
        }
        self.bytes += bytes;
        let (keys, values) = labels.iter().cloned().unzip();
        self.sets.push(GoLabelSet { keys, values });
        let number = self.sets.len() as u32;
        self.ids.insert(labels, number);
        Some(number)
    }

    pub(super) fn give(self, found: &mut GoMemory) {
        found.label_sets = self.sets;
        found.labels_left_out = self.left_out;
    }
}

fn of_map(memory: &impl Memory, map: &[u8]) -> Option<Vec<[Text; 2]>> {
    let shift = (*map.get(bucket::MAP_SHIFT as usize)?).min(MAX_SHIFT);
    let start = word_in(map, bucket::MAP_BUCKETS as usize)?;
    let mut labels = Vec::new();
    for number in 0..1_u64 << shift {
        let mut at = start.wrapping_add(number * bucket::BYTES);
        // The bucket, and one more that it may have filled up.
        for _ in 0..2 {
            let mut bytes = [0; bucket::BYTES as usize];
            if memory.read(at, &mut bytes) < bytes.len() {
                break;
            }
            for entry in 0..bucket::ENTRIES as usize {
                if bytes[entry] < bucket::LEAST_HASH || labels.len() >= MOST_LABELS {
                    continue;
                }
                let at = |strings: u64| strings as usize + entry * STRING;
                let key = Text::parse(&bytes, at(bucket::KEYS))?;
                labels.push([key, Text::parse(&bytes, at(bucket::VALUES))?]);
            }
            at = word_in(&bytes, bucket::FURTHER as usize)?;
            if at == 0 {
                break;
            }
        }
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::{super::memory::fake::Fake, *};

    /// Sets at 0x1000 and 0x1100, whose strings are at 0x4000.
    fn slices(labels: &[(&str, &str)], most: u64) -> Fake {
        let memory = Fake::default();
        let mut text = Vec::new();
        let mut headers = Vec::new();
        for part in labels.iter().flat_map(|&(key, value)| [key, value]) {
            headers.extend([0x4000 + text.len() as u64, part.len() as u64]);
            text.extend(part.as_bytes());
        }
        memory.put(0x4000, &text);
        memory.put_words(0x2000, &headers);
        memory.put_words(0x1000, &[0x2000, most]);
        memory.put_words(0x1100, &[0x2000, 1]);
        memory
    }

    fn read(version: &str, memory: &Fake, pointers: &[u64]) -> (Vec<u32>, GoMemory) {
        let mut sets = LabelSets::default();
        let numbers = sets.read(memory, &Layout::of(version).unwrap(), pointers);
        let mut found = GoMemory::default();
        sets.give(&mut found);
        (numbers, found)
    }

    fn told(found: &GoMemory, number: u32) -> Vec<(&str, &str)> {
        let set = &found.label_sets[number as usize - 1];
        set.keys.iter().zip(&set.values).map(|(key, value)| (&**key, &**value)).collect()
    }

    #[test]
    fn sets_are_told_once_and_sorted() {
        let memory = slices(&[("tier", "gold"), ("handler", "")], 2);
        let (numbers, found) = read("go1.26.0", &memory, &[0x1000, 0, 0x1100, 0x1000, 0x9_0000]);
        assert_eq!((numbers[1], numbers[4], numbers[3]), (0, 0, numbers[0]));
        assert_eq!(told(&found, numbers[0]), [("handler", ""), ("tier", "gold")]);
        assert_eq!(told(&found, numbers[2]), [("tier", "gold")]);
        assert_eq!((found.label_sets.len(), found.labels_left_out), (2, 0));
    }

    #[test]
    fn lengths_are_not_believed() {
        let long = "ü".repeat(200);
        let labels: Vec<_> = (0..40).map(|_| (long.as_str(), "v")).collect();
        let (numbers, found) = read("go1.26.0", &slices(&labels, u64::MAX), &[0x1000]);
        let told = told(&found, numbers[0]);
        assert_eq!(told.len(), MOST_LABELS);
        assert_eq!(told[0].0, format!("{}…", "ü".repeat(128)));
        let memory = slices(&[("a", "b")], 1);
        memory.put_words(0x2000, &[0x4000, u64::MAX, 0x9_0000, 7]);
        assert_eq!(read("go1.26.0", &memory, &[0x1000]).0, [0], "strings that are not there");
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let memory = Fake::default();
        let most = MOST_BYTES as u64 / (2 * MOST_TEXT_BYTES + 16);
        let pointers: Vec<u64> = (0..most + 3).map(|number| 0x100_0000 + number * 64).collect();
        memory.put(0x4000, &[b'v'; 256]);
        for (&at, number) in pointers.iter().zip(0_u64..) {
            let key = at + 0x1000_0000;
            memory.put_words(at, &[at + 16, 1, key, 256, 0x4000, 256]);
            memory.put(key, format!("{number:0256}").as_bytes());
        }
        let (numbers, found) = read("go1.26.0", &memory, &pointers);
        assert_eq!(numbers.iter().filter(|it| **it == 0).count(), 3);
        assert_eq!((found.label_sets.len() as u64, found.labels_left_out), (most, 3));
    }

    #[test]
    fn old_ones_are_maps() {
        let memory = slices(&[("tier", "gold"), ("handler", "x")], 2);
        let mut buckets = vec![0_u64; bucket::BYTES as usize / 8];
        buckets[0] = u64::from_le_bytes([9, 0, 200, 0, 0, 0, 0, 0]);
        let words = [0x4000, 4, 0x4004, 4, 0x4008, 7, 0x400f, 1];
        for (entry, label) in [0, 2].into_iter().zip(words.chunks(4)) {
            let at = |strings: u64| strings as usize / 8 + entry * 2;
            buckets[at(bucket::KEYS)..][..2].copy_from_slice(&label[..2]);
            buckets[at(bucket::VALUES)..][..2].copy_from_slice(&label[2..]);
        }
        memory.put_words(0x1000, &[0x1800]);
        memory.put_words(0x1800, &[2, 0, 0x3000]);
        memory.put_words(0x3000, &buckets);
        let (numbers, found) = read("go1.21.0", &memory, &[0x1000]);
        assert_eq!(told(&found, numbers[0]), [("handler", "x"), ("tier", "gold")]);
        memory.put_words(0x1800, &[2, u64::MAX, u64::MAX - 64]);
        assert_eq!(read("go1.21.0", &memory, &[0x1000]).0, [0]);
    }
}
