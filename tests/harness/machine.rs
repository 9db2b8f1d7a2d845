//! What a machine must be able to do for a test to mean something.

use std::{
    env,
    path::{Path, PathBuf},
};

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
