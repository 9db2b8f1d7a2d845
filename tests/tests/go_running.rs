//! Go programs as they run: goroutines that have a CPU, labels, and what `go test` runs.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use rprofd_tests::{
    Profile, Rprofd, TestDir, machine,
    pprof::Sample,
    programs::{Running, build_go, go_toolchains},
    serve::Daemon,
};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"])
}

/// Those that run are met by the clock, and have the stack that they are met with.
#[test]
fn goroutines_that_run_have_stacks() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-running");
    let daemon = Daemon::start(&dir, &[]);
    for toolchain in go_toolchains() {
        for flags in [&[][..], &["-ldflags=-s -w"], &["-buildmode=pie"]] {
            let path = build_go(&dir, "golabels.go", &toolchain, flags);
            for labels in ["none", "two"] {
                let running = Running::start(Command::new(&path).arg(labels));
                let url = format!("/pid/{}/debug/pprof/goroutine?debug=2", running.pid());
                let begun = Instant::now();
                loop {
                    let text = daemon.get(&url).text();
                    let mut all = text.split("\n\n");
                    let of_main = all.find(|it| it.starts_with("goroutine 1 [running]"));
                    let lines = of_main.unwrap_or_default().lines().skip(1).step_by(2);
                    let functions: Vec<_> = lines.map(|it| it.trim_end_matches("(...)")).collect();
                    // Between two rounds it is elsewhere, and at first there are no names.
                    if functions.contains(&"main.checkout")
                        && functions.last() == Some(&"main.main")
                    {
                        break;
                    }
                    let is_late = begun.elapsed() > Duration::from_secs(60);
                    assert!(!is_late, "{toolchain} {flags:?} {labels}: {text}");
                }
            }
        }
    }
}

/// What a program says of its own samples by labels, of each that a function is in.
#[test]
fn labels_tell_what_a_goroutine_does() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-labels");
    let daemon = Daemon::start(&dir, &[]);
    for toolchain in go_toolchains() {
        for flags in [&[][..], &["-ldflags=-s -w"], &["-buildmode=pie"]] {
            let path = build_go(&dir, "golabels.go", &toolchain, flags);
            let running = Running::start(&mut Command::new(&path));
            let profile = labelled(&daemon, running.pid());
            let what = format!("{toolchain} {flags:?}");
            for (function, labels) in [
                ("main.checkout", &[("handler", "checkout"), ("tier", "gold")][..]),
                ("main.search", &[("handler", "search"), ("go.pid", "1")]),
                ("main.build", &[("handler", "build"), ("a", "1"), ("h", "8")]),
                ("main.odd", &[("handler", "a turn that is the odd one")]),
                ("main.even", &[("handler", "a turn that is an even one")]),
                ("main.unlabelled", &[]),
            ] {
                let of = |sample: &Sample| profile.has_function(sample, function);
                let all = profile.total_where("samples", of);
                let told = profile.total_where("samples", |sample| {
                    let has = |(key, value): &(&str, &str)| {
                        sample.labels.get(*key).is_some_and(|it| it == value)
                    };
                    of(sample)
                        && labels.iter().all(has)
                        && (!labels.is_empty() || !sample.labels.contains_key("handler"))
                });
                assert!(all > 20, "{what}: {all} samples of {function}");
                // A label is set right before a function is called, and taken off right behind.
                assert!(told * 100 >= all * 99, "{what}: {told} of {all} samples of {function}");
            }
            let long = profile.samples.iter().find_map(|it| it.labels.get("long"));
            assert_eq!(*long.expect("it is there"), format!("{}…", "x".repeat(80)), "{what}");
        }
    }
}

/// A profile of a process, from when its labels and the names of its functions are known on.
fn labelled(daemon: &Daemon, pid: u32) -> Profile {
    let begun = Instant::now();
    let mut seconds = 2;
    loop {
        let path = format!("/pid/{pid}/debug/pprof/profile?seconds={seconds}&hz=499");
        let profile = daemon.profile(&path);
        let has_labels = profile.samples.iter().any(|it| it.labels.contains_key("handler"));
        let is_named = profile.locations.values().all(|it| !it.lines.is_empty());
        // On a full machine a program has a small share of the time.
        let has_enough = profile.total("samples") > 700;
        if has_labels && is_named && has_enough || begun.elapsed() > Duration::from_secs(60) {
            return profile;
        }
        if !has_enough {
            seconds = (seconds * 2).min(16);
        }
    }
}

/// What `go test -bench` would write of itself is to be had of the test's program alone.
#[test]
fn a_benchmark_of_go_is_profiled_without_its_compiler() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-bench");
    std::fs::write(dir.join("go.mod"), "module sums\n\ngo 1.19\n").expect("write");
    std::fs::write(dir.join("sums_test.go"), BENCHMARK).expect("write");
    let run = Rprofd::new(&dir)
        .args(["-k", "cpu,heap,goroutine", "--exe", "*.test", "--"])
        .args(["go", "test", "-bench", ".", "-benchtime", "3s"])
        .run()
        .expect_success();
    assert!(run.stdout_text().contains("BenchmarkSums"), "{}", run.stdout_text());
    let of = |kind: &str| Profile::read(&run.file("sums.test.", &format!("{kind}.pb.gz")));
    let cpu = of("cpu");
    let own = cpu.total_where("samples", |sample| cpu.has_function(sample, "sums.sum"));
    assert!(own > 100 && own * 10 > cpu.total("samples") * 9, "{own}");
    // Programs that go test runs are stripped.
    let complete = cpu.count("outcome.complete").unwrap_or_default() as i64;
    assert!(complete * 10 > cpu.total("samples") * 9, "{complete}: {:?}", cpu.comments);
    let heap = of("heap");
    let row = run.stderr.lines().filter(|line| line.contains("sums.test.heap.pb.gz"));
    assert!(row.clone().any(|line| line.contains("MB ")), "{}", run.stderr);
    let kept = heap.total_where("inuse_space", |it| heap.has_function(it, "sums.BenchmarkSums"));
    assert!(kept >= 8 << 20, "{kept}");
    assert!(heap.comments.iter().any(|it| it.starts_with("snapshot_age_ms=")), "{heap:?}");
    let goroutines = of("goroutine");
    assert!(goroutines.total("goroutine") >= 2);
    let names = run.file_names();
    let is_other = |it: &&String| !it.starts_with("sums.test.") && !it.starts_with("all.");
    assert_eq!(names.iter().find(is_other), None, "{names:?}");
}

const BENCHMARK: &str = "package sums

import \"testing\"

var kept []byte
var sink int

//go:noinline
func sum(numbers []byte) (all int) {
	for _, it := range numbers {
		all += int(it)
	}
	return all
}

func BenchmarkSums(b *testing.B) {
	if kept == nil {
		kept = make([]byte, 16<<20)
	}
	for i := 0; i < b.N; i++ {
		sink += sum(kept[:1<<20])
	}
}
";
