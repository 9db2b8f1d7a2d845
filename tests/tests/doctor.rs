//! `rprofd doctor`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rprofd_tests::{Program, TestDir, machine, programs::Running, rprofd};

fn doctor(arguments: &[&str]) -> (Option<i32>, String, String) {
    run(Command::new(rprofd::binary()).arg("doctor").args(arguments))
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("start");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The line of a file, and the next.
fn lines<'a>(text: &'a str, file: &str) -> (&'a str, &'a str) {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.split(' ').next().is_some_and(|it| it.ends_with(file)));
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
        panic!("no {file} in {text}");
    };
    (first, second)
}

/// The text behind `"key": `, as far as that line goes.
fn value<'a>(json: &'a str, key: &str) -> &'a str {
    let key = format!("\"{key}\": ");
    let line = json.lines().find_map(|line| line.trim().strip_prefix(&key));
    line.unwrap_or_else(|| panic!("no {key} in {json}")).trim_end_matches(',')
}

#[test]
fn files_with_rules_and_without() {
    if !machine::can_profile() || !machine::has(&["gcc"]) {
        return;
    }
    let none = ["-O2", "-g0", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let library =
        Program::build_with("tiny.c", &[&none[..], &["-shared", "-fPIC", "-nostdlib"]].concat());
    let program = Program::build_with("linked.c", &["-O2", "-Wl,--no-as-needed", library.arg()]);
    // It may have to be built, while the program runs on.
    rprofd::binary();
    let running = program.start(&[]);
    let pid = running.pid().to_string();
    let (status, text, errors) = doctor(&["--pid", &pid]);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{text}");
    assert!(text.starts_with(&format!("Executable code of process {pid} (linked):")), "{text}");
    assert!(lines(&text, "libc.so.6").0.contains("unwound by rules"), "{text}");
    assert!(lines(&text, "[vdso]").0.contains("rules"), "{text}");
    assert!(lines(&text, "linked").1.contains("names and lines from its debug"), "{text}");
    let name = library.path().file_name().unwrap().to_string_lossy().into_owned();
    let (unwinding, names) = lines(&text, &name);
    let why = "along frame pointers alone: the file has no call frame information; compile";
    assert!(unwinding.contains(why), "{text}");
    assert!(names.contains("names from its symbol table, no lines"), "{text}");

    let (status, json, _) = doctor(&["--json", "--pid", &pid]);
    assert_eq!(status, Some(0));
    assert_eq!((value(&json, "pid"), value(&json, "comm")), (pid.as_str(), "\"linked\""));
    assert!(json.contains("\"names\": \"debug_information\""), "{json}");
}

#[test]
fn what_a_stripped_program_of_a_package_lacks() {
    let is_debian = Path::new("/var/lib/dpkg/info").is_dir();
    if !machine::can_profile() || !machine::require(is_debian, "dpkg") {
        return;
    }
    let sleep = Running::start(Command::new("sleep").arg("60"));
    let (status, text, _) = doctor(&["--pid", &sleep.pid().to_string()]);
    assert_eq!(status, Some(0), "{text}");
    let (_, names) = lines(&text, "/sleep");
    assert!(names.contains("it is stripped"), "{text}");
    assert!(names.contains("more with: sudo apt-get install coreutils-dbgsym"), "{text}");
}

/// A cgroup with a limit; removed when dropped.
struct Limited(PathBuf);

impl Limited {
    /// With 64 MiB of memory; `None` where none can be made.
    fn new() -> Option<Self> {
        let name = format!("rprofd-test-{}", std::process::id());
        let files = ["memory/{}/memory.limit_in_bytes", "{}/memory.max", "unified/{}/memory.max"];
        files.iter().find_map(|file| {
            let path = Path::new("/sys/fs/cgroup").join(file.replace("{}", &name));
            let dir = path.parent()?.to_owned();
            fs::create_dir(&dir).ok()?;
            let limited = Self(dir);
            fs::write(path, "67108864").ok().map(|()| limited)
        })
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // A process that has just ended may still be in it.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn a_go_program_that_does_not_know_its_limits() {
    if !machine::can_profile() || !machine::has(&["go"]) {
        return;
    }
    let cgroup = Limited::new();
    if !machine::require(cgroup.is_some(), "a cgroup with a memory limit") {
        return;
    }
    let cgroup = cgroup.expect("a cgroup");
    let mut command = Program::build("work.go").command(&["60"]);
    command.env("GOGC", "50").env("SECRET_TOKEN", "hunter2").env_remove("GOMEMLIMIT");
    let running = Running::start(command.stdout(Stdio::null()));
    let pid = running.pid().to_string();
    fs::write(cgroup.0.join("cgroup.procs"), &pid).expect("move");
    let (status, text, _) = doctor(&["--pid", &pid]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("GOMEMLIMIT not set; cgroup: 64 MiB"), "{text}");
    assert!(text.contains("GOGC       50"), "{text}");
    assert!(text.contains("→ its cgroup allows 64 MiB"), "{text}");
    assert!(text.contains("set GOMEMLIMIT=57MiB"), "{text}");
    let (_, json, _) = doctor(&["--json", "--pid", &pid]);
    assert_eq!(value(&json, "memory_bytes"), "67108864", "{json}");
    assert!(!json.contains("hunter2") && !text.contains("hunter2"), "other variables stay inside");
    drop(running);
}

#[test]
fn this_machine() {
    if !machine::can_profile() {
        return;
    }
    let (status, text, errors) = doctor(&[]);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{text}");
    for expected in ["programs load, ", "start, enter their sandbox and answer", "BTF", "kernel"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(text.ends_with("rprofd can record here.\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe: {text}");
    let (status, json, _) = doctor(&["--json"]);
    assert_eq!((status, value(&json, "able")), (Some(0), "true"));
    assert!(json.contains("\"what\": \"sampling\""), "{json}");
}

#[test]
fn another_profiler_is_noted() {
    if !machine::can_profile() {
        return;
    }
    let dir = TestDir::new("doctor-others");
    let program = Program::build("spin.c").copy_to(&dir.join("parca-agent"));
    let other = Running::start(program.command(&["1", "60"]).stdout(Stdio::null()));
    let (status, text, _) = doctor(&[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains(&format!("parca-agent ({})", other.pid())), "{text}");
}

#[test]
fn without_rights_the_status_is_3_and_the_mending_command_is_there() {
    if !machine::can_profile() || !machine::has(&["setpriv"]) {
        return;
    }
    // A copy where everybody may go.
    let dir = std::env::temp_dir().join(format!("rprofd-doctor-{}", std::process::id()));
    fs::create_dir(&dir).expect("create");
    let binary = dir.join("rprofd");
    rprofd_tests::programs::copy_executable(rprofd::binary(), &binary);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    let (status, text, _) = run(command.arg("--").arg(&binary).arg("doctor"));
    fs::remove_dir_all(&dir).expect("remove");
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("BAD   capabilities"), "{text}");
    assert!(text.contains("sudo setcap cap_bpf,cap_perfmon"), "{text}");
    assert!(text.ends_with("rprofd cannot record here: see the lines marked BAD.\n"), "{text}");
}

#[test]
fn what_is_not_there_is_said() {
    if !machine::can_profile() {
        return;
    }
    let (status, text, errors) = doctor(&["--pid", "4194303"]);
    assert_eq!((status, text.as_str()), (Some(1), ""));
    assert!(errors.contains("there is no process 4194303"), "{errors}");
    let (status, _, errors) = doctor(&["--pid", "x"]);
    assert_eq!(status, Some(2));
    assert!(errors.contains("--pid <PID>"), "{errors}");
}
