//! Labels that a program gives what it does (Go's `pprof.Do`), as the kernel side reads them.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use profiler_ebpf::go::{KEY_BYTES, LABEL_WORDS, MAX_LABELS};

use crate::text;

/// Keys and values, sorted by key.
pub type Labels = Arc<[(Arc<str>, Arc<str>)]>;

/// The most distinct sets of labels of a window: a program may label each request with its number.
const MOST: usize = 10_000;

/// The keys of labels that rprofd itself gives: a program's are then called `go.pid`.
const OURS: [&str; 10] = [
    "bytes",
    "cgroup",
    "comm",
    "pid",
    "reason",
    "state",
    "thread",
    "tid",
    "vcs_revision",
    "version",
];

/// Distinct sets of labels, numbered: 0 is none.
#[derive(Debug)]
pub struct LabelSets {
    sets: Vec<Labels>,
    indices: HashMap<Labels, u32>,
    /// How often there was no room for another.
    pub left_out: u64,
}

impl Default for LabelSets {
    fn default() -> Self {
        let none = Labels::default();
        Self { sets: vec![Arc::clone(&none)], indices: HashMap::from([(none, 0)]), left_out: 0 }
    }
}

impl LabelSets {
    /// The set with this number.
    pub fn get(&self, index: u32) -> &Labels {
        &self.sets[index as usize]
    }

    /// The number of a set.
    pub fn add(&mut self, labels: Labels) -> u32 {
        if let Some(&index) = self.indices.get(&labels) {
            return index;
        }
        if self.sets.len() >= MOST {
            self.left_out += 1;
            return 0;
        }
        let index = self.sets.len() as u32;
        self.sets.push(Arc::clone(&labels));
        self.indices.insert(labels, index);
        index
    }
}

/// Reads the words of [`Label`](profiler_ebpf::go::Label)s. What was cut ends in `…`.
pub fn decode(words: &[u64]) -> Labels {
    let labels = words.chunks_exact(LABEL_WORDS).take(MAX_LABELS).filter_map(|words| {
        let (lengths, text) = words.split_first()?;
        let (key, value) = text.split_at(KEY_BYTES / 8);
        Some((text_of(key, *lengths as u32), text_of(value, (lengths >> 32) as u32)))
    });
    sorted(labels)
}

/// The same as the reader has read them.
pub fn of_goroutine<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
    let clean = |text: &str| clean(text.as_bytes()).into_owned();
    sorted(labels.map(|(key, value)| (clean(key), clean(value))))
}

fn sorted(labels: impl Iterator<Item = (String, String)>) -> Labels {
    // A label without a value is none, as for pprof.
    let labels = labels.filter(|(key, value)| !key.is_empty() && !value.is_empty());
    let labels = labels.map(|(key, value)| {
        let key = if OURS.contains(&&*key) { format!("go.{key}") } else { key };
        (Arc::from(key), Arc::from(value))
    });
    let mut labels: Vec<(Arc<str>, Arc<str>)> = labels.collect();
    labels.sort_unstable();
    labels.into()
}

/// Labels with others behind them.
pub fn joined(labels: &Labels, others: &Labels) -> Labels {
    if others.is_empty() {
        return Arc::clone(labels);
    }
    labels.iter().chain(others.iter()).cloned().collect()
}

/// What a program's build says of it, as labels.
pub fn of_build(version: &str, revision: &str) -> Labels {
    let labels = [("vcs_revision", revision), ("version", version)];
    let known = labels.into_iter().filter(|(_, value)| !value.is_empty());
    known.map(|(key, value)| (key.into(), value.into())).collect()
}

/// A string of so many bytes, of which as many are there as the words hold.
fn text_of(words: &[u64], bytes: u32) -> String {
    let all: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match all.get(..bytes as usize) {
        Some(text) => clean(text).into_owned(),
        None => clean(text::beginning(&all).as_bytes()).into_owned(),
    }
}

/// Control characters would end up in terminals.
fn clean(text: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    if text.contains(char::is_control) {
        text.replace(char::is_control, "\u{fffd}").into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a label, as the kernel side would send it.
    fn words(key: &[u8], value: &[u8]) -> Vec<u64> {
        let mut bytes = [0; LABEL_WORDS * 8];
        bytes[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(value.len() as u32).to_le_bytes());
        let value_at = 8 + KEY_BYTES;
        let cut = |text: &[u8], most: usize| text[..text.len().min(most)].to_vec();
        let key = cut(key, KEY_BYTES);
        let value = cut(value, LABEL_WORDS * 8 - value_at);
        bytes[8..8 + key.len()].copy_from_slice(&key);
        bytes[value_at..value_at + value.len()].copy_from_slice(&value);
        bytes.chunks_exact(8).map(|it| u64::from_le_bytes(it.try_into().unwrap())).collect()
    }

    fn read(labels: &[(&[u8], &[u8])]) -> Vec<(String, String)> {
        let words: Vec<u64> = labels.iter().flat_map(|(key, value)| words(key, value)).collect();
        decode(&words).iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn labels_are_sorted_by_key() {
        let both = read(&[(b"tier", b"gold"), (b"handler", b"checkout")]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(both, [pair("handler", "checkout"), pair("tier", "gold")]);
    }

    #[test]
    fn what_a_program_may_not_say_is_not_said() {
        let found = read(&[(b"pid", b"1"), (b"", b"x"), (b"y", b""), (b"a\x1b[2J", b"\xff\n")]);
        let found: Vec<_> = found.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, [("a\u{fffd}[2J", "\u{fffd}\u{fffd}"), ("go.pid", "1")]);
    }

    #[test]
    fn labels_of_goroutines_are_cleaned_as_well() {
        let found = of_goroutine([("tier", "a\n"), ("comm", "x"), ("", "y")].into_iter());
        let found: Vec<_> = found.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, [("go.comm", "x"), ("tier", "a\u{fffd}")]);
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        let long = "ü".repeat(50);
        let found = read(&[(long.as_bytes(), b"1"), (b"k", &[b'v'; 200])]);
        assert_eq!(found[0], ("k".to_owned(), format!("{}…", "v".repeat(80))));
        assert_eq!(found[1].0, format!("{}…", "ü".repeat(20)));
        assert_eq!(decode(&[u64::MAX; LABEL_WORDS]).len(), 1, "lengths are not believed");
        assert!(decode(&[1; LABEL_WORDS - 1]).is_empty());
    }

    #[test]
    fn there_are_only_so_many() {
        let mut sets = LabelSets::default();
        let set = |number: usize| decode(&words(b"request", number.to_string().as_bytes()));
        for number in 0..MOST + 5 {
            let index = sets.add(set(number));
            assert_eq!(index, if number + 1 < MOST { number as u32 + 1 } else { 0 });
        }
        assert_eq!((sets.left_out, sets.add(set(3)), sets.add(Labels::default())), (6, 4, 0));
        assert_eq!(&*sets.get(4)[0].1, "3");
    }
}
