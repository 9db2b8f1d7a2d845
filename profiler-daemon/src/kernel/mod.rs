//! The kernel's side: programs attached, records drained, filters and mappings told.

mod btf;
mod cpus;
mod error;
mod object;
mod perf;
mod ranges;
mod ring;
mod sampler;
mod side_band;

pub use error::KernelError;
pub use perf::{Event, period_ns};
pub use sampler::{Losses, Record, Sampler, Settings};
pub use side_band::{Map, SideBand, What};
