//! Memory while a binary with 200 MiB of debug information is named.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rprofd_tests::{procfs, programs::Running};

use super::{
    Bench, Bound, Figure,
    whole_machine::{mebibytes, pss_bytes},
};
use crate::step;

const FUNCTIONS: u32 = 20_000;
/// What is meant, in bytes, and the most that a unit may add to it.
const DEBUG_BYTES: u64 = 200 << 20;
const MOST_DEBUG_MIB: f64 = 220.0;

/// A run of 20 s.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let binary = build(bench.dir())?;
    let size = fs::metadata(&binary)?.len();
    let _busy = Running::start(&mut Command::new(&binary));
    let rprofd = bench.rprofd().args(["-F", "499", "-d", "20s"]).start();
    let mut peak = 0;
    while procfs::comm(rprofd.pid()).is_some() {
        let now = pss_bytes(&rprofd);
        peak = now.max(peak);
        if now == 0 && peak > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let profile = rprofd.wait().expect_success().profile_of("big");
    let named = profile.total_where("samples", |sample| {
        profile.frames(sample).iter().any(|name| name.contains("fn_"))
    });
    let share = named as f64 / profile.total("samples") as f64 * 100.0;
    let debug = Bound::Within(mebibytes(DEBUG_BYTES), MOST_DEBUG_MIB);
    Ok(vec![
        Figure::new("its debug information", mebibytes(debug_bytes(&binary)?), "MiB", debug),
        Figure::new("the binary", mebibytes(size), "MiB", Bound::Open),
        Figure::new("its samples named", share, "%", Bound::AtLeast(99.0)),
        Figure::new("PSS, peak", mebibytes(peak), "MiB", Bound::AtMost(300.0)),
    ])
}

/// One big unit, compiled once and linked again and again under other names.
fn build(dir: &Path) -> Result<PathBuf> {
    let mut unit = String::new();
    for n in 0..FUNCTIONS {
        writeln!(
            unit,
            "struct s{n} {{ int a{n}; long b{n}; struct s{n} *next{n}; char c{n}[{}]; }};
int fn_{n}(struct s{n} *p, int x, long y) {{
  int local_{n} = x + p->a{n};
  long other_{n} = y * p->b{n};
  for (volatile int i = 0; i < 100; i++) other_{n} += i;
  return local_{n} + (int)other_{n};
}}",
            n % 50 + 1
        )?;
    }
    fs::write(dir.join("unit.c"), unit)?;
    let gcc = || {
        let mut gcc = Command::new("gcc");
        gcc.current_dir(dir).args(["-g3", "-O0", "-fno-omit-frame-pointer"]);
        gcc
    };
    step::run(gcc().args(["-c", "unit.c"]))?;

    let mut main = String::from("static char object[256];\n");
    let mut calls = String::new();
    let mut objects = Vec::new();
    let (mut copies, mut step) = (0_u32, 4);
    let binary = dir.join("big");
    loop {
        for copy in copies..copies + step {
            let object = format!("copy{copy}.o");
            let prefix = format!("--prefix-symbols=copy{copy}_");
            step::run(Command::new("objcopy").current_dir(dir).args([&prefix, "unit.o", &object]))?;
            objects.push(object);
            for function in (0..FUNCTIONS).step_by(997) {
                writeln!(main, "int copy{copy}_fn_{function}(void *, int, long);")?;
                writeln!(calls, "copy{copy}_fn_{function}(object, 1, 2);")?;
            }
        }
        copies += step;
        fs::write(
            dir.join("main.c"),
            format!("{main}int main(void) {{ for (;;) {{\n{calls}}} }}"),
        )?;
        step::run(gcc().args(["-o", "big", "main.c"]).args(&objects))?;
        let have = debug_bytes(&binary)?;
        if have >= DEBUG_BYTES {
            return Ok(binary);
        }
        // Units share strings, so that another adds no more than the average: this stops short.
        step = u32::try_from((DEBUG_BYTES - have) * u64::from(copies) / have.max(1))?.max(1);
        ensure!(copies < 300, "debug information does not grow");
    }
}

/// Size of the DWARF sections.
fn debug_bytes(binary: &Path) -> Result<u64> {
    let sections = step::read(Command::new("size").arg("-A").arg(binary))?;
    Ok(sections
        .lines()
        .filter(|line| line.starts_with(".debug_"))
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .sum())
}
