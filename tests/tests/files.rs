//! Where a program's code comes from: memory, files that were replaced or deleted since, other
//! programs that start it, libraries that come and go.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rprofd_tests::{
    Finished, Profile, Program, Rprofd, TestDir, machine,
    pprof::Sample,
    procfs::{comm, cpu_time_ns, readers, wait_for},
    programs::{Running, copy_executable},
    rprofd::Started,
    tables,
};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take for what it is to do, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// How much CPU time a program takes that is killed before, in seconds.
const LONG: &str = "300";

/// No frame pointers: without the right file's unwind table, callers are missing.
const NO_FRAME_POINTERS: &str = "-fomit-frame-pointer";

/// One at a time: a debug build takes its time to make libc's table, longer than a stack waits for
/// it beside others that do the same.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn able(commands: &[&str]) -> bool {
    machine::can_profile() && machine::has(&["gcc", "go"]) && machine::has(commands)
}

fn wait_for_comm(pid: u32, name: &str) {
    wait_for(name, LIMIT, || (comm(pid)? == name).then_some(()));
}

/// Waits until a process has had so much more CPU time.
fn wait_for_work(pid: u32, work: Duration) {
    let enough = u128::from(cpu_time_ns(pid)) + work.as_nanos();
    wait_for("work", LIMIT, || (u128::from(cpu_time_ns(pid)) > enough).then_some(()));
}

/// `rprofd` that writes to `dir`.
fn rprofd(dir: &Path) -> Rprofd {
    fs::create_dir_all(dir).expect("create");
    let tables = tables::kept("files-tables");
    let rprofd = Rprofd::new(dir).args(["-v", "-F", "499"]);
    rprofd.args(["--unwind-cache".as_ref(), tables.as_os_str()])
}

/// Ends a recording when `pid` has worked in it for a while.
fn record_work(mut rprofd: Started, pid: u32) -> Finished {
    rprofd.wait_for_first_sample();
    wait_for_work(pid, Duration::from_millis(1500));
    rprofd.signal(Signal::INT);
    rprofd.wait().expect_success()
}

/// The profile of a process that runs already.
fn profile_running(dir: &Path, pid: u32) -> Profile {
    let run = record_work(rprofd(dir).args(["--pid", &pid.to_string()]).start(), pid);
    profile_of_pid(&run, pid)
}

fn profile_of_pid(run: &Finished, pid: u32) -> Profile {
    Profile::read(&run.file("", &format!(".{pid}.cpu.pb.gz")))
}

fn run_command(dir: &Path, command: &[&str]) -> Finished {
    rprofd(dir).args(["--"]).args(command).run().expect_success()
}

/// Of the samples that `is_meant`: nearly all are in `function`, most of these are whole, down to
/// `main` and `_start`, and none has a frame of `foreign`.
fn assert_function(
    profile: &Profile,
    is_meant: impl Fn(&Sample) -> bool,
    function: &str,
    foreign: Option<&str>,
) {
    let count = |also: &dyn Fn(&[&str]) -> bool| {
        profile.total_where("samples", |sample| is_meant(sample) && also(&profile.frames(sample)))
    };
    let total = count(&|_| true);
    let own = count(&|frames| frames.contains(&function));
    let whole = count(&|frames| {
        let ends = frames.contains(&"main") && frames.last() == Some(&"_start");
        ends && frames.contains(&function)
    });
    let foreign = count(&|frames| foreign.is_some_and(|foreign| frames.contains(&foreign)));
    let shown = format!(
        "{total} samples, {own} in {function}, {whole} whole, {foreign} foreign: {:?} {:#?} {:#?}",
        profile.counts(),
        profile.mappings,
        profile.stacks()
    );
    assert!(total > 50 && own * 10 > total * 9 && whole * 10 > own * 8 && foreign == 0, "{shown}");
}

/// A profile of `shares.c`: functions, lines, whole stacks.
fn assert_shares(profile: &Profile) {
    let share = |function: &str| profile.share(function);
    let shown = || format!("{:#?} {:#?}", profile.mappings, profile.stacks());
    assert!(share("burn_40") > 0.25 && share("burn_10") > 0.04, "{}", shown());
    assert!(profile.has_line_of("burn_40", "shares.c"), "{}", shown());
    assert_function(profile, |_| true, "main", None);
}

fn shares() -> Program {
    Program::build_with("shares.c", &[NO_FRAME_POINTERS])
}

/// Every sample's comm.
fn assert_comm(profile: &Profile, comm: &str) {
    for sample in &profile.samples {
        assert_eq!(sample.labels["comm"], comm);
    }
}

#[test]
fn a_program_in_memory() {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-memfd");
    let (memfd, shares) = (Program::build("memfd.c"), shares());
    let running = memfd.start(&[shares.arg(), LONG]);
    wait_for("exec", LIMIT, || {
        let exe = fs::read_link(format!("/proc/{}/exe", running.pid())).ok()?;
        exe.to_string_lossy().starts_with("/memfd:in-memory").then_some(())
    });
    let profile = profile_running(&dir.join("running"), running.pid());
    drop(running);
    assert_shares(&profile);

    let profile = run_command(&dir.join("command"), &[memfd.arg(), shares.arg(), "1"]).all();
    assert!(profile.share("main") > 0.8, "{:#?}", profile.stacks());
    assert!(profile.has_line_of("burn_40", "shares.c"), "{:#?}", profile.stacks());
    let is_own = |file: &str| file.starts_with("/memfd:in-memory");
    assert!(profile.mappings.iter().any(|it| is_own(&it.file)), "{:#?}", profile.mappings);
}

/// A version of a program that is upgraded: its functions are at the same addresses in each.
fn version(id: u32, flags: &[&str]) -> Program {
    let id = format!("-DID={id}");
    let flags = [flags, &[NO_FRAME_POINTERS, "-no-pie", &id]].concat();
    Program::build_with("short.c", &flags)
}

/// As a package manager does it.
fn upgrade(path: &Path, to: &Program) {
    let unfinished = path.with_extension("new");
    copy_executable(to.path(), &unfinished);
    fs::rename(&unfinished, path).expect("rename");
}

fn long_ms() -> String {
    format!("{LONG}000")
}

fn replaced_before_the_recording(name: &str, flags: &[&str]) {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new(name);
    let (path, next) = (dir.join("service"), version(2, flags));
    let service = version(1, flags).copy_to(&path);
    let old = service.start(&[&long_ms()]);
    wait_for_comm(old.pid(), "service");
    upgrade(&path, &next);
    // The new one runs, too.
    let new = service.start(&[&long_ms()]);
    wait_for_comm(new.pid(), "service");
    let mut rprofd = rprofd(&dir).args(["--pid", &format!("{},{}", old.pid(), new.pid())]).start();
    rprofd.wait_for_first_sample();
    for pid in [old.pid(), new.pid()] {
        wait_for_work(pid, Duration::from_millis(1500));
    }
    rprofd.signal(Signal::INT);
    let run = rprofd.wait().expect_success();
    assert_function(&profile_of_pid(&run, old.pid()), |_| true, "outer_1", Some("outer_2"));
    assert_function(&profile_of_pid(&run, new.pid()), |_| true, "outer_2", Some("outer_1"));
}

#[test]
fn a_program_replaced_before_the_recording() {
    replaced_before_the_recording("files-replaced", &[]);
}

#[test]
fn a_program_without_build_id_replaced_before_the_recording() {
    replaced_before_the_recording("files-replaced-no-id", &["-Wl,--build-id=none"]);
}

/// It starts in the recording, and another file is at its path, or none, before its own can be
/// opened.
fn gone_before_it_is_opened(name: &str, flags: &[&str], change: fn(&Path, &Program)) {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new(name);
    let (path, next) = (dir.join("service"), version(2, flags));
    let old = version(1, flags).copy_to(&path);
    let mut rprofd = rprofd(&dir).args(["--comm", "service"]).start();
    rprofd.wait_for_line("sampling");
    let readers = readers(rprofd.pid());
    assert!(!readers.is_empty(), "no reader to be held");
    let signal = |signal| {
        for &reader in &readers {
            let reader = Pid::from_raw(reader as i32).expect("a pid");
            kill_process(reader, signal).expect("signal a reader");
        }
    };
    signal(Signal::STOP);
    let old = old.start(&[&long_ms()]);
    wait_for_comm(old.pid(), "service");
    change(&path, &next);
    signal(Signal::CONT);
    let run = record_work(rprofd, old.pid());
    assert_function(&profile_of_pid(&run, old.pid()), |_| true, "outer_1", Some("outer_2"));
}

#[test]
fn a_program_replaced_before_it_is_opened() {
    gone_before_it_is_opened("files-replaced-soon", &[], upgrade);
}

#[test]
fn a_program_without_build_id_replaced_before_it_is_opened() {
    let flags = ["-Wl,--build-id=none"];
    gone_before_it_is_opened("files-replaced-soon-no-id", &flags, upgrade);
}

#[test]
fn a_program_deleted_before_it_is_opened() {
    gone_before_it_is_opened("files-deleted-soon", &[], |path, _| {
        fs::remove_file(path).expect("remove");
    });
}

/// It is found by the path that it was started from, as whoever upgraded it knows it.
#[test]
fn a_deleted_program_is_found_by_its_path() {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-deleted");
    let path = dir.join("service");
    let running = shares().copy_to(&path).start(&[LONG]);
    wait_for_comm(running.pid(), "service");
    fs::remove_file(&path).expect("remove");
    let own = path.to_str().expect("UTF-8");
    for (at, filter) in [own, "servic?"].into_iter().enumerate() {
        let rprofd = rprofd(&dir.join(at.to_string())).args(["--exe", filter]).start();
        let run = record_work(rprofd, running.pid());
        let profile = run.profile_of("service");
        assert_shares(&profile);
        let file = &profile.mappings[0].file;
        assert!(file.starts_with(own), "its own mapping is the first: {:#?}", profile.mappings);
    }
}

fn plugin(dir: &Path, name: &str, flags: &[&str]) -> Program {
    let name_flag = format!("-DNAME={name}");
    let flags = [flags, &["-shared", "-fPIC", NO_FRAME_POINTERS, &name_flag]].concat();
    Program::build_with("plugin.c", &flags).copy_to(&dir.join(name))
}

fn plugins() -> Program {
    Program::build_with("plugins.c", &[NO_FRAME_POINTERS])
}

/// Recorded while and after the library's file is replaced.
fn a_library_replaced(name: &str, flags: &[&str]) {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new(name);
    let (old, new) = (plugin(&dir, "old_plugin", flags), plugin(&dir, "new_plugin", flags));
    let mut command = plugins().command(&[LONG, old.arg()]);
    let running = Running::start(command.stdout(Stdio::null()));
    wait_for_comm(running.pid(), "1");
    let pid = running.pid();
    let mut rprofd = rprofd(&dir).args(["--pid", &pid.to_string()]).start();
    rprofd.wait_for_first_sample();
    upgrade(old.path(), &new);
    wait_for_work(pid, Duration::from_millis(1500));
    rprofd.signal(Signal::INT);
    let profile = profile_of_pid(&rprofd.wait().expect_success(), pid);
    assert_function(&profile, |_| true, "old_plugin", Some("new_plugin"));
    let profile = profile_running(&dir.join("after"), pid);
    assert_function(&profile, |_| true, "old_plugin", Some("new_plugin"));
}

#[test]
fn a_library_replaced_under_a_process() {
    a_library_replaced("files-library", &[]);
}

#[test]
fn a_library_without_build_id_replaced_under_a_process() {
    a_library_replaced("files-library-no-id", &["-Wl,--build-id=none"]);
}

/// Runs plugins of which the second is at the first one's address.
fn one_after_the_other(dir: &Path, [first, second]: [&str; 2]) -> Profile {
    let run = run_command(dir, &[plugins().arg(), "2", first, second]);
    let addresses = run.stdout_text();
    let addresses: Vec<&str> = addresses.lines().collect();
    assert!(matches!(addresses[..], [first, second] if first == second), "{addresses:?}");
    run.all()
}

/// Each has its samples, and its file's build ID in the mapping that they are in.
fn assert_two_plugins(profile: &Profile) {
    let mut build_ids = Vec::new();
    for (thread, own, foreign) in [("1", "plugin_a", "plugin_b"), ("2", "plugin_b", "plugin_a")] {
        assert_function(profile, |sample| sample.labels["thread"] == thread, own, Some(foreign));
        let is_own = |id: &&u64| profile.locations[id].lines.iter().any(|it| it.function == own);
        let mut ids: Vec<&str> = profile
            .locations
            .keys()
            .filter(is_own)
            .map(|&id| profile.mapping_of(id).expect("a mapping").build_id.as_str())
            .collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{own}: {:#?}", profile.mappings);
        build_ids.push(ids[0].to_owned());
    }
    assert_ne!(build_ids[0], build_ids[1], "{:#?}", profile.mappings);
}

#[test]
fn plugins_that_follow_each_other_at_an_address() {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-plugins");
    let plugins = ["plugin_a", "plugin_b"].map(|name| plugin(&dir, name, &[]));
    let profile = one_after_the_other(&dir, [plugins[0].arg(), plugins[1].arg()]);
    assert_two_plugins(&profile);
}

#[test]
fn plugins_that_follow_each_other_at_a_path_and_an_address() {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-plugins-path");
    let plugins = ["plugin_a", "plugin_b"].map(|name| plugin(&dir, name, &[]));
    let second = format!("{}={}", plugins[0].arg(), plugins[1].arg());
    let profile = one_after_the_other(&dir, [plugins[0].arg(), &second]);
    assert_two_plugins(&profile);
}

#[test]
fn plugins_in_memory() {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-plugins-memfd");
    let plugins = ["plugin_a", "plugin_b"].map(|name| plugin(&dir, name, &[]));
    let [first, second] = plugins.map(|plugin| format!("memory:{}", plugin.arg()));
    let profile = one_after_the_other(&dir, [&first, &second]);
    assert_two_plugins(&profile);
}

#[test]
fn a_program_started_through_the_dynamic_linker() {
    if !able(&["readelf"]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-ld-so");
    let program = shares();
    let linker = interpreter_of(&program);
    let mut command = Command::new(&linker);
    let running = Running::start(command.arg(program.path()).arg(LONG));
    wait_for_work(running.pid(), Duration::from_millis(20));
    let profile = profile_running(&dir.join("running"), running.pid());
    drop(running);
    assert_shares(&profile);

    let profile = run_command(&dir.join("command"), &[&linker, program.arg(), "2"]).all();
    assert_shares(&profile);
    let name = linker.rsplit('/').next().expect("a name");
    assert_comm(&profile, &name[..name.len().min(15)]);
}

/// What the kernel starts a program with.
fn interpreter_of(program: &Program) -> String {
    let output = Command::new("readelf").arg("-l").arg(program.path()).output().expect("readelf");
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = text.split_once("interpreter: ").expect("an interpreter");
    rest.split(']').next().expect("a path").to_owned()
}

/// A script that runs until it is killed.
fn start_script(path: &Path, text: &str) -> Running {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    // The interpreter opens it, but the kernel before that: a descriptor of ours that another test
    // has inherited would keep it busy.
    let copy = path.with_extension("run");
    copy_executable(path, &copy);
    fs::rename(&copy, path).expect("rename");
    let running = Running::start(Command::new(path).stdin(Stdio::null()));
    wait_for_comm(running.pid(), path.file_name().and_then(|it| it.to_str()).expect("UTF-8"));
    running
}

/// It is called as the script, runs as its interpreter, and is found by either.
#[test]
fn a_script_and_its_interpreter() {
    if !able(&[]) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-script");
    let interpreter = shares().copy_to(&dir.join("interpreter"));
    let script = dir.join("script");
    // The interpreter's first argument: for how long it runs.
    let text = format!("#!{} {LONG}\n", interpreter.arg());
    let running = start_script(&script, &text);
    let exe = format!("{}/interp*", dir.display());
    for filter in [["--comm", "script"], ["--exe", &exe]] {
        let output = dir.join(filter[0].trim_start_matches('-'));
        let run = record_work(rprofd(&output).args(filter).start(), running.pid());
        let profile = run.profile_of("script");
        assert_shares(&profile);
        assert_comm(&profile, "script");
        let own = Path::new(&profile.mappings[0].file);
        assert_eq!(own, fs::canonicalize(interpreter.path()).expect("canonicalize"));
        let line = format!("{} {LONG} {}", interpreter.arg(), script.display());
        assert!(profile.comments.iter().any(|it| it.contains(&line)), "{:?}", profile.comments);
    }
}

#[test]
fn a_python_script() {
    const PYTHON: &str = "/usr/bin/python3";
    if !able(&[]) || !machine::require(Path::new(PYTHON).exists(), PYTHON) {
        return;
    }
    let _alone = alone();
    let dir = TestDir::new("files-python");
    let script = dir.join("busy-script");
    let running = start_script(&script, &format!("#!{PYTHON}\nwhile True: pass\n"));
    let exe = fs::read_link(format!("/proc/{}/exe", running.pid())).expect("its executable");
    let profile = profile_running(&dir, running.pid());
    assert_comm(&profile, "busy-script");
    assert_eq!(Path::new(&profile.mappings[0].file), exe);
    let within = profile.share("_PyEval_EvalFrameDefault");
    assert!(within > 0.8, "{within}: {:#?}", profile.stacks());
}
