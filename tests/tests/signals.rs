//! Signals: what ends a run, and what becomes of its command.

use std::{fs, os::unix::process::CommandExt as _, thread, time::Duration};

use rprofd_tests::{Program, Rprofd, TestDir, machine};
use rustix::process::{Pid, Signal, kill_process_group};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"])
}

#[test]
fn signals_end_the_run_and_write_what_there_is() {
    if !able() {
        return;
    }
    let dir = TestDir::new("signals-end");
    let target = Program::build("shares.c").start(&["60"]);
    let pid = target.pid().to_string();
    for signal in [Signal::INT, Signal::TERM] {
        let mut rprofd = Rprofd::new(&dir).args(["-v", "-F", "499", "--pid", &pid]).start();
        rprofd.wait_for_first_sample();
        rprofd.signal(signal);
        let run = rprofd.wait().expect_success();
        assert!(run.profile_of("shares").total("samples") >= 1, "{signal:?}");
        fs::remove_dir_all(&run.output).expect("remove the profiles");
    }
}

#[test]
fn interrupt_goes_to_the_command() {
    if !able() {
        return;
    }
    let dir = TestDir::new("signals-interrupt");
    let program = Program::build("shares.c");
    let rprofd = Rprofd::new(&dir).args(["-v", "--", program.arg(), "60"]);
    let mut rprofd = rprofd
        .with(|command| {
            command.process_group(0);
        })
        .start();
    rprofd.wait_for_first_sample();
    let group = Pid::from_raw(i32::try_from(rprofd.pid()).expect("a pid")).expect("a pid");
    // What a terminal does on Ctrl-C.
    kill_process_group(group, Signal::INT).expect("signal the group");
    let run = rprofd.wait().expect_code(128 + 2);
    assert!(run.profile_of("shares").total("samples") >= 1);
}

#[test]
fn a_second_interrupt_does_not_wait_for_names() {
    if !able() {
        return;
    }
    let dir = TestDir::new("signals-second");
    let target = Program::build("shares.c").start(&["60"]);
    let pid = target.pid().to_string();
    let mut rprofd = Rprofd::new(&dir).args(["-v", "-F", "499", "--pid", &pid]).start();
    rprofd.wait_for_first_sample();
    // Signals that come together are one: impatient users press again, too.
    while rprofd.is_running() {
        rprofd.signal(Signal::INT);
        thread::sleep(Duration::from_millis(5));
    }
    let run = rprofd.wait().expect_success();
    assert!(run.profile_of("shares").total("samples") >= 1);
}

#[test]
fn a_signal_to_rprofd_alone_reaches_the_command() {
    if !able() {
        return;
    }
    let dir = TestDir::new("signals-passed");
    let program = Program::build("shares.c");
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let mut rprofd = Rprofd::new(&dir).args(["-v", "--", program.arg(), "60"]).start();
        rprofd.wait_for_first_sample();
        rprofd.signal(signal);
        let run = rprofd.wait().expect_code(128 + number);
        assert!(run.profile_of("shares").total("samples") >= 1, "{signal:?}");
        fs::remove_dir_all(&run.output).expect("remove the profiles");
    }
}
