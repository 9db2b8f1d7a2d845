//! What the unwind table of a file holds.

use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use profiler_daemon::reader::unwind::{Equation, UnwindTable, build};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a file's table: its figures and rules
    Show {
        /// An ELF file
        file: PathBuf,
        /// Only the rule at this address, in hexadecimal, as the ELF file counts
        #[arg(value_parser = parse_svma)]
        address: Option<u64>,
        /// Only the figures
        #[arg(long, conflicts_with = "address")]
        brief: bool,
    },
}

fn parse_svma(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
}

/// Runs `cargo xtask unwind …`.
pub(crate) fn run(command: &Command) -> Result<()> {
    let Command::Show { file, address, brief } = command;
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let start = Instant::now();
    let table = build(&bytes).with_context(|| file.display().to_string())?;
    let took = start.elapsed();
    let equation = |rule| Equation { rule, machine: table.stats.machine };
    if let Some(svma) = address {
        println!("{svma:#x}  {}", equation(table.find(*svma)));
        return Ok(());
    }
    print_figures(&table, took.as_secs_f64() * 1e3);
    if *brief {
        return Ok(());
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut last = None;
    for (svma, rule) in table.rows() {
        // Pages begin with a row of their own.
        if last.replace(rule) == Some(rule) {
            continue;
        }
        match writeln!(out, "{svma:#x}  {}", equation(rule)) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

fn print_figures(table: &UnwindTable, took_ms: f64) {
    let stats = &table.stats;
    println!("functions    {}", stats.functions);
    println!("rows         {}", stats.rows);
    println!("rules        {}", stats.rules);
    println!("page         {} bytes", 1_u64 << table.table.shift);
    println!("CFI          {} bytes", stats.cfi_bytes);
    print!("table        {} bytes", table.size_bytes());
    match stats.cfi_bytes {
        0 => println!(),
        cfi => println!(", {:.0} % of that", 100.0 * table.size_bytes() as f64 / cfi as f64),
    }
    for (reason, count) in &stats.unsupported {
        println!("unsupported  {count} rows: {reason}");
    }
    println!("lost fp      {} rows", stats.fp_lost);
    println!("built in     {took_ms:.1} ms");
}
