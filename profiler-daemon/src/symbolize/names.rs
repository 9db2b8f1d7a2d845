//! Names of addresses, as they are known so far.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{COLLECT, COLLECT_LONGEST, COLLECT_PER_COST};
use crate::reader::protocol;

/// A function at an address, and the line in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedLine {
    /// Demangled name.
    pub function: Arc<str>,
    /// Source file's path; empty if unknown.
    pub file: Arc<str>,
    /// Line; 0 if unknown.
    pub line: u32,
    /// Line where the function begins; 0 if unknown.
    pub start_line: u32,
}

/// The functions at an address, innermost inlined one first; empty: there is no name.
pub type FrameNames = Arc<[NamedLine]>;

/// Equal strings share memory.
#[derive(Debug, Default)]
pub(super) struct Strings(HashSet<Arc<str>>);

impl Strings {
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.0.insert(Arc::clone(&text));
        text
    }

    /// Drops what nobody else holds.
    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|text| Arc::strong_count(text) > 1);
    }
}

/// The addresses of one file, of the kernel, or of one process's just-in-time compiled code.
#[derive(Debug)]
pub(super) struct Addresses {
    names: HashMap<u64, Option<FrameNames>>,
    wanted: Vec<u64>,
    /// When the first of `wanted` came.
    wanted_since: Option<Instant>,
    /// How long addresses are collected.
    collect: Duration,
}

impl Default for Addresses {
    fn default() -> Self {
        let (names, wanted) = Default::default();
        Self { names, wanted, wanted_since: None, collect: COLLECT }
    }
}

impl Addresses {
    /// Asks for an address, unless it was asked for before.
    pub(super) fn want(&mut self, address: u64) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.names.entry(address) {
            entry.insert(None);
            self.wanted.push(address);
            self.wanted_since.get_or_insert_with(Instant::now);
        }
    }

    /// Asks again for what had no name.
    pub(super) fn want_unnamed_again(&mut self) {
        for (&address, names) in &mut self.names {
            if names.as_ref().is_some_and(|names| names.is_empty()) {
                *names = None;
                self.wanted.push(address);
            }
        }
        if !self.wanted.is_empty() {
            self.wanted_since.get_or_insert_with(Instant::now);
        }
    }

    /// Asks again for everything.
    pub(super) fn want_all_again(&mut self) {
        for (&address, names) in &mut self.names {
            if names.take().is_some() {
                self.wanted.push(address);
            }
        }
        if !self.wanted.is_empty() {
            self.wanted_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether what is wanted had been collected long enough at the beginning of a `round`, or is
    /// to be asked for however long that is: `round` is `None`.
    pub(super) fn is_ripe(&self, round: Option<Instant>) -> bool {
        self.wanted_since.is_some_and(|since| {
            round.is_none_or(|round| round.saturating_duration_since(since) >= self.collect)
        })
    }

    /// Takes up to `most` wanted addresses out, to be asked for.
    pub(super) fn take_wanted(&mut self, most: usize) -> Vec<u64> {
        self.wanted_since = None;
        self.collect = (self.collect * 2).min(COLLECT_LONGEST);
        let rest = self.wanted.split_off(most.min(self.wanted.len()));
        let taken = std::mem::replace(&mut self.wanted, rest);
        if !self.wanted.is_empty() {
            self.wanted_since = Some(Instant::now());
        }
        taken
    }

    /// Puts addresses back that were not answered.
    pub(super) fn put_back(&mut self, addresses: &[u64]) {
        self.wanted.extend(addresses);
        self.wanted_since.get_or_insert_with(Instant::now);
    }

    /// Notes that there are no names for these.
    pub(super) fn no_names(&mut self, addresses: &[u64]) {
        for &address in addresses {
            self.names.insert(address, Some(Arc::from([])));
        }
    }

    /// Gives up on everything that is wanted.
    pub(super) fn give_up(&mut self) {
        let wanted = self.take_wanted(usize::MAX);
        self.no_names(&wanted);
    }

    /// Notes an answer; one that does not fit its question names nothing.
    pub(super) fn answer(
        &mut self,
        addresses: &[u64],
        answer: &protocol::Names,
        strings: &mut Strings,
    ) {
        // A file whose names are dear is asked for them seldom.
        let cost = Duration::from_micros(answer.cpu_us.into());
        self.collect = self.collect.max(cost * COLLECT_PER_COST).min(COLLECT_LONGEST);
        let mut text = |index: u32| {
            strings.intern(answer.strings.get(index as usize).map_or("", String::as_str))
        };
        for (index, &address) in addresses.iter().enumerate() {
            let lines = answer.frames.get(index).map_or(&[][..], |frame| &frame.lines);
            let names = lines
                .iter()
                .map(|line| {
                    let function = text(line.function);
                    let module = text(line.module);
                    let function = if module.is_empty() {
                        function
                    } else {
                        text_with_module(&function, &module)
                    };
                    NamedLine {
                        function,
                        file: text(line.file),
                        line: line.line,
                        start_line: line.start_line,
                    }
                })
                .filter(|line| !line.function.is_empty())
                .collect();
            self.names.insert(address, Some(names));
        }
    }

    /// Whether an address was asked for, and is not answered.
    pub(super) fn is_pending(&self, address: u64) -> bool {
        matches!(self.names.get(&address), Some(None))
    }

    pub(super) fn get(&self, address: u64) -> Option<&FrameNames> {
        self.names.get(&address)?.as_ref()
    }
}

/// The names that an answer gives to `addresses`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn of_answer(addresses: &[u64], answer: &protocol::Names) -> Vec<FrameNames> {
    let mut known = Addresses::default();
    known.answer(addresses, answer, &mut Strings::default());
    addresses.iter().filter_map(|address| known.get(*address).cloned()).collect()
}

/// A kernel module's function, as perf and `/proc/kallsyms` show it.
fn text_with_module(function: &str, module: &str) -> Arc<str> {
    format!("{function} {module}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(names: &[&str]) -> protocol::Names {
        let mut strings = vec![String::new()];
        let mut frames = Vec::new();
        for name in names {
            strings.push((*name).to_string());
            let function = strings.len() as u32 - 1;
            let line = protocol::NameLine { function, ..Default::default() };
            frames.push(protocol::FrameNames { lines: vec![line] });
        }
        protocol::Names { strings, frames, ..Default::default() }
    }

    #[test]
    fn an_address_is_asked_for_once() {
        let mut addresses = Addresses::default();
        for address in [1, 2, 1, 2, 3] {
            addresses.want(address);
        }
        assert_eq!(addresses.take_wanted(2), [1, 2]);
        addresses.want(1);
        assert_eq!(addresses.take_wanted(9), [3]);
        assert_eq!(addresses.wanted.len(), 0);
        addresses.put_back(&[2]);
        assert_eq!(addresses.take_wanted(9), [2]);
    }

    #[test]
    fn what_is_new_in_a_round_is_left_for_a_later_one() {
        let mut addresses = Addresses::default();
        assert!(!addresses.is_ripe(None));
        let begin = Instant::now();
        addresses.want(1);
        assert!(addresses.is_ripe(None));
        assert!(!addresses.is_ripe(Some(begin)));
        let round = Instant::now() + COLLECT;
        assert!(addresses.is_ripe(Some(round)));
        addresses.take_wanted(1);
        addresses.want(2);
        assert!(!addresses.is_ripe(Some(round)), "the next are collected for longer");
    }

    #[test]
    fn dear_names_are_asked_for_seldom() {
        let mut addresses = Addresses::default();
        addresses.want(1);
        addresses.take_wanted(1);
        let dear = protocol::Names { cpu_us: 30_000, ..answer(&["f"]) };
        addresses.answer(&[1], &dear, &mut Strings::default());
        addresses.want(2);
        assert!(!addresses.is_ripe(Some(Instant::now() + Duration::from_secs(29))));
        assert!(addresses.is_ripe(Some(Instant::now() + Duration::from_secs(31))));
        assert!(addresses.is_ripe(None));
    }

    #[test]
    fn an_answer_that_does_not_fit_names_nothing_more() {
        let mut addresses = Addresses::default();
        let mut strings = Strings::default();
        let mut bad = answer(&["f"]);
        bad.frames[0].lines[0].file = 77;
        addresses.answer(&[1, 2], &bad, &mut strings);
        assert_eq!(&*addresses.get(1).unwrap()[0].function, "f");
        assert!(addresses.get(1).unwrap()[0].file.is_empty());
        assert!(addresses.get(2).unwrap().is_empty());
        bad.frames[0].lines[0].function = 99;
        addresses.answer(&[3], &bad, &mut strings);
        assert!(addresses.get(3).unwrap().is_empty());
        assert!(addresses.get(4).is_none());
    }
}
