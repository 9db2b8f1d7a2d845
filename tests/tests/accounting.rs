//! Every sample is stored, left out or counted as dropped; and none is taken for another's.

use std::{
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rprofd_tests::{
    Finished, Program, Rprofd, TestDir, machine,
    pid_reuse::{Pair, own_and_foreign},
    programs::Running,
};
use rustix::process::Signal;

/// Each of these takes the whole machine.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number behind `key=` in what `-v` says of samples.
fn account(run: &Finished, key: &str) -> u64 {
    let line = run.stderr.lines().find(|line| line.contains("samples: taken="));
    let line = line.unwrap_or_else(|| panic!("no account in {}", run.stderr));
    let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
}

#[test]
fn nothing_is_unaccounted_for_when_queues_overflow() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _turn = turn();
    // How long the rings last is a matter of the machine's speed.
    let overflowed = [12, 30, 90].into_iter().any(|seconds| {
        let dir = TestDir::new(&format!("accounting-{seconds}"));
        let run = stopped_under_load(&dir, Duration::from_secs(seconds));
        assert_eq!(account(&run, "unaccounted"), 0, "{}", run.stderr);
        let all = run.all();
        assert_eq!(all.total("samples") as u64, account(&run, "stored"));
        let ring_full = Some(account(&run, "ring_full")).filter(|&count| count > 0);
        assert_eq!(all.count("lost.samples_ring_full"), ring_full, "{:?}", all.comments);
        ring_full.is_some() && all.count("lost.side_band").is_some()
    });
    assert!(overflowed, "the rings did not overflow");
}

/// A recording under load whose core takes nothing from any queue for so long.
fn stopped_under_load(dir: &TestDir, stopped: Duration) -> Finished {
    let mut spin = Program::build("spin.c").command(&["2", "300"]);
    let _spin = Running::start(spin.stdout(Stdio::null()));
    // Each mapping is a side-band record: those rings overflow, too.
    let storm = Program::build("maps_storm.c").start(&["300"]);
    let mut rprofd = Rprofd::new(dir).args(["-v", "-F", "9999"]).start();
    rprofd.wait_for_first_sample();
    rprofd.signal(Signal::STOP);
    thread::sleep(stopped);
    rprofd.signal(Signal::CONT);
    drop(storm);
    rprofd.signal(Signal::INT);
    rprofd.wait().expect_success()
}

#[test]
fn samples_of_processes_that_are_not_asked_for_are_left_out() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _turn = turn();
    let dir = TestDir::new("accounting-filter");
    let wanted = Program::build("spin.c").copy_to(&dir.join("wanted"));
    let _wanted = Running::start(wanted.command(&["1", "60"]).stdout(Stdio::null()));
    let storm = Program::build("exec_storm.c").start(&["60", "/bin/true"]);
    let args = ["-v", "-F", "999", "-d", "2s", "--comm", "wanted"];
    let run = Rprofd::new(&dir).args(args).run().expect_success();
    drop(storm);
    assert_eq!(account(&run, "unaccounted"), 0, "{}", run.stderr);
    assert!(account(&run, "left_out") > 0, "{}", run.stderr);
    assert_eq!(run.all().total("samples") as u64, account(&run, "stored"));
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
        return;
    }
    let _turn = turn();
    let dir = TestDir::new("pid-reuse");
    let pair = Pair::build(&dir);
    // Before the processes run: this may build it.
    let rprofd = Rprofd::new(&dir).args(["-v", "-F", "1999"]);
    let mut run = None;
    pair.run(3000, "2", |starter| {
        let pid = starter.to_string();
        run = Some(rprofd.args(["--pid", &pid]).run().expect_success());
    });
    let run = run.expect("a run");
    let (own, foreign) = own_and_foreign(&run.all());
    assert!(own > 1000, "{own}: {}", run.stderr);
    assert_eq!(foreign, 0, "of {own}: {}", run.stderr);
    assert_eq!(account(&run, "unaccounted"), 0, "{}", run.stderr);
}
