//! How long making unwind tables takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Bench, Bound, Figure, line_with, number_after};
use crate::{checkout, step};

/// How often each table is made; the fastest counts, since only that is not the machine's mood.
const ROUNDS: usize = 5;

/// Where big libraries are, and what their names begin with.
const BIG: [(&str, &str); 2] =
    [("/usr/lib/x86_64-linux-gnu", "libLLVM"), ("/usr/lib/aarch64-linux-gnu", "libLLVM")];

/// Functions of the library that is made for this, and bytes of each: 100 MiB.
const FUNCTIONS: usize = 200_000;
const FUNCTION_BYTES: usize = (100 << 20) / FUNCTIONS;

pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
    let libc = libc.iter().map(Path::new).find(|path| path.is_file()).context("no libc")?;
    let mut figures = measure("libc", libc, 5.0)?;
    let made = made_library(bench.dir())?;
    let what = format!("a library of {FUNCTIONS} functions ({} MiB)", mebibytes(&made)?);
    figures.extend(measure(&what, &made, 400.0)?);
    if let Some(library) = biggest_library() {
        let what = format!("{} ({} MiB)", library.display(), mebibytes(&library)?);
        figures.extend(measure(&what, &library, 400.0)?);
    } else {
        println!("unwind-tables: no big library of the machine's own was found");
    }
    Ok(figures)
}

fn mebibytes(file: &Path) -> Result<u64> {
    Ok(file.metadata()?.len() >> 20)
}

/// Functions that save registers, of which each has as many rows as compilers make.
fn made_library(dir: &Path) -> Result<PathBuf> {
    let source = dir.join("functions.s");
    let library = dir.join("functions.so");
    let text = format!(
        ".text\n.rept {FUNCTIONS}\n.cfi_startproc\npush %rbp\n.cfi_def_cfa_offset 16\n\
         .cfi_offset rbp, -16\npush %rbx\n.cfi_def_cfa_offset 24\n.cfi_offset rbx, -24\n\
         sub $40, %rsp\n.cfi_def_cfa_offset 64\n.skip {FUNCTION_BYTES} - 11, 0x90\n\
         add $40, %rsp\n.cfi_def_cfa_offset 24\npop %rbx\n.cfi_def_cfa_offset 16\n\
         pop %rbp\n.cfi_def_cfa_offset 8\nret\n.cfi_endproc\n.endr\n\
         .section .note.GNU-stack\n"
    );
    fs::write(&source, text).with_context(|| source.display().to_string())?;
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-nostdlib", "-o"]).arg(&library).arg(&source);
    step::run(&mut gcc)?;
    Ok(library)
}

/// The biggest of the known kinds, rustc's own among them.
fn biggest_library() -> Option<PathBuf> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
    let sysroot = sysroot.and_then(|output| String::from_utf8(output.stdout).ok());
    let rustc = sysroot.map(|root| (Path::new(root.trim()).join("lib"), "librustc_driver"));
    let known = BIG.iter().map(|(dir, prefix)| (PathBuf::from(dir), *prefix));
    let files = known.chain(rustc).flat_map(|(dir, prefix)| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
    });
    files.map(|entry| entry.path()).max_by_key(|path| path.metadata().map_or(0, |it| it.len()))
}

/// How long it takes, by a release build of this program; and how big the table is.
fn measure(what: &str, file: &Path, most_ms: f64) -> Result<Vec<Figure>> {
    let (mut best_ms, mut share) = (f64::INFINITY, 0.0);
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
        best_ms = best_ms.min(number_after(line_with(&text, "built in")?, "built in")?);
        share = number_after(line_with(&text, "% of that")?, "bytes,")?;
    }
    let size = format!("{what}: table, of the call frame information");
    Ok(vec![
        Figure::new(what, best_ms, "ms", Bound::AtMost(most_ms)),
        Figure::new(size, share, "%", Bound::Open),
    ])
}
