//! `rprofd doctor`.

use std::process::Command;

use rprofd_tests::{Program, machine, rprofd};

fn doctor(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(rprofd::binary()).arg("doctor").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The line of a file.
fn line<'a>(text: &'a str, file: &str) -> &'a str {
    text.lines()
        .find(|line| line.split(' ').next().is_some_and(|name| name.ends_with(file)))
        .unwrap_or_else(|| panic!("no {file} in {text}"))
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
    let (status, text, errors) = doctor(&["--pid", &running.pid().to_string()]);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{text}");
    assert!(line(&text, "libc.so.6").contains("yes, by rules"), "{text}");
    assert!(line(&text, "[vdso]").contains("rules"), "{text}");
    let name = library.path().file_name().unwrap().to_string_lossy().into_owned();
    let why = "along frame pointers alone: the file has no call frame information; compile";
    assert!(line(&text, &name).contains(why), "{text}");
}

#[test]
fn what_is_not_there_is_said() {
    if !machine::can_profile() {
        return;
    }
    let (status, text, errors) = doctor(&["--pid", "4194303"]);
    assert_eq!((status, text.as_str()), (Some(1), ""));
    assert!(errors.contains("there is no process 4194303"), "{errors}");
    let (status, _, errors) = doctor(&[]);
    assert_eq!(status, Some(2));
    assert!(errors.contains("--pid <PID>"), "{errors}");
}
