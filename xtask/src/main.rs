//! Developer tasks: `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod aarch64;
mod bench;
mod checkout;
mod ebpf;
mod fuzz;
mod oracle;
mod step;
mod unwind;
mod vm_test;

/// What developers of rprofd run.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The BPF object under `profiler-ebpf/prebuilt/`
    #[command(subcommand)]
    Ebpf(ebpf::Command),
    /// Measure a figure that rprofd promises; PASS or FAIL
    Bench(bench::Options),
    /// Unwind tables of ELF files
    #[command(subcommand)]
    Unwind(unwind::Command),
    /// Judge our stacks of a command by other unwinders, frame by frame
    Oracle(oracle::Options),
    /// Run the fuzz targets of the parsers that see foreign bytes
    Fuzz(fuzz::Options),
    /// `cargo check` of the daemon for aarch64
    CheckAarch64,
    /// rprofd on other kernels, in virtual machines
    VmTest,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Ebpf(command) => ebpf::run(&command),
        Task::Bench(options) => bench::run(&options),
        Task::Unwind(command) => unwind::run(&command),
        Task::Oracle(options) => oracle::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::CheckAarch64 => aarch64::check(),
        Task::VmTest => vm_test::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
