//! Labels that goroutines have (`pprof.Do`): distinct sets of them, read by where the runtime has each.

use std::collections::HashMap;

use profiler_ebpf::go::{
    STRING_BYTES,
    bucket::{self, MAX_SHIFT},
};

use super::{
    super::protocol::{GoLabelSet, GoMemory},
    layout::Layout,
    memory::{Memory, Pieces, word_in},
};
use crate::text;

/// The most labels of a goroutine that are read.
const MOST_LABELS: usize = 16;

/// So much of a key, or a value, is read.
const MOST_TEXT_BYTES: u64 = 256;

/// So much do all distinct sets take at most, about: each is there twice.
const MOST_BYTES: usize = 8 << 20;
const SET_BYTES: usize = 200;
const LABEL_BYTES: usize = 100;

/// What is read of a map: up to the pointer to its buckets.
const MAP_BYTES: usize = bucket::MAP_BUCKETS as usize + 8;

/// Headers of the strings of one set; `None`: they cannot be read.
type Headers = Option<Vec<[Text; 2]>>;

/// Labels, sorted.
type Set = Vec<(String, String)>;

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
        Some(text::beginning(read))
    }
}

/// Distinct sets of labels.
#[derive(Default)]
pub(super) struct LabelSets {
    sets: Vec<GoLabelSet>,
    /// Numbers of sets, from 1 on, by their labels.
    ids: HashMap<Set, u32>,
    bytes: usize,
    pieces: [Pieces; 2],
}

impl LabelSets {
    /// The numbers of the labels, from 1 on, that are where `pointers` point; 0: there are none. `None`:
    /// they cannot be read, or there is no room for them. What a pointer points to is read anew with
    /// each call: memory is used again.
    pub(super) fn read(
        &mut self,
        memory: &impl Memory,
        layout: &Layout,
        pointers: &[u64],
    ) -> Vec<Option<u32>> {
        let mut distinct: Vec<u64> = pointers.iter().copied().filter(|it| *it != 0).collect();
        if distinct.is_empty() {
            return vec![Some(0); pointers.len()];
        }
        distinct.sort_unstable();
        distinct.dedup();
        let headers = if layout.labels_are_map {
            self.of_maps(memory, &distinct)
        } else {
            self.of_slices(memory, &distinct)
        };
        let sets = self.with_texts(memory, &headers);
        let numbers = sets.into_iter().map(|set| self.add(set?));
        let numbers: HashMap<u64, Option<u32>> = distinct.into_iter().zip(numbers).collect();
        pointers.iter().map(|it| numbers.get(it).copied().unwrap_or(Some(0))).collect()
    }

    /// The sets whose strings have these headers.
    fn with_texts(&mut self, memory: &impl Memory, sets: &[Headers]) -> Vec<Option<Set>> {
        let [pieces, _] = &mut self.pieces;
        let texts = sets.iter().flatten().flatten().flatten();
        pieces.read(memory, &texts.map(|text| text.range()).collect::<Vec<_>>());
        let mut read = pieces.iter();
        let mut set_of = |texts: &Headers| -> Option<Set> {
            // Both are taken from what was read, also of one that cannot be.
            let labels = texts.as_ref()?.iter().map(|[key, value]| {
                let (key, value) = (key.of(read.next()), value.of(read.next()));
                key.zip(value)
            });
            let labels: Vec<_> = labels.collect();
            let mut labels: Set = labels.into_iter().collect::<Option<_>>()?;
            labels.sort_unstable();
            Some(labels)
        };
        sets.iter().map(&mut set_of).collect()
    }

    /// Of slices of pairs.
    fn of_slices(&mut self, memory: &impl Memory, sets: &[u64]) -> Vec<Headers> {
        let [headers, arrays] = &mut self.pieces;
        headers.read(memory, &sets.iter().map(|&it| (it, STRING_BYTES)).collect::<Vec<_>>());
        let array = |header: &[u8]| {
            let (start, count) = (word_in(header, 0)?, word_in(header, 8)?);
            Some((start, count.min(MOST_LABELS as u64) as usize * 2 * STRING_BYTES))
        };
        let ranges: Vec<_> = headers.iter().map(array).collect();
        let wanted: Vec<_> = ranges.iter().map(|it| it.unwrap_or((0, 0))).collect();
        arrays.read(memory, &wanted);
        let pairs = |(array, range): (&[u8], Option<(u64, usize)>)| -> Headers {
            let (_, bytes) = range.filter(|(_, bytes)| array.len() == *bytes)?;
            let pairs = array[..bytes].chunks_exact(2 * STRING_BYTES);
            pairs.map(|it| Some([Text::parse(it, 0)?, Text::parse(it, STRING_BYTES)?])).collect()
        };
        arrays.iter().zip(ranges).map(pairs).collect()
    }

    /// Of maps, as Go had them until 1.23.
    fn of_maps(&mut self, memory: &impl Memory, sets: &[u64]) -> Vec<Headers> {
        let [pointers, maps] = &mut self.pieces;
        pointers.read(memory, &sets.iter().map(|&it| (it, 8)).collect::<Vec<_>>());
        let ranges: Vec<_> =
            pointers.iter().map(|it| word_in(it, 0).map_or((0, 0), |at| (at, MAP_BYTES))).collect();
        maps.read(memory, &ranges);
        maps.iter().map(|map| of_map(memory, map)).collect()
    }

    /// The number of a set; `None`: there is no room.
    fn add(&mut self, labels: Set) -> Option<u32> {
        if labels.is_empty() {
            return Some(0);
        }
        if let Some(&number) = self.ids.get(&labels) {
            return Some(number);
        }
        let of = |(key, value): &(String, String)| 2 * (key.len() + value.len()) + LABEL_BYTES;
        let bytes = SET_BYTES + labels.iter().map(of).sum::<usize>();
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
    }
}

fn of_map(memory: &impl Memory, map: &[u8]) -> Headers {
    let shift = (*map.get(bucket::MAP_SHIFT as usize)?).min(MAX_SHIFT);
    let start = word_in(map, bucket::MAP_BUCKETS as usize)?;
    let mut labels = Vec::new();
    for number in 0..1_u64 << shift {
        let mut at = start.wrapping_add(number * bucket::BYTES);
        // The bucket, and one more that it may have filled up.
        for _ in 0..2 {
            let mut bytes = [0; bucket::BYTES as usize];
            if memory.read(at, &mut bytes) < bytes.len() {
                return None;
            }
            for entry in 0..bucket::ENTRIES as usize {
                if bytes[entry] < bucket::LEAST_HASH || labels.len() >= MOST_LABELS {
                    continue;
                }
                let at = |strings: u64| strings as usize + entry * STRING_BYTES;
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

    fn read(version: &str, memory: &Fake, pointers: &[u64]) -> (Vec<Option<u32>>, GoMemory) {
        let mut sets = LabelSets::default();
        let numbers = sets.read(memory, &Layout::of(version).unwrap(), pointers);
        let mut found = GoMemory::default();
        sets.give(&mut found);
        (numbers, found)
    }

    fn told(found: &GoMemory, number: Option<u32>) -> Vec<(&str, &str)> {
        let set = &found.label_sets[number.unwrap() as usize - 1];
        set.keys.iter().zip(&set.values).map(|(key, value)| (&**key, &**value)).collect()
    }

    #[test]
    fn sets_are_told_once_and_sorted() {
        let memory = slices(&[("tier", "gold"), ("handler", "")], 2);
        let (numbers, found) = read("go1.26.0", &memory, &[0x1000, 0, 0x1100, 0x1000, 0x9_0000]);
        assert_eq!((numbers[1], numbers[4], numbers[3]), (Some(0), None, numbers[0]));
        assert_eq!(told(&found, numbers[0]), [("handler", ""), ("tier", "gold")]);
        assert_eq!(told(&found, numbers[2]), [("tier", "gold")]);
        assert_eq!(found.label_sets.len(), 2);
    }

    #[test]
    fn lengths_are_not_believed() {
        let long = "€".repeat(200);
        let labels: Vec<_> = (0..40).map(|_| (long.as_str(), "v")).collect();
        let (numbers, found) = read("go1.26.0", &slices(&labels, u64::MAX), &[0x1000]);
        let told = told(&found, numbers[0]);
        assert_eq!(told.len(), MOST_LABELS);
        assert_eq!(told[0].0, format!("{}…", "€".repeat(85)));
        let memory = slices(&[("a", "b")], 1);
        memory.put_words(0x2000, &[0x4000, u64::MAX, 0x9_0000, 7]);
        assert_eq!(read("go1.26.0", &memory, &[0x1000]).0, [None], "strings that are not there");
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let memory = Fake::default();
        let bytes = SET_BYTES + LABEL_BYTES + 4 * MOST_TEXT_BYTES as usize;
        let most = (MOST_BYTES / bytes) as u64;
        let pointers: Vec<u64> = (0..most + 3).map(|number| 0x100_0000 + number * 64).collect();
        memory.put(0x4000, &[b'v'; 256]);
        for (&at, number) in pointers.iter().zip(0_u64..) {
            let key = at + 0x1000_0000;
            memory.put_words(at, &[at + 16, 1, key, 256, 0x4000, 256]);
            memory.put(key, format!("{number:0256}").as_bytes());
        }
        let (numbers, found) = read("go1.26.0", &memory, &pointers);
        assert_eq!(numbers.iter().filter(|it| it.is_none()).count(), 3);
        assert_eq!(found.label_sets.len() as u64, most);
    }

    #[test]
    fn old_ones_are_maps() {
        let memory = slices(&[("tier", "gold"), ("handler", "x")], 2);
        let bucket_with = |entry: usize, label: [u64; 4], further: u64| {
            let mut words = vec![0_u64; bucket::BYTES as usize / 8];
            // What else has a byte of a hash is none.
            words[0] = 1 << 40 | 200 << (8 * entry);
            let at = |strings: u64| strings as usize / 8 + entry * 2;
            words[at(bucket::KEYS)..][..2].copy_from_slice(&label[..2]);
            words[at(bucket::VALUES)..][..2].copy_from_slice(&label[2..]);
            words[bucket::FURTHER as usize / 8] = further;
            words
        };
        let [tier, handler] = [[0x4000, 4, 0x4004, 4], [0x4008, 7, 0x400f, 1]];
        let [first, second] = [bucket_with(0, tier, 0x5000), bucket_with(2, handler, 0)];
        memory.put_words(0x1000, &[0x1800]);
        memory.put_words(0x1800, &[2, 1 << 8, 0x3000]);
        memory.put_words(0x3000, &[first, second].concat());
        memory.put_words(0x5000, &bucket_with(7, handler, 0));
        let (numbers, found) = read("go1.21.0", &memory, &[0x1000]);
        assert_eq!(
            told(&found, numbers[0]),
            [("handler", "x"), ("handler", "x"), ("tier", "gold")]
        );
        memory.put_words(0x1800, &[2, u64::MAX, u64::MAX - 64]);
        assert_eq!(read("go1.21.0", &memory, &[0x1000]).0, [None]);
    }
}
