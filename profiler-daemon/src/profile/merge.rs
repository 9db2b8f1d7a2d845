//! Several profiles of one window made one: everything of the host, or of a program.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

use super::{
    Function, Labels, Line, Location, Mapping, Outcomes, Process, Profile, Sample, Spent, Window,
    frame::HOST,
};

/// What a merged profile is called: what pprof prints as `File:`, which is its first mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedName {
    /// `[host]`, by a mapping that covers nothing.
    Host,
    /// The program of the first profile.
    First,
}

/// The profiles' samples in one profile, in the order of the profiles; those of equal stack,
/// process, thread and state are added up. Outcomes are summed, comments united.
///
/// A file's mapping that several processes share becomes one, at the address where the first of
/// them has it, and locations move with it: what a location is in its file stays the same.
///
/// Takes time and memory in proportion to what goes in.
pub fn merge(window: &Window, profiles: &[&Profile], name: MergedName) -> Profile {
    let mut merger = Merger::default();
    if name == MergedName::Host {
        merger.add_mapping(&host());
    }
    merger.comments.add(&window.comments);
    for profile in profiles {
        merger.add(profile);
    }
    let Merger {
        processes,
        mappings,
        functions,
        locations,
        stacks,
        samples,
        outcomes,
        spent,
        comments,
    } = merger;
    Profile {
        kind: window.kind,
        start: window.start,
        duration: window.duration,
        period: window.period,
        processes: processes.list,
        mappings: mappings.list,
        locations: locations.into_list(),
        functions: functions.into_list(),
        stacks: stacks.into_list(),
        samples: samples.into_list(),
        outcomes,
        spent,
        comments: comments.list,
    }
}

/// The mapping that pprof prints as `File: [host]`. It claims names so that pprof does not look
/// for a file.
fn host() -> Mapping {
    Mapping {
        start: 0,
        end: 0,
        file_offset: 0,
        file: HOST.into(),
        build_id: "".into(),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
    }
}

#[derive(Default)]
struct Merger {
    processes: Processes,
    mappings: Mappings,
    functions: Interner<Function>,
    locations: Interner<Location>,
    stacks: Interner<Box<[u32]>>,
    samples: Samples,
    outcomes: Outcomes,
    spent: Spent,
    comments: Comments,
}

impl Merger {
    fn add(&mut self, profile: &Profile) {
        let processes: Vec<u32> =
            profile.processes.iter().map(|process| self.processes.add(process)).collect();
        let mappings: Vec<(u32, u64)> =
            profile.mappings.iter().map(|mapping| self.add_mapping(mapping)).collect();
        let functions: Vec<u32> =
            profile.functions.iter().map(|it| self.functions.add(it.clone())).collect();
        let locations: Vec<u32> = profile
            .locations
            .iter()
            .map(|location| {
                let mapping = location.mapping.map(|index| mappings[index as usize]);
                let moved_by = mapping.map_or(0, |(_, moved_by)| moved_by);
                let line = |it: &Line| Line { function: functions[it.function as usize], ..*it };
                self.locations.add(Location {
                    mapping: mapping.map(|(index, _)| index),
                    avma: location.avma.wrapping_add(moved_by),
                    lines: location.lines.iter().map(line).collect(),
                })
            })
            .collect();
        let stacks: Vec<u32> = profile
            .stacks
            .iter()
            .map(|stack| self.stacks.add(stack.iter().map(|&it| locations[it as usize]).collect()))
            .collect();
        for sample in &profile.samples {
            self.samples.add(&Sample {
                stack: stacks[sample.stack as usize],
                process: processes[sample.process as usize],
                thread: Arc::clone(&sample.thread),
                state: Arc::clone(&sample.state),
                labels: Arc::clone(&sample.labels),
                ..*sample
            });
        }
        self.outcomes += profile.outcomes;
        self.spent += profile.spent;
        self.comments.add(&profile.comments);
    }

    /// Index of the mapping, and what to add to its avmas.
    fn add_mapping(&mut self, mapping: &Mapping) -> (u32, u64) {
        let index = self.mappings.add(mapping);
        let moved_by = self.mappings.list[index as usize].start.wrapping_sub(mapping.start);
        (index, moved_by)
    }
}

/// Distinct values, numbered as they came.
struct Interner<T>(HashMap<T, u32>);

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Interner<T> {
    fn add(&mut self, value: T) -> u32 {
        let next = index(self.0.len());
        *self.0.entry(value).or_insert(next)
    }

    fn into_list(self) -> Vec<T> {
        let mut numbered: Vec<(T, u32)> = self.0.into_iter().collect();
        numbered.sort_unstable_by_key(|(_, number)| *number);
        numbered.into_iter().map(|(value, _)| value).collect()
    }
}

/// Processes are told apart by pid and start time; the last comm is kept.
#[derive(Default)]
struct Processes {
    list: Vec<Arc<Process>>,
    indices: HashMap<(u32, u64), u32>,
}

impl Processes {
    fn add(&mut self, process: &Arc<Process>) -> u32 {
        match self.indices.entry((process.pid, process.start_ns)) {
            Entry::Occupied(known) => {
                self.list[*known.get() as usize] = Arc::clone(process);
                *known.get()
            }
            Entry::Vacant(new) => {
                self.list.push(Arc::clone(process));
                *new.insert(index(self.list.len() - 1))
            }
        }
    }
}

#[derive(Default)]
struct Mappings {
    list: Vec<Mapping>,
    indices: HashMap<Contents, u32>,
}

/// What makes two mappings show the same bytes.
#[derive(PartialEq, Eq, Hash)]
struct Contents {
    file: Arc<str>,
    build_id: Arc<str>,
    file_offset: u64,
    size: u64,
    /// Where it is tells it apart if nothing else surely does: a path may be of two files, in two
    /// mount namespaces or at two times, and memory without a file is a process's own.
    start: Option<u64>,
}

impl Mappings {
    fn add(&mut self, mapping: &Mapping) -> u32 {
        let Mapping {
            start,
            end,
            file_offset,
            file,
            build_id,
            has_functions,
            has_filenames,
            has_line_numbers,
            has_inline_frames,
        } = mapping;
        let is_surely_the_same = !build_id.is_empty() || &**file == "[vdso]";
        let contents = Contents {
            file: Arc::clone(file),
            build_id: Arc::clone(build_id),
            file_offset: *file_offset,
            size: end.wrapping_sub(*start),
            start: (!is_surely_the_same).then_some(*start),
        };
        match self.indices.entry(contents) {
            Entry::Occupied(known) => {
                let same = &mut self.list[*known.get() as usize];
                same.has_functions &= has_functions;
                same.has_filenames |= has_filenames;
                same.has_line_numbers |= has_line_numbers;
                same.has_inline_frames &= has_inline_frames;
                *known.get()
            }
            Entry::Vacant(new) => {
                self.list.push(mapping.clone());
                *new.insert(index(self.list.len() - 1))
            }
        }
    }
}

/// What a sample is of: stack, process, thread, the thread's name and state, labels, the size of
/// objects.
type Which = (u32, u32, u32, Arc<str>, Arc<str>, Labels, i64);

#[derive(Default)]
struct Samples {
    list: Vec<Sample>,
    indices: HashMap<Which, u32>,
}

impl Samples {
    fn add(&mut self, sample: &Sample) {
        let Sample { stack, process, tid, thread, state, labels, values, others, object_bytes } =
            sample;
        let (thread, state, labels) = (Arc::clone(thread), Arc::clone(state), Arc::clone(labels));
        match self.indices.entry((*stack, *process, *tid, thread, state, labels, *object_bytes)) {
            Entry::Occupied(known) => {
                let known = &mut self.list[*known.get() as usize];
                let sums = known.values.iter_mut().chain(&mut known.others);
                for (sum, value) in sums.zip(values.iter().chain(others)) {
                    *sum = sum.saturating_add(*value);
                }
            }
            Entry::Vacant(new) => {
                new.insert(index(self.list.len()));
                self.list.push(sample.clone());
            }
        }
    }

    fn into_list(self) -> Vec<Sample> {
        self.list
    }
}

#[derive(Default)]
struct Comments {
    list: Vec<String>,
    known: HashSet<String>,
}

impl Comments {
    fn add(&mut self, comments: &[String]) {
        for comment in comments {
            if self.known.insert(comment.clone()) {
                self.list.push(comment.clone());
            }
        }
    }
}

/// # Panics
///
/// With 2³² distinct values, which no memory holds.
fn index(position: usize) -> u32 {
    u32::try_from(position).expect("fewer than 2^32 distinct values")
}

#[cfg(test)]
mod tests;
