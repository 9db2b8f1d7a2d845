//! From what was added up to profiles: one per process, with names.

use std::{collections::HashMap, sync::Arc};

use profiler_ebpf::waits::State;

use super::{
    Function, Kind, Labels, Line, Location, Mapping, Process, Profile, Sample, Spent, Window,
    aggregate::{Aggregate, Code, Key, Measured, Place},
    labels, reason,
};
use crate::{
    process::{LifeId, Table},
    symbolize::{FrameNames, NamedLine, Symbolizer},
};

/// The kernel's half of the address space, as perf calls it.
const KERNEL_FILE: &str = "[kernel.kallsyms]";

/// Start of the kernel's half on both architectures.
const KERNEL_START: u64 = 0xffff_0000_0000_0000;

/// What all profiles of a window share.
pub struct Builder<'a> {
    /// The samples.
    pub aggregate: &'a Aggregate,
    /// The processes.
    pub table: &'a Table,
    /// The names.
    pub symbolizer: &'a Symbolizer,
    /// The window; its comments go into each profile.
    pub window: &'a Window,
    /// How the processes' threads spent its time, where that is known.
    pub spent: &'a HashMap<LifeId, Spent>,
    /// The running kernel's build ID; empty if unknown.
    pub kernel_build_id: Arc<str>,
    /// Inlined functions were asked for.
    pub inlines: bool,
}

impl Builder<'_> {
    /// A profile for each process that was sampled.
    pub fn build(&self) -> Vec<Profile> {
        let mut by_life: HashMap<LifeId, Vec<(Key, Measured)>> = HashMap::new();
        for (&key, &measured) in &self.aggregate.counts {
            by_life.entry(key.life).or_default().push((key, measured));
        }
        let mut profiles: Vec<_> = by_life
            .into_iter()
            .map(|(life, mut samples)| {
                samples.sort_unstable_by_key(|(key, _)| {
                    let Key { life: _, stack, tid, thread, state, system_call, labels } = *key;
                    (stack, tid, thread, state as u32, system_call, labels)
                });
                self.profile(life, &samples)
            })
            .collect();
        profiles.sort_by_key(|profile| profile.processes.first().map(|p| (p.pid, p.start_ns)));
        profiles
    }

    fn profile(&self, life: LifeId, samples: &[(Key, Measured)]) -> Profile {
        let process = self.process(life);
        let mut parts = Parts::new(self, life, &process);
        let mut stacks = HashMap::new();
        let period = self.window.period;
        let mut states = HashMap::new();
        let (mut sets, program) = (HashMap::new(), self.program_labels(life, &process));
        let mut samples: Vec<Sample> = samples
            .iter()
            .map(|(key, measured)| Sample {
                stack: *stacks.entry(key.stack).or_insert_with(|| parts.stack(key.stack)),
                process: 0,
                tid: key.tid,
                thread: Arc::clone(&self.aggregate.threads[key.thread as usize]),
                state: Arc::clone(
                    states
                        .entry((key.stack, key.state, key.system_call))
                        .or_insert_with(|| self.state(key)),
                ),
                labels: Arc::clone(sets.entry(key.labels).or_insert_with(|| {
                    labels::joined(self.aggregate.labels.get(key.labels), &program)
                })),
                values: self.values(*measured),
                others: [0; 2],
                object_bytes: 0,
            })
            .collect();
        if self.window.kind != Kind::Cpu {
            samples.retain(|sample| sample.values != [0; 2]);
        }
        let Parts { mappings, locations, functions, stacks, .. } = parts;
        Profile {
            kind: self.window.kind,
            start: self.window.start,
            duration: self.window.duration,
            period,
            processes: vec![process],
            mappings,
            locations,
            functions,
            stacks,
            samples,
            outcomes: self.aggregate.outcomes.get(&life).copied().unwrap_or_default(),
            spent: self.spent.get(&life).copied().unwrap_or_default(),
            comments: self.window.comments.clone(),
        }
    }

    /// What its build says of a process's program.
    fn program_labels(&self, life: LifeId, process: &Process) -> Labels {
        let Some(life) = self.table.life(life) else { return Labels::default() };
        let mut files = life.current().filter(|it| it.path == process.exe && it.has_file());
        let build = files.find_map(|it| self.symbolizer.file(it.id)?.go.as_ref());
        build.map_or_else(Labels::default, |build| {
            labels::of_build(&build.module_version, &build.vcs_revision)
        })
    }

    /// The values of a sample.
    fn values(&self, measured: Measured) -> [i64; 2] {
        let Measured { count, time_ns } = measured;
        let period = self.window.period.max(1) as f64;
        match self.window.kind {
            // Each counts for a period, whatever it was measured at.
            Kind::Cpu => [count as i64, (count * period) as i64],
            // As often as a thread would have been seen by then.
            Kind::Wall => [(time_ns / period).round() as i64, time_ns.round() as i64],
            Kind::Block | Kind::Mutex => [count.round() as i64, time_ns.round() as i64],
            Kind::Goroutine
            | Kind::Threadcreate
            | Kind::Goroutines
            | Kind::Goroutineleak
            | Kind::Heap
            | Kind::Allocs => [count as i64; 2],
        }
    }

    /// What a thread did, or waited for.
    fn state(&self, key: &Key) -> Arc<str> {
        match self.window.kind {
            Kind::Cpu
            | Kind::Threadcreate
            | Kind::Goroutines
            | Kind::Goroutineleak
            | Kind::Heap
            | Kind::Allocs => return "".into(),
            Kind::Wall | Kind::Block | Kind::Mutex | Kind::Goroutine => {}
        }
        let places = &self.aggregate.stacks[key.stack as usize];
        let names = |kernel: bool| {
            let places = places.iter().map(|&place| &self.aggregate.places[place as usize]);
            let places = places.filter(move |place| (place.code == Code::Kernel) == kernel);
            let names = places.filter_map(|place| self.names(place));
            names.flat_map(|names| names.iter()).map(|line| &*line.function)
        };
        let state = match key.state {
            State::Running => "running",
            State::Runnable => "runnable",
            State::Throttled => "throttled",
            State::Waiting if self.window.kind == Kind::Mutex => reason::of_wake(names(false)),
            State::Waiting => reason::of_wait(names(true), key.system_call),
        };
        state.into()
    }

    fn process(&self, life: LifeId) -> Arc<Process> {
        match self.table.life(life) {
            Some(life) => Arc::clone(&life.process),
            None => Arc::new(Process {
                pid: 0,
                start_ns: 0,
                comm: "".into(),
                exe: "".into(),
                cmdline: "".into(),
                cgroup: "".into(),
                viewer_uid: 0,
            }),
        }
    }

    fn names(&self, place: &Place) -> Option<&FrameNames> {
        match place.code {
            Code::Kernel => self.symbolizer.kernel_names(place.avma),
            Code::File(mapping) => {
                let offset = self.aggregate.mappings.get(&mapping)?.file_offset_of(place.avma);
                self.symbolizer.file_names(mapping, offset)
            }
            Code::Generated(life, _) => self.symbolizer.perf_map_names(life, place.avma),
            Code::Unmapped(_) | Code::Lost | Code::NotTaken => None,
        }
    }
}

/// Which mapping of a profile a place is in.
#[derive(PartialEq, Eq, Hash)]
enum Area {
    Kernel,
    File {
        path: Arc<str>,
        /// One file may follow another at a path and an address.
        build_id: Arc<str>,
        start: u64,
    },
    Generated(u64),
}

/// A profile under construction.
struct Parts<'a> {
    builder: &'a Builder<'a>,
    mappings: Vec<Mapping>,
    locations: Vec<Location>,
    functions: Vec<Function>,
    stacks: Vec<Box<[u32]>>,
    mapping_ids: HashMap<Area, u32>,
    location_ids: HashMap<u32, u32>,
    function_ids: HashMap<Function, u32>,
}

impl<'a> Parts<'a> {
    fn new(builder: &'a Builder<'a>, life: LifeId, process: &Process) -> Self {
        let mut parts = Self {
            builder,
            mappings: Vec::new(),
            locations: Vec::new(),
            functions: Vec::new(),
            stacks: Vec::new(),
            mapping_ids: HashMap::new(),
            location_ids: HashMap::new(),
            function_ids: HashMap::new(),
        };
        if let Some(life) = builder.table.life(life)
            && let Some(main) =
                life.current().find(|mapping| *mapping.path == *process.exe && mapping.has_file())
        {
            parts.user_mapping(main);
        }
        parts
    }

    fn stack(&mut self, stack: u32) -> u32 {
        let places = &self.builder.aggregate.stacks[stack as usize];
        let places = &places[self.of_ours(places)..];
        let locations = places.iter().map(|&place| self.location(place)).collect();
        self.stacks.push(locations);
        self.stacks.len() as u32 - 1
    }

    /// How many frames of a stack are those of the kernel calling our program, where it was taken
    /// as a thread gave its CPU up: there they begin with `__schedule`.
    fn of_ours(&self, places: &[u32]) -> usize {
        /// They are few.
        const MOST: usize = 16;
        if self.builder.window.kind == Kind::Cpu {
            return 0;
        }
        let mut places = places.iter().take(MOST);
        let first = places.position(|&place| {
            let names = self.builder.names(&self.builder.aggregate.places[place as usize]);
            names.is_some_and(|names| names.iter().any(|it| it.function.starts_with("__schedule")))
        });
        first.unwrap_or(0)
    }

    fn location(&mut self, place_id: u32) -> u32 {
        if let Some(&known) = self.location_ids.get(&place_id) {
            return known;
        }
        let builder = self.builder;
        let place = &builder.aggregate.places[place_id as usize];
        let mapping = self.mapping(place);
        let lines: Box<[Line]> = match builder.names(place) {
            Some(names) => names.iter().map(|name| self.line(name)).collect(),
            None if matches!(place.code, Code::Lost | Code::NotTaken) => {
                let is_lost = place.code == Code::Lost;
                let lost = NamedLine {
                    function: if is_lost { "[stack lost]" } else { "[stack not taken]" }.into(),
                    file: "".into(),
                    line: 0,
                    start_line: 0,
                };
                Box::new([self.line(&lost)])
            }
            None => Box::new([]),
        };
        if let Some(mapping) = mapping.and_then(|index| self.mappings.get_mut(index as usize)) {
            mapping.has_functions |= !lines.is_empty();
            mapping.has_line_numbers |= lines.iter().any(|line| line.line != 0);
            mapping.has_filenames |= lines.iter().any(|line| {
                self.functions.get(line.function as usize).is_some_and(|f| !f.file.is_empty())
            });
            mapping.has_inline_frames = builder.inlines && mapping.has_line_numbers;
        }
        let id = self.locations.len() as u32;
        self.locations.push(Location { mapping, avma: place.avma, lines });
        self.location_ids.insert(place_id, id);
        id
    }

    fn line(&mut self, name: &NamedLine) -> Line {
        let function = Function {
            name: Arc::clone(&name.function),
            file: Arc::clone(&name.file),
            start_line: name.start_line,
        };
        let next = self.functions.len() as u32;
        let id = *self.function_ids.entry(function.clone()).or_insert(next);
        if id == next {
            self.functions.push(function);
        }
        Line { function: id, line: name.line }
    }

    fn mapping(&mut self, place: &Place) -> Option<u32> {
        match place.code {
            Code::Kernel => Some(self.add_mapping(Area::Kernel, |builder| Mapping {
                start: KERNEL_START,
                end: u64::MAX,
                file_offset: 0,
                file: KERNEL_FILE.into(),
                build_id: Arc::clone(&builder.kernel_build_id),
                has_functions: false,
                has_filenames: false,
                has_line_numbers: false,
                has_inline_frames: false,
            })),
            Code::File(id) | Code::Generated(_, id) => {
                let mapping = Arc::clone(self.builder.aggregate.mappings.get(&id)?);
                Some(self.user_mapping(&mapping))
            }
            Code::Unmapped(_) | Code::Lost | Code::NotTaken => None,
        }
    }

    fn user_mapping(&mut self, mapping: &crate::process::Mapping) -> u32 {
        let build_id: Arc<str> = match self.builder.symbolizer.file(mapping.id) {
            Some(info) => info.build_id.as_str().into(),
            None => hexadecimal(&mapping.build_id).into(),
        };
        let area = if mapping.has_file() {
            Area::File {
                path: Arc::clone(&mapping.path),
                build_id: Arc::clone(&build_id),
                start: mapping.start,
            }
        } else {
            Area::Generated(mapping.start)
        };
        self.add_mapping(area, |_| Mapping {
            start: mapping.start,
            end: mapping.end,
            file_offset: mapping.file_offset,
            file: Arc::clone(&mapping.path),
            build_id,
            has_functions: false,
            has_filenames: false,
            has_line_numbers: false,
            has_inline_frames: false,
        })
    }

    fn add_mapping(&mut self, area: Area, make: impl FnOnce(&Builder<'_>) -> Mapping) -> u32 {
        let next = self.mappings.len() as u32;
        let id = *self.mapping_ids.entry(area).or_insert(next);
        if id == next {
            self.mappings.push(make(self.builder));
        }
        id
    }
}

/// Bytes as a build ID is written.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
