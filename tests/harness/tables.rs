//! Unwind tables that many recordings need.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::Signal;

use crate::{Program, Rprofd, TestDir, procfs::wait_for};

/// How long they may take to be made, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A directory, for `--unwind-cache`, that has those of the C library and the dynamic linker: a debug
/// build makes them in more time than a sample waits for them where others make theirs. They are made
/// once, in a directory of this `name`.
///
/// # Panics
///
/// They cannot be made.
pub fn kept(name: &str) -> &'static Path {
    static KEPT: OnceLock<(TestDir, PathBuf)> = OnceLock::new();
    let (_, tables) = KEPT.get_or_init(|| {
        let dir = TestDir::new(name);
        let tables = dir.join("tables");
        let running = Program::build("shares.c").start(&["300"]);
        let rprofd = Rprofd::new(&dir).args(["-v", "--pid", &running.pid().to_string()]);
        let rprofd = rprofd.args(["--unwind-cache".as_ref(), tables.as_os_str()]).start();
        // The program's own is among them.
        wait_for("unwind tables", LIMIT, || {
            let entries = fs::read_dir(&tables).ok()?;
            (entries.flatten().count() >= 3).then_some(())
        });
        rprofd.signal(Signal::INT);
        rprofd.wait().expect_success();
        (dir, tables)
    });
    tables
}
