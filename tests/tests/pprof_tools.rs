//! What `go tool pprof` makes of our profiles.

use std::{path::PathBuf, sync::OnceLock};

use rprofd_tests::{Finished, Profile, Program, Rprofd, TestDir, machine, pprof::pprof};

/// A profile of `shares`, made once for all these tests.
fn profile() -> Option<&'static Profile> {
    static RUN: OnceLock<Option<(TestDir, Finished, Profile)>> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        if !machine::can_profile() || !machine::has(&["gcc", "go"]) {
            return None;
        }
        let dir = TestDir::new("pprof-tools");
        let program = Program::build("shares.c");
        let run = Rprofd::new(&dir).args(["-F", "499", "--", program.arg(), "2"]).run();
        let run = run.expect_success();
        let profile = run.profile_of("shares");
        Some((dir, run, profile))
    });
    run.as_ref().map(|(_, _, profile)| profile)
}

fn path(profile: &Profile) -> &str {
    profile.path.to_str().expect("UTF-8")
}

#[test]
fn top() {
    let Some(profile) = profile() else { return };
    let text = pprof(&["-top", path(profile)]);
    assert!(text.contains("File: shares"), "{text}");
    assert!(text.contains("Type: cpu"), "{text}");
    let first = text.lines().find(|line| line.contains("burn_")).expect("a function");
    assert!(first.contains("burn_40"), "{text}");
}

#[test]
fn list() {
    let Some(profile) = profile() else { return };
    let text = pprof(&["-list=burn_30", path(profile)]);
    assert!(text.contains("ROUTINE ======================== burn_30"), "{text}");
    assert!(text.contains("BURN(burn_30)"), "the source line: {text}");
}

#[test]
fn peek() {
    let Some(profile) = profile() else { return };
    let text = pprof(&["-peek=burn_20", path(profile)]);
    assert!(text.contains("main") && text.contains("burn_20"), "{text}");
}

#[test]
fn tree() {
    let Some(profile) = profile() else { return };
    let text = pprof(&["-tree", path(profile)]);
    assert!(text.contains("burn_10") && text.contains("main"), "{text}");
}

#[test]
fn disasm() {
    let Some(profile) = profile() else { return };
    if !machine::has(&["objdump"]) {
        return;
    }
    let text = pprof(&["-disasm=burn_40", path(profile)]);
    assert!(text.contains("ROUTINE ======================== burn_40"), "{text}");
    assert!(text.contains("PUSHQ") || text.contains("STP"), "instructions: {text}");
}

#[test]
fn traces() {
    let Some(profile) = profile() else { return };
    let text = pprof(&["-traces", path(profile)]);
    assert!(text.contains("burn_40") && text.contains("comm:  shares"), "{text}");
}

#[test]
fn diff_base_of_itself_is_nothing() {
    let Some(profile) = profile() else { return };
    let base = format!("-diff_base={}", path(profile));
    let text = pprof(&["-top", &base, path(profile)]);
    assert!(text.contains("Showing nodes accounting for 0,"), "{text}");
}

#[test]
fn focus_and_ignore() {
    let Some(profile) = profile() else { return };
    let text = pprof(&["-top", "-focus=burn_10", path(profile)]);
    assert!(text.contains("burn_10") && !text.contains("burn_40"), "{text}");
    let text = pprof(&["-top", "-ignore=burn_10", path(profile)]);
    // The name is there as the filter, and not as a function.
    let is_listed = |name| text.lines().any(|line| line.ends_with(&format!("  {name}")));
    assert!(!is_listed("burn_10") && is_listed("burn_40"), "{text}");
}

#[test]
fn tagfocus_by_pid() {
    let Some(profile) = profile() else { return };
    let pid: i32 = profile.samples[0].labels["pid"].parse().expect("a number");
    let text = pprof(&["-top", &format!("-tagfocus=pid={pid}"), path(profile)]);
    assert!(text.contains("burn_40"), "{text}");
    let text = pprof(&["-top", &format!("-tagfocus=pid={}", pid + 1), path(profile)]);
    assert!(!text.contains("burn_40"), "{text}");
}

#[test]
fn all_is_called_host() {
    let Some(profile) = profile() else { return };
    let all: PathBuf = profile.path.with_file_name("all.cpu.pb.gz");
    let text = pprof(&["-top", all.to_str().expect("UTF-8")]);
    assert!(text.contains("File: [host]"), "{text}");
}
