//! Running the real `rprofd`.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Profile, dir::build_dir, machine::stolen};

/// The longest that anything of rprofd may take in a test.
const LIMIT: Duration = Duration::from_secs(120);

/// Path of `rprofd`, built with the profile that the caller was built with.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let dir = build_dir();
        build(if dir.ends_with("release") { "release" } else { "dev" });
        dir.join("rprofd")
    })
}

/// Builds `rprofd` with the cargo profile `profile`, and with the features that the other packages
/// of the workspace need too: else what they share would be compiled twice.
pub fn build(profile: &str) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--locked", "--workspace", "--bin", "rprofd"])
        .args(["--profile", profile]);
    let status = cargo.status().expect("start cargo");
    assert!(status.success(), "{cargo:?}: {status}");
}

/// A command line of `rprofd` in the making.
#[derive(Debug)]
pub struct Rprofd {
    command: Command,
    output: PathBuf,
}

impl Rprofd {
    /// `rprofd` writing its profiles to `profiles` in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self::at(binary(), dir)
    }

    /// The same with another executable.
    pub fn at(binary: &Path, dir: &Path) -> Self {
        let output = dir.join("profiles");
        let mut rprofd = Self::bare(binary, dir);
        rprofd.command.arg("--output").arg(&output);
        Self { output, ..rprofd }
    }

    /// `rprofd` run in `dir`, without any option.
    pub fn bare(binary: &Path, dir: &Path) -> Self {
        let mut command = Command::new(binary);
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The tests may themselves run under sudo: files then belong to that user.
        command.env_remove("SUDO_UID").env_remove("SUDO_GID").env("TERM", "dumb");
        // What one test leaves behind is not to be found by another.
        command.env("RPROFD_UNWIND_CACHE", "off");
        Self { command, output: dir.to_owned() }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Changes the command in ways that have no method here.
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Starts it and waits for its end.
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Starts it.
    pub fn start(mut self) -> Started {
        let begin = Instant::now();
        let stolen_before = stolen();
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let stdout = child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                bytes
            })
        });
        let lines = child.stderr.take().map(read_lines);
        Started {
            child,
            begin,
            stolen_before,
            stdout,
            lines,
            stderr: String::new(),
            output: self.output,
        }
    }
}

fn read_lines(pipe: ChildStderr) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            line.clear();
        }
    });
    lines
}

/// An `rprofd` that runs; killed when dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    begin: Instant,
    stolen_before: Duration,
    stdout: Option<JoinHandle<Vec<u8>>>,
    lines: Option<Receiver<String>>,
    stderr: String,
    output: PathBuf,
}

impl Started {
    /// The core's process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard error that contains `text` and returns it.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let lines = self.lines.as_ref().expect("standard error is piped");
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                panic!("no “{text}” on standard error; there was:\n{}", self.stderr);
            };
            self.stderr.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits until the first sample was taken; needs `-v`.
    pub fn wait_for_first_sample(&mut self) {
        self.wait_for_line("first sample after");
    }

    /// Sends a signal to the core.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("send a signal to rprofd");
    }

    /// True while the core has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for rprofd").is_none()
    }

    /// Waits for its end.
    pub fn wait(self) -> Finished {
        self.wait_at_most(LIMIT.max(Duration::from_secs(300)))
    }

    /// Waits for its end; one that does not come in this time is a failure.
    pub fn wait_at_most(mut self, time: Duration) -> Finished {
        let lines = self.lines.take().expect("standard error is piped");
        let deadline = Instant::now() + time;
        // Ends when the last process that holds standard error does: core and reader.
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.stderr.push_str(&line);
        }
        if self.is_running() && Instant::now() > deadline {
            panic!("rprofd does not end; it said:\n{}", self.stderr);
        }
        let status = self.child.wait().expect("wait for rprofd");
        let stdout = self.stdout.take().expect("standard output is piped");
        Finished {
            status,
            elapsed: self.begin.elapsed(),
            stolen: stolen().saturating_sub(self.stolen_before),
            stdout: stdout.join().expect("read standard output"),
            stderr: std::mem::take(&mut self.stderr),
            output: std::mem::take(&mut self.output),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An `rprofd` that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// From start to end.
    pub elapsed: Duration,
    /// What was stolen from the machine meanwhile: [`stolen`].
    pub stolen: Duration,
    /// What it wrote on standard output.
    pub stdout: Vec<u8>,
    /// What it wrote on standard error.
    pub stderr: String,
    /// The directory its profiles are in.
    pub output: PathBuf,
}

impl Finished {
    /// Panics with standard error unless the exit status is `code`.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}: {}", self.status, self.stderr);
        self
    }

    /// Panics with standard error unless it succeeded.
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Names of the files it wrote, sorted.
    pub fn file_names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.output) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The one file whose name starts with `prefix` and ends with `suffix`.
    pub fn file(&self, prefix: &str, suffix: &str) -> PathBuf {
        let names = self.file_names();
        let mut found =
            names.iter().filter(|name| name.starts_with(prefix) && name.ends_with(suffix));
        match (found.next(), found.next()) {
            (Some(name), None) => self.output.join(name),
            _ => panic!("not one file {prefix}…{suffix} in {names:?}\n{}", self.stderr),
        }
    }

    /// The CPU profile of the one process whose comm is `comm`.
    pub fn profile_of(&self, comm: &str) -> Profile {
        Profile::read(&self.file(&format!("{comm}."), ".cpu.pb.gz"))
    }

    /// The CPU profile of everything.
    pub fn all(&self) -> Profile {
        let path = self.output.join("all.cpu.pb.gz");
        assert!(path.exists(), "no profile; it said:\n{}", self.stderr);
        Profile::read(&path)
    }
}
