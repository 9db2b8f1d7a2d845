//! Stacks: whole, user and kernel.

use rprofd_tests::{Program, Rprofd, TestDir, machine};

#[test]
fn recursion_is_whole_down_to_start() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let dir = TestDir::new("stacks-recursion");
    let program = Program::build_with(
        "recurse.c",
        &["-nostdlib", "-static", "-fno-stack-protector", "-fcf-protection=none"],
    );
    let run = Rprofd::new(&dir).args(["--user-only", "--", program.arg()]).run();
    let profile = run.expect_success().profile_of("recurse");

    let mut expected = vec!["bottom"];
    expected.extend(["descend"; 1000]);
    expected.extend(["run", "_start"]);
    let total = profile.total("samples");
    let whole = profile.total_where("samples", |sample| profile.frames(sample) == expected);
    assert!(total > 20, "{total} samples");
    // A sample may hit a function before it has made its frame.
    assert!(whole * 100 >= total * 98, "{whole} of {total} samples are whole");
    // Whole, be it known or, as far as frame pointers go, guessed.
    let ended_well: u64 =
        ["outcome.complete", "outcome.guessed"].iter().filter_map(|key| profile.count(key)).sum();
    // A sample may also hit the `exec`, before the program's mappings are known.
    assert!(ended_well * 100 >= total.unsigned_abs() * 98, "{:?}", profile.counts());
}

#[test]
fn user_stack_of_a_sample_in_the_kernel() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let dir = TestDir::new("stacks-kernel");
    let program = Program::build("reads.c");
    let run = Rprofd::new(&dir).args(["--", program.arg(), "1"]).run();
    let profile = run.expect_success().profile_of("reads");
    let in_kernel = profile.total_where("samples", |sample| profile.is_kernel(sample.stack[0]));
    let both = profile.total_where("samples", |sample| {
        let frames = profile.frames(sample);
        let position = |name| frames.iter().position(|frame| *frame == name);
        profile.is_kernel(sample.stack[0]) && position("read_zeros") < position("main")
    });
    assert!(in_kernel * 2 > profile.total("samples"), "{:#?}", profile.stacks());
    assert!(both * 10 >= in_kernel * 9, "{both} of {in_kernel}: {:#?}", profile.stacks());
    let kernel = profile.mappings.iter().find(|mapping| mapping.file.contains("kernel"));
    assert!(kernel.is_some(), "{:?}", profile.mappings);
}

#[test]
fn one_stack_alone() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let dir = TestDir::new("stacks-alone");
    let program = Program::build("reads.c");
    for (option, kernel) in [("--user-only", false), ("--kernel-only", true)] {
        let run = Rprofd::new(&dir).args([option, "--", program.arg(), "1"]).run();
        let profile = run.expect_success().profile_of("reads");
        let frames = profile.samples.iter().flat_map(|sample| &sample.stack);
        for id in frames {
            assert_eq!(profile.is_kernel(*id), kernel, "{option}: {:?}", profile.locations[id]);
        }
    }
}
