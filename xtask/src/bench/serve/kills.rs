//! What a killed daemon leaves behind.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::{maps::loaded_maps, programs::loaded_programs};
use rprofd_tests::procfs;
use rustix::process::Signal;

use super::super::{Bench, Bound, Figure};

const KILLS: usize = 20;

/// `kill -9`, and start again.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let before = (programs(), maps());
    let (mut longest, mut left) = (Duration::ZERO, 0);
    for _ in 0..KILLS {
        let mut daemon = bench.daemon(&[]);
        ensure!(programs() > before.0, "it has no programs");
        let readers = procfs::readers(daemon.rprofd.pid());
        daemon.rprofd.signal(Signal::KILL);
        let begin = Instant::now();
        let is_left = || {
            let is_there = |pid: &u32| fs::metadata(format!("/proc/{pid}")).is_ok();
            programs() > before.0 || maps() > before.1 || readers.iter().any(is_there)
        };
        while is_left() && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(20));
            // It is to be waited for.
            let _ = daemon.rprofd.is_running();
        }
        left += usize::from(is_left());
        longest = longest.max(begin.elapsed());
    }
    Ok(vec![
        Figure::new("kills that left something", left as f64, "", Bound::AtMost(0.0)),
        Figure::new("until nothing was left", longest.as_secs_f64(), "s", Bound::AtMost(5.0)),
    ])
}

/// BPF programs that are loaded.
fn programs() -> usize {
    loaded_programs().filter(Result::is_ok).count()
}

/// BPF maps that there are.
fn maps() -> usize {
    loaded_maps().filter(Result::is_ok).count()
}
