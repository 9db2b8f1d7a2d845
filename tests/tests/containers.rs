//! Programs in namespaces of their own: named as on the host.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rprofd_tests::{
    Finished, Profile, Program, Rprofd, TestDir,
    containers::{Container, Overlay, make_root},
    machine,
    procfs::{children, comm, cpu_time_ns, wait_for},
    programs::Running,
};

const LIMIT: Duration = Duration::from_secs(30);

/// How much CPU time a program takes that is killed before.
const LONG: &str = "100";

fn able(commands: &[&str]) -> bool {
    machine::can_profile() && machine::has(&["gcc", "ldd", "readelf"]) && machine::has(commands)
}

fn contained(flags: &[&str]) -> Program {
    Program::build_with("contained.c", flags)
}

/// The process called `contained` among the descendants of `pid`, once it is busy.
fn contained_below(pid: u32) -> u32 {
    fn find(pid: u32) -> Option<u32> {
        if comm(pid).is_some_and(|comm| comm == "contained") {
            return Some(pid);
        }
        children(pid).into_iter().find_map(find)
    }
    wait_for("contained program", LIMIT, || find(pid).filter(|pid| cpu_time_ns(*pid) > 20_000_000))
}

fn record(dir: &TestDir, seconds: &str) -> Finished {
    let rprofd = Rprofd::new(dir).args(["-v", "-F", "199", "-d", seconds, "--comm", "contained"]);
    rprofd.run().expect_success()
}

/// Its function by name and line, its made code by the perf map, the pid the host's.
fn assert_named(run: &Finished, pid: u32) -> Profile {
    let profile = run.profile_of(&format!("contained.{pid}"));
    let samples = profile.total("samples");
    let of = |name: &str| {
        profile.total_where("samples", |sample| profile.frames(sample).contains(&name))
    };
    let (burned, made) = (of("burn_contained"), of("made_contained"));
    assert!(made * 10 > samples, "{made} of {samples}: {}", run.stderr);
    assert!(
        (burned + made) * 100 >= samples * 97,
        "{burned} + {made} of {samples}: {}",
        run.stderr
    );
    assert!(profile.has_line_of("burn_contained", "contained.c"), "{:#?}", profile.stacks());
    for sample in &profile.samples {
        assert_eq!(sample.labels["pid"], pid.to_string(), "{}", run.stderr);
    }
    profile
}

fn assert_cgroup(profile: &Profile, id: &str) {
    for sample in &profile.samples {
        assert!(sample.labels["cgroup"].contains(id), "{:?}", sample.labels);
    }
}

fn runc(name: &str, program: &Program, changes: &[(&str, &str)]) {
    let dir = TestDir::new(name);
    let lower = dir.join("root");
    let path = make_root(&lower, program);
    let root = Overlay::new(&dir, &lower);
    let args = [path.to_str().expect("UTF-8"), LONG];
    let container = Container::run(&dir, root.path(), &args, changes);
    let pid = contained_below(container.runc.pid());
    let run = record(&dir, "2s");
    assert_cgroup(&assert_named(&run, pid), &container.id);
}

#[test]
fn a_container_on_an_overlay() {
    if able(&["runc", "mount"]) {
        runc("containers-overlay", &contained(&[]), &[]);
    }
}

#[test]
fn a_container_whose_tmp_is_a_mount() {
    if able(&["runc", "mount"]) {
        let tmp = "\"mounts\": [\n{\"destination\": \"/tmp\", \"type\": \"tmpfs\", \
                   \"source\": \"tmpfs\", \"options\": [\"mode=1777\"]},";
        runc("containers-tmp", &contained(&["-static"]), &[("\"mounts\": [", tmp)]);
    }
}

#[test]
fn a_container_with_users_of_its_own() {
    if able(&["runc", "mount"]) {
        let users = "\"linux\": {\
            \"uidMappings\": [{\"containerID\": 0, \"hostID\": 100000, \"size\": 1000}],\
            \"gidMappings\": [{\"containerID\": 0, \"hostID\": 100000, \"size\": 1000}],";
        let namespace = "\"namespaces\": [\n{\"type\": \"user\"},";
        let changes = [("\"linux\": {", users), ("\"namespaces\": [", namespace)];
        runc("containers-users", &contained(&["-static"]), &changes);
    }
}

#[test]
fn a_container_with_another_c_library() {
    if able(&["runc", "mount", "musl-gcc"]) {
        let dir = TestDir::new("containers-musl-program");
        let program = Program::compiled_by("musl-gcc", "contained.c", &dir.join("contained"));
        runc("containers-musl", &program, &[]);
    }
}

/// It ends, and is removed with its root, while the recording goes on.
#[test]
fn a_container_that_lives_for_two_seconds() {
    if !able(&["runc"]) {
        return;
    }
    let dir = TestDir::new("containers-short");
    let root = dir.join("root");
    let path = make_root(&root, &contained(&[]));
    let args = ["-v", "-F", "199", "--comm", "contained"];
    let mut rprofd = Rprofd::new(&dir).args(args).start();
    rprofd.wait_for_line("sampling");
    let args = [path.to_str().expect("UTF-8"), "2"];
    let mut container = Container::run(&dir, &root, &args, &[]);
    let pid = contained_below(container.runc.pid());
    container.runc.child.wait().expect("wait");
    let id = container.id.clone();
    drop(container);
    fs::remove_dir_all(&root).expect("remove");
    rprofd.signal(rustix::process::Signal::INT);
    let run = rprofd.wait().expect_success();
    assert_cgroup(&assert_named(&run, pid), &id);
}

#[test]
fn namespaces_of_a_user() {
    if !able(&["unshare"]) {
        return;
    }
    let dir = TestDir::new("containers-unshare");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork"]);
    command.arg(contained(&[]).arg()).arg(LONG).stdout(Stdio::null());
    let running = Running::start(&mut command);
    let pid = contained_below(running.pid());
    let run = record(&dir, "2s");
    let end = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(end, rustix::process::Signal::KILL).expect("kill");
    assert_named(&run, pid);
}

#[test]
fn another_root_directory() {
    if !able(&["chroot"]) {
        return;
    }
    let dir = TestDir::new("containers-chroot");
    let root = dir.join("root");
    let path = make_root(&root, &contained(&[]));
    // What a path means depends on who follows it: a link's target is below the root.
    fs::remove_dir(root.join("tmp")).expect("remove");
    fs::create_dir_all(root.join("var/scratch")).expect("create");
    std::os::unix::fs::symlink("/var/scratch", root.join("tmp")).expect("link");
    let mut command = Command::new("chroot");
    command.arg(&root).arg(&path).arg(LONG).stdout(Stdio::null());
    let running = Running::start(&mut command);
    let pid = contained_below(running.pid());
    assert!(!Path::new("/var/scratch").exists(), "not ours");
    let run = record(&dir, "2s");
    assert_named(&run, pid);
}
