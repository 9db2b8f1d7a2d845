//! Stacks of programs without frame pointers: walked by their unwind tables.

use std::sync::{Mutex, PoisonError};

use rprofd_tests::{Program, Rprofd, TestDir, machine};

/// One at a time: until a file's table is made there is no other way than along frame pointers, and
/// a debug build takes its time to make libc's.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a shape of the program, and expects all stacks of its busy leaf to go through `through`,
/// leaf first, down to `root`.
fn shape(name: &str, through: &[&str], root: &str) {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TestDir::new(&format!("unwinding-{name}"));
    let program = Program::build_with("shapes.c", &["-O2", "-fomit-frame-pointer", "-pthread"]);
    let run = Rprofd::new(&dir).args(["-F", "499", "--user-only", "--", program.arg(), name]).run();
    let profile = run.expect_success().profile_of("shapes");
    let total = profile.total("samples");
    let whole = profile.total_where("samples", |sample| {
        let frames = profile.frames(sample);
        let Some(leaf) = frames.iter().position(|frame| *frame == "busy") else { return false };
        let is_through = frames[leaf + 1..].iter().filter(|frame| through.contains(frame));
        is_through.eq(through) && frames.last().is_some_and(|last| last.starts_with(root))
    });
    assert!(total > 300, "{total} samples");
    let complete = profile.count("outcome.complete").unwrap_or(0);
    assert!(complete * 100 >= total.unsigned_abs() * 60, "{:?}", profile.counts());
    // Nothing is called complete that is not whole, but for the program's start and end.
    let complete = i64::try_from(complete).unwrap();
    assert!(whole * 100 >= complete * 97, "{whole} of {complete}: {:#?}", profile.stacks());
}

#[test]
fn deep_recursion() {
    let mut through = vec!["descend"; 1001];
    through.push("main");
    shape("recursion", &through, "_start");
}

#[test]
fn signal_handler() {
    shape("signal", &["handler", "signalled", "main"], "_start");
}

#[test]
fn variable_frame() {
    shape("alloca", &["variable", "main"], "_start");
}

#[test]
fn callback_from_a_library() {
    shape("callback", &["compare", "sorted", "main"], "_start");
}

#[test]
fn thread() {
    shape("thread", &["thread"], "");
}
