//! ELF files made to cost whoever reads them much time or memory.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rprofd_tests::{
    Program,
    bombs::BOMBS,
    procfs::{cpu_time_ns, pss_bytes, readers, wait_for},
    programs::Running,
};

use super::{Bench, Bound, Figure, whole_machine::mebibytes};

const SECONDS: u64 = 3;
/// The reader's own limit, and what it has beside it.
const MOST_MIB: f64 = 1024.0 + 64.0;

/// What each bomb costs beside a program that is well-behaved.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, write) in BOMBS {
        let bomb = bench.dir().join(name);
        write(&bomb);
        let well = Program::build("shares.c").copy_to(&bench.dir().join("well"));
        let well = well.start(&["60"]);
        let mut hostile =
            Program::build("mapped.c").command(&["60", bomb.to_str().context("UTF-8")?]);
        let hostile = Running::start(hostile.stdout(Stdio::null()));
        wait_for("CPU time", Duration::from_secs(20), || {
            (cpu_time_ns(hostile.pid()) > 20_000_000).then_some(())
        });
        let pids = format!("{},{}", well.pid(), hostile.pid());
        let length = format!("{SECONDS}s");
        let args = ["-v", "-F", "199", "-d", &length, "--pid", &pids];
        let mut rprofd = bench.rprofd_in(&format!("profiles-{name}"))?.args(args).start();
        let begin = Instant::now();
        let mut peak = 0;
        while rprofd.is_running() {
            let now = readers(rprofd.pid()).into_iter().map(pss_bytes).max().unwrap_or(0);
            peak = now.max(peak);
            thread::sleep(Duration::from_millis(20));
        }
        let behind = begin.elapsed().saturating_sub(Duration::from_secs(SECONDS));
        let run = rprofd.wait().expect_success();
        let profile = run.profile_of("well");
        let named =
            profile.total_where("samples", |sample| !profile.frames(sample)[0].is_empty()) as f64;
        let share = named / profile.total("samples") as f64 * 100.0;
        let figure =
            |what, value, unit, bound| Figure::new(format!("{name}: {what}"), value, unit, bound);
        figures.extend([
            figure("behind the end of the run", behind.as_secs_f64(), "s", Bound::AtMost(5.0)),
            figure("PSS of a reader", mebibytes(peak), "MiB", Bound::AtMost(MOST_MIB)),
            figure("named of the program beside it", share, "%", Bound::AtLeast(99.0)),
        ]);
        drop(well);
        for file in [bomb, bench.dir().join("well")] {
            std::fs::remove_file(file)?;
        }
    }
    Ok(figures)
}
