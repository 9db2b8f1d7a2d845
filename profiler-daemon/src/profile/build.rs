//! From what was added up to profiles: one per process, with names.

use std::{collections::HashMap, sync::Arc};

use super::{
    Function, Kind, Line, Location, Mapping, Process, Profile, Sample, Window,
    aggregate::{Aggregate, Code, Place},
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
    /// The running kernel's build ID; empty if unknown.
    pub kernel_build_id: Arc<str>,
    /// Inlined functions were asked for.
    pub inlines: bool,
}

impl Builder<'_> {
    /// A profile for each process that was sampled.
    pub fn build(&self) -> Vec<Profile> {
        let mut by_life: HashMap<LifeId, Vec<(u32, u32, u32, u64)>> = HashMap::new();
        for (key, &count) in &self.aggregate.counts {
            by_life.entry(key.life).or_default().push((key.stack, key.tid, key.thread, count));
        }
        let mut profiles: Vec<_> = by_life
            .into_iter()
            .map(|(life, mut samples)| {
                samples.sort_unstable();
                self.profile(life, &samples)
            })
            .collect();
        profiles.sort_by_key(|profile| profile.processes.first().map(|p| (p.pid, p.start_ns)));
        profiles
    }

    fn profile(&self, life: LifeId, samples: &[(u32, u32, u32, u64)]) -> Profile {
        let process = self.process(life);
        let mut parts = Parts::new(self, life, &process);
        let mut stacks = HashMap::new();
        let period = self.window.period;
        let samples = samples
            .iter()
            .map(|&(stack, tid, thread, count)| {
                let stack = *stacks.entry(stack).or_insert_with(|| parts.stack(stack));
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                let nanoseconds = count.saturating_mul(i64::try_from(period).unwrap_or(i64::MAX));
                Sample {
                    stack,
                    process: 0,
                    tid,
                    thread: Arc::clone(&self.aggregate.threads[thread as usize]),
                    values: match self.window.kind {
                        Kind::Cpu => [count, nanoseconds],
                    },
                }
            })
            .collect();
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
            comments: self.window.comments.clone(),
        }
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
            Code::Unmapped(_) | Code::Lost => None,
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
        let locations = places.iter().map(|&place| self.location(place)).collect();
        self.stacks.push(locations);
        self.stacks.len() as u32 - 1
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
            None if place.code == Code::Lost => {
                let lost = NamedLine {
                    function: "[stack lost]".into(),
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
            Code::Unmapped(_) | Code::Lost => None,
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
