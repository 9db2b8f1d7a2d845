//! Read back by a program that is not ours: `go tool pprof`.

use std::{collections::BTreeMap, io::Read as _, process::Command};

use flate2::read::GzDecoder;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::profile::{
    Function, Kind, Mapping, Process, Window,
    merge::{MergedName, merge},
    sample::{any_profile, empty, process, program},
};

/// What `go tool pprof -symbolize=none ARGUMENTS` prints for the profile; nothing, with a reason,
/// where there is no Go.
///
/// # Panics
///
/// If pprof refuses the profile, or under `RPROFD_TEST_REQUIRE=1` if there is no Go.
fn pprof(profile: &Profile, arguments: &[&str]) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("profile.pb.gz");
    std::fs::write(&file, encode(profile)).unwrap();
    let mut command = Command::new("go");
    command.args(["tool", "pprof", "-symbolize=none"]).args(arguments).arg(&file);
    let output = match command.env("PPROF_TMPDIR", directory.path()).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(
                std::env::var_os("RPROFD_TEST_REQUIRE").is_none_or(|it| it != "1"),
                "go: {error}"
            );
            println!("skipped: `go tool pprof` cannot be run: {error}");
            return None;
        }
    };
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Samples as pprof's `-raw` has them, added up: labels and frames → values.
type Samples = BTreeMap<(String, Vec<String>), [i64; 2]>;

fn parse_raw(raw: &str) -> Samples {
    let section = |from: &str, to: &str| {
        let start = raw.find(from).unwrap() + from.len();
        let end = if to.is_empty() { raw.len() } else { start + raw[start..].find(to).unwrap() };
        raw[start..end].lines()
    };
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();

    // "1: 0x400000/0x404000/0x1000 /usr/bin/app 2f75 [FN]"
    let mut mappings = BTreeMap::new();
    for line in section("\nMappings\n", "") {
        let mut words = line.split(' ');
        let id = words.next().unwrap().trim_end_matches(':').to_owned();
        let range: Vec<u64> = words.next().unwrap().split('/').map(hex).collect();
        mappings.insert(id, (range, words.collect::<Vec<_>>().join(" ").trim_end().to_owned()));
    }
    // "     1: 0x400200 M=1 step /src/step.c:31:0 s=30", further lines begin with 13 spaces.
    let mut locations: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in section("\nLocations\n", "Mappings\n") {
        if let Some(inlined) = line.strip_prefix("             ") {
            let location = locations.get_mut(&current).unwrap();
            location.push_str(" / ");
            location.push_str(inlined.trim());
            continue;
        }
        let (id, rest) = line.split_once(": ").unwrap();
        current = id.trim().to_owned();
        let (avma, rest) = rest.split_once(' ').unwrap();
        let mut name = rest.trim().to_owned();
        let mut place = String::new();
        if let Some(mapped) = rest.strip_prefix("M=") {
            let (mapping, rest) = mapped.split_once(' ').unwrap();
            let (range, file) = &mappings[mapping];
            place = format!(" {:#x} in {file}", hex(avma) - range[0] + range[2]);
            name = rest.trim().to_owned();
        }
        locations.insert(current.clone(), format!("{place} {name}"));
    }
    let mut samples = Samples::new();
    let mut lines = section("\nSamples:\n", "Locations\n").skip(1).peekable();
    while let Some(line) = lines.next() {
        let (values, stack) = line.split_once(':').unwrap();
        let values: Vec<i64> = values.split_whitespace().map(|it| it.parse().unwrap()).collect();
        let mut labels = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("                ")) {
            labels.push(line.trim().to_owned());
        }
        let frames = stack.split_whitespace().map(|id| locations[id].clone()).collect();
        let sum = samples.entry((labels.join(" "), frames)).or_default();
        *sum = [sum[0] + values[0], sum[1] + values[1]];
    }
    samples
}

/// What [`parse_raw`] is to find.
fn expected(profile: &Profile) -> Samples {
    let frame = |&index: &u32| {
        let location = &profile.locations[index as usize];
        let lines = location.lines.iter().map(|line| {
            let Function { name, file, start_line } = &profile.functions[line.function as usize];
            format!("{name} {file}:{}:0 s={start_line}", line.line)
        });
        let place = profile.mapping_of(location).map(|mapping| {
            let flags = [
                (mapping.has_functions, "[FN]"),
                (mapping.has_filenames, "[FL]"),
                (mapping.has_line_numbers, "[LN]"),
                (mapping.has_inline_frames, "[IN]"),
            ];
            let flags: String = flags.iter().filter(|it| it.0).map(|it| it.1).collect();
            let offset = location.avma - mapping.start + mapping.file_offset;
            let file = format!("{} {} {flags}", mapping.file, mapping.build_id);
            format!(" {offset:#x} in {}", file.trim_end())
        });
        format!("{} {}", place.unwrap_or_default(), lines.collect::<Vec<_>>().join(" / "))
    };
    let mut samples = Samples::new();
    for sample in &profile.samples {
        let Process { pid, comm, cgroup, .. } = &*profile.processes[sample.process as usize];
        let labels = format!(
            "cgroup:[{cgroup}] comm:[{comm}] thread:[{}] pid:[{pid}] tid:[{}]",
            sample.thread, sample.tid
        );
        let frames = profile.stacks[sample.stack as usize].iter().map(frame).collect();
        let sum = samples.entry((labels, frames)).or_default();
        *sum = [sum[0] + sample.values[0], sum[1] + sample.values[1]];
    }
    samples
}

/// The profile with every string made a word, so that `-raw`, which quotes nothing, is unambiguous.
/// Equal strings stay equal.
fn with_plain_words(mut profile: Profile) -> Profile {
    let mut words = BTreeMap::new();
    let mut word = |text: &std::sync::Arc<str>| {
        let next = words.len();
        format!("w{}", words.entry(text.clone()).or_insert(next)).into()
    };
    for function in &mut profile.functions {
        function.name = word(&function.name);
        function.file = word(&function.file);
    }
    for sample in &mut profile.samples {
        sample.thread = word(&sample.thread);
    }
    for (index, Mapping { start, end, file, build_id, .. }) in
        profile.mappings.iter_mut().enumerate()
    {
        // pprof joins mappings by build ID and by size in pages, flags and all.
        *file = format!("file{index}").into();
        *build_id = format!("{index:02x}").into();
        *end = end.next_multiple_of(4096).max(*start + 4096);
    }
    for process in &mut profile.processes {
        let process = std::sync::Arc::make_mut(process);
        process.comm = word(&process.comm);
        process.cgroup = word(&process.cgroup);
    }
    profile
}

#[test]
fn bytes_are_gzip_without_a_time_and_always_the_same() {
    let profile = program(7, "app", 0x40_0000);
    let bytes = encode(&profile);
    assert_eq!(bytes, encode(&profile.clone()));
    assert_eq!(bytes[..3], [0x1f, 0x8b, 8]);
    assert_eq!(bytes[4..8], [0; 4], "modification time");
    let mut plain = Vec::new();
    GzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, encode_plain(&profile));
}

#[test]
fn parts_make_one_message() {
    let mut profile = program(7, "app", 0x40_0000);
    let sample = profile.samples[0].clone();
    profile.samples =
        (1..=3 * CHUNK as u32 + 1).map(|tid| Sample { tid, ..sample.clone() }).collect();
    let message = proto::Profile::decode(&*encode_plain(&profile)).unwrap();
    assert_eq!(message.sample.len(), profile.samples.len());
    assert_eq!(message.string_table[0], "");
    let ids = |ids: Vec<u64>| assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    ids(message.mapping.iter().map(|mapping| mapping.id).collect());
    ids(message.function.iter().map(|function| function.id).collect());
    ids(message.location.iter().map(|location| location.id).collect());
    let string = |index: i64| &*message.string_table[index as usize];
    assert_eq!(string(message.function[0].system_name), "main");
    assert_eq!(message.time_nanos, 1_795_449_600_000_000_000);
    assert_eq!(message.duration_nanos, 10_000_000_000);
}

#[test]
fn pprof_reads_the_header() {
    let Some(raw) = pprof(&program(7, "app", 0x40_0000), &["-raw"]) else { return };
    for line in [
        "PeriodType: cpu nanoseconds",
        "Period: 10000000",
        "samples/count cpu/nanoseconds[dflt]",
        "Duration: 10s",
    ] {
        assert!(raw.lines().any(|it| it.trim() == line), "no {line:?} in\n{raw}");
    }
}

#[test]
fn pprof_reads_every_sample_back() {
    let profile = program(7, "app", 0x40_0000);
    let Some(raw) = pprof(&profile, &["-raw"]) else { return };
    assert_eq!(parse_raw(&raw), expected(&profile));
}

#[test]
fn pprof_reads_any_profile_back() {
    if pprof(&empty(7, "app"), &["-raw"]).is_none() {
        return;
    }
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&any_profile(), |profile| {
        let profile = with_plain_words(profile);
        let raw = pprof(&profile, &["-raw"]).unwrap();
        assert_eq!(parse_raw(&raw), expected(&profile), "{raw}");
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn pprof_takes_hostile_strings() {
    if pprof(&empty(7, "app"), &["-raw"]).is_none() {
        return;
    }
    let config = Config { cases: 4, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&any_profile(), |profile| {
        for report in ["-top", "-traces", "-tags", "-raw"] {
            pprof(&profile, &[report]).unwrap();
        }
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn pprof_takes_an_empty_profile() {
    let Some(top) = pprof(&empty(7, "app"), &["-top"]) else { return };
    assert!(top.contains("Type: cpu"), "{top}");
    assert!(top.contains("Total samples = 0"), "{top}");
}

#[test]
fn pprofs_top_is_ours() {
    let profile = program(7, "app", 0x40_0000);
    let Some(top) = pprof(&profile, &["-top", "-unit=ms", "-nodefraction=0"]) else { return };
    assert!(top.contains("File: app"), "{top}");
    let rows: BTreeMap<String, [String; 2]> = top
        .lines()
        .skip_while(|line| !line.contains("flat%"))
        .skip(1)
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let function = words.get(5)?.to_string();
            // An unnamed frame has its address and its file's name.
            let name = if function.starts_with("0000") { words[6].into() } else { function };
            Some((name, [words[0].to_owned(), words[3].to_owned()]))
        })
        .collect();
    let milliseconds = |value: i64| match value / 1_000_000 {
        0 => "0".to_owned(),
        value => format!("{value}ms"),
    };
    let ours: BTreeMap<String, [String; 2]> = crate::profile::top::Top::of(&profile)
        .hottest(10)
        .into_iter()
        .map(|entry| {
            let name = if entry.name.starts_with('[') { "[libc.so.6]" } else { &*entry.name };
            (name.to_owned(), [milliseconds(entry.flat), milliseconds(entry.cumulative)])
        })
        .collect();
    assert_eq!(rows, ours, "{top}");
}

#[test]
fn pprof_names_a_profile_of_everything_host() {
    let profiles = [program(7, "app", 0x40_0000), program(8, "app", 0x7f00_0000_0000)];
    let window = Window {
        kind: Kind::Cpu,
        start: profiles[0].start,
        duration: profiles[0].duration,
        period: profiles[0].period,
        losses: Vec::new(),
        comments: vec!["lost.ring_buffer=3".to_owned()],
    };
    let merged = merge(&window, &profiles.iter().collect::<Vec<_>>(), MergedName::Host);
    let Some(top) = pprof(&merged, &["-top", "-unit=ms"]) else { return };
    for part in
        ["File: [host]", "lost.ring_buffer=3", "outcome.complete=18", "Total samples = 200ms"]
    {
        assert!(top.contains(part), "no {part:?} in\n{top}");
    }
    let raw = pprof(&merged, &["-raw"]).unwrap();
    assert_eq!(parse_raw(&raw), expected(&merged));
}

#[test]
fn pprof_shows_traces_and_tags() {
    let profile = program(7, "app", 0x40_0000);
    let Some(traces) = pprof(&profile, &["-traces", "-sample_index=samples"]) else { return };
    let words: Vec<_> = traces.split_whitespace().collect();
    assert!(words.windows(5).any(|it| it == ["5", "step", "(inline)", "work", "main"]), "{traces}");
    let tags = pprof(&profile, &["-tags", "-sample_index=samples"]).unwrap();
    for (key, value) in [
        ("pid", "7"),
        ("tid", "7"),
        ("comm", "app"),
        ("thread", "app"),
        ("cgroup", "/system.slice"),
    ] {
        let values = tags.split(&format!("{key}: Total")).nth(1).unwrap_or_default();
        let values = values.lines().nth(1).unwrap_or_default();
        assert!(values.contains(value), "no {key} {value:?} in\n{tags}");
    }
}

#[test]
fn pprof_shows_comments() {
    let mut profile = program(7, "app", 0x40_0000);
    profile.processes = vec![std::sync::Arc::new(Process {
        cmdline: "app \x1b[31m\nred".into(),
        ..(*process(7, "app")).clone()
    })];
    let Some(comments) = pprof(&profile, &["-comments"]) else { return };
    let lines: Vec<_> = comments.lines().collect();
    assert_eq!(
        lines,
        [
            r"command_line=app \u{1b}[31m\nred",
            "host=box",
            "outcome.complete=9",
            "outcome.truncated=1"
        ]
    );
}
