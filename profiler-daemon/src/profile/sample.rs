//! Profiles that tests of several modules share.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    sample::Index,
};

use super::{
    Function, Kind, Labels, Line, Location, Mapping, Outcomes, Process, Profile, Sample, Spent,
};

/// A named mapping with a build ID made of its name.
pub(crate) fn mapping(start: u64, end: u64, file_offset: u64, file: &str) -> Mapping {
    Mapping {
        start,
        end,
        file_offset,
        file: file.into(),
        build_id: file.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
    }
}

/// A process whose program is `/usr/bin/COMM`.
pub(crate) fn process(pid: u32, comm: &str) -> Arc<Process> {
    Arc::new(Process {
        pid,
        start_ns: u64::from(pid) * 1_000,
        comm: comm.into(),
        exe: format!("/usr/bin/{comm}").into(),
        cmdline: format!("{comm} --serve").into(),
        cgroup: "/system.slice/web.service".into(),
        viewer_uid: 1000,
    })
}

/// A profile without samples.
pub(crate) fn empty(pid: u32, comm: &str) -> Profile {
    Profile {
        kind: Kind::Cpu,
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_449_600),
        duration: Duration::from_secs(10),
        period: 10_000_000,
        processes: vec![process(pid, comm)],
        mappings: Vec::new(),
        locations: Vec::new(),
        functions: Vec::new(),
        stacks: Vec::new(),
        samples: Vec::new(),
        outcomes: Outcomes::default(),
        spent: Spent::default(),
        comments: vec!["host=box".to_owned()],
    }
}

/// A process with its program at `base`: `main` calls `work` (with `step` inlined into it), which
/// calls the kernel or an unnamed function of libc.
///
/// | stack (root first) | samples |
/// |---|---|
/// | main, work, step | 5 |
/// | main, work, step, read (kernel) | 3 |
/// | main, work, step, libc+0x1010 | 2 |
pub(crate) fn program(pid: u32, comm: &str, base: u64) -> Profile {
    let function = |name: &str, start_line| Function {
        name: name.into(),
        file: format!("/src/{name}.c").into(),
        start_line,
    };
    let line = |function, line| Line { function, line };
    let location = |mapping, avma, lines: &[Line]| Location {
        mapping: Some(mapping),
        avma,
        lines: lines.into(),
    };
    let sample = |stack, count| Sample {
        stack,
        process: 0,
        tid: pid,
        thread: comm.into(),
        state: "".into(),
        labels: Labels::default(),
        values: [count, count * 10_000_000],
        others: [0; 2],
        object_bytes: 0,
    };
    Profile {
        mappings: vec![
            mapping(base, base + 0x4000, 0x1000, &format!("/usr/bin/{comm}")),
            mapping(base + 0x10_0000, base + 0x11_0000, 0x1000, "/usr/lib/libc.so.6"),
            mapping(0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000, 0, "[kernel.kallsyms]"),
        ],
        functions: vec![
            function("main", 10),
            function("work", 20),
            function("step", 30),
            Function { name: "read".into(), file: "".into(), start_line: 0 },
        ],
        locations: vec![
            location(0, base + 0x100, &[line(0, 12)]),
            location(0, base + 0x200, &[line(2, 31), line(1, 22)]),
            location(1, base + 0x10_0010, &[]),
            location(2, 0xffff_ffff_8100_0040, &[line(3, 0)]),
        ],
        stacks: vec![Box::new([1, 0]), Box::new([3, 1, 0]), Box::new([2, 1, 0])],
        samples: vec![sample(0, 5), sample(1, 3), sample(2, 2)],
        spent: Spent::default(),
        outcomes: Outcomes { complete: 9, truncated: 1, ..Outcomes::default() },
        ..empty(pid, comm)
    }
}

/// Text as hostile as a file name or a comm can be.
pub(crate) fn any_text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        "[a-z]{1,8}".prop_map(Arc::from),
        "\\PC{0,20}".prop_map(Arc::from),
        any::<String>().prop_map(Arc::from),
        Just(Arc::from("a;b 12\n\x1b[31m<&\">\u{fffe}_[k]")),
    ]
}

/// Any profile of up to three processes whose indices are in range. No sample counts zero: none
/// that was taken does, and pprof keeps some of those and drops others.
pub(crate) fn any_profile() -> impl Strategy<Value = Profile> {
    use proptest::{collection::vec, option};
    let processes = vec((1..100_u32, any_text(), any_text()), 1..4);
    let mappings =
        vec((0..1_u64 << 40, 1..1_u64 << 20, 0..1_u64 << 20, any_text(), any::<bool>()), 1..4);
    let functions = vec((any_text(), any_text(), any::<u32>()), 1..6);
    let locations = vec(
        (option::of(any::<Index>()), any::<u32>(), vec((any::<Index>(), any::<u32>()), 0..3)),
        1..8,
    );
    let stacks = vec(vec(any::<Index>(), 0..6), 1..6);
    let samples = vec((any::<Index>(), any::<Index>(), 1..9_u32, any_text(), 1..1_000_i64), 0..20);
    (processes, mappings, functions, locations, stacks, samples, vec(0..9_u64, 8)).prop_map(
        |(processes, mappings, functions, locations, stacks, samples, counts)| {
            let processes: Vec<_> = processes
                .into_iter()
                .map(|(pid, comm, cgroup)| {
                    Arc::new(Process {
                        cgroup,
                        cmdline: Arc::clone(&comm),
                        ..(*process(pid, &comm)).clone()
                    })
                })
                .collect();
            let mappings: Vec<_> = mappings
                .into_iter()
                .map(|(start, size, offset, file, has_names)| Mapping {
                    has_functions: has_names,
                    ..mapping(start, start + size, offset, &file)
                })
                .collect();
            let functions: Vec<_> = functions
                .into_iter()
                .map(|(name, file, start_line)| Function { name, file, start_line })
                .collect();
            let locations: Vec<_> = locations
                .into_iter()
                .map(|(mapping, offset, lines)| {
                    let mapping = mapping.map(|index| index.index(mappings.len()));
                    let covering = mapping.map(|index| &mappings[index]);
                    Location {
                        mapping: mapping.map(|index| index as u32),
                        avma: covering
                            .map_or(0, |it| it.start + u64::from(offset) % (it.end - it.start)),
                        lines: lines
                            .into_iter()
                            .map(|(function, line)| Line {
                                function: function.index(functions.len()) as u32,
                                line,
                            })
                            .collect(),
                    }
                })
                .collect();
            let stacks: Vec<Box<[u32]>> = stacks
                .into_iter()
                .map(|stack| stack.into_iter().map(|it| it.index(locations.len()) as u32).collect())
                .collect();
            let samples = samples
                .into_iter()
                .map(|(stack, process, tid, thread, count)| Sample {
                    stack: stack.index(stacks.len()) as u32,
                    process: process.index(processes.len()) as u32,
                    tid,
                    thread,
                    state: "".into(),
                    labels: Labels::default(),
                    values: [count, count * 10_000_000],
                    others: [0; 2],
                    object_bytes: 0,
                })
                .collect();
            Profile {
                processes,
                mappings,
                functions,
                locations,
                stacks,
                samples,
                spent: Spent::default(),
                outcomes: Outcomes {
                    complete: counts[0],
                    guessed: counts[1],
                    truncated: counts[2],
                    no_mapping: counts[3],
                    no_rule: counts[4],
                    unsupported_rule: counts[5],
                    unreadable: counts[6],
                    none: counts[7],
                },
                ..empty(1, "app")
            }
        },
    )
}
