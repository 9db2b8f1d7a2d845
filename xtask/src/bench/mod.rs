//! Benchmarks.
use anyhow::Result;
use clap::Args;
#[derive(Args)]
pub(crate) struct Options {
    /// Which
    name: Option<String>,
}
pub(crate) fn run(options: &Options) -> Result<()> {
    anyhow::bail!("no benchmark {:?}", options.name)
}
