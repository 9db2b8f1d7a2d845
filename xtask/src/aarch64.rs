//! `cargo check` for the second architecture, where no toolchain has its standard library.
//!
//! Debian's compiler and its standard library for arm64 are of one build, and a package for a
//! foreign architecture can be unpacked without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{checkout, step};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const STD_PACKAGE: &str = "libstd-rust-web-dev";

/// Checks the daemon and the end-to-end tests for [`TARGET`].
pub(crate) fn check() -> Result<()> {
    let target_dir = checkout::root().join("target/aarch64");
    let mut cargo = Command::new(checkout::cargo());
    cargo
        .current_dir(checkout::root())
        .args(["check", "--locked", "--package", "profiler-daemon", "--package", "profiler-ebpf"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    if !has_std(&sysroot_libdir("rustc")?) {
        ensure!(
            Path::new(DEBIAN_RUSTC).exists(),
            "no standard library for {TARGET}: `rustup target add {TARGET}`, or on Debian \
             `apt-get install rustc-web`"
        );
        let libdir = unpack_debian_std(&target_dir)?;
        cargo.env("RUSTC", DEBIAN_RUSTC).env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            format!("-L{}", libdir.display()),
        );
    }
    step::run(&mut cargo)
}

fn sysroot_libdir(rustc: &str) -> Result<PathBuf> {
    let libdir =
        step::read(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    Ok(libdir.trim().into())
}

fn has_std(libdir: &Path) -> bool {
    libdir.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"libstd-"))
        })
    })
}

/// Downloads the package that belongs to [`DEBIAN_RUSTC`], with package lists of its own: the
/// system's stay as they are.
fn unpack_debian_std(target_dir: &Path) -> Result<PathBuf> {
    let rustc_package = step::read(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${Version}",
        "rustc-web",
    ]))?;
    let state = target_dir.join("debian").join(rustc_package.replace(['+', '~', ':'], "_"));
    let libdir = state.join("root/usr/lib/rustlib").join(TARGET).join("lib");
    if has_std(&libdir) {
        return Ok(libdir);
    }
    for dir in ["lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(state.join(dir)).with_context(|| state.display().to_string())?;
    }
    fs::write(state.join("status"), "")?;
    let apt = |args: &[&str]| {
        let state = state.display();
        let mut apt = Command::new("apt-get");
        apt.arg("--quiet").args([
            "--option=APT::Architecture=arm64".to_owned(),
            "--option=APT::Architectures=arm64".to_owned(),
            "--option=APT::Sandbox::User=root".to_owned(),
            format!("--option=Dir::State={state}"),
            format!("--option=Dir::State::status={state}/status"),
            format!("--option=Dir::State::lists={state}/lists"),
            format!("--option=Dir::Cache={state}/cache"),
        ]);
        step::run(apt.args(args).current_dir(format!("{state}")))
    };
    apt(&["update"])?;
    apt(&["download", &format!("{STD_PACKAGE}={rustc_package}")])?;
    let archive = state
        .read_dir()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("{}: no package was downloaded", state.display()))?;
    step::run(Command::new("dpkg").arg("--extract").arg(&archive).arg(state.join("root")))?;
    Ok(libdir)
}
