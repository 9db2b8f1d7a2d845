//! Compiling the objects, the same bytes wherever the checkout is.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};

use super::{
    ARCHITECTURES,
    tools::{TARGET, Tools},
};
use crate::{checkout, step};

/// A compiled object.
pub(super) struct Object {
    /// One of [`ARCHITECTURES`].
    pub(super) arch: &'static str,
    /// An ELF file without DWARF.
    pub(super) bytes: Vec<u8>,
}

/// Where the object for `arch` is checked in.
pub(super) fn installed_path(root: &Path, arch: &str) -> PathBuf {
    root.join("profiler-ebpf/prebuilt").join(file_name(arch))
}

/// The object's name under `prebuilt/`.
pub(super) fn file_name(arch: &str) -> String {
    format!("rprofd-{arch}.o")
}

/// Reads the objects that are checked in.
pub(super) fn read_installed(root: &Path) -> Result<Vec<Object>> {
    ARCHITECTURES
        .into_iter()
        .map(|arch| {
            let path = installed_path(root, arch);
            let bytes = fs::read(&path)
                .with_context(|| format!("{}: run `cargo xtask ebpf build`", path.display()))?;
            Ok(Object { arch, bytes })
        })
        .collect()
}

/// Writes the objects to where they are checked in.
pub(super) fn install(root: &Path, objects: &[Object]) -> Result<()> {
    for object in objects {
        let path = installed_path(root, object.arch);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, &object.bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Compiles the checkout at `root` for each architecture, all at once: each has one CPU's work.
pub(super) fn objects(root: &Path, tools: &Tools) -> Result<Vec<Object>> {
    thread::scope(|scope| {
        let compile = |arch| scope.spawn(move || object(root, arch, tools));
        let compiling: Vec<_> = ARCHITECTURES.into_iter().map(compile).collect();
        let objects = compiling.into_iter().map(|it| match it.join() {
            Ok(object) => object,
            Err(_) => bail!("a thread that compiles has panicked"),
        });
        objects.collect()
    })
}

fn object(root: &Path, arch: &'static str, tools: &Tools) -> Result<Object> {
    let target_dir = root.join("target/ebpf").join(arch);
    let mut cargo = Command::new(checkout::cargo());
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--package", "profiler-ebpf"])
        .args(["--bin", "rprofd-ebpf", "--features", "programs", "--profile", "bpf"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC", &tools.rustc)
        // aya-ebpf has inline assembly for BPF, which stable has not.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", tools.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, arch)?)
        .env("CARGO_INCREMENTAL", "0");
    for inherited in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(inherited);
    }
    step::run(&mut cargo)?;

    let linked = target_dir.join(TARGET).join("bpf/rprofd-ebpf");
    let stripped = target_dir.join(file_name(arch));
    step::run(Command::new(&tools.stripper).arg("--strip-debug").arg(&linked).arg(&stripped))?;
    Ok(Object { arch, bytes: fs::read(&stripped)? })
}

/// Flags separated as `CARGO_ENCODED_RUSTFLAGS` has them, since paths may contain blanks.
fn rustflags(root: &Path, arch: &str) -> Result<OsString> {
    let mut flags: Vec<OsString> = vec![
        // BTF is made from debug information.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
    ];
    let cargo_home = checkout::cargo_home()?;
    let mut remap = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    };
    // Of several prefixes that fit, rustc takes the last.
    remap(&cargo_home, "cargo");
    if let Ok(registries) = cargo_home.join("registry/src").read_dir() {
        let mut registries: Vec<PathBuf> =
            registries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        registries.sort();
        for registry in &registries {
            remap(registry, "registry");
        }
    }
    remap(root, ".");
    Ok(flags.join(std::ffi::OsStr::new("\x1f")))
}
