//! Processes: threads, forks, execs, deleted files, filters.

use std::fs;

use rprofd_tests::{Profile, Program, Rprofd, TestDir, machine, pprof::Sample};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"])
}

#[test]
fn threads_keep_their_names() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-threads");
    let program = Program::build("threads.c");
    let run = Rprofd::new(&dir).args(["-F", "499", "--", program.arg(), "3"]).run();
    let profile = run.expect_success().profile_of("threads");
    for (thread, function) in [("red", "burn_red"), ("green", "burn_green")] {
        let of_thread = |sample: &Sample| sample.labels["thread"] == thread;
        let all = profile.total_where("samples", of_thread);
        let within = profile.total_where("samples", |sample| {
            of_thread(sample) && profile.has_function(sample, function)
        });
        assert!(all > 50 && within * 10 > all * 9, "{thread}: {within} of {all}");
    }
    let late = profile.total_where("samples", |sample| {
        sample.labels["thread"] == "late" && profile.has_function(sample, "burn_late")
    });
    assert!(late > 50, "{late} samples of the renamed thread");
    let tids: std::collections::BTreeSet<_> =
        profile.samples.iter().map(|sample| &sample.labels["tid"]).collect();
    assert!(tids.len() >= 3, "{tids:?}");
}

#[test]
fn fork_storm_is_counted() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-forks");
    let program = Program::build("forks.c");
    let run = Rprofd::new(&dir).args(["-F", "999", "--", program.arg(), "300", "10"]).run();
    let run = run.expect_success();
    let accounted: f64 = run.stdout_text().trim().parse().expect("a number");
    let all = run.all();
    let children = all.total_where("cpu", |sample| sample.labels["comm"] == "forks") as f64;
    let stolen = run.stolen.as_nanos() as f64;
    assert!(
        children > accounted * 0.9 && children < accounted * 1.1 + stolen,
        "{children} of {accounted} ns, {stolen} ns stolen"
    );
    // Forking and exiting is the kernel's part.
    let in_user_code =
        |sample: &Sample| sample.labels["comm"] == "forks" && !all.is_kernel(sample.stack[0]);
    let own = all.total_where("cpu", in_user_code);
    let named = all.total_where("cpu", |sample| {
        in_user_code(sample) && all.has_function(sample, "burn_in_child")
    });
    assert!(named * 10 > own * 9, "{named} ns of {own} ns are named");
    let pids: std::collections::BTreeSet<_> =
        all.samples.iter().map(|sample| &sample.labels["pid"]).collect();
    assert!(pids.len() > 250, "{} processes", pids.len());
}

#[test]
fn exec_in_mid_window_mixes_nothing() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-exec");
    let (exec, spin) = (Program::build("exec.c"), Program::build("spin.c"));
    let command = [exec.arg(), "700", spin.arg(), "1", "1"];
    let run = Rprofd::new(&dir).args(["-F", "499", "--group-by", "pid", "--"]).args(command).run();
    let profile = run.expect_success().profile_of("spin");
    assert!(profile.share("burn_before_exec") > 0.2, "{:#?}", profile.stacks());
    // It runs for a second by the clock, of which a busy machine gives it a part.
    assert!(profile.share("spin_leaf") > 0.05, "{:#?}", profile.stacks());
    for (_, frames) in profile.stacks() {
        let before = frames.contains(&"burn_before_exec");
        assert!(!(before && frames.contains(&"spin_thread")), "{frames:?}");
    }
    for program in [&exec, &spin] {
        let name = program.path().file_name().expect("a name").to_str().expect("UTF-8");
        let has = |file: &str| file.rsplit('/').next() == Some(name);
        assert!(profile.mappings.iter().any(|mapping| has(&mapping.file)), "{name}");
    }
}

#[test]
fn the_way_to_the_command_is_not_in_its_profile() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-command");
    let program = Program::build("spin.c");
    // Often enough that each start of a command is hit on its way.
    for _ in 0..3 {
        let rprofd = Rprofd::new(&dir).args(["-F", "10000", "--", program.arg(), "1", "0.1"]);
        let run = rprofd.run().expect_success();
        let all = run.all();
        assert!(all.share("spin_leaf") > 0.3, "{:#?}", all.stacks());
        let own = rprofd_tests::rprofd::binary().to_str().expect("UTF-8");
        assert!(all.mappings.iter().all(|mapping| mapping.file != own), "{:?}", all.mappings);
        // What an `exec` does with the memory of the program before.
        let leaves = all.total_where("samples", |sample| {
            all.has_function(sample, "begin_new_exec") && all.has_function(sample, "exit_mmap")
        });
        assert_eq!(leaves, 0, "{:#?}", all.stacks());
        fs::remove_dir_all(&run.output).expect("remove the profiles");
    }
}

#[test]
fn deleted_binary_is_named() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-deleted");
    let program = Program::build("shares.c").copy_to(&dir.join("gone"));
    let target = program.start(&["30"]);
    wait_for_comm(target.pid(), "gone");
    fs::remove_file(program.path()).expect("remove");
    let pid = target.pid().to_string();
    let run = Rprofd::new(&dir).args(["--pid", &pid, "-F", "499", "-d", "1s"]).run();
    let profile = run.expect_success().profile_of("gone");
    assert!(profile.share("burn_40") > 0.25, "{:#?}", profile.stacks());
    assert!(profile.share("main") > 0.9, "{:#?}", profile.stacks());
}

#[test]
fn only_the_process_and_its_children() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-pid");
    let other = Program::build("spin.c").start(&["1", "30"]);
    // The shell waits for a line before it forks, so that rprofd is there by then.
    let mut shell = std::process::Command::new("sh");
    let script = format!(
        "read line; {} 200 10; {} 1",
        Program::build("forks.c").arg(),
        Program::build("shares.c").arg()
    );
    shell.args(["-c", &script]).stdin(std::process::Stdio::piped());
    let mut shell =
        rprofd_tests::programs::Running::start(shell.stdout(std::process::Stdio::null()));
    let pid = shell.pid().to_string();
    let mut rprofd = Rprofd::new(&dir).args(["-v", "--pid", &pid, "-F", "499"]).start();
    rprofd.wait_for_line("sampling");
    drop(shell.child.stdin.take());
    // Ends when the processes end.
    let _ = shell.child.wait();
    let all = rprofd.wait().expect_success().all();
    assert!(share_of_comm(&all, "forks") > 0.3, "{:?}", all.counts());
    // It runs for a second by the clock, of which a busy machine gives it a part.
    assert!(share_of_comm(&all, "shares") > 0.01, "{:?}", all.counts());
    let others =
        all.total_where("samples", |sample| sample.labels["pid"] == other.pid().to_string());
    assert_eq!(others, 0, "samples of a process that nobody asked for");
}

#[test]
fn no_children() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-no-children");
    let program = Program::build("forks.c");
    // So many forks, and so often looked at, that the parent itself is seen.
    let forks = ["-F", "999", "--no-children", "--", program.arg(), "1000", "1"];
    let run = Rprofd::new(&dir).args(forks).run();
    let all = run.expect_success().all();
    assert_eq!(all.share("burn_in_child"), 0.0, "{:#?}", all.stacks());
}

#[test]
fn filters_by_comm_and_exe() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-filters");
    let wanted = Program::build("shares.c").copy_to(&dir.join("wanted-1"));
    let (wanted, _other) = (wanted.start(&["60"]), Program::build("spin.c").start(&["1", "60"]));
    wait_for_comm(wanted.pid(), "wanted-1");
    let exe = format!("{}/wanted-*", dir.display());
    for filter in [["--comm", "wanted-*"], ["--exe", &exe]] {
        let run = Rprofd::new(&dir).args(filter).args(["-F", "499", "-d", "1s"]).run();
        let run = run.expect_success();
        let all = run.all();
        assert!(all.total("samples") > 20, "{filter:?}");
        for sample in &all.samples {
            assert_eq!(sample.labels["comm"], "wanted-1", "{filter:?}");
        }
        fs::remove_dir_all(&run.output).expect("remove the profiles");
    }
}

#[test]
fn whole_machine_has_a_file_per_process() {
    if !able() {
        return;
    }
    let dir = TestDir::new("processes-all");
    let shares = Program::build("shares.c").start(&["30"]);
    let spin = Program::build("spin.c").start(&["1", "30"]);
    let run = Rprofd::new(&dir).args(["-d", "2s"]).run().expect_success();
    let of = |comm: &str, pid: u32| run.output.join(format!("{comm}.{pid}.cpu.pb.gz"));
    let (shares, spin) =
        (Profile::read(&of("shares", shares.pid())), Profile::read(&of("spin", spin.pid())));
    assert!(shares.share("burn_40") > 0.2 && spin.share("spin_leaf") > 0.5);
    let all = run.all();
    let idle = all.total_where("samples", |sample| sample.labels["pid"] == "0");
    assert_eq!(idle, 0, "the idle task is left out");
    assert!(all.total("samples") >= shares.total("samples") + spin.total("samples"));
}

fn share_of_comm(profile: &Profile, comm: &str) -> f64 {
    let of_comm = profile.total_where("cpu", |sample| sample.labels["comm"] == comm);
    of_comm as f64 / profile.total("cpu") as f64
}

fn wait_for_comm(pid: u32, comm: &str) {
    rprofd_tests::procfs::wait_for(comm, std::time::Duration::from_secs(10), || {
        (rprofd_tests::procfs::comm(pid)? == comm).then_some(())
    });
}
