//! What many short processes leave behind.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::{Profile, Program, pprof::Sample, rprofd::Started};
use rustix::process::Signal;

use super::{
    Bench, Bound, Figure, bpf_maps::Maps, outcomes::Outcomes, unwind_memory::own_pss_bytes,
    whole_machine::mebibytes,
};

const PROCESSES: u32 = 10_000;
const BINARIES: u32 = 8;
/// From one start to the next.
const PERIOD: Duration = Duration::from_millis(30);
/// CPU time of each, in milliseconds.
const CPU_TIME_MS: &str = "5";
/// Profiles are written so often, so that what is held for them is that of no longer.
const WINDOW: Duration = Duration::from_secs(30);
/// Memory is looked at during the last window of the first minute, and in the last window.
const EARLY: [Duration; 2] = [WINDOW, Duration::from_secs(60)];

/// What is in use; the most that was seen in a while.
#[derive(Clone, Copy, Default)]
struct Use {
    pss: u64,
    maps: u64,
    /// Of which the programs know the mappings.
    processes: usize,
}

impl Use {
    fn grow_to(&mut self, other: Self) {
        self.pss = self.pss.max(other.pss);
        self.maps = self.maps.max(other.maps);
        self.processes = self.processes.max(other.processes);
    }
}

/// 10,000 processes in 5 minutes.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let programs: Vec<Program> = (0..BINARIES)
        .map(|id| {
            let path = bench.dir().join(format!("churn{id}"));
            let flags = [&format!("-DID={id}"), "-fomit-frame-pointer"];
            Program::build_fresh("short.c", &flags, &path)
        })
        .collect();
    let window = format!("{}s", WINDOW.as_secs());
    let mut rprofd = bench.rprofd().args(["-v", "-F", "99", "-w", &window]).start();
    rprofd.wait_for_line("sampling");
    let maps = Maps::of(rprofd.pid())?.context("rprofd samples without BPF maps")?;
    let (early, late) = churn(&programs, &rprofd, &maps)?;
    rprofd.signal(Signal::INT);
    let run = rprofd.wait().expect_success();

    let mut checked = Checked::default();
    for file in fs::read_dir(&run.output)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("all.cpu.") {
            checked.profile(&Profile::read(&path));
        }
    }
    let growth = |early: u64, late: u64| mebibytes(late) - mebibytes(early);
    let open = |what, value, unit| Figure::new(what, value, unit, Bound::Open);
    let bound = Bound::AtMost;
    Ok(vec![
        open("PSS in minute 1", mebibytes(early.pss), "MiB"),
        Figure::new("its growth", growth(early.pss, late.pss), "MiB", bound(5.0)),
        open("BPF maps in minute 1", mebibytes(early.maps), "MiB"),
        Figure::new("their growth", growth(early.maps, late.maps), "MiB", bound(0.1)),
        open("processes in BPF maps in minute 1", early.processes as f64, ""),
        Figure::new(
            "their growth",
            late.processes as f64 - early.processes as f64,
            "",
            bound(20.0),
        ),
        Figure::new("samples of the processes", checked.samples as f64, "", Bound::AtLeast(1000.0)),
        Figure::new("misattributed", checked.wrong as f64, "", bound(0.0)),
        open("complete stacks of everything", checked.outcomes.complete_percent(), "%"),
    ])
}

/// Starts the processes, one after the other; what was in use early and late.
fn churn(programs: &[Program], rprofd: &Started, maps: &Maps) -> Result<(Use, Use)> {
    let end = PERIOD * PROCESSES;
    let (mut early, mut late) = (Use::default(), Use::default());
    let begin = Instant::now();
    let mut looked = begin;
    for (number, program) in (0..PROCESSES).zip(programs.iter().cycle()) {
        let status = program.command(&[CPU_TIME_MS]).status()?;
        ensure!(status.success(), "{}: {status}", program.arg());
        if looked.elapsed() >= Duration::from_secs(1) {
            looked = Instant::now();
            let at = begin.elapsed();
            let used = Use {
                pss: own_pss_bytes(rprofd),
                maps: maps.memory_bytes()?,
                processes: maps.processes(),
            };
            if (EARLY[0]..EARLY[1]).contains(&at) {
                early.grow_to(used);
            } else if at >= end - WINDOW {
                late.grow_to(used);
            }
        }
        thread::sleep((PERIOD * (number + 1)).saturating_sub(begin.elapsed()));
    }
    ensure!(early.pss > 0 && late.pss > 0, "the processes took {:?} to start", begin.elapsed());
    Ok((early, late))
}

/// Samples of the processes, compared with what their program has.
#[derive(Default)]
struct Checked {
    samples: i64,
    /// With a function or a file of another program.
    wrong: i64,
    outcomes: Outcomes,
}

impl Checked {
    fn profile(&mut self, profile: &Profile) {
        for sample in &profile.samples {
            let comm = sample.labels.get("comm").and_then(|comm| comm.strip_prefix("churn"));
            let Some(id) = comm else { continue };
            self.samples += sample.values[0];
            if !is_of(profile, sample, id) {
                self.wrong += sample.values[0];
                println!("of churn{id}: {:?}", profile.frames(sample));
            }
        }
        self.outcomes += Outcomes::of(profile);
    }
}

/// Whether all functions and files that only one of the programs has are those of number `id`.
fn is_of(profile: &Profile, sample: &Sample, id: &str) -> bool {
    let functions = profile
        .frames(sample)
        .into_iter()
        .filter_map(|name| name.strip_prefix("inner_").or_else(|| name.strip_prefix("outer_")));
    let files = sample.stack.iter().filter_map(|location| {
        let file = &profile.mapping_of(*location)?.file;
        file.rsplit('/').next()?.strip_prefix("churn")
    });
    functions.chain(files).all(|number| number == id)
}
