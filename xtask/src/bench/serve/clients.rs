//! Many who ask at once.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rprofd_tests::{Profile, Program, programs::Running, serve};

use super::{
    super::{Bench, Bound, Figure},
    cpu_time, metric,
};

const CLIENTS: usize = 50;

/// 50 clients ask for 5 seconds of 50 processes.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&[]);
    let program = Program::build("shares.c").copy_to(&bench.dir().join("asked"));
    let start = |_| Running::start(program.command(&["600"]).stdout(Stdio::null()));
    let processes: Vec<Running> = (0..CLIENTS).map(start).collect();
    // Once each is known and its functions have names.
    thread::sleep(Duration::from_secs(25));
    let lost = |text: &str| {
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|count| count.parse::<f64>().ok()).unwrap_or_default()
        };
        [of("rprofd_samples_lost_total"), of("rprofd_lost_total{queue=\"samples_missed\"}")]
    };
    let lost_before = lost(&daemon.get("/metrics").text());
    let (begin, before) = (Instant::now(), cpu_time(&daemon));
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = |process: &Running| {
            let (address, pid) = (daemon.address, process.pid());
            scope.spawn(move || {
                let path = format!("/pid/{pid}/debug/pprof/profile?seconds=5");
                (pid, serve::get(address, &path))
            })
        };
        let asking: Vec<_> = processes.iter().map(ask).collect();
        asking.into_iter().filter_map(|it| it.join().ok()).collect()
    });
    let (took, busy) = (begin.elapsed(), cpu_time(&daemon) - before);
    ensure!(answers.len() == CLIENTS, "{} answers", answers.len());
    let (mut samples, mut wrong, mut without) = (0, 0, 0);
    let mut shares = Vec::new();
    for (pid, answer) in answers {
        ensure!(answer.status == 200, "{pid}: {}", answer.text());
        let path = bench.dir().join(format!("{pid}.pb.gz"));
        fs::write(&path, &answer.body)?;
        let profile = Profile::read(&path);
        let own = pid.to_string();
        wrong += profile.total_where("samples", |sample| sample.labels["pid"] != own);
        samples += profile.total("samples");
        without += u32::from(profile.total("samples") == 0);
        shares.push(profile.share("burn_40"));
    }
    // The last windows are counted when they end.
    thread::sleep(Duration::from_secs(12));
    let [all, missed] = lost(&daemon.get("/metrics").text());
    let [all, missed] = [all - lost_before[0], missed - lost_before[1]];
    let unread = metric(&daemon, "rprofd_recordings")?;
    let open = |what, value, unit| Figure::new(what, value, unit, Bound::Open);
    let cpus = thread::available_parallelism()?.get() as f64;
    let busy_percent = busy.as_secs_f64() / took.as_secs_f64() * 100.0;
    let mean = shares.iter().sum::<f64>() / shares.len() as f64 * 100.0;
    Ok(vec![
        open("the last answer after", took.as_secs_f64(), "s"),
        Figure::new(
            "samples, of those of busy CPUs",
            samples as f64 / (5.0 * 99.0 * cpus) * 100.0,
            "%",
            Bound::Within(85.0, 103.0),
        ),
        Figure::new("samples of other processes", wrong as f64, "", Bound::AtMost(0.0)),
        Figure::new("answers without samples", f64::from(without), "", Bound::AtMost(0.0)),
        Figure::new("share of the function that takes 40 %", mean, "%", Bound::Within(36.0, 44.0)),
        open("periods in which the kernel took no sample, of 40 s", missed, ""),
        Figure::new("samples lost by rprofd", all - missed, "", Bound::AtMost(0.0)),
        Figure::new("recordings left behind", unread, "", Bound::AtMost(0.0)),
        Figure::new("rprofd", busy_percent, "% of a CPU", Bound::AtMost(5.0)),
    ])
}
