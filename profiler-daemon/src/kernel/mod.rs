//! The kernel's side: programs attached, records drained, filters and mappings told.

mod bpf;
mod btf;
mod cpu_events;
mod cpus;
pub mod defects;
mod error;
mod go_waits;
mod object;
mod perf;
mod probe;
mod ranges;
mod ring;
mod runs;
mod sampler;
mod shared;
mod side_band;
mod snapshot;
mod stack_copy;
mod tables;
mod waits;

pub use cpu_events::Moves;
pub(crate) use cpus::count as online_cpus;
pub use error::KernelError;
pub use go_waits::{Probes, Scheduler};
pub use perf::{Event, has_cycles, period_ns};
pub(crate) use ring::mapped_bytes as ring_bytes;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use sampler::decode;
pub use sampler::{Losses, Record, Sampler, Settings, is_initial_pid_namespace};
pub use side_band::{Map, SideBand, What};
pub use snapshot::Snapshot;
pub use stack_copy::StackCopy;
pub use tables::Placed;
pub use waits::Waits;
