//! rprofd on other kernels than the machine's own: it loads, it samples, it unwinds.
//!
//! The kernels are Debian's, in a processor that qemu emulates: slow, but it wants nothing of the
//! machine it runs on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rprofd_tests::{Profile, Program, rprofd};

use self::{initramfs::Initramfs, kernel::Kernel};
use crate::{checkout, step};

mod initramfs;
mod kernel;

/// The oldest that rprofd runs on, and the newest that Debian 12 has.
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// The longest that a machine may run; it takes 60 to 90 s.
const LIMIT: Duration = Duration::from_secs(240);
/// What the first process prints before anything else (`init.c`).
const STARTED: &str = "init: started";
/// And before the clock is changed and the machine sleeps.
const DISTURBED: &str = "init: disturbed";
/// What it prints right before the machine sleeps, and right after.
const SLEEPS: &str = "init: sleeps";
const SLEPT: &str = "init: slept ";
/// How long the machine is to sleep at least, in seconds, of the three that it is asked for, and how much
/// of a program's CPU time may not be in its profile: a CPU that wakes is not sampled at once.
const LEAST_SLEPT: f64 = 1.0;
const MOST_UNSEEN: f64 = 1.5;
/// And before what cannot go well.
const LACKING: &str = "init: without BTF";
/// What `rprofd` says, and the first process of its status, where something is lacking; and what its
/// doctor says. With a command, 125 (0x7d) is rprofd's own status.
const LACKS: [(&str, &str, &str, &str); 3] = [
    ("without BTF", "rprofd: the kernel has no BTF", "0x7d00", "CONFIG_DEBUG_INFO_BTF"),
    ("integrity", "lacking.pb.gz", "0", "integrity"),
    (
        "confidentiality",
        "what else may be in the way, such as lockdown",
        "0x7d00",
        "take lockdown=confidentiality off",
    ),
];
/// Boots of a kernel until one reaches the first process. Under software emulation with several
/// CPUs a kernel now and then panics while it patches its own code at boot (`Oops: int3`), long
/// before rprofd runs; and now and then one does not wake, but is reset, and says nothing.
const BOOTS: usize = 4;
/// What the last run must come to. Unwind tables are there from those before it.
const LEAST_SAMPLES: i64 = 100;
const LEAST_COMPLETE: f64 = 90.0;
/// Share of the complete stacks that are whole: a few are of the program's start and end.
const LEAST_WHOLE: f64 = 90.0;
/// Calls of `descend` in the stack that is looked for.
const DEPTH: usize = 1001;

/// Boots each kernel; an error if rprofd fails in one.
pub(crate) fn run() -> Result<()> {
    let dir = checkout::root().join("target/vm-test");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let initramfs = build_initramfs(&dir)?;
    let mut failed = Vec::new();
    for series in SERIES {
        let kernel = kernel::newest(series, &dir)?;
        let begin = Instant::now();
        let outcome = boot_until_started(&kernel, &initramfs, &dir.join(series));
        let took = begin.elapsed().as_secs();
        match outcome {
            Ok(found) => println!("{}: {found}, {took} s: PASS", kernel.release),
            Err(error) => {
                println!("{}: {error:#}, {took} s: FAIL", kernel.release);
                failed.push(kernel.release);
            }
        }
    }
    ensure!(failed.is_empty(), "rprofd fails on {}", failed.join(", "));
    Ok(())
}

/// What the machines start from: rprofd, a program to profile, and the first process.
///
/// It is the `rprofd` of the tests, without its debug information: the BPF object, which is what a
/// kernel may refuse, is the same in every build.
fn build_initramfs(dir: &Path) -> Result<PathBuf> {
    rprofd::build("dev");
    let rprofd = dir.join("rprofd");
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(&rprofd);
    step::run(strip.arg(checkout::root().join("target/debug/rprofd")))?;
    let init = dir.join("init");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-Wall", "-Werror", "-o"]).arg(&init);
    step::run(gcc.arg(checkout::root().join("xtask/src/vm_test/init.c")))?;
    let shapes = Program::build_with("shapes.c", &["-O2", "-fomit-frame-pointer", "-pthread"]);

    let mut initramfs = Initramfs::default();
    initramfs.add_program("/init", &init)?;
    initramfs.add_program("/rprofd", &rprofd)?;
    initramfs.add_program("/shapes", shapes.path())?;
    let path = dir.join("initramfs");
    initramfs.finish(&path)?;
    Ok(path)
}

/// Boots `kernel`, again if it fails before its first process runs, or ends in its sleep, and says what
/// was profiled; `dir` keeps the files. Another failure is rprofd's.
fn boot_until_started(kernel: &Kernel, initramfs: &Path, dir: &Path) -> Result<String> {
    fs::create_dir_all(dir)?;
    let console = dir.join("console.txt");
    let mut boots = 1;
    loop {
        let outcome = boot(kernel, initramfs, &console, &dir.join("profile.pb.gz"));
        let printed = fs::read(&console)?;
        let printed = String::from_utf8_lossy(&printed);
        if outcome.is_err() {
            print!("{printed}");
        }
        let failed = if !printed.contains(STARTED) {
            "failed before its first process"
        } else if ends_asleep(&printed) {
            "did not wake"
        } else {
            return outcome;
        };
        if outcome.is_ok() || boots == BOOTS {
            return outcome;
        }
        boots += 1;
        println!("{}: {failed}; boot {boots} of {BOOTS}", kernel.release);
    }
}

/// Whether the last that a machine said is that it sleeps: a kernel that panics says more.
fn ends_asleep(printed: &str) -> bool {
    printed.trim_end().ends_with(SLEEPS)
}

/// Boots `kernel`, lets it run to its end, and says what was profiled.
fn boot(kernel: &Kernel, initramfs: &Path, console: &Path, profile: &Path) -> Result<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs);
    for file in [console, profile] {
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    let mut machine =
        qemu.stdin(Stdio::null()).spawn().context("could not start qemu-system-x86_64")?;
    wait(&mut machine)?;
    let printed = fs::read(console)?;
    let printed = String::from_utf8_lossy(&printed);
    let (well, lacking) = printed.split_once(LACKING).unwrap_or((&printed, ""));
    let (waits, disturbed) = well.split_once(DISTURBED).unwrap_or((well, ""));
    check_waits(waits)?;
    let disturbed = check_disturbed(disturbed)?;
    check_lacking(&format!("{LACKING}{lacking}"))?;
    Ok(format!("{}; {disturbed}", check(profile, &kernel.release)?))
}

/// Waits for the machine's end, and kills it after [`LIMIT`].
fn wait(machine: &mut Child) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = machine.try_wait()? {
            ensure!(status.success(), "qemu: {status}");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    machine.kill()?;
    machine.wait()?;
    bail!("no end after {} s", LIMIT.as_secs())
}

/// Looks whether each kind that has to do with waits told something.
fn check_waits(printed: &str) -> Result<()> {
    for wanted in ["WALL TIME", "DELAY", "What starts threads", "What threads do"] {
        ensure!(printed.contains(wanted), "nothing printed has {wanted:?}: see the console");
    }
    let ended_well = printed.matches("rprofd: status 0").count();
    ensure!(ended_well >= 4, "{ended_well} recordings ended well, not 4: see the console");
    let failed = printed.matches("rprofd: status").count() - ended_well;
    ensure!(failed == 0, "{failed} recordings failed: see the console");
    Ok(())
}

/// Looks whether a program is seen on although the clock is changed and the machine sleeps.
fn check_disturbed(printed: &str) -> Result<String> {
    let seconds = |before: &str| -> Result<f64> {
        let rest = printed.split_once(before).map(|(_, rest)| rest);
        let number = rest.and_then(|rest| rest.split_once(" s")?.0.parse().ok());
        number.with_context(|| format!("nothing printed has {before:?}: see the console"))
    };
    ensure!(printed.contains("rprofd: status 0"), "the recording failed: see the console");
    let (slept, used) = (seconds(SLEPT)?, seconds("init: shapes used ")?);
    let row = printed.lines().find(|line| line.starts_with("shapes "));
    let row: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    let seen: f64 = row.get(3).and_then(|it| it.parse().ok()).context("no row of its program")?;
    ensure!(slept >= LEAST_SLEPT, "slept for {slept} s alone");
    ensure!(
        seen <= used * 1.05 && used - seen <= MOST_UNSEEN,
        "{seen} s of {used} s are seen while the clock changes and the machine sleeps"
    );
    Ok(format!("{:.1} % of a program seen that {slept} s of sleep were in", seen / used * 100.0))
}

/// Looks whether what is lacking is said, and how it is mended.
fn check_lacking(printed: &str) -> Result<()> {
    for (what, said, status, advice) in LACKS {
        let begin = format!("init: {what}");
        let part = printed.split_once(&begin).map_or("", |(_, rest)| rest);
        let part = part.split("init: ").next().unwrap_or_default();
        let (run, doctor) = part.split_once("rprofd: status ").unwrap_or_default();
        ensure!(run.contains(said), "{what}: rprofd does not say {said:?}: see the console");
        let found = doctor.lines().next().unwrap_or_default();
        ensure!(found == status, "{what}: status {found}, not {status}: see the console");
        ensure!(doctor.contains(advice), "{what}: the doctor does not say {advice:?}");
    }
    Ok(())
}

/// Looks for samples with kernel stacks among them, for complete stacks, and for the deep one whole.
fn check(file: &Path, release: &str) -> Result<String> {
    ensure!(fs::metadata(file)?.len() > 0, "no profile");
    let profile = Profile::read(file);
    let kernel = format!("kernel={release}");
    ensure!(profile.comments.contains(&kernel), "not {kernel}: {:?}", profile.comments);
    let samples = profile.total("samples");
    let complete = i64::try_from(profile.count("outcome.complete").unwrap_or(0))?;
    let whole = profile.total_where("samples", |sample| is_whole(&profile.frames(sample)));
    let in_kernel = profile.total_where("samples", |sample| {
        sample.stack.iter().any(|location| profile.is_kernel(*location))
    });
    ensure!(in_kernel > 0, "{samples} samples, none of the kernel");
    let of = |part: i64, all: i64| part as f64 * 100.0 / all.max(1) as f64;
    let (complete_share, whole_share) = (of(complete, samples), of(whole, complete));
    let found = format!(
        "{samples} samples, {complete_share:.1} % complete, {whole_share:.1} % of these the whole recursion"
    );
    ensure!(
        samples >= LEAST_SAMPLES && complete_share >= LEAST_COMPLETE && whole_share >= LEAST_WHOLE,
        "{found}; wanted: {LEAST_SAMPLES}, {LEAST_COMPLETE} %, {LEAST_WHOLE} %"
    );
    Ok(found)
}

/// True for a stack from `busy` through every call of `descend` to the program's start.
fn is_whole(frames: &[&str]) -> bool {
    let descents = frames.iter().filter(|frame| **frame == "descend").count();
    descents == DEPTH
        && frames.contains(&"busy")
        && frames.contains(&"main")
        && frames.last().is_some_and(|last| last.starts_with("_start"))
}
