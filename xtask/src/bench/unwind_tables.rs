//! How long making unwind tables takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Bench, Bound, Figure, line_with, number_after};
use crate::checkout;

/// How often each table is made; the fastest counts, since only that is not the machine's mood.
const ROUNDS: usize = 5;

/// Where big libraries are, and what their names begin with.
const BIG: [(&str, &str); 2] =
    [("/usr/lib/x86_64-linux-gnu", "libLLVM"), ("/usr/lib/aarch64-linux-gnu", "libLLVM")];

pub(super) fn run(_: &Bench) -> Result<Vec<Figure>> {
    let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
    let libc = libc.iter().map(Path::new).find(|path| path.is_file()).context("no libc")?;
    let mut figures = vec![Figure::new("libc", built_in_ms(libc)?, "ms", Bound::AtMost(5.0))];
    if let Some(library) = biggest_library() {
        let megabytes = library.metadata()?.len() >> 20;
        let what = format!("{} ({megabytes} MiB)", library.display());
        figures.push(Figure::new(what, built_in_ms(&library)?, "ms", Bound::AtMost(400.0)));
    } else {
        println!("unwind-tables: no big library found, only libc is measured");
    }
    Ok(figures)
}

/// The biggest of the known kinds, rustc's own among them.
fn biggest_library() -> Option<PathBuf> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
    let sysroot = sysroot.and_then(|output| String::from_utf8(output.stdout).ok());
    let rustc = sysroot.map(|root| (Path::new(root.trim()).join("lib"), "librustc_driver"));
    let known = BIG.iter().map(|(dir, prefix)| (PathBuf::from(dir), *prefix));
    let files = known.chain(rustc).flat_map(|(dir, prefix)| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
    });
    files.map(|entry| entry.path()).max_by_key(|path| path.metadata().map_or(0, |it| it.len()))
}

/// By a release build of this program.
fn built_in_ms(file: &Path) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let output = Command::new("cargo")
            .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
            .args(["unwind", "show", "--brief"])
            .arg(file)
            .current_dir(checkout::root())
            .output()
            .context("cargo run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        best = best.min(number_after(line_with(&text, "built in")?, "built in")?);
    }
    Ok(best)
}
