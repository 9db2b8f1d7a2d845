//! What a machine must be able to do for a test to mean something.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::param::clock_ticks_per_second;

/// Whether rprofd can sample here: root, and perf events.
///
/// Says what is missing; under `RPROFD_TEST_REQUIRE=1` that is a failure.
pub fn can_profile() -> bool {
    require(rustix::process::geteuid().is_root(), "root")
        && require(Path::new("/proc/sys/kernel/perf_event_paranoid").exists(), "perf events")
}

/// Whether each of `commands` is in `PATH`.
pub fn has(commands: &[&str]) -> bool {
    commands.iter().all(|command| require(find(command).is_some(), command))
}

/// True if `present`; else says that `what` is missing and fails where all is required.
pub fn require(present: bool, what: &str) -> bool {
    if !present {
        let required = env::var_os("RPROFD_TEST_REQUIRE").is_some_and(|value| value == "1");
        assert!(!required, "RPROFD_TEST_REQUIRE=1, but this machine lacks: {what}");
        eprintln!("skipped: this machine lacks: {what}");
    }
    present
}

/// Where in `PATH` a command is, of which a test can do without.
pub fn find(command: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(command)).find(|path| path.exists())
}

/// CPU time since the boot that the hypervisor gave to others while this machine had work, of all
/// CPUs: `steal` in `/proc/stat`. The kernel accounts it to nobody, but the clock of samples runs
/// on in it: what ran before and after it is sampled.
pub fn stolen() -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let all_cpus = stat.lines().next().expect("a line");
    let ticks: u64 = all_cpus.split_whitespace().nth(8).expect("steal").parse().expect("a number");
    Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second()).expect("ticks")
}
