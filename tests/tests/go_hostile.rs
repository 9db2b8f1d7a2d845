//! Programs that say they are Go's, and keep what leads whoever reads it astray.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rprofd_tests::{
    Program, TestDir, machine, procfs,
    programs::Running,
    serve::{Daemon, busy, get, wait_for},
};

/// However long it takes, it is not for ever: a second of a CPU for what is read, twice, and what names
/// take.
const LONGEST: Duration = Duration::from_secs(30);

/// What rprofd's processes may have in memory, in bytes.
const MOST_BYTES: u64 = 400 << 20;

#[test]
fn what_a_hostile_program_keeps_is_read_within_bounds() {
    if !(machine::can_profile() && machine::has(&["gcc"])) || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let dir = TestDir::new("go-hostile");
    let daemon = Daemon::start(&dir, &[]);
    let neighbour = busy(0, &dir, "neighbour");
    let hostile = Program::build_with("gohostile.c", &["-O2", "-pthread"]);
    for mode in ["cyclic", "counts", "nowhere", "changing"] {
        let running = Running::start(hostile.command(&[mode]).stdout(Stdio::null()));
        let pid = running.pid();
        wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
        for kind in [
            "heap",
            "heap?debug=1",
            "allocs?seconds=1",
            "goroutine",
            "goroutine?debug=2",
            "goroutineleak",
            "block?seconds=1",
            "mutex?seconds=1&debug=1",
        ] {
            let begun = Instant::now();
            let answer = get(daemon.address, &format!("/pid/{pid}/debug/pprof/{kind}"));
            let (took, text) = (begun.elapsed(), answer.text());
            assert!(took < LONGEST, "{mode}: {kind} took {took:?}");
            // What is right in it is told; else why nothing is, of this process.
            let is_clear = matches!(answer.status, 501 | 503) && text.contains(&pid.to_string());
            assert!(answer.status == 200 || is_clear, "{mode}: {kind}: {} {text}", answer.status);
            eprintln!("{mode}: {kind}: {} after {} ms", answer.status, took.as_millis());
        }
        let core = daemon.rprofd.pid();
        let all = procfs::readers(core).into_iter().chain([core]);
        let bytes: u64 = all.map(procfs::pss_bytes).sum();
        assert!(bytes < MOST_BYTES, "{mode}: {} MiB", bytes >> 20);
    }
    let path = format!("/pid/{}/debug/pprof/profile?seconds=3&hz=99", neighbour.pid());
    let begun = Instant::now();
    loop {
        let profile = daemon.profile(&path);
        if profile.share("burn_40") > 0.3 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{profile:?}");
    }
}
