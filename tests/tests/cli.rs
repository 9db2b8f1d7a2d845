//! The command line: exit statuses, forms of output.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rprofd_tests::{Finished, Profile, Program, Rprofd, TestDir, machine, rprofd};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"])
}

fn run_command(dir: &TestDir, command: &[&str]) -> Finished {
    Rprofd::new(dir).args(["--"]).args(command).run()
}

#[test]
fn wrong_options_exit_2() {
    let dir = TestDir::new("cli-usage");
    for args in [
        &["--no-such-option"][..],
        &["--frequency", "0"],
        &["--frequency", "10001"],
        &["--frequency", "many"],
        &["--duration", "soon"],
        &["--pid", "nginx"],
        &["--group-by", "colour"],
        &["--user-only", "--kernel-only"],
    ] {
        let run = Rprofd::new(&dir).args(args).run().expect_code(2);
        let named = args.iter().any(|arg| run.stderr.contains(arg));
        assert!(named && run.stdout.is_empty(), "{args:?}: {}", run.stderr);
        assert!(run.file_names().is_empty(), "{args:?}");
    }
}

#[test]
fn commands_to_come_say_so() {
    let dir = TestDir::new("cli-planned");
    let run = Rprofd::new(&dir).args(["view", "profiles"]).run().expect_code(2);
    assert!(run.stderr.starts_with("error: `rprofd view` is not there yet"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn exit_status_is_the_commands_own() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-status");
    let not_executable = dir.join("not-executable");
    fs::write(&not_executable, "#!/bin/sh\n").expect("write");
    let path = not_executable.to_str().expect("UTF-8");
    run_command(&dir, &["true"]).expect_code(0);
    run_command(&dir, &["false"]).expect_code(1);
    run_command(&dir, &["sh", "-c", "exit 42"]).expect_code(42);
    run_command(&dir, &[path]).expect_code(126);
    let run = run_command(&dir, &["/no/such/command"]).expect_code(127);
    assert_eq!(run.stderr, "rprofd: /no/such/command: No such file or directory (os error 2)\n");
    run_command(&dir, &["sh", "-c", "kill -TERM $$"]).expect_code(128 + 15);
}

#[test]
fn standard_output_is_the_commands() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-stdout");
    let program = Program::build("spin.c");
    let run = run_command(&dir, &[program.arg(), "1", "0.3", "7"]).expect_code(7);
    assert!(run.stdout_text().lines().next().is_some_and(|line| line.parse::<u64>().is_ok()));
    assert!(run.stderr.contains("spin_leaf"), "the hottest functions: {}", run.stderr);
    assert!(run.stderr.contains("spin.cpu.pb.gz"), "the file: {}", run.stderr);
    assert!(run.stderr.contains("go tool pprof -http=:"), "the next command: {}", run.stderr);
    assert_eq!(run.file_names(), ["all.cpu.pb.gz", "spin.cpu.pb.gz"]);
    let mode =
        fs::metadata(run.file("spin.", ".cpu.pb.gz")).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn forms_of_output() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-output");
    let program = Program::build("shares.c");
    let write = |output: &str, more: &[&str]| {
        let rprofd = Rprofd::bare(rprofd::binary(), &dir);
        let rprofd = rprofd.args(["-o", output, "-F", "499"]).args(more);
        rprofd.args(["--", program.arg(), "1"]).run().expect_success()
    };
    let text = |name: &str| fs::read_to_string(dir.join(name)).expect("read the output");

    write("one.pb.gz", &[]);
    assert!(Profile::read(&dir.join("one.pb.gz")).share("burn_40") > 0.2);
    write("one.svg", &[]);
    assert!(text("one.svg").contains("<svg") && text("one.svg").contains("burn_40"));
    write("one.folded", &[]);
    let folded = text("one.folded");
    let line = folded.lines().find(|line| line.contains("main;burn_40")).expect("a stack");
    let count = line.rsplit(' ').next().expect("a count");
    assert!(count.parse::<u64>().is_ok_and(|count| count > 0), "{line}");
    for (format, suffix) in [("svg", ".cpu.svg"), ("folded", ".cpu.folded"), ("text", ".cpu.txt")] {
        write(&format!("dir-{format}"), &["--format", format]);
        let file = format!("dir-{format}/shares{suffix}");
        assert!(text(&file).contains("burn_40"), "{file}");
    }
    let run = write("-", &[]);
    fs::write(dir.join("stdout.pb.gz"), &run.stdout).expect("write");
    assert!(Profile::read(&dir.join("stdout.pb.gz")).share("burn_40") > 0.2);
    let run = write("-", &["--format", "text"]);
    assert!(run.stdout_text().contains("burn_40"), "{}", run.stdout_text());
    assert!(!run.stderr.contains("burn_40"), "said twice: {}", run.stderr);
    let quiet = write("quiet.svg", &["-q"]);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn without_samples_no_file_and_the_reason() {
    if !machine::can_profile() {
        return;
    }
    let dir = TestDir::new("cli-nothing");
    let mut sleep = std::process::Command::new("sleep");
    let idle = rprofd_tests::programs::Running::start(sleep.arg("60"));
    let pid = idle.pid().to_string();
    for (args, reason) in [
        (["--pid", &pid], "it waited, or has ended"),
        (["--comm", "no-such-comm"], "no process fitted the patterns"),
    ] {
        let rprofd = Rprofd::bare(rprofd::binary(), &dir).args(args);
        let run = rprofd.args(["-d", "300ms"]).run().expect_success();
        assert!(run.stderr.contains("no file") && run.stderr.contains(reason), "{}", run.stderr);
        assert!(!run.stderr.contains("Files are in"), "{}", run.stderr);
        assert!(run.file_names().is_empty(), "{:?}", run.file_names());
    }
    let rprofd = Rprofd::bare(rprofd::binary(), &dir).args(["-o", "-", "--pid", &pid]);
    let run = rprofd.args(["-d", "300ms"]).run().expect_success();
    assert!(!run.stdout.is_empty(), "a reader of standard output gets a profile of nothing");
}

#[test]
fn windows_of_one_file() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-window-files");
    let program = Program::build("shares.c");
    let rprofd = Rprofd::bare(rprofd::binary(), &dir).args(["-o", "flame.svg", "--window", "1s"]);
    let run = rprofd.args(["--", program.arg(), "2.5"]).run().expect_success();
    let names = run.file_names();
    assert!((2..=4).contains(&names.len()), "{names:?}: {}", run.stderr);
    for name in &names {
        assert!(name.starts_with("flame.") && name.ends_with("Z.svg"), "{names:?}");
    }
    // Standard output could not tell one profile from the next.
    let rprofd = Rprofd::bare(rprofd::binary(), &dir).args(["-o", "-", "--window", "1s"]);
    let run = rprofd.run().expect_code(2);
    assert!(run.stderr.contains("--window"), "{}", run.stderr);
}

#[test]
fn default_directory_and_latest() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-latest");
    let program = Program::build("spin.c");
    let rprofd = Rprofd::bare(rprofd::binary(), &dir);
    rprofd.args(["--", program.arg(), "1", "0.3"]).run().expect_success();
    let latest = dir.join("profiles/latest");
    assert!(fs::symlink_metadata(&latest).expect("profiles/latest").is_symlink());
    assert!(latest.join("spin.cpu.pb.gz").exists());
}

#[test]
fn windows() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-windows");
    let program = Program::build("spin.c");
    let rprofd = Rprofd::new(&dir).args(["--window", "1s", "-F", "199"]);
    let run = rprofd.args(["--", program.arg(), "1", "3.5"]).run().expect_success();
    let windows: Vec<String> = run
        .file_names()
        .into_iter()
        .filter(|name| name.starts_with("spin.cpu.") && name.ends_with("Z.pb.gz"))
        .collect();
    assert!((3..=5).contains(&windows.len()), "{windows:?}");
    // Nothing is lost between them.
    let profiles: Vec<_> =
        windows.iter().map(|name| Profile::read(&run.output.join(name))).collect();
    let sampled: i64 = profiles.iter().map(|profile| profile.total("cpu")).sum();
    let lost: u64 = profiles.iter().filter_map(|profile| profile.count("lost.samples")).sum();
    let lost_ns = lost as f64 * profiles[0].period as f64;
    let accounted: f64 = run.stdout_text().trim().parse().expect("a number");
    let stolen = run.stolen.as_nanos() as f64;
    assert!(
        sampled as f64 <= accounted * 1.1 + stolen && sampled as f64 + lost_ns > accounted * 0.9,
        "{sampled} of {accounted} ns, {lost_ns} ns lost, {stolen} ns stolen"
    );
}

#[test]
fn group_by() {
    if !able() {
        return;
    }
    let dir = TestDir::new("cli-group-by");
    let program = Program::build("spin.c");
    let script = format!("{0} 1 0.5 & {0} 1 0.5; wait", program.arg());
    for (group, files) in [("pid", 2), ("comm", 1), ("exe", 1), ("none", 0)] {
        let rprofd = Rprofd::new(&dir).args(["--group-by", group]);
        let run = rprofd.args(["--", "sh", "-c", &script]).run().expect_success();
        let names = run.file_names();
        let of_spin = names.iter().filter(|name| name.starts_with("spin.")).count();
        assert_eq!(of_spin, files, "{group}: {names:?}");
        assert!(names.iter().any(|name| name == "all.cpu.pb.gz"), "{group}: {names:?}");
        fs::remove_dir_all(&run.output).expect("remove the profiles");
    }
}
