//! A machine that gives the same pids again and again.

use std::{fs, path::Path};

use crate::{Profile, Program, programs::Running};

const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// Below this the kernel gives no pid a second time (`RESERVED_PIDS` in `kernel/pid.c`).
const RESERVED: u32 = 300;

/// So many pids go round: few, and yet enough for everything else that a machine does meanwhile.
const PIDS: u32 = 200;

/// The kernel's limit of pids, set back when this is dropped.
struct PidMax(String);

impl PidMax {
    fn new(pids: u32) -> Self {
        let before = fs::read_to_string(PID_MAX).expect("read pid_max");
        fs::write(PID_MAX, (RESERVED + pids).to_string()).expect("write pid_max");
        Self(before)
    }
}

impl Drop for PidMax {
    fn drop(&mut self) {
        let _ = fs::write(PID_MAX, &self.0);
    }
}

/// Two programs whose functions are at the same addresses and have other names: whatever is taken
/// for the other's shows.
pub struct Pair([Program; 2]);

impl Pair {
    /// Builds them in `dir`.
    pub fn build(dir: &Path) -> Self {
        Self(["1", "2"].map(|id| {
            let flags = [&format!("-DID={id}"), "-no-pie", "-static"];
            let program = Program::build_with("short.c", &flags);
            program.copy_to(&dir.join(format!("reuse{id}")))
        }))
    }

    /// Runs `count` processes, each busy for `milliseconds`, with so few pids that each is used
    /// again and again. Call `while_running` with the process that starts them.
    pub fn run(&self, count: u32, milliseconds: &str, while_running: impl FnOnce(u32)) {
        let [first, second] = &self.0;
        let starter = Program::build("reuse.c");
        let _pid_max = PidMax::new(PIDS);
        let args = [&count.to_string(), first.arg(), second.arg(), milliseconds];
        let mut running: Running = starter.start(&args);
        while_running(running.pid());
        let status = running.child.wait().expect("wait");
        assert!(status.success(), "the process that starts the others: {status}");
    }
}

/// Frames of each program that are named after functions of its own, and after the other's.
pub fn own_and_foreign(profile: &Profile) -> (i64, i64) {
    let (mut own, mut foreign) = (0, 0);
    for sample in &profile.samples {
        let Some(id) = sample.labels["comm"].strip_prefix("reuse").filter(|id| !id.is_empty())
        else {
            continue;
        };
        for name in profile.frames(sample) {
            let known = name.strip_prefix("inner_").or_else(|| name.strip_prefix("outer_"));
            match known {
                Some(known) if known == id => own += sample.values[0],
                Some(_) => foreign += sample.values[0],
                None => {}
            }
        }
    }
    (own, foreign)
}
