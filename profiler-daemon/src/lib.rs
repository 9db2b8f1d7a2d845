//! rprofd: kernel records → samples of a process → one profile per process, kind and window →
//! sinks.

mod arch;
pub mod profile;
pub mod reader;
