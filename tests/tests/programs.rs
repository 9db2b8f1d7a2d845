//! Programs in several languages: names, lines, inlined functions, labels.

use std::fs;

use rprofd_tests::{Profile, Program, Rprofd, TestDir, machine};

/// Profiles `rprofd -- PROGRAM ARGS` and returns the command's profile.
fn profile(test: &str, comm: &str, command: &[&str]) -> Profile {
    let dir = TestDir::new(test);
    let run = Rprofd::new(&dir).args(["--frequency", "499", "--"]).args(command).run();
    run.expect_success().profile_of(comm)
}

#[test]
fn c() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let program = Program::build("shares.c");
    let profile = profile("programs-c", "shares", &[program.arg(), "2"]);

    assert_eq!(profile.sample_types, ["samples/count", "cpu/nanoseconds"]);
    assert_eq!(profile.period_type, "cpu nanoseconds");
    assert_eq!(profile.period, 1_000_000_000 / 499);
    for (function, share) in
        [("burn_40", 0.4), ("burn_30", 0.3), ("burn_20", 0.2), ("burn_10", 0.1)]
    {
        let found = profile.share(function);
        assert!((found - share).abs() < 0.08, "{function}: {found}");
    }
    assert!(profile.share("main") > 0.95, "{}", profile.share("main"));

    let line = profile.locations.values().flat_map(|location| &location.lines);
    let mut lines = line.filter(|line| line.function == "burn_40");
    assert!(lines.all(|line| line.file.ends_with("tests/programs/shares.c") && line.line > 0));

    let own = &profile.mappings[0];
    let path = fs::canonicalize(program.path()).expect("canonicalize");
    assert_eq!(own.file, path.to_str().expect("UTF-8"), "the program's own mapping is the first");
    assert_eq!(own.build_id.len(), 40, "a GNU build ID: {}", own.build_id);
    assert_eq!(own.flags, "[FN][FL][LN][IN]");

    let sample = &profile.samples[0];
    assert_eq!(sample.labels["comm"], "shares");
    assert_eq!(sample.labels["thread"], "shares");
    assert_eq!(sample.labels["pid"], sample.labels["tid"], "its only thread");
    assert!(profile.comments.iter().any(|comment| comment.contains("499")), "the frequency");
}

#[test]
fn cpp_inlines_and_templates() {
    if !machine::can_profile() || !machine::has(&["g++", "go"]) {
        return;
    }
    let program = Program::build("inlines.cc");
    let profile = profile("programs-cpp", "inlines", &[program.arg(), "1"]);
    let inlined = profile.locations.values().find(|location| {
        let names: Vec<&str> = location.lines.iter().map(|line| line.function.as_str()).collect();
        matches!(names[..], [innermost, middle, burn]
            if innermost.starts_with("shapes::innermost")
                && middle.starts_with("shapes::middle")
                && burn.starts_with("shapes::Burner<int, 3>::burn"))
    });
    assert!(inlined.is_some(), "one location with three lines: {:#?}", profile.stacks());
    assert!(profile.share("main") > 0.9, "{:#?}", profile.stacks());
}

#[test]
fn rust() {
    if !machine::can_profile() || !machine::has(&["rustc", "go"]) {
        return;
    }
    let program = Program::build("work.rs");
    let profile = profile("programs-rust", "work", &[program.arg(), "1"]);
    let demangled = |frames: &[&str]| {
        frames.iter().any(|name| name.contains("Multiplier as work::Burn>::burn"))
            && frames.iter().any(|name| name.starts_with("work::drive"))
    };
    let within: i64 = profile
        .stacks()
        .iter()
        .filter(|(_, frames)| demangled(frames))
        .map(|(value, _)| value)
        .sum();
    assert!(within * 10 > profile.total("cpu") * 9, "{:#?}", profile.stacks());
    let worker = profile.total_where("samples", |sample| sample.labels["thread"] == "worker");
    assert!(worker > 50, "{worker} samples of the thread “worker”");
}

#[test]
fn go() {
    if !machine::can_profile() || !machine::has(&["go"]) {
        return;
    }
    let program = Program::build("work.go");
    let profile = profile("programs-go", "work", &[program.arg(), "1"]);
    assert!(profile.share("main.multiply") > 0.8, "{:#?}", profile.stacks());
    assert!(profile.share("main.drive") > 0.8, "{:#?}", profile.stacks());
    assert!(!profile.mappings[0].build_id.is_empty());
}

/// Stripped, a Go program has neither DWARF nor a symbol table, but its runtime's table.
#[test]
fn stripped_go() {
    if !machine::can_profile() || !machine::has(&["go"]) {
        return;
    }
    for mode in ["-buildmode=exe", "-buildmode=pie"] {
        let program = Program::build_with("work.go", &[mode, "-ldflags=-s -w"]);
        let profile = profile("programs-stripped-go", "work", &[program.arg(), "1"]);
        for function in ["main.multiply", "main.main.func1"] {
            assert!(profile.share(function) > 0.8, "{mode} {function}: {:#?}", profile.stacks());
        }
        let lines = profile.locations.values().flat_map(|location| &location.lines);
        let multiply: Vec<_> = lines.filter(|line| line.function == "main.multiply").collect();
        assert!(!multiply.is_empty());
        for line in multiply {
            assert!(line.file.ends_with("tests/programs/work.go"), "{}", line.file);
            // From the function's first line to its last.
            assert!((15..=20).contains(&line.line), "{mode}: line {}", line.line);
        }
    }
}

#[test]
fn node_with_a_perf_map() {
    if !machine::can_profile() || !machine::has(&["node", "go"]) {
        return;
    }
    let script = rprofd_tests::programs::source_path("work.js");
    let script = script.to_str().expect("UTF-8");
    // Else V8 may take `multiply` into `drive`: its perf map has no inlined functions.
    let node = ["node", "--perf-basic-prof", "--no-turbo-inlining", script, "12"];
    let profile = profile("programs-node", "node", &node);
    let named = profile.total_where("cpu", |sample| {
        let frames = profile.frames(sample);
        frames.iter().any(|name| name.contains("multiply") && name.contains("work.js"))
    });
    assert!(named * 2 > profile.total("cpu"), "{:#?}", profile.stacks());
    // Through V8's built-in functions, too, which `work` was called by; once node's table is made,
    // which takes a debug build of rprofd a while.
    let count = |key| profile.count(key).unwrap_or(0);
    let guessed = count("outcome.guessed");
    assert!(count("outcome.complete") > guessed * 2, "{:?}", profile.counts());
}
