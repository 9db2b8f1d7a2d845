//! The kernel's side: programs attached, records drained, filters and mappings told.

mod bpf;
mod btf;
mod cpus;
mod error;
mod object;
mod perf;
mod ranges;
mod ring;
mod runs;
mod sampler;
mod shared;
mod side_band;
mod stack_copy;
mod tables;

pub use error::KernelError;
pub use perf::{Event, period_ns};
pub use sampler::{Losses, Record, Sampler, Settings};
pub use side_band::{Map, SideBand, What};
pub use stack_copy::StackCopy;
pub use tables::Placed;
