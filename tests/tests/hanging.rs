//! Programs on a file system that never answers: they cost their own names, and nothing else.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rprofd_tests::{
    Finished, Program, Rprofd, TestDir, machine,
    procfs::{cpu_time_ns, wait_for},
    programs::{Running, copy_executable},
};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

/// How long any of these programs may take to get going.
const LIMIT: Duration = Duration::from_secs(20);

/// How long is recorded.
const SECONDS: &str = "4";

/// How the file system hangs. What has been taken from the kernel is waited for so that nothing
/// interrupts it.
const WAYS: [&str; 2] = ["take", "leave"];

/// The tests profile the whole machine, one after the other.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn able() -> bool {
    machine::can_profile()
        && machine::has(&["gcc", "unshare", "chroot"])
        && machine::require(Path::new("/dev/fuse").exists(), "/dev/fuse")
}

/// A mounted file system; everything that waits for it gets an error when it is dropped.
struct HangFs {
    server: Running,
    lines: BufReader<ChildStdout>,
    source: PathBuf,
    mount: PathBuf,
}

impl HangFs {
    fn new(dir: &Path, way: &str) -> Self {
        let (source, mount) = (dir.join("source"), dir.join("mount"));
        fs::create_dir_all(&source).expect("create");
        fs::create_dir_all(&mount).expect("create");
        let program = Program::build("hangfs.c");
        let mut command = program.command(&[path(&source), path(&mount), way]);
        let mut server = Running::start(command.stdout(Stdio::piped()));
        let lines = BufReader::new(server.child.stdout.take().expect("a pipe"));
        let mut file_system = Self { server, lines, source, mount };
        file_system.expect_line("mounted");
        file_system
    }

    fn expect_line(&mut self, expected: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read");
        assert_eq!(line.trim_end(), expected);
    }

    fn hang(&mut self) {
        let pid = Pid::from_child(&self.server.child);
        kill_process(pid, Signal::USR1).expect("signal");
        self.expect_line("hangs");
    }

    /// A copy of a program on it.
    fn copy(&self, program: &Program, name: &str) -> PathBuf {
        copy_executable(program.path(), &self.source.join(name));
        self.mount.join(name)
    }
}

impl Drop for HangFs {
    fn drop(&mut self) {
        let _ = self.server.child.kill();
        let _ = self.server.child.wait();
        let _ = unmount(&self.mount, UnmountFlags::DETACH);
    }
}

/// A program that hangs with its file system; that goes first, or the program could not end.
struct Hanging {
    _file_system: HangFs,
    program: Running,
}

impl Hanging {
    fn new(mut file_system: HangFs, program: Running) -> Self {
        file_system.hang();
        Self { _file_system: file_system, program }
    }

    fn pid(&self) -> u32 {
        self.program.pid()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Started, and busy.
fn busy(command: &mut Command) -> Running {
    let running = Running::start(command.stdout(Stdio::null()));
    wait_for("CPU time", LIMIT, || (cpu_time_ns(running.pid()) > 20_000_000).then_some(()));
    running
}

/// Profiles the machine, the hanging program `hostile` beside a well-behaved one.
fn run(dir: &TestDir, hostile: u32) -> Finished {
    let well = Program::build("shares.c").copy_to(&dir.join("well"));
    let well = busy(&mut well.command(&["60"]));
    let mut rprofd = Rprofd::new(dir).args(["-v", "-F", "199", "-d", SECONDS]).start();
    rprofd.wait_for_line("sampling");
    let before = cpu_time_ns(well.pid());
    thread::sleep(Duration::from_secs(SECONDS.parse().expect("a number")));
    let cpu_time_ns = (cpu_time_ns(well.pid()) - before) as f64;
    // What waits for ever in the kernel must not be waited for.
    let run = rprofd.wait().expect_success();
    assert!(run.elapsed < Duration::from_secs(40), "{:?}: {}", run.elapsed, run.stderr);

    let profile = run.profile_of("well");
    let named = profile.total_where("samples", |sample| !profile.frames(sample)[0].is_empty());
    let samples = profile.total("samples");
    assert!(named * 100 >= samples * 99, "{named} of {samples} are named: {}", run.stderr);
    let recorded_share = samples as f64 / 199.0 / (cpu_time_ns / 1e9);
    assert!(recorded_share > 0.97, "{recorded_share} of its CPU time: {}", run.stderr);
    assert!(run.all().samples.iter().any(|it| it.labels["pid"] == hostile.to_string()));
    // Two, and one more each time that one was lost: never one for each thing that was asked.
    let line = run.stderr.lines().find(|line| line.contains("readers started: "));
    let started = line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(started.expect("a number") <= 5, "{}", run.stderr);
    run
}

#[test]
fn a_program_and_a_library() {
    if !able() {
        return;
    }
    let _turn = turn();
    for way in WAYS {
        let dir = TestDir::new(&format!("hanging-program-{way}"));
        let file_system = HangFs::new(&dir, way);
        let program = file_system.copy(&Program::build("mapped.c"), "hostile");
        let library =
            file_system.copy(&Program::build_with("tiny.c", &["-shared", "-fPIC"]), "library");
        let hostile = busy(Command::new(program).args(["60", path(&library)]));
        let hostile = Hanging::new(file_system, hostile);
        let run = run(&dir, hostile.pid());
        assert!(run.stderr.contains("is left unnamed"), "{}", run.stderr);
        let profile = run.profile_of("hostile");
        let in_library = profile.total_where("samples", |sample| {
            profile.mapping_of(sample.stack[0]).is_some_and(|it| it.file.ends_with("library"))
        });
        assert!(in_library > 0, "addresses keep their mapping: {}", run.stderr);
    }
}

#[test]
fn a_perf_map() {
    if !able() {
        return;
    }
    let _turn = turn();
    let dir = TestDir::new("hanging-perf-map");
    let file_system = HangFs::new(&dir, "take");
    let script = format!("mount --bind {} /tmp && exec \"$@\"", path(&file_system.mount));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", Program::build("mapped.c").arg()]);
    let hostile = busy(command.args(["60", "-"]));
    let hostile = Hanging::new(file_system, hostile);
    run(&dir, hostile.pid());
}

#[test]
fn a_root_directory() {
    if !able() {
        return;
    }
    let _turn = turn();
    let dir = TestDir::new("hanging-root");
    let file_system = HangFs::new(&dir, "take");
    file_system.copy(&Program::build_with("mapped.c", &["-static"]), "hostile");
    let mut command = Command::new("chroot");
    let hostile = busy(command.args([path(&file_system.mount), "/hostile", "60", "-"]));
    let hostile = Hanging::new(file_system, hostile);
    let run = run(&dir, hostile.pid());
    assert!(run.stderr.contains("/hostile is left unnamed"), "{}", run.stderr);
}

/// Linux reads no file for a command line (`FOLL_ANON` in `fs/proc/base.c`).
#[test]
fn arguments_in_a_file() {
    if !able() {
        return;
    }
    let _turn = turn();
    let dir = TestDir::new("hanging-arguments");
    let file_system = HangFs::new(&dir, "take");
    let file = file_system.copy(&Program::build_with("tiny.c", &["-shared", "-fPIC"]), "file");
    let program = Program::build("args_on_file.c").copy_to(&dir.join("hostile"));
    let hostile = busy(&mut program.command(&[path(&file), "60"]));
    let hostile = Hanging::new(file_system, hostile);
    let run = run(&dir, hostile.pid());
    assert!(run.all().share("burn_args") > 0.1, "{}", run.stderr);
}

#[test]
fn arguments_in_memory_that_is_never_filled() {
    if !able() || !machine::require(Path::new("/dev/userfaultfd").exists(), "userfaultfd") {
        return;
    }
    let _turn = turn();
    let dir = TestDir::new("hanging-userfaultfd");
    let program = Program::build("args_on_file.c").copy_to(&dir.join("hostile"));
    let hostile = busy(&mut program.command(&["-", "60"]));
    let run = run(&dir, hostile.pid());
    // Linux does not wait for it, either, when it reads for another process.
    assert!(run.all().share("burn_args") > 0.1, "{}", run.stderr);
}
