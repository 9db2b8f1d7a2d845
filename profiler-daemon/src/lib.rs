//! rprofd: kernel records → samples of a process → one profile per process, kind and window →
//! sinks.

mod arch;
pub mod files;
pub mod kernel;
pub mod process;
pub mod profile;
pub mod reader;
pub mod symbolize;
