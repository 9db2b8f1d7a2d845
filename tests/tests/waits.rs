//! What threads wait for: where, for how long, and who held it.

use std::process::Command;

use rprofd_tests::{
    Profile, Program, Rprofd, TestDir,
    limited::Limited,
    machine,
    pprof::Sample,
    programs::Running,
    rprofd::Finished,
    serve::{Daemon, wait_for},
};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"])
}

/// The profile of a kind of the one process that has this comm.
fn profile(run: &Finished, comm: &str, kind: &str) -> Profile {
    Profile::read(&run.file(&format!("{comm}."), &format!(".{kind}.pb.gz")))
}

/// The sum of a sample type over stacks with a function, and those of them that fit.
fn sum(profile: &Profile, kind: &str, function: &str, fits: impl Fn(&Sample) -> bool) -> i64 {
    profile.total_where(kind, |sample| profile.frames(sample).contains(&function) && fits(sample))
}

fn near(found: i64, truth: i64, percent: f64) -> bool {
    (found - truth).abs() as f64 <= truth as f64 * percent / 100.0
}

#[test]
fn each_wait_is_counted_with_its_length_and_reason() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-known");
    let program = Program::build("waits.c");
    let run = Rprofd::new(&dir)
        .args(["-k", "block", "--block-stacks", "0", "--", program.arg()])
        .run()
        .expect_success();
    let profile = profile(&run, "waits", "block");
    assert_eq!(profile.sample_types, ["contentions/count", "delay/nanoseconds"]);
    let told = run.stdout_text();
    assert_eq!(told.lines().count(), 6, "{told}");
    for line in told.lines() {
        let [function, reason, count, length_ns] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let (count, length_ns): (i64, i64) = (count.parse().unwrap(), length_ns.parse().unwrap());
        let fits = |sample: &Sample| sample.labels["reason"] == reason;
        // Starting a child may take other, short waits.
        let is_long = |sample: &Sample| fits(sample) || sample.labels["reason"] == "child";
        let found = sum(&profile, "contentions", function, fits);
        let all = sum(&profile, "contentions", function, |_| true);
        let delay = sum(&profile, "delay", function, is_long);
        let listed = || {
            profile.samples.iter().map(|it| (&it.values, &it.labels["reason"], profile.frames(it)))
        };
        assert!(found == count, "{line}: {found} of {all}: {:#?}", listed().collect::<Vec<_>>());
        assert!(
            near(delay, length_ns, 2.0),
            "{line}: {delay}: {:#?}",
            listed().collect::<Vec<_>>()
        );
    }
}

#[test]
fn who_held_a_lock_is_charged_for_who_waited() {
    if !able() {
        return;
    }
    for source in ["locks.c", "locks.rs"] {
        if source.ends_with(".rs") && !machine::has(&["rustc"]) {
            continue;
        }
        let dir = TestDir::new(&format!("waits-{source}"));
        let program = Program::build(source);
        let run = Rprofd::new(&dir)
            .args(["-k", "mutex,block", "--block-stacks", "0", "--", program.arg()])
            .run()
            .expect_success();
        let waited: i64 = run.stdout_text().trim().parse().expect("a number");
        let mutex = profile(&run, "locks", "mutex");
        // Of Rust's own function that wakes nothing may be left on the stack.
        let is_lock = |sample: &Sample| {
            sample.labels["reason"] == "lock"
                || (source == "locks.rs" && sample.labels["reason"] == "futex")
        };
        let held = sum(&mutex, "delay", "holds", is_lock);
        assert!(near(held, waited, 5.0), "{source}: {held} of {waited}");
        let by_others = mutex.total_where("delay", is_lock) - held;
        assert!(by_others * 20 <= held, "{source}: {by_others}");
        // The other side.
        let block = profile(&run, "locks", "block");
        let wanted = sum(&block, "delay", "wants", |sample| sample.labels["reason"] == "futex");
        assert!(near(wanted, waited, 5.0), "{source}: {wanted} of {waited}");
        if source == "locks.c" {
            let unattributed = mutex.count("unattributed.contentions").unwrap_or_default();
            assert!(unattributed >= 10, "{:?}", mutex.comments);
        }
    }
}

#[test]
fn waits_for_a_disk_are_as_the_kernel_counts_them() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-disk");
    let program = Program::build("reads_disk.c");
    let data = dir.join("data").to_str().expect("UTF-8").to_owned();
    let run = Rprofd::new(&dir)
        .args(["-k", "block", "--block-stacks", "0", "--", program.arg(), &data])
        .run();
    // Files of a file system in memory cannot be read around the page cache.
    let has_disk = run.status.code() != Some(3);
    if !machine::require(has_disk, "a disk behind the directory of the tests") {
        return;
    }
    let run = run.expect_success();
    let told = run.stdout_text();
    let told: Vec<i64> = told.split_whitespace().map(|it| it.parse().unwrap()).collect();
    let [waits, length_ns] = told[..] else { panic!("{told:?}") };
    let profile = profile(&run, "reads_disk", "block");
    let found = sum(&profile, "contentions", "in_disk", |sample| sample.labels["reason"] == "disk");
    assert_eq!(found, waits, "{told:?}");
    let delay = sum(&profile, "delay", "in_disk", |_| true);
    // That it was ready and had no CPU is in it, too: as it is in what it tells.
    assert!(near(delay, length_ns, 2.0), "{delay}: {told:?}");
}

#[test]
fn who_held_a_monitor_of_java_is_charged() {
    if !able() || !machine::has(&["java"]) {
        return;
    }
    let dir = TestDir::new("waits-monitors");
    let source = rprofd_tests::programs::source_path("Monitors.java");
    let source = source.to_str().expect("UTF-8");
    let run = Rprofd::new(&dir)
        .args(["-k", "mutex,block", "--block-stacks", "0", "--group-by", "none"])
        .args(["--", "java", "-XX:+PreserveFramePointer", source])
        .run()
        .expect_success();
    let waited: i64 = run.stdout_text().trim().parse().expect("a number");
    // Java's frames have no names, the virtual machine's functions have.
    let of = |kind: &str, function: &str, fits: &dyn Fn(&str) -> bool| {
        let profile = Profile::read(&run.file("all.", &format!(".{kind}.pb.gz")));
        profile.total_where("delay", |sample| {
            let has = |frame: &&str| frame.contains(function);
            fits(&sample.labels["thread"]) && profile.frames(sample).iter().any(has)
        })
    };
    let wanted = of("block", "ObjectMonitor::enter", &|_| true);
    assert!(near(wanted, waited, 5.0), "{wanted} of {waited}");
    // HotSpot has a thread that waits look by itself now and then, whether the lock is free.
    let held = of("mutex", "ObjectMonitor::ExitEpilog", &|thread| thread == "holder");
    assert!(near(held, waited, 5.0), "{held} of {waited}");
}

#[test]
fn a_thread_over_its_quota_is_throttled() {
    if !able() {
        return;
    }
    let cgroup = Limited::of_cpus();
    if !machine::require(cgroup.is_some(), "a cgroup with a limit of CPU time") {
        return;
    }
    let dir = TestDir::new("waits-throttled");
    let cgroup = cgroup.expect("a cgroup");
    // On one CPU: the kernel adds up for how long each CPU's part of the cgroup was kept from running.
    let program = Program::build("shares.c");
    let running =
        Running::start(Command::new("taskset").args(["--cpu-list", "0", program.arg(), "600"]));
    let pid = running.pid().to_string();
    cgroup.take(&pid);
    // It may have to be built first.
    let rprofd = Rprofd::new(&dir).args(["-k", "wall", "-d", "4s", "--pid", &pid]);
    let before_ns = cgroup.throttled_ns();
    let run = rprofd.run().expect_success();
    let most = i64::try_from(cgroup.throttled_to_now_ns() - before_ns).expect("nanoseconds");
    let profile = profile(&run, "shares", "wall");
    let found = profile.total_where("wall", |sample| sample.labels["state"] == "throttled");
    // The kernel's figure is of the seconds in which rprofd starts and ends, too.
    let least = most * 4 / (run.elapsed.as_secs() as i64 + 1) / 2;
    assert!((least..=most).contains(&found) && found > 0, "{found}, not {least} to {most}");
    drop(running);
}

#[test]
fn the_closing_table_tells_how_threads_spent_their_time() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-table");
    let program = Program::build("halves.c");
    let run = Rprofd::new(&dir).args(["--", program.arg(), "3"]).run().expect_success();
    let told = &run.stderr;
    let line = told.lines().find(|line| line.starts_with("halves")).expect("a row");
    let cells: Vec<_> = line.split_whitespace().filter(|cell| cell.ends_with('%')).collect();
    let shares: Vec<f64> =
        cells.iter().map(|cell| cell.trim_end_matches('%').parse().expect("a share")).collect();
    let [running, _, waiting, _] = shares[..] else { panic!("{line}") };
    // One thread waits for the other, which sleeps half of the time or more.
    assert!(running > 2.0 && running < 30.0 && waiting > 60.0 && waiting < 90.0, "{told}");
    assert!(told.contains("For what: -k wall."), "{told}");
}

#[test]
fn wall_time_is_whole_and_by_state() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-wall");
    let program = Program::build("halves.c");
    let run =
        Rprofd::new(&dir).args(["-k", "wall", "--", program.arg(), "5"]).run().expect_success();
    let profile = profile(&run, "halves", "wall");
    let told = run.stdout_text();
    let told: Vec<i64> = told.split_whitespace().map(|it| it.parse().unwrap()).collect();
    let (slept, ran, runnable) = (told[0], told[1], told[2]);
    let is_half = |sample: &Sample| sample.labels["tid"] != sample.labels["pid"];
    let of = |state: &str| {
        profile.total_where("wall", |sample| is_half(sample) && sample.labels["state"] == state)
    };
    let all = profile.total_where("wall", is_half);
    let slack = all / 50;
    // Some of the time for which it was ready was a part of a sleep.
    for (state, least, most) in [
        ("runnable", runnable, runnable),
        ("sleep", slept - runnable, slept),
        ("running", ran, all - slept),
    ] {
        let found = of(state);
        let is_right = (least - slack..=most + slack).contains(&found);
        assert!(is_right, "{state}: {found}, not {least} to {most}: {told:?} of {all}");
    }
    assert!(near(all, 5_000_000_000, 3.0), "{all}");
    let (running, sleeping) = (of("running"), of("sleep"));
    // And the thread that waits for it.
    let waits =
        profile.total_where("wall", |sample| !is_half(sample) && sample.labels["state"] == "futex");
    assert!(near(waits, 5_000_000_000, 3.0), "{waits}");
    assert!(
        sum(&profile, "wall", "computes", |it| it.labels["state"] == "running") > running * 9 / 10
    );
    assert!(
        sum(&profile, "wall", "sleeps", |it| it.labels["state"] == "sleep") > sleeping * 9 / 10
    );
}

#[test]
fn a_thread_that_only_computes_has_its_wall_time() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-busy");
    let program = Program::build("shares.c");
    let run =
        Rprofd::new(&dir).args(["-k", "wall", "--", program.arg(), "2"]).run().expect_success();
    let profile = profile(&run, "shares", "wall");
    let all = profile.total("wall");
    assert!((1_800_000_000..2_600_000_000).contains(&all), "{all}");
    let is_busy = |sample: &Sample| matches!(&*sample.labels["state"], "running" | "runnable");
    let busy = profile.total_where("wall", is_busy);
    assert!(busy * 10 > all * 8, "{busy} of {all}");
    let named = sum(&profile, "wall", "main", |sample| sample.labels["state"] == "running");
    assert!(named * 10 > busy * 2, "{named} of {busy}");
}

#[test]
fn waits_that_are_looked_at_now_and_then_stand_for_all() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-often");
    let program = Program::build_with("pingpong.c", &["-O2", "-pthread"]);
    let run =
        Rprofd::new(&dir).args(["-k", "block", "--", program.arg(), "4"]).run().expect_success();
    let profile = profile(&run, "pingpong", "block");
    let waits: i64 = run.stdout_text().trim().parse().expect("a number");
    let found = sum(&profile, "contentions", "pass", |sample| sample.labels["reason"] == "pipe");
    let taken: u64 =
        profile.counts().iter().filter(|(key, _)| key.starts_with("outcome.")).map(|it| it.1).sum();
    assert!(taken < 10_000 && (taken as i64) < waits / 10, "{taken} of {waits}");
    let off = found as f64 / waits as f64 - 1.0;
    assert!(off.abs() < 5.0 / (taken as f64).sqrt(), "{found} for {waits}, of {taken}");
}

#[test]
fn threads_are_counted_where_they_are_started() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-spawns");
    let program = Program::build("locks.c");
    let run =
        Rprofd::new(&dir).args(["-k", "threadcreate", "--", program.arg()]).run().expect_success();
    let profile = profile(&run, "locks", "threadcreate");
    assert_eq!(profile.sample_types, ["threadcreate/count"]);
    assert_eq!(sum(&profile, "threadcreate", "main", |_| true), 2);
}

#[test]
fn the_daemon_records_each_kind_while_it_is_asked_for() {
    if !able() {
        return;
    }
    let dir = TestDir::new("waits-serve");
    let daemon = Daemon::start(&dir, &[]);
    let program = Program::build("halves.c").copy_to(&dir.join("halved"));
    let running = program.start(&["600"]);
    let pid = running.pid();
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let block = daemon.profile(&format!("/pid/{pid}/debug/pprof/block?seconds=2"));
    let sleeps = sum(&block, "delay", "sleeps", |_| true);
    assert!(sleeps > 500_000_000, "{sleeps}");
    let wall = daemon.profile("/comm/halved/debug/pprof/wall?seconds=3");
    // Two threads, one of which waits all the time.
    let all = wall.total("wall");
    assert!(near(all, 6_000_000_000, 5.0), "{all}");
    let machine = daemon.profile("/debug/pprof/block?seconds=1");
    assert!(machine.total("delay") > 0);
    for kind in ["mutex", "threadcreate"] {
        let answer = daemon.get(&format!("/pid/{pid}/debug/pprof/{kind}?seconds=1"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn threads_are_seen_where_they_are_and_a_deadlock_is_named() {
    if !able() || !machine::has(&["g++"]) {
        return;
    }
    let dir = TestDir::new("waits-threads");
    let program = Program::build_with("deadlock.cc", &["-pthread"]);
    let running = program.start(&[]);
    let pid = running.pid();
    wait_until(|| thread_count(pid) == 4);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let run = Rprofd::new(&dir)
        .args(["-k", "goroutine", "--pid", &pid.to_string()])
        .run()
        .expect_success();
    let profile = profile(&run, "deadlock", "goroutine");
    assert_eq!(profile.sample_types, ["threads/count"]);
    assert_eq!(profile.total("threads"), 4, "{:?}", profile.samples);
    let takes = sum(&profile, "threads", "takes", |sample| sample.labels["state"] == "futex");
    assert_eq!(
        takes,
        2,
        "{:#?}",
        profile.samples.iter().map(|it| profile.frames(it)).collect::<Vec<_>>()
    );
    assert_eq!(sum(&profile, "threads", "main", |sample| sample.labels["state"] == "futex"), 1);
    let is_busy = |sample: &Sample| matches!(&*sample.labels["state"], "running" | "runnable");
    assert_eq!(profile.total_where("threads", is_busy), 1);
    let deadlock = profile.comments.iter().find(|it| it.starts_with("deadlock: thread"));
    let deadlock = deadlock.unwrap_or_else(|| panic!("{:?}", profile.comments));
    for sample in &profile.samples {
        let is_in_it = profile.frames(sample).contains(&"takes");
        assert_eq!(deadlock.contains(&sample.labels["tid"]), is_in_it, "{deadlock}");
    }
}

/// Its registers are known from when the clock meets it on.
#[test]
fn a_thread_that_runs_is_seen_where_the_clock_meets_it() {
    if !able() || !machine::has(&["g++"]) {
        return;
    }
    let dir = TestDir::new("waits-running");
    let program = Program::build_with("deadlock.cc", &["-pthread"]);
    let running = program.start(&[]);
    let daemon = Daemon::start(&dir, &[]);
    let url = format!("/pid/{}/debug/pprof/goroutine", running.pid());
    wait_for(200, || daemon.get(&url));
    let begun = std::time::Instant::now();
    loop {
        // At first there are no names, and on a full machine others may have the CPU at each tick.
        let profile = daemon.profile(&url);
        let runs = |sample: &Sample| sample.labels["state"] == "running";
        if sum(&profile, "threads", "computes", runs) == 1 {
            break;
        }
        let seen: Vec<_> = profile.samples.iter().map(|it| profile.frames(it)).collect();
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{seen:#?}");
    }
}

#[test]
fn threads_of_a_jvm_and_the_text_of_their_stacks() {
    if !able() || !machine::has(&["java"]) {
        return;
    }
    let dir = TestDir::new("waits-jvm");
    let source = rprofd_tests::programs::source_path("Threads.java");
    let mut java = Command::new("java");
    let mut running =
        Running::start(java.arg(source).arg("200").stdout(std::process::Stdio::piped()));
    let mut line = String::new();
    let stdout = running.child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let daemon = Daemon::start(&dir, &[]);
    let pid = running.pid();
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let threads = thread_count(pid) as i64;
    let profile = daemon.profile(&format!("/pid/{pid}/debug/pprof/goroutine"));
    let found = profile.total("threads");
    assert!((found - threads).abs() <= 3 && found >= 200, "{found} of {threads}");
    let waiting = profile.total_where("threads", |sample| sample.labels["state"] == "futex");
    assert!(waiting >= 200, "{waiting}");
    let text = daemon.get(&format!("/pid/{pid}/debug/pprof/goroutine?debug=2")).text();
    let paragraphs = text.matches(&format!(", process {pid} java]:\n")).count() as i64;
    assert!((paragraphs - threads).abs() <= 3, "{paragraphs}: {text}");
    assert!(text.contains("pthread_cond_wait") || text.contains("libc.so.6"), "{text}");
}

/// How many threads a process has.
fn thread_count(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(30));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
