//! A run whose readers die again and again, in turn.

use std::time::Duration;

use anyhow::Result;
use rprofd_tests::{Program, procfs};
use rustix::process::{Pid, Signal, kill_process};

use super::{Bench, Bound, Figure};

const KILLS: usize = 200;
/// How long a new reader, or its first names, may take.
const LIMIT: Duration = Duration::from_secs(20);

/// 200 kills, then a program that nobody has seen before.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let _busy = Program::build("shares.c").start(&["600"]);
    let mut rprofd = bench.rprofd().args(["-v", "-F", "199"]).start();
    rprofd.wait_for_first_sample();
    let core = rprofd.pid();
    let mut killed = None;
    for _ in 0..KILLS {
        let reader = procfs::wait_for("new reader", LIMIT, || {
            procfs::readers(core).into_iter().find(|reader| Some(*reader) != killed)
        });
        let pid = i32::try_from(reader).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::KILL)?;
        killed = Some(reader);
    }
    procfs::wait_for("new reader", LIMIT, || {
        procfs::readers(core).into_iter().find(|reader| Some(*reader) != killed)
    });

    let path = bench.dir().join("after");
    let after = Program::build_fresh("short.c", &["-DID=200"], &path);
    after.command(&["2000"]).status()?;
    let still_running = rprofd.is_running();
    rprofd.signal(Signal::INT);
    let run = rprofd.wait().expect_success();
    let after = run.profile_of("after").share("outer_200") * 100.0;
    let busy = run.profile_of("shares").share("burn_40") * 100.0;
    Ok(vec![
        Figure::new("kills", KILLS as f64, "", Bound::Open),
        Figure::new(
            "core still running",
            f64::from(u8::from(still_running)),
            "",
            Bound::AtLeast(1.0),
        ),
        Figure::new("named of a program started after", after, "%", Bound::AtLeast(95.0)),
        Figure::new("burn_40, of one from before", busy, "%", Bound::Within(35.0, 45.0)),
    ])
}
