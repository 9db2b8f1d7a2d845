//! Input that is wrong or hostile: a clear error, and the rest of the run unharmed.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rprofd_tests::{Finished, Program, Rprofd, TestDir, machine, rprofd};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"])
}

/// Longer than any of these runs may take.
const NEVER: &str = "60s";

/// A pid that no kernel gives: its limit is exclusive.
const NO_PID: &str = "4194304";

fn assert_quick(run: &Finished) {
    assert!(run.elapsed < Duration::from_secs(20), "{:?}: {}", run.elapsed, run.stderr);
}

#[test]
fn pid_that_does_not_exist() {
    if !able() {
        return;
    }
    let dir = TestDir::new("bad-pid");
    let run = Rprofd::new(&dir).args(["--pid", NO_PID, "-d", NEVER]).run().expect_code(1);
    assert!(run.stderr.contains(&format!("there is no process {NO_PID}")), "{}", run.stderr);
    assert_quick(&run);

    // One of several: said, and the others are profiled.
    let target = Program::build("shares.c").start(&["60"]);
    let pids = format!("{NO_PID},{}", target.pid());
    let run = Rprofd::new(&dir).args(["--pid", &pids, "-d", "1s"]).run().expect_success();
    let warning = format!("warning: there is no process {NO_PID}");
    assert!(run.stderr.starts_with(&warning), "no time before it: {}", run.stderr);
    assert!(run.profile_of("shares").share("burn_40") > 0.1, "{}", run.stderr);
}

#[test]
fn pid_that_ends_at_once() {
    if !able() {
        return;
    }
    let dir = TestDir::new("bad-pid-ends");
    let mut target = Program::build("spin.c").command(&["1", "0.6"]);
    let mut target = target.stdout(Stdio::null()).spawn().expect("start");
    // Reaped by nobody until rprofd has ended: a zombie is an ended process, too.
    let pid = target.id().to_string();
    let run = Rprofd::new(&dir).args(["--pid", &pid, "-d", NEVER]).run().expect_success();
    assert_quick(&run);
    target.wait().expect("wait");
}

#[test]
fn unwritable_output() {
    if !able() {
        return;
    }
    let dir = TestDir::new("bad-output");
    fs::write(dir.join("file"), "").expect("write");
    fs::create_dir(dir.join("directory.svg")).expect("create");
    for output in ["file/below", "/proc/no/such", "file/one.pb.gz", "directory.svg"] {
        let rprofd = Rprofd::bare(rprofd::binary(), &dir).args(["-o", output, "-d", NEVER]);
        let run = rprofd.run().expect_code(1);
        assert!(run.stderr.contains(output), "{output}: {}", run.stderr);
        // Found out before anything is recorded.
        assert_quick(&run);
    }
}

#[test]
fn full_disk() {
    if !able() || !machine::has(&["unshare", "mount"]) {
        return;
    }
    let dir = TestDir::new("bad-disk");
    let disk = dir.join("disk");
    fs::create_dir(&disk).expect("create");
    let script = "mount -t tmpfs -o size=64k none disk && \
                  mkdir disk/profiles && \
                  { head -c 1M /dev/zero > disk/filler 2>/dev/null || true; } && \
                  \"$@\"; status=$?; ls disk/profiles; exit $status";
    let program = Program::build("shares.c");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(rprofd::binary());
    command.args(["-F", "999", "-o", "disk/profiles", "-d", "2s"]).current_dir(&*dir);
    let _target = program.start(&["30"]);
    let output = command.output().expect("start unshare");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    // No half of a file is left, under whatever name.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{stderr}");
}

#[test]
fn full_disk_under_a_command() {
    if !able() || !machine::has(&["unshare", "mount"]) {
        return;
    }
    let dir = TestDir::new("bad-disk-command");
    fs::create_dir(dir.join("disk")).expect("create");
    let fill = "head -c 1M /dev/zero > disk/filler 2>/dev/null; exec \"$@\"";
    let script = format!(
        "mount -t tmpfs -o size=64k none disk && exec {} -o disk/profiles -- sh -c '{fill}' sh \"$@\"",
        rprofd::binary().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", Program::build("spin.c").arg()]);
    let output = command.args(["1", "0.5", "3"]).current_dir(&*dir).output().expect("start");
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Not the command's own: without its profile a run has failed, and that is ours.
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert!(stderr.contains("the command's own was 3"), "{stderr}");
}

/// Profiles a program that runs code in `file`, beside one that is whole.
fn run_mapped(dir: &TestDir, file: &Path) {
    let script = format!(
        "{} 2 {} & {} 2; wait",
        Program::build("mapped.c").arg(),
        file.display(),
        Program::build("shares.c").arg()
    );
    let run = Rprofd::new(dir).args(["-F", "499", "--", "sh", "-c", &script]).run();
    let run = run.expect_success();
    let beside = run.profile_of("shares");
    assert!(beside.share("burn_40") > 0.25, "{:#?}", beside.stacks());
    let mapped = run.profile_of("mapped");
    let name = file.file_name().expect("a name").to_str().expect("UTF-8");
    let inside = mapped.total_where("samples", |sample| {
        mapped.mapping_of(sample.stack[0]).is_some_and(|mapping| mapping.file.ends_with(name))
    });
    assert!(inside * 2 > mapped.total("samples"), "addresses keep their mapping: {mapped:#?}");
}

#[test]
fn truncated_elf() {
    if !able() {
        return;
    }
    let dir = TestDir::new("bad-truncated");
    let whole = fs::read(Program::build("shares.c").path()).expect("read");
    for length in [64, 4096, whole.len() / 2] {
        let file = dir.join(format!("truncated-{length}"));
        fs::write(&file, &whole[..length]).expect("write");
        run_mapped(&dir, &file);
        fs::remove_dir_all(dir.join("profiles")).expect("remove the profiles");
    }
}

#[test]
fn elf_of_random_bytes() {
    if !able() {
        return;
    }
    let dir = TestDir::new("bad-random");
    let whole = fs::read(Program::build("shares.c").path()).expect("read");
    // Behind the magic number alone, and behind a whole header that points into nonsense.
    for kept in [4, 64] {
        let mut bytes = whole[..kept].to_vec();
        let random = fs::File::open("/dev/urandom").expect("open");
        random.take(64 * 1024).read_to_end(&mut bytes).expect("read");
        let file = dir.join(format!("random-{kept}"));
        fs::write(&file, &bytes).expect("write");
        run_mapped(&dir, &file);
        fs::remove_dir_all(dir.join("profiles")).expect("remove the profiles");
    }
}

#[test]
fn hostile_comm() {
    if !able() {
        return;
    }
    let dir = TestDir::new("bad-comm");
    let program = Program::build("rename.c");
    let comm = "../a\n\x1b[31m%s\"";
    let run = Rprofd::new(&dir).args(["-F", "499", "--", program.arg(), "1", comm]).run();
    let run = run.expect_success();
    let names = run.file_names();
    // A first dot would hide the file.
    assert_eq!(names, ["_._a___31m_s_.cpu.pb.gz", "all.cpu.pb.gz"]);
    for text in [&run.stderr, &run.stdout_text()] {
        assert!(!text.contains('\x1b') && !text.contains("a\n"), "{text:?}");
    }
    assert!(run.all().share("burn_renamed") > 0.9);
    let svg = run_form(&dir, &program, comm, "svg");
    assert!(!svg.contains('\x1b'), "{svg}");
    // Control characters would end a line, and with it a stack.
    let folded = run_form(&dir, &program, comm, "folded");
    for line in folded.lines() {
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        assert!(count.is_some(), "{line:?}");
    }
}

fn run_form(dir: &TestDir, program: &Program, comm: &str, form: &str) -> String {
    let output = format!("one.{form}");
    let rprofd = Rprofd::bare(rprofd::binary(), dir).args(["-o", &output]);
    rprofd.args(["--", program.arg(), "0.5", comm]).run().expect_success();
    fs::read_to_string(dir.join(output)).expect("read the output")
}
