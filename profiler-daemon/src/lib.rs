//! rprofd: kernel records → samples of a process → one profile per process, kind and window →
//! sinks.

mod arch;
mod cgroup;
pub mod cli;
pub mod command;
pub mod config;
pub mod doctor;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod go;
mod go_leaks;
mod go_snapshots;
mod go_waits;
pub mod kernel;
pub mod messages;
pub mod process;
pub mod profile;
mod progress;
pub mod reader;
pub mod recorder;
mod remote;
pub mod rights;
pub mod run;
pub mod serve;
pub mod server;
pub mod sudo;
pub mod symbolize;
pub mod targets;
mod text;
pub mod unwind;
