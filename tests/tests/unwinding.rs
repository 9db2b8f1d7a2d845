//! Stacks of programs without frame pointers: walked by their unwind tables.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use rprofd_tests::{Profile, Program, Rprofd, TestDir, machine, pprof::Sample, tables};

/// How the programs without frame pointers are compiled.
const FLAGS: [&str; 3] = ["-O2", "-fomit-frame-pointer", "-pthread"];

/// Who has libc's table made is alone: a debug build takes its time for it, longer than a stack waits for
/// it beside others.
static ALONE: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    ALONE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Beside others that have it already.
fn beside() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

/// `rprofd` that has it.
fn rprofd(dir: &TestDir) -> Rprofd {
    let tables = tables::kept("unwinding-tables");
    let rprofd = Rprofd::new(dir).args(["-F", "499", "--user-only"]);
    rprofd.args(["--unwind-cache".as_ref(), tables.as_os_str()])
}

/// Runs a shape of the program, and expects all stacks of its busy leaf to go through `through`,
/// leaf first, down to `root`.
fn shape(name: &str, through: &[&str], root: &str) {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _beside = beside();
    let dir = TestDir::new(&format!("unwinding-{name}"));
    let program = Program::build_with("shapes.c", &FLAGS);
    let run = rprofd(&dir).args(["--", program.arg(), name]).run();
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
    let none = profile.count("outcome.none").unwrap_or(0);
    let total = total.unsigned_abs() - none;
    assert!(complete * 100 >= total * 97, "{:?}", profile.counts());
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

/// The profile of a program that does the same twice; it is the second time that is judged, when
/// its tables are there.
fn phases(name: &str, program: &Program, shape: &str) -> Profile {
    let _beside = beside();
    let dir = TestDir::new(&format!("unwinding-{name}"));
    let run = rprofd(&dir).args(["--", program.arg(), shape]).run();
    run.expect_success().profile_of("measured")
}

/// Expects that of the measured samples that `is_meant` nearly all go through `through`, one after
/// the other, down to `root`.
fn expect_whole(
    profile: &Profile,
    is_meant: impl Fn(&[&str]) -> bool,
    through: &[&str],
    root: &str,
) {
    let is_measured = |sample: &Sample| {
        let is_late = sample.labels.get("thread").is_some_and(|name| name == "measured");
        let frames = profile.frames(sample);
        // A process that ends has no user stack any more.
        is_late && !frames.is_empty() && is_meant(&frames)
    };
    let meant = profile.total_where("samples", is_measured);
    let whole = profile.total_where("samples", |sample| {
        let frames = profile.frames(sample);
        let is_through = frames.windows(through.len()).any(|frames| frames == through);
        is_measured(sample) && is_through && frames.last() == Some(&root)
    });
    assert!(meant > 100, "{meant} samples: {:#?}", profile.stacks());
    assert!(whole * 100 >= meant * 97, "{whole} of {meant}: {:#?}", profile.stacks());
}

/// Runs a shape of `frames.c`, and expects that nearly all samples whose innermost function is one
/// of `leaves` are whole.
fn frames(shape: &str, leaves: &[&str], through: &[&str], root: &str) {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let program = Program::build_with("frames.c", &FLAGS);
    let profile = phases(shape, &program, shape);
    expect_whole(&profile, |frames| leaves.contains(&frames[0]), through, root);
}

#[test]
fn vdso() {
    let leaves = ["clock_gettime", "__vdso_clock_gettime"];
    frames("vdso", &leaves, &["clocks", "phases", "main"], "_start");
}

#[test]
fn vfork() {
    frames("vfork", &["work"], &["work", "busy", "vforked", "phases", "main"], "_start");
}

#[test]
fn arrays_of_variable_length() {
    frames("arrays", &["work"], &["work", "busy", "arrays", "phases", "main"], "_start");
}

#[test]
fn short_threads() {
    frames("threads", &["work", "short_thread"], &["short_thread"], "clone3");
}

/// Samples in the system calls that make processes and threads, before they return: to the maker, or
/// to the one that was made.
fn makers(shape: &str, leaves: &[&str], through: &[&str]) {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let program = Program::build_with("frames.c", &FLAGS);
    let profile = phases(&format!("makers-{shape}"), &program, shape);
    let is_meant = |sample: &Sample| {
        let is_maker = sample.labels.get("thread").is_some_and(|name| name == "measured");
        let is_first = sample.labels.get("tid") == sample.labels.get("pid");
        let frames = profile.frames(sample);
        is_maker && is_first && frames.first().is_some_and(|leaf| leaves.contains(leaf))
    };
    let meant = profile.total_where("samples", is_meant);
    let whole = profile.total_where("samples", |sample| {
        let frames = profile.frames(sample);
        let is_through = frames.windows(through.len()).any(|frames| frames == through);
        is_meant(sample) && is_through && frames.last() == Some(&"_start")
    });
    assert!(meant > 50, "{meant} samples: {:#?}", profile.stacks());
    assert!(whole * 100 >= meant * 97, "{whole} of {meant}: {:#?}", profile.stacks());
}

#[test]
fn makers_of_threads() {
    makers("threads", &["clone3", "__clone3"], &["threads", "phases", "main"]);
}

#[test]
fn makers_of_processes() {
    let leaves = ["vfork", "__vfork", "__libc_vfork"];
    makers("vforks", &leaves, &["vforks", "phases", "main"]);
}

#[test]
fn first_samples_of_a_new_program() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("unwinding-first");
    // Nobody has seen these files before, and most samples are there before their tables are.
    let program = Program::build_fresh("deep33.c", &FLAGS, &dir.join("fresh"));
    let run = Rprofd::new(&dir).args(["-F", "999", "--", program.arg(), "0.2"]).run();
    let profile = run.expect_success().profile_of("fresh");
    let counts = profile.counts();
    let count = |word: &str| profile.count(&format!("outcome.{word}")).unwrap_or(0);
    let total = profile.total("samples").unsigned_abs() - count("none");
    assert!(total > 100, "{counts:?}");
    assert!(count("complete") * 100 >= total * 97, "{counts:?}: {:#?}", profile.stacks());
    let deep = profile.total_where("samples", |sample| {
        let frames = profile.frames(sample);
        frames.contains(&"f0") && frames.contains(&"f32") && frames.last() == Some(&"_start")
    });
    let busy = profile.total_where("samples", |sample| {
        profile.frames(sample).first().is_some_and(|leaf| *leaf == "f0")
    });
    assert!(busy > 100 && deep * 100 >= busy * 97, "{deep} of {busy}: {:#?}", profile.stacks());
}

#[test]
fn a_program_that_becomes_another_one_at_the_same_place() {
    if !machine::can_profile() || !machine::has(&["gcc", "go", "setarch"]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("unwinding-execs");
    let program = Program::build_with("frames.c", &FLAGS);
    // Without random addresses every one of them is mapped where the one before was.
    let run = Rprofd::new(&dir)
        .args(["-F", "499", "--user-only", "--", "setarch", "-R", program.arg(), "execs", "30"])
        .run();
    let profile = run.expect_success().all();
    let counts = profile.counts();
    let count = |word: &str| profile.count(&format!("outcome.{word}")).unwrap_or(0);
    let total = profile.total("samples").unsigned_abs() - count("none");
    assert!(total > 1_000, "{counts:?}");
    assert!(count("complete") * 100 >= total * 97, "{counts:?}: {:#?}", profile.stacks());
}

#[test]
fn a_thread_that_outlives_the_first() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("unwinding-outlived");
    let program = Program::build_with("frames.c", &FLAGS);
    let run = Rprofd::new(&dir).args(["--user-only", "--", program.arg(), "outlived"]).run();
    let profile = run.expect_success().all();
    let whole = profile.total_where("samples", |sample| {
        let frames = profile.frames(sample);
        frames.contains(&"busy") && frames.contains(&"outlives")
    });
    // 2 s at 99 Hz.
    assert!(whole > 150, "{whole} samples: {:#?}", profile.stacks());
}

#[test]
fn tables_are_kept_for_the_next_run() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("unwinding-cache");
    let program = Program::build_with("deep33.c", &FLAGS);
    let cache = dir.join("cache/tables");
    let run = |name: &str, seconds: &str| {
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        let rprofd = Rprofd::new(&dir).args(["-vv", "-F", "499", "--unwind-cache"]).args([&cache]);
        let profile = rprofd.args(["--", program.arg(), seconds]).run().expect_success().all();
        let complete = profile.count("outcome.complete").unwrap_or(0);
        assert!(complete > 300, "{:?}", profile.counts());
    };
    run("first", "1");
    let entries = |dir: &Path| -> BTreeMap<PathBuf, u64> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.path(), entry.metadata().unwrap().ino())).collect()
    };
    let first = entries(&cache);
    assert!(first.len() >= 3, "the program, the C library and the linker: {first:?}");
    run("second", "1");
    assert_eq!(entries(&cache), first, "used, not made again");
    let damaged = first.first_key_value().unwrap().0;
    let whole = fs::read(damaged).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(damaged, bytes).unwrap();
    // On a busy machine a second is over before a reader has made it.
    run("third", "4");
    assert!(entries(&cache).keys().eq(first.keys()));
    assert!(fs::read(damaged).unwrap() == whole, "made again");
}

#[test]
fn a_process_that_gives_up_its_memory() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("unwinding-released");
    let program = Program::build_with("frames.c", &FLAGS);
    let run = Rprofd::new(&dir).args(["-F", "499", "--", program.arg(), "released"]).run();
    let profile = run.expect_success().all();
    let counts = profile.counts();
    let count = |word: &str| profile.count(&format!("outcome.{word}")).unwrap_or(0);
    assert!(count("none") > 20, "{counts:?}");
    assert!(count("complete") > 100, "{counts:?}");
    assert!(count("unreadable") * 100 <= count("complete"), "{counts:?}");
}

#[test]
fn prologue_and_epilogue() {
    frames("prologues", &["saves"], &["saves", "prologues", "phases", "main"], "_start");
}

#[test]
fn realigned_stack() {
    let through = ["work", "busy", "realigned", "by_frame_pointer", "phases", "main"];
    frames("realigned", &["work"], &through, "_start");
}

/// Links a program with a shared library, and expects that samples in its procedure linkage table,
/// which has no symbol of its own, are whole, as are those around it.
fn procedure_linkage_table(name: &str, option: &str) {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let library = Program::build_with("tiny.c", &["-shared", "-fPIC", "-fomit-frame-pointer"]);
    let flags = [&FLAGS[..], &["-Wl,--no-as-needed", option, library.arg()]].concat();
    let program = Program::build_with("linked.c", &flags);
    let profile = phases(name, &program, "");
    let through = ["calls", "linked", "phases", "main"];
    for leaf in ["tiny", "calls"] {
        expect_whole(&profile, |frames| frames[0] == leaf, &through, "_start");
    }
    let is_entry = |frames: &[&str]| ["", "_init", "tiny@plt"].contains(&frames[0]);
    expect_whole(&profile, is_entry, &through, "_start");
}

#[test]
fn procedure_linkage_table_bound_late() {
    procedure_linkage_table("plt-lazy", "-Wl,-z,lazy");
}

#[test]
fn procedure_linkage_table_bound_at_once() {
    procedure_linkage_table("plt-now", "-Wl,-z,now");
}

#[test]
fn procedure_linkage_table_of_two_sections() {
    procedure_linkage_table("plt-sec", "-Wl,-z,ibtplt");
}

#[test]
fn exception_in_flight() {
    if !machine::can_profile() || !machine::has(&["g++", "go"]) {
        return;
    }
    let program = Program::build_with("thrown.cc", &FLAGS);
    let profile = phases("thrown", &program, "");
    let through = ["catches", "exceptions", "phases", "main"];
    expect_whole(&profile, |frames| frames[0] != "phases", &through, "_start");
}
