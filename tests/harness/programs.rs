//! Programs to profile, compiled when they are needed first.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::dir::build_dir;

/// C and C++ that a frame-pointer walk sees whole, leaf functions included.
const FRAME_POINTERS: [&str; 4] =
    ["-O2", "-g", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"];

/// Go's toolchains to try, such as `go1.21.13`: those of `RPROFD_TEST_GO`, or the one that is there.
pub fn go_toolchains() -> Vec<String> {
    let named = env::var("RPROFD_TEST_GO").unwrap_or_else(|_| "local".to_owned());
    named.split(',').map(str::to_owned).collect()
}

/// Compiles `tests/programs/<source>` with a toolchain of Go's, and these flags of `go build`, to a file
/// in `dir`.
pub fn build_go(dir: &Path, source: &str, toolchain: &str, flags: &[&str]) -> PathBuf {
    let name = source.strip_suffix(".go").expect("a Go source");
    let path = dir.join(format!("{name}-{toolchain}"));
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&path).args(flags).arg(source_path(source));
    let status = go.env("GOTOOLCHAIN", toolchain).status().expect("go");
    assert!(status.success(), "{go:?}: {status}");
    path
}

/// A compiled program.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// Compiles `tests/programs/<source>` with the compiler for its kind of file (`.c`, `.cc`,
    /// `.rs`, `.go`).
    pub fn build(source: &str) -> Self {
        Self::build_with(source, &[])
    }

    /// The same, with more flags for the compiler.
    pub fn build_with(source: &str, flags: &[&str]) -> Self {
        let source = source_path(source);
        let mut hash = DefaultHasher::new();
        let headers =
            ["burn.h", "clock.h", "frame.h", "phases.h"].map(|header| read(&source_path(header)));
        (read(&source), headers, flags).hash(&mut hash);
        let name = source.file_stem().expect("a file name");
        let dir = build_dir().join("rprofd-test-programs").join(format!("{:016x}", hash.finish()));
        let path = dir.join(name);
        if !path.exists() {
            fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
            // Other tests may compile the same at the same time.
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let unfinished = dir.join(format!("{}.{next}", process::id()));
            compile(&source, &unfinished, flags);
            fs::rename(&unfinished, &path).expect("rename a compiled program");
        }
        Self { path }
    }

    /// Compiles to `path` whatever is there, so that no cache knows the result.
    pub fn build_fresh(source: &str, flags: &[&str], path: &Path) -> Self {
        compile(&source_path(source), path, flags);
        Self { path: path.to_owned() }
    }

    /// Compiles C to `path` with another compiler than gcc.
    pub fn compiled_by(compiler: &str, source: &str, path: &Path) -> Self {
        let mut command = Command::new(compiler);
        command.args(FRAME_POINTERS).arg("-o").arg(path).arg(source_path(source));
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "{command:?}: {status}");
        Self { path: path.to_owned() }
    }

    /// The executable.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy of the executable.
    pub fn copy_to(&self, path: &Path) -> Self {
        copy_executable(&self.path, path);
        Self { path: path.to_owned() }
    }

    /// A command that runs it with `args`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args);
        command
    }

    /// Starts it with `args`; ended when dropped.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(&mut self.command(args))
    }

    /// The executable as an argument.
    pub fn arg(&self) -> &str {
        self.path.to_str().expect("a path that is UTF-8")
    }
}

/// A process that is killed when dropped.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: process::Child,
}

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies an executable so that it can be run at once. A file that we write ourselves is busy as
/// long as a process that another test is just starting holds our descriptor of it.
pub fn copy_executable(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().expect("start cp");
    assert!(status.success(), "cp {} {}: {status}", from.display(), to.display());
}

/// Path of a file under `tests/programs/`.
pub fn source_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

fn compile(source: &Path, output: &Path, flags: &[&str]) {
    let kind = source.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut command = match kind {
        "c" | "cc" => {
            let mut command = Command::new(if kind == "c" { "gcc" } else { "g++" });
            command.args(FRAME_POINTERS).args(flags).arg("-o").arg(output).arg(source);
            command.arg("-pthread");
            command
        }
        "rs" => {
            let mut command = Command::new("rustc");
            command.args(["--edition=2024", "-Copt-level=2", "-Cdebuginfo=2"]);
            command.arg("-Cforce-frame-pointers=yes").args(flags).arg("-o").arg(output).arg(source);
            command
        }
        "go" => {
            let mut command = Command::new("go");
            command.args(["build", "-o"]).arg(output).args(flags).arg(source);
            command
        }
        _ => panic!("no compiler for {}", source.display()),
    };
    let result = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        result.status.success(),
        "{command:?}: {}\n{}",
        result.status,
        String::from_utf8_lossy(&result.stderr)
    );
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
