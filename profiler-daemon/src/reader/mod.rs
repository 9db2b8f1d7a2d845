//! The reader: a child process that alone touches files, paths and memory of other processes.

pub mod protocol;
