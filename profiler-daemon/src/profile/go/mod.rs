//! What was read of a Go runtime, made profiles: as `runtime/pprof` makes them of the same.

pub(crate) mod frames;
mod waits;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Kind, Labels, Outcomes, Profile, Sample, Spent, labels};
use crate::reader::protocol::{GoBucket, GoLabelSet, GoMemory, GoStacks};
use frames::Frames;

/// What was read of a process, and the names of all its addresses.
pub struct GoTaken {
    /// What is to be shown.
    pub kind: Kind,
    /// What was read.
    pub memory: GoMemory,
    /// A profile of the process with one stack: the locations of [`avmas`].
    pub named: Profile,
    /// When it was read.
    pub time: SystemTime,
    /// What it is the difference over; zero: all since the program began.
    pub duration: Duration,
    /// Of the whole: comments.
    pub comments: Vec<String>,
}

/// Where the instructions are that addresses are of: calls are before what they return to.
pub fn avmas(memory: &GoMemory) -> Vec<u64> {
    let entries = memory.entries.iter().copied().chain(std::iter::repeat(0));
    let places = memory.places.iter().zip(entries);
    places.map(|(&avma, entry)| if avma == entry { avma } else { avma.saturating_sub(1) }).collect()
}

/// What has come since `before`: buckets are never taken away.
pub fn since(now: &mut GoMemory, before: &GoMemory) {
    let key = |memory: &GoMemory, bucket: &GoBucket| {
        let stack = memory.stacks.get(bucket.stack as usize);
        let places = stack.map_or(&[][..], |stack| &stack.places);
        let places = places.iter().map(|&it| memory.places.get(it as usize).copied());
        (places.collect::<Vec<_>>(), bucket.alloc_bytes.checked_div(bucket.allocs))
    };
    let known: HashMap<_, _> = before.buckets.iter().map(|it| (key(before, it), *it)).collect();
    let mut buckets = std::mem::take(&mut now.buckets);
    for bucket in &mut buckets {
        let Some(old) = known.get(&key(now, bucket)) else { continue };
        let GoBucket { stack: _, allocs, frees, alloc_bytes, free_bytes, count, cycles } = bucket;
        *allocs = allocs.wrapping_sub(old.allocs);
        *frees = frees.wrapping_sub(old.frees);
        *alloc_bytes = alloc_bytes.wrapping_sub(old.alloc_bytes);
        *free_bytes = free_bytes.wrapping_sub(old.free_bytes);
        *count = count.wrapping_sub(old.count);
        *cycles = cycles.wrapping_sub(old.cycles);
    }
    now.buckets = buckets;
}

/// Waits that were measured from outside: stacks as avmas, leaf first, how many, and how long they took
/// in nanoseconds. `source`: how that was measured.
pub fn measured<'a>(
    version: &str,
    source: String,
    waits: impl Iterator<Item = (&'a [u64], i64, i64)>,
) -> GoMemory {
    let mut memory = GoMemory {
        version: version.to_owned(),
        rate: 1,
        ticks_per_second: 1_000_000_000,
        scales_mutexes: true,
        is_whole: true,
        source,
        ..GoMemory::default()
    };
    let mut stacks = GoStacks::default();
    for (avmas, count, cycles) in waits {
        let stack = stacks.add(avmas.iter().copied());
        memory.buckets.push(GoBucket { stack, count, cycles, ..GoBucket::default() });
    }
    stacks.give(&mut memory);
    memory
}

impl GoTaken {
    /// The profile.
    pub fn profile(&self) -> Profile {
        let frames = Frames::new(self.kind, &self.memory, &self.named);
        let mut stacks = Vec::new();
        let mut stack = |places: Box<[u32]>| {
            stacks.push(places);
            stacks.len() as u32 - 1
        };
        let labels = self.named.samples.first().map(|it| Arc::clone(&it.labels));
        let labels = labels.unwrap_or_default();
        let sample = |stack: u32, values: [i64; 2]| Sample {
            stack,
            process: 0,
            tid: 0,
            thread: "".into(),
            state: "".into(),
            labels: Arc::clone(&labels),
            values,
            others: [0; 2],
            object_bytes: 0,
        };
        let mut samples = Vec::new();
        match self.kind {
            Kind::Heap | Kind::Allocs => {
                for bucket in &self.memory.buckets {
                    let number = stack(frames.of_allocation(bucket.stack));
                    let Allocations { all, in_use, object_bytes } = self.allocations(bucket);
                    let (values, others) =
                        if self.kind == Kind::Heap { (in_use, all) } else { (all, in_use) };
                    samples.push(Sample { others, object_bytes, ..sample(number, values) });
                }
            }
            Kind::Goroutines | Kind::Goroutineleak => {
                let sets = self.label_sets(&labels);
                for ((number, state, set), count) in self.groups() {
                    let state = self.memory.states.get(state as usize);
                    let state = state.map_or_else(|| "".into(), |it| Arc::from(it.as_str()));
                    let number = stack(frames.of_goroutine(number));
                    let own = set.checked_sub(1).and_then(|set| sets.get(set as usize));
                    let own = Arc::clone(own.unwrap_or(&labels));
                    samples.push(Sample { state, labels: own, ..sample(number, [count; 2]) });
                }
            }
            _ => {
                for bucket in &self.memory.buckets {
                    let Some(shown) = frames.of_wait(bucket.stack) else { continue };
                    let number = stack(shown);
                    samples.push(sample(number, self.delay(bucket)));
                }
            }
        }
        let Profile { processes, mappings, .. } = self.named.clone();
        let (locations, functions) = frames.into_parts();
        Profile {
            kind: self.kind,
            start: self.time,
            duration: self.duration,
            period: match self.kind {
                Kind::Heap | Kind::Allocs => self.memory.rate,
                _ => 1,
            },
            processes,
            mappings,
            locations,
            functions,
            stacks,
            samples,
            outcomes: Outcomes::default(),
            spent: Spent::default(),
            comments: [self.comments.clone(), self.facts()].concat(),
        }
    }

    /// The sets of labels that goroutines have, with those of the program.
    fn label_sets(&self, program: &Labels) -> Vec<Labels> {
        let sets = self.memory.label_sets.iter();
        let of = |set: &GoLabelSet| {
            let labels = set.keys.iter().zip(&set.values);
            labels::of_goroutine(labels.map(|(key, value)| (&**key, &**value)))
        };
        sets.map(|set| labels::joined(&of(set), program)).collect()
    }

    /// How many goroutines have a stack, a state and labels; in the order of stacks.
    fn groups(&self) -> Vec<((u32, u32, u32), i64)> {
        let mut groups: HashMap<(u32, u32, u32), i64> = HashMap::new();
        for it in &self.memory.goroutines {
            *groups.entry((it.stack, it.state, it.labels)).or_default() += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable();
        groups
    }

    /// What a bucket stands for, if what is sampled is as likely as its size says.
    fn allocations(&self, bucket: &GoBucket) -> Allocations {
        let GoBucket { allocs, frees, alloc_bytes, free_bytes, .. } = *bucket;
        let signed = |count: u64| count as i64;
        let (allocs, alloc_bytes) = (signed(allocs), signed(alloc_bytes));
        let (frees, free_bytes) = (signed(frees), signed(free_bytes));
        let rate = signed(self.memory.rate);
        Allocations {
            all: scaled(allocs, alloc_bytes, rate),
            in_use: scaled(allocs.wrapping_sub(frees), alloc_bytes.wrapping_sub(free_bytes), rate),
            object_bytes: alloc_bytes.checked_div(allocs).unwrap_or_default(),
        }
    }

    /// What contentions stand for that were counted as they were sampled.
    pub(crate) fn factor(&self) -> i64 {
        if self.kind == Kind::Mutex && !self.memory.scales_mutexes {
            self.memory.rate as i64
        } else {
            1
        }
    }

    /// Count and nanoseconds of a bucket of waits.
    fn delay(&self, bucket: &GoBucket) -> [i64; 2] {
        let per_ns = self.memory.ticks_per_second.max(1) as f64 / 1e9;
        let factor = self.factor();
        let delay_ns = bucket.cycles as f64 / per_ns * factor as f64;
        [bucket.count.saturating_mul(factor), delay_ns as i64]
    }

    /// What else is to be known of it, as comments.
    pub(crate) fn facts(&self) -> Vec<String> {
        let GoMemory {
            version,
            rate,
            ticks_per_second,
            is_measured,
            cycle,
            left_out,
            source,
            labels_left_out,
            ..
        } = &self.memory;
        let mut facts = vec![format!("go={version}")];
        match self.kind {
            Kind::Heap | Kind::Allocs => {
                facts.push(format!("gc=none was forced: the figures are of cycle {cycle}"));
            }
            Kind::Goroutines | Kind::Goroutineleak => {
                let moving = self.memory.goroutines.iter().filter(|it| it.is_moving).count();
                if moving > 0 {
                    facts.push(format!("without_stack={moving}"));
                }
                if *labels_left_out > 0 {
                    facts.push(format!("without_labels={labels_left_out}"));
                }
            }
            _ if !source.is_empty() => facts.push(format!("source={source}")),
            _ => {
                let by = if *is_measured { "rprofd" } else { "the program" };
                facts.push(format!("rate={rate}"));
                facts.push(format!("ticks_per_second={ticks_per_second}, measured by {by}"));
            }
        }
        if *left_out > 0 {
            facts.push(format!("left_out={left_out}"));
        }
        facts
    }
}

/// What was allocated: how many objects, and how many bytes.
struct Allocations {
    all: [i64; 2],
    in_use: [i64; 2],
    object_bytes: i64,
}

/// What samples stand for: one of so many bytes is taken with the probability
/// 1 - e^(-bytes / rate).
fn scaled(count: i64, bytes: i64, rate: i64) -> [i64; 2] {
    if count == 0 || bytes == 0 {
        return [0; 2];
    }
    if rate <= 1 {
        return [count, bytes];
    }
    let mean = bytes as f64 / count as f64;
    let scale = 1.0 / (1.0 - (-mean / rate as f64).exp());
    [(count as f64 * scale) as i64, (bytes as f64 * scale) as i64]
}

#[cfg(test)]
mod tests;
