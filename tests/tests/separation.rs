//! The core opens no file of a target: it is the reader that does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use rprofd_tests::{Program, TestDir, machine, rprofd};

/// System calls that take a path or reach into another process, and those that start one.
const TRACED: &str = "trace=%file,%process,process_vm_readv,process_vm_writev,pidfd_open,\
                      pidfd_getfd,ptrace";

#[test]
fn core_opens_no_file_of_a_target() {
    if !machine::can_profile() || !machine::has(&["gcc", "strace"]) {
        return;
    }
    let dir = TestDir::new("separation");
    let program = Program::build("shares.c").copy_to(&dir.join("target-of-this-test"));
    let target = program.start(&["60"]);
    let trace = dir.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "-qq", "--string-limit=4096", "-e", TRACED, "-o"]);
    strace.arg(&trace).arg(rprofd::binary()).arg("-o").arg(dir.join("profiles"));
    strace.args(["-F", "499", "-d", "3s", "--pid", &target.pid().to_string()]);
    let output = strace.output().expect("start strace");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let trace = fs::read_to_string(&trace).expect("read the trace");
    let processes = processes(&trace);
    let core = trace.lines().find_map(task_of).expect("a task");
    let touches = |line: &str| {
        line.contains("target-of-this-test")
            || line.contains(&format!("\"/proc/{}", target.pid()))
            || line.contains(&format!("\"{}/task", target.pid()))
    };
    let mut readers = BTreeSet::new();
    for line in trace.lines().filter(|line| touches(line)) {
        let task = task_of(line).expect("a task");
        let process = processes.get(&task).copied().unwrap_or(task);
        // The command line of rprofd itself names neither.
        assert_ne!(process, core, "the core did: {line}");
        readers.insert(process);
    }
    assert!(!readers.is_empty(), "nobody opened the target's files");
}

/// Task → process, by what `clone` and its kin returned.
fn processes(trace: &str) -> BTreeMap<u32, u32> {
    let mut processes = BTreeMap::new();
    let mut unfinished: BTreeMap<u32, bool> = BTreeMap::new();
    for line in trace.lines() {
        let Some(task) = task_of(line) else { continue };
        let process = *processes.entry(task).or_insert(task);
        let starts =
            ["clone(", "clone3(", "fork(", "vfork("].iter().any(|call| line.contains(call));
        if starts {
            unfinished.insert(task, line.contains("CLONE_THREAD"));
        }
        let resumed = line.contains("clone3 resumed")
            || line.contains("fork resumed")
            || line.contains("clone resumed");
        let result = line
            .rsplit_once(" = ")
            .and_then(|(_, result)| result.split_ascii_whitespace().next()?.parse::<u32>().ok());
        if let (true, Some(new)) = (starts || resumed, result) {
            let thread = unfinished.remove(&task).unwrap_or(false) || line.contains("CLONE_THREAD");
            processes.insert(new, if thread { process } else { new });
        }
    }
    processes
}

fn task_of(line: &str) -> Option<u32> {
    line.split_ascii_whitespace().next()?.parse().ok()
}
