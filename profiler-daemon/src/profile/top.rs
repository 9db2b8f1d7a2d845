//! Which functions a profile's time is in.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use super::{Kind, Profile};

/// A function and what was measured of it, in units of the kind's default sample type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, or [`unnamed`](super::frame::unnamed).
    pub name: Arc<str>,
    /// Base name of the binary it is in; empty if unknown.
    pub binary: Arc<str>,
    /// In itself.
    pub flat: i64,
    /// In itself and what it called; once per stack, however often it is in it.
    pub cumulative: i64,
}

/// All functions of some profiles.
#[derive(Clone, Debug, Default)]
pub struct Top {
    entries: Vec<Entry>,
    indices: HashMap<(Arc<str>, Arc<str>), usize>,
    total: i64,
}

impl Top {
    /// The functions of `profile`, inlined ones among them.
    pub fn of(profile: &Profile) -> Self {
        let mut top = Self::default();
        top.add(profile);
        top
    }

    /// Counts the samples of `profile` too; of waits the kernel's functions are left out.
    pub fn add(&mut self, profile: &Profile) {
        let frames = self.frames(profile);
        let mut per_stack = vec![0_i64; profile.stacks.len()];
        for sample in &profile.samples {
            let value = sample.values[Kind::DEFAULT];
            self.total = self.total.saturating_add(value);
            let sum = &mut per_stack[sample.stack as usize];
            *sum = sum.saturating_add(value);
        }
        let skips_kernel = !matches!(profile.kind, Kind::Cpu | Kind::Wall);
        // Which stack an entry was counted for last: what counts a recursion once.
        let mut counted_for = vec![usize::MAX; self.entries.len()];
        for (number, (stack, value)) in profile.stacks.iter().zip(per_stack).enumerate() {
            // What waits does so in the kernel, always in the same functions: what led there counts.
            let of_user = |location: &&u32| {
                !skips_kernel || !profile.is_kernel(&profile.locations[**location as usize])
            };
            let has_user = stack.iter().any(|location| of_user(&location));
            let shown = stack.iter().filter(|location| !has_user || of_user(location));
            let entries = shown.flat_map(|&location| &frames[location as usize]);
            for (depth, &entry) in entries.enumerate() {
                if depth == 0 {
                    let flat = &mut self.entries[entry].flat;
                    *flat = flat.saturating_add(value);
                }
                if std::mem::replace(&mut counted_for[entry], number) != number {
                    let cumulative = &mut self.entries[entry].cumulative;
                    *cumulative = cumulative.saturating_add(value);
                }
            }
        }
    }

    /// Counts what `other` has counted.
    pub fn unite(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        for Entry { name, binary, flat, cumulative } in &other.entries {
            let index = self.index(name, binary);
            let sum = &mut self.entries[index];
            sum.flat = sum.flat.saturating_add(*flat);
            sum.cumulative = sum.cumulative.saturating_add(*cumulative);
        }
    }

    /// The sum over all samples.
    pub fn total(&self) -> i64 {
        self.total
    }

    /// The part of it whose leaf has no name: [`unnamed`](super::frame::unnamed).
    pub fn unnamed(&self) -> i64 {
        let unnamed = self.entries.iter().filter(|entry| entry.name.starts_with('['));
        unnamed.fold(0, |sum, entry| sum.saturating_add(entry.flat))
    }

    /// The first `count` functions: by flat, then cumulative, then name. Functions that no sample
    /// met are left out.
    pub fn hottest(&self, count: usize) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.cumulative != 0).collect();
        entries.sort_by_key(|it| (Reverse((it.flat, it.cumulative)), &it.name, &it.binary));
        entries.truncate(count);
        entries
    }

    /// The entries of each location, innermost function first.
    fn frames(&mut self, profile: &Profile) -> Vec<Vec<usize>> {
        let basenames: Vec<Arc<str>> =
            profile.mappings.iter().map(|mapping| mapping.basename().into()).collect();
        let unknown: Arc<str> = "".into();
        profile
            .locations
            .iter()
            .map(|location| {
                let binary =
                    location.mapping.map_or(&unknown, |mapping| &basenames[mapping as usize]);
                if location.lines.is_empty() {
                    let name: Arc<str> = profile.names_of(location).collect::<String>().into();
                    return vec![self.index(&name, binary)];
                }
                let functions =
                    location.lines.iter().map(|line| &profile.functions[line.function as usize]);
                functions.map(|function| self.index(&function.name, binary)).collect()
            })
            .collect()
    }

    fn index(&mut self, name: &Arc<str>, binary: &Arc<str>) -> usize {
        let (name, binary) = (Arc::clone(name), Arc::clone(binary));
        *self.indices.entry((Arc::clone(&name), Arc::clone(&binary))).or_insert_with(|| {
            self.entries.push(Entry { name, binary, flat: 0, cumulative: 0 });
            self.entries.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::program;

    fn row(entry: &Entry) -> (&str, &str, i64, i64) {
        (&entry.name, &entry.binary, entry.flat / 10_000_000, entry.cumulative / 10_000_000)
    }

    #[test]
    fn flat_and_cumulative_per_function() {
        let top = Top::of(&program(1, "app", 0x40_0000));
        let rows: Vec<_> = top.hottest(10).into_iter().map(row).collect();
        assert_eq!(
            rows,
            [
                ("step", "app", 5, 10),
                ("read", "[kernel.kallsyms]", 3, 3),
                ("[libc.so.6+0x1010]", "libc.so.6", 2, 2),
                ("main", "app", 0, 10),
                ("work", "app", 0, 10),
            ]
        );
        assert_eq!(top.total(), 100_000_000);
        assert_eq!(top.unnamed(), 20_000_000);
    }

    #[test]
    fn recursion_counts_once_per_stack() {
        let mut profile = program(1, "app", 0x40_0000);
        profile.stacks[0] = Box::new([1, 1, 0, 1, 0]);
        let top = Top::of(&profile);
        let rows: Vec<_> = top.hottest(1).into_iter().map(row).collect();
        assert_eq!(rows, [("step", "app", 5, 10)]);
    }

    #[test]
    fn windows_add_up() {
        let window = program(1, "app", 0x40_0000);
        let mut added = Top::of(&window);
        added.add(&window);
        let mut united = Top::of(&window);
        united.unite(&Top::of(&window));
        assert_eq!(added.hottest(9), united.hottest(9));
        assert_eq!(added.total(), 200_000_000);
    }

    #[test]
    fn samples_without_a_stack_count_in_the_total_alone() {
        let mut profile = program(1, "app", 0x40_0000);
        profile.stacks[0] = Box::new([]);
        let top = Top::of(&profile);
        assert_eq!(top.total(), 100_000_000);
        assert_eq!(top.hottest(9).iter().map(|entry| entry.flat).sum::<i64>(), 50_000_000);
    }
}
