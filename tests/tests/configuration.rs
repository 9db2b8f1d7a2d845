//! `rprofd serve` and its configuration: what it comes to, reading it again, files, limits.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rprofd_tests::{
    Profile, Rprofd, TestDir, machine, rprofd,
    serve::{Daemon, busy, curl},
    users::{self, NOBODY},
};
use rustix::process::Signal;

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl"])
}

/// Waits until `is_so`.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn metric(daemon: &Daemon, name: &str) -> f64 {
    value(&daemon.get("/metrics").text(), name)
}

fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn a_check_prints_what_everything_comes_to() {
    let dir = TestDir::new("configuration-check");
    let file = dir.join("config.toml");
    fs::write(&file, "[sampling]\nwindow = \"5s\"\nfrequency = 29\n").expect("write");
    let serve = |args: &[&str]| {
        Rprofd::bare(rprofd::binary(), &dir)
            .args(["serve", "--check", "-c", file.to_str().expect("UTF-8")])
            .args(args)
            .with(|command| {
                command.env("RPROFD_LISTEN", "unix:/run/x.sock");
            })
            .run()
    };
    let shown = serve(&["-F", "49"]).expect_success().stdout_text();
    for (key, value, source) in [
        ("listen", "[\"unix:/run/x.sock\"]", "RPROFD_LISTEN"),
        ("frequency", "49", "command line"),
        ("window", "\"5s\"", "line 2"),
        ("event", "\"cpu-clock\"", "default"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(&format!("{key} = {value} ")));
        let line = line.unwrap_or_else(|| panic!("{key} = {value} in {shown}"));
        assert!(line.ends_with(&format!("# {source}")), "{line}");
    }
    // Nothing runs, and nobody need be root for it; what is wrong is found.
    for (text, said) in [
        (
            "[sampling]\nfreqency = 1\n",
            ":2: there is no key `sampling.freqency`; did you mean `sampling.frequency`?",
        ),
        ("[sampling]\nfrequency = 0\n", ":2: sampling.frequency: invalid value '0'"),
        ("[sampling\n", ":1: "),
        ("[access]\nauth_file = \"/no/such\"\n", "/no/such: No such file"),
    ] {
        fs::write(&file, text).expect("write");
        let run = serve(&[]).expect_code(2);
        assert!(run.stderr.contains(said), "{text}: {}", run.stderr);
    }
}

#[test]
fn a_file_is_read_again_and_a_bad_one_changes_nothing() {
    if !able() {
        return;
    }
    let dir = TestDir::new("configuration-reload");
    let file = dir.join("config.toml");
    let text = "[sampling]\nfrequency = 49\nwindow = \"1s\"\n";
    fs::write(&file, text).expect("write");
    let mut daemon = Daemon::start(&dir, &["-c", file.to_str().expect("UTF-8")]);
    let running = busy(0, &dir, "reloaded");
    let path = format!("/pid/{}/debug/pprof/profile?from=-2s", running.pid());
    let frequency = |daemon: &Daemon| {
        let answer = daemon.get(&path);
        let profile = dir.join("recent.pb.gz");
        fs::write(&profile, &answer.body).expect("write");
        if answer.status == 200 { Profile::read(&profile).count("frequency_hz") } else { None }
    };
    wait_until("49 Hz", || frequency(&daemon) == Some(49));
    fs::write(&file, text.replace("49", "199")).expect("write");
    daemon.rprofd.signal(Signal::HUP);
    daemon.rprofd.wait_for_line("the configuration was read again");
    wait_until("199 Hz", || frequency(&daemon) == Some(199));
    fs::write(&file, "[sampling]\nfrequency = 0\n").expect("write");
    daemon.rprofd.signal(Signal::HUP);
    let line = daemon.rprofd.wait_for_line("the configuration stays as it was");
    assert!(line.contains("config.toml:2: sampling.frequency"), "{line}");
    assert_eq!(daemon.get("/readyz").status, 200);
    // What cannot change while it runs is said.
    fs::write(&file, format!("{text}[unwinding]\nmemory = \"99MiB\"\n")).expect("write");
    daemon.rprofd.signal(Signal::HUP);
    let line = daemon.rprofd.wait_for_line("unwinding.memory");
    assert!(line.contains("when rprofd is started again"), "{line}");
    wait_until("49 Hz", || frequency(&daemon) == Some(49));
    let text = daemon.get("/metrics").text();
    let [received, stored] =
        ["received", "stored"].map(|it| value(&text, &format!("rprofd_samples_{it}_total")));
    // All but what the open window has.
    assert!(stored <= received && received - stored < 4000.0, "{received} {stored}");
}

#[test]
fn windows_are_files_and_the_oldest_go() {
    if !able() {
        return;
    }
    let dir = TestDir::new("configuration-files");
    let files = dir.join("files");
    let args = ["--window", "1s", "--files-max-age", "15s", "--files"];
    let daemon = Daemon::start(&dir, &[&args[..], &[files.to_str().expect("UTF-8")]].concat());
    let running = busy(0, &dir, "archived");
    let names = || {
        let entries = fs::read_dir(&files).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".pb.gz")).collect();
        names.sort();
        names
    };
    let prefix = format!("archived.{}.cpu.20", running.pid());
    let of_program = || names().into_iter().filter(|name| name.starts_with(&prefix)).count();
    wait_until("files of three windows", || of_program() >= 3);
    let first = names().into_iter().find(|name| name.starts_with(&prefix)).expect("a file");
    let profile = Profile::read(&files.join(&first));
    assert!(profile.share("burn_40") > 0.0, "{first}");
    wait_until("the first to go", || !names().contains(&first));
    assert!(of_program() >= 2, "{:?}", names());
    assert!(metric(&daemon, "rprofd_files_written_total") > 3.0);
    assert!(metric(&daemon, "rprofd_files_failed_total") < 1.0);
    // The last window is written at the end, however short it is.
    drop(daemon);
    let last = dir.join("last");
    let args = ["--window", "1h", "--files", last.to_str().expect("UTF-8")];
    let daemon = Daemon::start(&dir, &args);
    wait_until("samples", || metric(&daemon, "rprofd_samples_received_total") > 20.0);
    daemon.rprofd.signal(Signal::TERM);
    daemon.rprofd.wait().expect_success();
    let written = fs::read_dir(&last).expect("the directory").flatten();
    let names: Vec<_> = written.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.starts_with(&prefix)), "{names:?}");
}

#[test]
fn limits_are_kept_by_giving_something_up() {
    if !able() {
        return;
    }
    let dir = TestDir::new("configuration-limits");
    let mut daemon = Daemon::start(&dir, &["--memory-limit", "1MiB", "-F", "99", "--window", "1s"]);
    let line = daemon.rprofd.wait_for_line("to keep the limits, given up now");
    assert!(line.contains("what readers keep between requests"), "{line}");
    wait_until("a step", || metric(&daemon, "rprofd_shed") >= 1.0);
    daemon.rprofd.wait_for_line("lines and inlined functions");
    daemon.rprofd.wait_for_line("all but one of 2 samples");
    wait_until("49 Hz", || metric(&daemon, "rprofd_frequency_hertz") < 50.0);
}

#[test]
fn where_nothing_can_be_sampled_it_fails_or_idles() {
    if !able() {
        return;
    }
    let dir = TestDir::new("configuration-idle");
    users::give(&dir, NOBODY);
    let serve = || {
        use std::os::unix::process::CommandExt as _;
        Rprofd::bare(rprofd::binary(), &dir).args(["serve"]).with(|command| {
            command.uid(NOBODY).gid(NOBODY);
        })
    };
    let socket = format!("unix:{}", dir.join("s").display());
    let run = serve().args(["--listen", &socket]).run().expect_code(3);
    assert!(run.stderr.contains("CAP_BPF"), "{}", run.stderr);
    let mut daemon = Daemon::started(&dir, serve().args(["--on-unsupported", "idle"]));
    let answer = curl(NOBODY, &[&daemon.url("/readyz")]);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("nothing is sampled"), "{}", answer.text());
    let answer = curl(NOBODY, &[&daemon.url("/debug/pprof/profile?seconds=1")]);
    assert!(answer.status == 503 && answer.text().contains("CAP_BPF"), "{}", answer.text());
    assert_eq!(curl(NOBODY, &[&daemon.url("/healthz")]).status, 200);
    assert!(daemon.rprofd.is_running());
    daemon.rprofd.signal(Signal::TERM);
    daemon.rprofd.wait().expect_success();
}
