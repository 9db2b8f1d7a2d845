//! The command `rprofd`.

fn main() {}
