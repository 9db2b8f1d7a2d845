//! The harness of the end-to-end tests and of the benchmarks: programs to profile, the real
//! `rprofd`, and profiles read back by `go tool pprof`.
//!
//! What fails here panics: it is a test that fails.

#[path = "harness/bombs.rs"]
pub mod bombs;
#[path = "harness/browser.rs"]
pub mod browser;
#[path = "harness/containers.rs"]
pub mod containers;
#[path = "harness/dir.rs"]
mod dir;
#[path = "harness/limited.rs"]
pub mod limited;
#[path = "harness/machine.rs"]
pub mod machine;
#[path = "harness/pid_reuse.rs"]
pub mod pid_reuse;
#[path = "harness/pprof.rs"]
pub mod pprof;
#[path = "harness/procfs.rs"]
pub mod procfs;
#[path = "harness/programs.rs"]
pub mod programs;
#[path = "harness/rprofd.rs"]
pub mod rprofd;
#[path = "harness/serve.rs"]
pub mod serve;
#[path = "harness/tables.rs"]
pub mod tables;
#[path = "harness/users.rs"]
pub mod users;

pub use self::{
    dir::TestDir,
    pprof::Profile,
    programs::Program,
    rprofd::{Finished, Rprofd},
};
