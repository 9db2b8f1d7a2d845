//! The compiler, the linker and the stripper of BPF objects.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::digest::ToolVersions;
use crate::step;

/// The target that BPF programs are compiled for, whatever the architecture they run on.
pub(super) const TARGET: &str = "bpfel-unknown-none";

const LINKER: &str = "bpf-linker";

/// Where Debian's `llvm-22` puts the stripper, and what others call it.
const STRIPPERS: [&str; 3] =
    ["/usr/lib/llvm-22/bin/llvm-objcopy", "llvm-objcopy-22", "llvm-objcopy"];

/// Programs that are present and work together.
pub(super) struct Tools {
    /// A rustc with `core` for [`TARGET`].
    pub(super) rustc: OsString,
    /// bpf-linker.
    pub(super) linker: &'static str,
    /// llvm-objcopy.
    pub(super) stripper: PathBuf,
    versions: ToolVersions,
}

impl Tools {
    /// Finds them, or says how to install what is missing.
    pub(super) fn find() -> Result<Self> {
        let rustc =
            env::var_os("RPROFD_BPF_RUSTC").unwrap_or_else(|| OsString::from("/usr/bin/rustc"));
        let rustc_version = step::read(Command::new(&rustc).arg("--version")).with_context(|| {
            format!(
                "no compiler for BPF at {}: `apt-get install rustc-web libstd-rust-web-dev-bpf` \
                 (Debian), or set RPROFD_BPF_RUSTC to a rustc that has `core` for {TARGET}",
                rustc.display()
            )
        })?;
        ensure_core(&rustc)?;
        let linker_version = step::read(Command::new(LINKER).arg("--version")).context(
            "no bpf-linker: `apt-get install llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev`, \
             then `LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \
             --no-default-features --features llvm-22`",
        )?;
        let (stripper, stripper_version) = find_stripper()?;
        Ok(Self {
            rustc,
            linker: LINKER,
            stripper,
            versions: ToolVersions {
                rustc: rustc_version.trim().into(),
                linker: linker_version.trim().into(),
                stripper: stripper_version,
            },
        })
    }

    /// What they call themselves.
    pub(super) fn versions(&self) -> ToolVersions {
        self.versions.clone()
    }
}

fn ensure_core(rustc: &OsString) -> Result<()> {
    let libdir =
        step::read(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    let libdir = Path::new(libdir.trim());
    let has_core = libdir.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"libcore-"))
        })
    });
    ensure!(
        has_core,
        "{} has no `core` for {TARGET}: `apt-get install libstd-rust-web-dev-bpf` (Debian)",
        rustc.display()
    );
    Ok(())
}

fn find_stripper() -> Result<(PathBuf, String)> {
    for name in STRIPPERS {
        let Ok(output) = Command::new(name).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(version) = text.lines().find(|line| line.contains("version")) {
            return Ok((name.into(), format!("llvm-objcopy, {}", version.trim())));
        }
    }
    bail!("no llvm-objcopy: `apt-get install llvm-22` (Debian)")
}
