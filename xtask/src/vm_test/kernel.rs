//! Debian's kernels, unpacked without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::step;

/// Debian's builds for virtual machines: the drivers that matter are not modules.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel to boot.
pub(super) struct Kernel {
    /// `6.1.0-56-cloud-amd64`.
    pub(super) release: String,
    /// Its compressed image.
    pub(super) image: PathBuf,
}

/// The newest kernel of `series` (`6.1`) that apt knows, downloaded to `cache` unless it is there.
pub(super) fn newest(series: &str, cache: &Path) -> Result<Kernel> {
    let prefix = format!("linux-image-{series}.");
    let names = step::read(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let package = names
        .lines()
        .filter(|name| name.starts_with(&prefix) && name.ends_with(FLAVOUR))
        .max_by_key(|name| numbers(name))
        .with_context(|| format!("apt knows no {prefix}*{FLAVOUR}: `apt-get update`?"))?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let image = cache.join(format!("vmlinuz-{release}"));
    if !image.exists() {
        unpack(package, &release, &image)?;
    }
    Ok(Kernel { release, image })
}

/// Downloads `package` and leaves its kernel at `image`.
fn unpack(package: &str, release: &str, image: &Path) -> Result<()> {
    let dir = tempfile::tempdir_in(image.parent().context("an image in a directory")?)?;
    let mut apt = Command::new("apt-get");
    // apt's own user may not come to a checkout: without this it warns.
    apt.args(["--quiet=2", "--option=APT::Sandbox::User=root", "download", package]);
    step::run(apt.current_dir(&dir))?;
    let archive = dir
        .path()
        .read_dir()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("{package}: nothing was downloaded"))?;
    step::run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(dir.path()))?;
    let unpacked = dir.path().join(format!("boot/vmlinuz-{release}"));
    fs::rename(&unpacked, image).with_context(|| unpacked.display().to_string())
}

/// The numbers in a name, which order versions.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}
