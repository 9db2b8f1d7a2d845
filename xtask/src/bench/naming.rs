//! Naming many addresses of many binaries, beside `perf script`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, ensure};

use super::{Bench, Bound, Figure, drop_page_cache, line_with, number_after};
use crate::step;

const BINARIES: usize = 50;
const FUNCTIONS: usize = 16;
/// Statements of each function: at `-O1` some four instructions each, so that hardly two samples
/// hit the same.
const STATEMENTS: usize = 300;
/// Samples a second, of rprofd and of perf.
const FREQUENCY: &str = "4999";
/// CPU time of each binary, in milliseconds: some 250 samples.
const CPU_TIME_MS: &str = "50";

/// The same programs, profiled by each.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let binaries: Vec<PathBuf> =
        (0..BINARIES).map(|id| build(bench.dir(), id)).collect::<Result<_>>()?;
    let script: String =
        binaries.iter().map(|path| format!("{} {CPU_TIME_MS}\n", path.display())).collect();
    fs::write(bench.dir().join("all.sh"), script)?;

    // So that neither finds files in memory that the other has read.
    drop_page_cache()?;
    let options = ["-v", "-F", FREQUENCY, "--user-only", "--", "sh", "all.sh"];
    let run = bench.rprofd().args(options).run().expect_success();
    let line = line_with(&run.stderr, "naming took")?;
    let ours_ms = number_after(line, "took")?;
    let addresses = number_after(line, "for")?;

    let perf = |args: &[&str]| {
        let mut perf = Command::new("perf");
        perf.current_dir(bench.dir()).args(args);
        perf
    };
    // Without build IDs (-B): perf 6.1 aborts over some that other programs on the machine have.
    let record = ["record", "--quiet", "-B", "--event", "cpu-clock:u", "--freq", FREQUENCY];
    let record = [&record[..], &["--call-graph", "fp", "-o", "perf.data", "--", "sh", "all.sh"]];
    step::run(perf(&record.concat()).stderr(Stdio::null()))?;
    drop_page_cache()?;
    let begin = Instant::now();
    step::run(perf(&["script", "--no-inline", "-i", "perf.data"]).stdout(Stdio::null()))?;
    let perf_ms = begin.elapsed().as_secs_f64() * 1e3;

    ensure!(addresses > 0.0, "nothing was named");
    Ok(vec![
        Figure::new("distinct addresses", addresses, "", Bound::Within(10_000.0, 18_000.0)),
        Figure::new("perf script --no-inline", perf_ms, "ms", Bound::Open),
        Figure::new("rprofd, of perf's time", ours_ms / perf_ms * 100.0, "%", Bound::AtMost(100.0)),
        Figure::new("rprofd, lines and inlines on", ours_ms, "ms", Bound::AtMost(1500.0)),
    ])
}

/// Straight code, and a lot of it.
fn build(dir: &Path, id: usize) -> Result<PathBuf> {
    let mut source = String::from(
        "#include <stdint.h>\n#include <stdlib.h>\n#include <time.h>\n\
         static volatile uint64_t sink;\n\
         static inline __attribute__((always_inline)) uint64_t mix(uint64_t x, uint64_t y) {\n\
         return (x ^ y) * 0x9e3779b97f4a7c15u + sink;\n}\n",
    );
    let mut calls = String::new();
    for function in 0..FUNCTIONS {
        let name = format!("work_{id}_{function}");
        writeln!(source, "__attribute__((noinline)) uint64_t {name}(uint64_t x) {{")?;
        for statement in 0..STATEMENTS {
            writeln!(source, "x = mix(x, {statement});")?;
        }
        writeln!(source, "return x;\n}}")?;
        writeln!(calls, "sink = {name}(sink);")?;
    }
    write!(
        source,
        "int main(int argc, char **argv) {{
double seconds = argc > 1 ? atof(argv[1]) / 1e3 : 1;
struct timespec now;
do {{
{calls}clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
}} while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
}}
"
    )?;
    let path = dir.join(format!("naming{id}"));
    let file = path.with_extension("c");
    fs::write(&file, source)?;
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-g", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer", "-o"]);
    step::run(gcc.arg(&path).arg(&file))?;
    Ok(path)
}
