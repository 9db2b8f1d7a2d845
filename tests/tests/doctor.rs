//! `rprofd doctor`.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use rprofd_tests::{Program, TestDir, limited::Limited, machine, programs::Running, rprofd};
use serde_json::Value;

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

/// What `doctor --json` prints, and its exit status.
fn json(arguments: &[&str]) -> (Option<i32>, Value) {
    json_of(Command::new(rprofd::binary()).arg("doctor").arg("--json").args(arguments))
}

fn json_of(command: &mut Command) -> (Option<i32>, Value) {
    let (status, text, errors) = run(command);
    assert_eq!(errors, "");
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status, value)
}

/// An object's keys, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    let mut keys: Vec<_> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

/// The machine's findings, each of the documented shape.
fn findings(report: &Value) -> &[Value] {
    assert_eq!(keys(report), ["able", "findings"]);
    let findings = report["findings"].as_array().expect("an array");
    for finding in findings {
        let is_ok = match text_of(finding, "mark") {
            "ok" => true,
            "note" | "bad" => false,
            other => panic!("{other}"),
        };
        assert!(!text_of(finding, "what").is_empty() && !text_of(finding, "found").is_empty());
        if is_ok {
            assert_eq!(keys(finding), ["found", "mark", "what"]);
        } else {
            assert_eq!(keys(finding), ["found", "mark", "mend", "what"]);
            assert!(!text_of(finding, "mend").is_empty(), "{finding}");
        }
    }
    let is_bad = findings.iter().any(|finding| finding["mark"] == "bad");
    assert_eq!(report["able"], Value::Bool(!is_bad));
    findings
}

fn finding<'a>(findings: &'a [Value], what: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["what"] == what);
    found.unwrap_or_else(|| panic!("no {what} in {findings:?}"))
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

    let (status, report) = json(&["--pid", &pid]);
    assert_eq!(status, Some(0));
    assert_eq!(keys(&report), ["comm", "files", "pid"]);
    assert_eq!((&report["pid"], &report["comm"]), (&running.pid().into(), &"linked".into()));
    for file in report["files"].as_array().expect("an array") {
        let keys = keys(file).into_iter().filter(|key| *key != "install").collect::<Vec<_>>();
        assert_eq!(keys, ["code_bytes", "name", "names", "unwinding"]);
        assert!(file["code_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{file}");
    }
    let file = |name: &str| {
        let files = report["files"].as_array().expect("an array");
        let found = files.iter().find(|file| text_of(file, "name").ends_with(name));
        found.unwrap_or_else(|| panic!("no {name} in {report}"))
    };
    assert_eq!(file("/linked")["names"], "debug_information");
    assert!(file("/linked")["unwinding"]["by_rules"].as_u64().is_some_and(|it| it <= 1000));
    assert_eq!(file(&name)["unwinding"]["no"], "the file has no call frame information");
}

#[test]
fn what_a_stripped_program_of_a_package_lacks() {
    let is_debian = Path::new("/var/lib/dpkg/info").is_dir();
    if !machine::can_profile() || !machine::require(is_debian, "dpkg") {
        return;
    }
    // It may have to be built, while the program runs on.
    rprofd::binary();
    let sleep = Running::start(Command::new("sleep").arg("60"));
    let (status, text, _) = doctor(&["--pid", &sleep.pid().to_string()]);
    assert_eq!(status, Some(0), "{text}");
    let (_, names) = lines(&text, "/sleep");
    assert!(names.contains("it is stripped"), "{text}");
    assert!(names.contains("more with: sudo apt-get install coreutils-dbgsym"), "{text}");
}

#[test]
fn a_go_program_that_does_not_know_its_limits() {
    if !machine::can_profile() || !machine::has(&["go"]) {
        return;
    }
    let cgroup = Limited::of_memory();
    if !machine::require(cgroup.is_some(), "a cgroup with a memory limit") {
        return;
    }
    let cgroup = cgroup.expect("a cgroup");
    // It may have to be built, while the program runs on.
    rprofd::binary();
    let mut command = Program::build("work.go").command(&["60"]);
    command.env("GOGC", "50").env("SECRET_TOKEN", "hunter2").env_remove("GOMEMLIMIT");
    let running = Running::start(command.stdout(Stdio::null()));
    let pid = running.pid().to_string();
    cgroup.take(&pid);
    let (status, text, _) = doctor(&["--pid", &pid]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("GOMEMLIMIT not set; cgroup: 64 MiB"), "{text}");
    assert!(text.contains("GOGC       50"), "{text}");
    assert!(text.contains("→ its cgroup allows 64 MiB"), "{text}");
    assert!(text.contains("set GOMEMLIMIT=57MiB"), "{text}");
    let (_, report) = json(&["--pid", &pid]);
    let go = &report["go"];
    assert_eq!(go["limits"]["memory_bytes"], 67_108_864, "{report}");
    assert_eq!((&go["gogc"], &go["gomemlimit"]), (&"50".into(), &Value::Null), "{report}");
    assert_eq!(go["not_known"], Value::Array(Vec::new()), "{report}");
    assert!(go["advice"].as_array().is_some_and(|it| it.iter().all(Value::is_string)));
    let printed = report.to_string();
    assert!(!printed.contains("hunter2") && !text.contains("hunter2"), "others stay inside");
    drop(running);
}

/// The version of the Go that programs are built with here, and whether its runtime follows its
/// cgroup's CPU limit.
fn go_here() -> (String, bool) {
    let (_, text, _) = run(Command::new("go").args(["env", "GOVERSION"]));
    let version = text.trim().to_owned();
    let minor = version.strip_prefix("go1.").and_then(|it| it.split(['.', 'r', 'b']).next());
    let minor: u32 = minor.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{version}"));
    (version, minor >= 25)
}

#[test]
fn a_go_program_is_asked_for_its_version_before_advice_on_cpus() {
    if !machine::can_profile() || !machine::has(&["go"]) {
        return;
    }
    let cgroup = Limited::of_cpus();
    if !machine::require(cgroup.is_some(), "a cgroup with a CPU limit") {
        return;
    }
    let cgroup = cgroup.expect("a cgroup");
    // It may have to be built, while the program runs on.
    rprofd::binary();
    let (version, able) = go_here();
    let program = Program::build("work.go");
    for (setting, follows) in [("containermaxprocs=1", able), ("containermaxprocs=0", false)] {
        let mut command = program.command(&["60"]);
        command.env_remove("GOMAXPROCS").env("GODEBUG", setting);
        let running = Running::start(command.stdout(Stdio::null()));
        let pid = running.pid().to_string();
        cgroup.take(&pid);
        let (status, report) = json(&["--pid", &pid]);
        let go = &report["go"];
        assert_eq!((status, text_of(go, "version")), (Some(0), version.as_str()), "{report}");
        assert_eq!(go["follows_cpu_limit"], follows, "{report}");
        assert_eq!(go["limits"]["cpus"], 0.5, "{report}");
        let advice = go["advice"].to_string();
        assert_eq!(advice.contains("set GOMAXPROCS=1"), !follows, "{report}");
        drop(running);
    }
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
    let (status, report) = json(&[]);
    assert_eq!((status, &report["able"]), (Some(0), &Value::Bool(true)));
    let findings = findings(&report);
    for what in [
        "kernel",
        "known defects",
        "BTF",
        "lockdown",
        "capabilities",
        "pid namespace",
        "Yama",
        "/proc",
        "map_files",
        "kernel names",
        "highest frequency",
        "time for samples",
        "locked memory",
        "clock source",
        "cycle counter",
        "debug files",
        "other profilers",
        "readers",
        "sampling",
    ] {
        finding(findings, what);
    }
}

#[test]
fn another_profiler_is_noted() {
    if !machine::can_profile() {
        return;
    }
    let dir = TestDir::new("doctor-others");
    // It may have to be built, while the program runs on.
    rprofd::binary();
    let spin = Program::build("spin.c");
    // The second's comm is cut to 15 bytes, which all of the third's is, too.
    let names = ["parca-agent", "opentelemetry-ebpf-profiler", "opentelemetry-exporter"];
    let running = names.map(|name| {
        let program = spin.copy_to(&dir.join(name));
        Running::start(program.command(&["1", "60"]).stdout(Stdio::null()))
    });
    let (status, report) = json(&[]);
    assert_eq!(status, Some(0), "{report}");
    let others = finding(findings(&report), "other profilers");
    let found = text_of(others, "found");
    for (name, running) in names.iter().zip(&running) {
        let pid = running.pid();
        let is_profiler = *name != "opentelemetry-exporter";
        assert_eq!(found.contains(&format!("{name} ({pid})")), is_profiler, "{found}");
        assert_eq!(found.contains(&format!("({pid})")), is_profiler, "{found}");
    }
    assert!(text_of(others, "mend").starts_with("sudo kill "), "{others}");
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
    command.arg("--").arg(&binary).arg("doctor");
    let (status, text, _) = run(&mut command);
    let (json_status, report) = json_of(command.arg("--json"));
    fs::remove_dir_all(&dir).expect("remove");
    assert_eq!((status, json_status), (Some(3), Some(3)), "{text}");
    assert!(text.contains("BAD   capabilities"), "{text}");
    assert!(text.contains("sudo setcap cap_bpf,cap_perfmon"), "{text}");
    assert!(text.ends_with("rprofd cannot record here: see the lines marked BAD.\n"), "{text}");
    assert_eq!(report["able"], Value::Bool(false));
    let findings = findings(&report);
    for (what, mark) in
        [("capabilities", "bad"), ("sampling", "bad"), ("map_files", "note"), ("BTF", "ok")]
    {
        assert_eq!(text_of(finding(findings, what), "mark"), mark, "{report}");
    }
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
