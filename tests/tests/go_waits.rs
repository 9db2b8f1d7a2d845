//! What goroutines wait for in a program that does not count it, beside one that does.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rprofd_tests::{
    Profile, Rprofd, TestDir, machine,
    programs::{Running, build_go, go_toolchains},
    serve::{Daemon, get, wait_for},
};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl"])
}

/// `gowaits.go`, as it runs with `argument`.
fn start(path: &Path, argument: &str) -> Running {
    Running::start(Command::new(path).arg(argument).stdout(Stdio::null()))
}

/// The same, compiled with what is there.
fn started(dir: &TestDir, argument: &str) -> Running {
    start(&build_go(dir, "gowaits.go", "local", &[]), argument)
}

/// A profile of a process. `go tool pprof` itself waits for half as long again as the recording takes,
/// which on a full machine is less than the first names take.
fn fetched(address: SocketAddr, dir: &Path, pid: u32, path: &str) -> Profile {
    let answer = get(address, &format!("/pid/{pid}/debug/pprof/{path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let kind = path.split('?').next().unwrap_or_default();
    let file = dir.join(format!("{pid}.{kind}.pb.gz"));
    fs::write(&file, answer.body).expect("write");
    Profile::read(&file)
}

/// Where a test has its files.
fn dir_of(daemon: &Daemon) -> &Path {
    daemon.socket.parent().expect("a directory")
}

/// The same, from when rprofd has names for it.
fn named(daemon: &Daemon, pid: u32, path: &str) -> Profile {
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let begun = Instant::now();
    loop {
        let profile = fetched(daemon.address, dir_of(daemon), pid, path);
        let is_named = profile.locations.values().all(|it| !it.lines.is_empty());
        if is_named || begun.elapsed() > Duration::from_secs(90) {
            return profile;
        }
    }
}

/// Profiles of the same seconds: at each path, of both.
fn of_both<const N: usize>(daemon: &Daemon, pids: [u32; 2], paths: [&str; N]) -> [[Profile; 2]; N] {
    for pid in pids {
        // Names come first.
        named(daemon, pid, "goroutine");
    }
    let (address, dir) = (daemon.address, dir_of(daemon));
    thread::scope(|scope| {
        let fetching =
            paths.map(|path| pids.map(|pid| scope.spawn(move || fetched(address, dir, pid, path))));
        fetching.map(|both| both.map(|it| it.join().expect("a profile")))
    })
}

/// Delays by stack, in nanoseconds, the longest first. Without what `go` called: where the compiler has
/// made that, old versions of Go leave it out, and nobody else can tell it.
fn delays(profile: &Profile) -> Vec<(String, i64)> {
    let mut stacks: BTreeMap<String, i64> = BTreeMap::new();
    for sample in &profile.samples {
        let mut frames = profile.frames(sample);
        frames.retain(|name| !name.starts_with("main.main."));
        *stacks.entry(frames.join(" < ")).or_default() += sample.values[1];
    }
    let mut stacks: Vec<_> = stacks.into_iter().collect();
    stacks.sort_by_key(|(_, delay)| -delay);
    stacks
}

fn source(profile: &Profile) -> &str {
    let found = profile.comments.iter().find_map(|it| it.strip_prefix("source="));
    found.unwrap_or_else(|| panic!("no source in {:?}", profile.comments))
}

#[test]
fn where_goroutines_wait_is_told_of_a_program_that_counts_nothing() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-waits");
    let daemon = Daemon::start(&dir, &[]);
    for toolchain in go_toolchains() {
        for flags in [&[][..], &["-ldflags=-s -w"], &["-buildmode=pie"]] {
            let path = build_go(&dir, "gowaits.go", &toolchain, flags);
            let (counting, silent) = (start(&path, "rates"), start(&path, ""));
            let pids = [counting.pid(), silent.pid()];
            let [block, mutex] = of_both(&daemon, pids, ["block?seconds=5", "mutex?seconds=5"]);
            for (kind, top, [own, seen]) in [("block", 5, block), ("mutex", 3, mutex)] {
                let what = format!("{toolchain} {flags:?} {kind}");
                assert_eq!(seen.sample_types, own.sample_types, "{what}");
                assert!(source(&seen).starts_with("probes on runtime.gopark"), "{what}");
                assert!(own.comments.iter().any(|it| it.starts_with("rate=")), "{what}: {own:?}");
                let (own, seen) = (delays(&own), delays(&seen));
                let told: BTreeMap<_, _> = seen.iter().cloned().collect();
                for (stack, delay) in own.iter().take(top) {
                    let here = told.get(stack).copied().unwrap_or_default();
                    let off = here as f64 / *delay as f64 - 1.0;
                    assert!(
                        off.abs() < 0.15,
                        "{what}: {here} for {delay}: {stack}\n{seen:#?}\n{own:#?}"
                    );
                }
                for (stack, delay) in seen.iter().take(top) {
                    let known = own.iter().any(|(own, _)| own == stack);
                    assert!(known, "{what}: {delay}: {stack}\n{own:#?}");
                }
            }
        }
    }
}

#[test]
fn goroutines_that_wait_all_the_time_are_looked_at_instead() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-waits-storm");
    let daemon = Daemon::start(&dir, &[]);
    let storm = started(&dir, "storm");
    named(&daemon, storm.pid(), "goroutine");
    let profile = named(&daemon, storm.pid(), "block?seconds=3");
    assert!(source(&profile).starts_with("goroutines, looked at every "), "{profile:?}");
    let all = delays(&profile);
    let known = |stack: &str| {
        let begins =
            ["runtime.chansend1", "runtime.chanrecv1"].iter().any(|it| stack.starts_with(it));
        begins && (stack.contains("main.ping") || stack.contains("main.pong"))
    };
    assert!(!all.is_empty() && all.iter().all(|(stack, _)| known(stack)), "{all:#?}");
    let sum: i64 = all.iter().map(|(_, delay)| delay).sum();
    assert!(sum < 2 * 4_000_000_000, "{sum}");
    // The program goes on, without probes.
    let cpu = named(&daemon, storm.pid(), "profile?seconds=2");
    assert!(cpu.total_where("cpu", |it| cpu.has_function(it, "main.ping")) > 100_000_000);
}

#[test]
fn a_run_tells_what_goroutines_wait_for() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-waits-run");
    let running = started(&dir, "");
    let pid = running.pid().to_string();
    let run = Rprofd::new(&dir).args(["-k", "block,mutex", "-d", "8s", "--pid", &pid]).run();
    let run = run.expect_success();
    for (kind, function) in [("block", "main.receive"), ("mutex", "main.holdLong")] {
        let profile = Profile::read(&run.file("gowaits", &format!("{kind}.pb.gz")));
        assert!(source(&profile).starts_with("probes on "), "{profile:?}");
        let delay = profile.total_where("delay", |it| profile.has_function(it, function));
        assert!(delay > 3_000_000_000, "{kind}: {delay} {}", run.stderr);
    }
}

/// How many bytes of a process's code are others than in its program; `None`: the kernel does not show
/// where it is just now, since it changes.
fn breakpoints(pid: u32) -> Option<usize> {
    let program = format!("/proc/{pid}/exe");
    let path = fs::read_link(&program).expect("a program");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let code = maps
        .lines()
        .find(|line| line.contains(" r-xp ") && line.ends_with(path.to_str().expect("a path")));
    let words: Vec<&str> = code?.split_whitespace().collect();
    let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
    let (start, end) = words[0].split_once('-').expect("a range");
    let (start, offset) = (number(start), number(words[2]));
    let read = |path: &str, at: u64| {
        let mut bytes = vec![0; (number(end) - start) as usize];
        let file = fs::File::open(path).expect("open");
        let count = file.read_at(&mut bytes, at).expect("read");
        bytes.truncate(count);
        bytes
    };
    let here = read(&format!("/proc/{pid}/mem"), start);
    let there = read(&program, offset);
    Some(here.iter().zip(&there).filter(|(here, there)| here != there).count())
}

/// Whoever hangs up has no probes left in the program; nor has one that ends.
#[test]
fn probes_are_gone_with_who_asked() {
    if !able() {
        return;
    }
    let dir = TestDir::new("go-waits-gone");
    let daemon = Daemon::start(&dir, &[]);
    let silent = started(&dir, "");
    let pid = silent.pid();
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let probed = || {
        let fds = fs::read_dir(format!("/proc/{}/task", daemon.rprofd.pid())).expect("tasks");
        let names = fds.filter_map(|it| fs::read_to_string(it.ok()?.path().join("comm")).ok());
        (breakpoints(pid), names.filter(|it| it.trim() == "probes").count())
    };
    let wait_until = |wanted: (Option<usize>, usize)| {
        let begun = Instant::now();
        while probed() != wanted {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", probed());
            thread::sleep(Duration::from_millis(20));
        }
    };
    wait_until((Some(0), 0));
    let url = daemon.url(&format!("/pid/{pid}/debug/pprof/block?seconds=100"));
    let mut curl = Command::new("curl").args(["-sfo", "/dev/null", &url]).spawn().expect("curl");
    wait_until((Some(2), 1));
    curl.kill().expect("kill");
    curl.wait().expect("wait");
    wait_until((Some(0), 0));
    // What it had for them stays, and it goes on.
    let profile = named(&daemon, pid, "block?seconds=2");
    assert!(profile.total("delay") > 1_000_000_000);
}
