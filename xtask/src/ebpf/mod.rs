//! The BPF object: built by a compiler that few have, so it is checked in, and its origin provable.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use self::{digest::Digest, tools::Tools};
use crate::checkout;

mod build;
mod copy;
mod digest;
mod tools;

/// Architectures an object is built for: registers differ.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Compile the BPF programs and write the objects and their digest
    Build,
    /// Fail if the objects are not what the sources give
    Check(CheckOptions),
}

#[derive(Args)]
pub(crate) struct CheckOptions {
    /// Rebuild from a copy of the checkout at another path, too
    #[arg(long)]
    thorough: bool,
}

/// Runs `cargo xtask ebpf …`.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Build => build(),
        Command::Check(options) => check(options),
    }
}

fn build() -> Result<()> {
    let root = checkout::root();
    let tools = Tools::find()?;
    let objects = build::objects(root, &tools)?;
    build::install(root, &objects)?;
    Digest::of(root, &objects, tools.versions())?.write(root)?;
    for object in &objects {
        println!(
            "{}: {} bytes",
            build::installed_path(root, object.arch).display(),
            object.bytes.len()
        );
    }
    Ok(())
}

fn check(options: &CheckOptions) -> Result<()> {
    let root = checkout::root();
    let recorded = Digest::read(root)?;
    let installed = build::read_installed(root)?;
    let current = Digest::of(root, &installed, recorded.tools.clone())?;
    if let Some(difference) = recorded.difference(&current) {
        bail!("{difference}: run `cargo xtask ebpf build` and commit profiler-ebpf/prebuilt/");
    }
    println!("digest: the objects belong to these sources and this Cargo.lock");

    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(missing) => {
            println!("rebuild: skipped: {missing:#}");
            return Ok(());
        }
    };
    if let Some(difference) = recorded.tools.difference(&tools.versions()) {
        println!("rebuild: skipped: {difference}");
        return Ok(());
    }
    compare("rebuild", &installed, &build::objects(root, &tools)?)?;
    if options.thorough {
        let elsewhere = copy::Copy::of(root)?;
        compare(
            "rebuild at another path",
            &installed,
            &build::objects(&elsewhere.root(), &tools)?,
        )?;
    } else {
        println!("rebuild at another path: skipped: no --thorough");
    }
    Ok(())
}

fn compare(what: &str, installed: &[build::Object], rebuilt: &[build::Object]) -> Result<()> {
    for (installed, rebuilt) in installed.iter().zip(rebuilt) {
        if installed.bytes != rebuilt.bytes {
            bail!("{what}: the {} object differs from the one checked in", installed.arch);
        }
    }
    println!("{what}: the same, byte for byte");
    Ok(())
}
