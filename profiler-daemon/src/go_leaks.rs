//! Goroutines by stack, counted again and again: a group that only grows is a suspected leak.

pub(crate) mod check;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    go,
    profile::{
        Kind, Process,
        go::frames::{Frames, is_of_runtime},
    },
    reader::protocol::{GoMemory, GoStack, Goroutine},
    recorder::control::Orders,
};

/// A group has grown in so many looks, and never become smaller.
const LEAST_INCREASES: u32 = 5;

/// And by so many goroutines.
const LEAST_GROWTH: u32 = 20;

/// One that has not grown for so long is no leak any more.
pub(crate) const GROWS: Duration = Duration::from_secs(300);

/// The most groups of a program that are watched, the largest.
const MOST_GROUPS: usize = 2_000;

/// The most groups of a program that are told, those that have grown most.
const MOST_SUSPECTS: usize = 10;

/// Goroutines of a program, by stack.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<Vec<u64>, Group>,
    /// A group has grown for so long.
    least_time: Duration,
}

/// Goroutines of one stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) count: u32,
    /// How many they were when they were fewest since they last became fewer, and when that was.
    base: u32,
    since: Instant,
    /// In how many looks there were more, since then.
    increases: u32,
    grown: Instant,
}

impl Group {
    const fn new(count: u32, now: Instant) -> Self {
        Self { count, base: count, since: now, increases: 0, grown: now }
    }

    fn counted(&mut self, count: u32, now: Instant) {
        if count < self.count {
            *self = Self::new(count, now);
        } else if count > self.count {
            (self.count, self.grown) = (count, now);
            self.increases += 1;
        }
    }

    fn is_suspect(&self, now: Instant, least_time: Duration) -> bool {
        self.grown.duration_since(self.since) >= least_time
            && self.increases >= LEAST_INCREASES
            && self.growth() >= LEAST_GROWTH
            && now.duration_since(self.grown) < GROWS
    }

    pub(crate) const fn growth(&self) -> u32 {
        self.count - self.base
    }
}

/// A group of goroutines that only grows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Suspect {
    pub(crate) count: u32,
    /// How many came in a minute.
    pub(crate) per_minute: f64,
    /// What they wait for.
    pub(crate) state: String,
    /// Functions, leaf first.
    pub(crate) stack: Vec<String>,
}

impl Suspect {
    /// The first function that is not the runtime's.
    pub(crate) fn function(&self) -> &str {
        let mut names = self.stack.iter();
        let own = names.find(|name| !is_of_runtime(name)).or(self.stack.first());
        own.map_or("?", String::as_str)
    }
}

impl Groups {
    /// Suspects groups that have grown for so long.
    pub(crate) fn growing_for(least_time: Duration) -> Self {
        Self { least_time, ..Self::default() }
    }

    /// Takes the goroutines of a program as they are now, or that there are none to be read. What is
    /// suspected of them, by stack, what has grown most first.
    pub(crate) fn looked(
        &mut self,
        memory: Option<&GoMemory>,
        now: Instant,
    ) -> Vec<(Vec<u64>, Group)> {
        let counts = memory.map(counts).unwrap_or_default();
        self.groups.retain(|stack, _| counts.contains_key(stack));
        for (stack, count) in counts {
            let group = self.groups.entry(stack).or_insert_with(|| Group::new(count, now));
            group.counted(count, now);
        }
        let is_suspect = |(_, group): &(_, &Group)| group.is_suspect(now, self.least_time);
        let suspects = self.groups.iter().filter(is_suspect);
        let mut suspects: Vec<_> = suspects.map(|(stack, group)| (stack.clone(), *group)).collect();
        suspects.sort_by_key(|(_, group)| std::cmp::Reverse(group.growth()));
        suspects.truncate(MOST_SUSPECTS);
        suspects
    }

    /// Whether a group is suspected.
    pub(crate) fn grows(&self, stack: &[u64], now: Instant) -> bool {
        self.groups.get(stack).is_some_and(|group| group.is_suspect(now, self.least_time))
    }
}

/// How many goroutines have each stack, of those that most have.
fn counts(memory: &GoMemory) -> HashMap<Vec<u64>, u32> {
    let mut by_stack: HashMap<u32, u32> = HashMap::new();
    for goroutine in memory.goroutines.iter().filter(|it| !it.is_moving) {
        *by_stack.entry(goroutine.stack).or_default() += 1;
    }
    let mut by_stack: Vec<_> = by_stack.into_iter().collect();
    by_stack.sort_unstable_by_key(|&(stack, count)| (std::cmp::Reverse(count), stack));
    by_stack.truncate(MOST_GROUPS);
    let mut counts = HashMap::new();
    for (stack, count) in by_stack {
        *counts.entry(avmas(memory, stack)).or_default() += count;
    }
    counts
}

/// A stack's avmas, leaf first.
pub(crate) fn avmas(memory: &GoMemory, stack: u32) -> Vec<u64> {
    let stack = memory.stacks.get(stack as usize);
    let places = stack.map_or(&[][..], |stack| &stack.places);
    places.iter().filter_map(|&place| memory.places.get(place as usize).copied()).collect()
}

/// The same without stacks and places that are of no goroutine: they need no names.
pub(crate) fn without_unused(mut memory: GoMemory) -> GoMemory {
    let stacks: HashSet<u32> = memory.goroutines.iter().map(|it| it.stack).collect();
    for (number, stack) in (0..).zip(&mut memory.stacks) {
        if !stacks.contains(&number) {
            stack.places.clear();
        }
    }
    let creators = memory.goroutines.iter().filter_map(|it| it.creator.checked_sub(1));
    let used = memory.stacks.iter().flat_map(|it| it.places.iter().copied());
    let used: HashSet<u32> = creators.chain(used).collect();
    // Places keep their numbers relative to each other.
    let mut numbers = HashMap::new();
    let (mut places, mut entries) = (Vec::new(), Vec::new());
    for (number, &avma) in (0_u32..).zip(&memory.places) {
        if used.contains(&number) {
            numbers.insert(number, places.len() as u32);
            places.push(avma);
            entries.push(memory.entries.get(number as usize).copied().unwrap_or_default());
        }
    }
    let number = |place: &u32| numbers.get(place).copied();
    for stack in &mut memory.stacks {
        *stack = GoStack { places: stack.places.iter().filter_map(number).collect() };
    }
    for Goroutine { creator, .. } in &mut memory.goroutines {
        *creator = creator.checked_sub(1).as_ref().and_then(number).map_or(0, |it| it + 1);
    }
    (memory.places, memory.entries) = (places, entries);
    memory
}

/// What is to be told of groups of a process, as `memory` has them.
pub(crate) async fn named(
    orders: &Orders,
    process: &Process,
    mut memory: GoMemory,
    suspects: &[(Vec<u64>, Group)],
) -> Vec<Suspect> {
    let stacks: HashSet<_> = suspects.iter().map(|(stack, _)| stack.clone()).collect();
    let wanted: HashSet<u32> = (0..memory.stacks.len() as u32)
        .filter(|&stack| stacks.contains(&avmas(&memory, stack)))
        .collect();
    memory.goroutines.retain(|it| wanted.contains(&it.stack));
    let memory = without_unused(memory);
    let named = go::named(orders, None, process.pid, &memory).await;
    let Ok((named, _)) = named else { return Vec::new() };
    let numbers: HashMap<Vec<u64>, u32> =
        (0..memory.stacks.len() as u32).map(|it| (avmas(&memory, it), it)).collect();
    let frames = Frames::new(Kind::Goroutines, &memory, &named);
    let suspect = |(stack, group): &(Vec<u64>, Group)| {
        let number = *numbers.get(stack)?;
        let goroutine = memory.goroutines.iter().find(|it| it.stack == number)?;
        let state = memory.states.get(goroutine.state as usize);
        let stack = frames.of_goroutine(number);
        let lines = stack.iter().flat_map(|&location| frames.location(location).lines.iter());
        let names = lines.map(|line| frames.function(line.function).name.to_string());
        let minutes = group.grown.duration_since(group.since).as_secs_f64() / 60.0;
        Some(Suspect {
            count: group.count,
            per_minute: f64::from(group.growth()) / minutes,
            state: state.cloned().unwrap_or_default(),
            stack: names.collect(),
        })
    };
    suspects.iter().filter_map(suspect).collect()
}

/// Goroutines as tests have them.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// Goroutines at stacks: so many of each.
    pub(crate) fn memory(counts: &[u32]) -> GoMemory {
        let numbers = 0..counts.len() as u32;
        let goroutines = numbers.clone().zip(counts).flat_map(|(stack, &count)| {
            std::iter::repeat_n(
                Goroutine { stack, creator: 1, ..Goroutine::default() },
                count as usize,
            )
        });
        GoMemory {
            places: numbers.clone().map(|it| 0x1000 + u64::from(it) * 0x10).collect(),
            entries: vec![0; counts.len()],
            stacks: numbers.map(|it| GoStack { places: vec![it] }).collect(),
            goroutines: goroutines.collect(),
            ..GoMemory::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::memory, *};

    #[test]
    fn a_part_of_the_goroutines_has_its_places_alone() {
        let mut part = memory(&[2, 3, 1]);
        part.goroutines.retain(|it| it.stack == 1);
        let part = without_unused(part);
        assert_eq!((&part.places[..], part.goroutines.len()), (&[0x1000, 0x1010][..], 3));
        let goroutine = part.goroutines[0];
        assert_eq!((avmas(&part, goroutine.stack), goroutine.creator), (vec![0x1010], 1));
    }
}
