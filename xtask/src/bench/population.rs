//! Many processes of many binaries: programs of the distribution that read from a pipe.

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::programs::Running;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

const BINARIES: usize = 60;
const PROCESSES: usize = 100;

/// Programs that read standard input to its end, with what makes them do so; some machine has not
/// all of them.
const PROGRAMS: &[&str] = &[
    "node",
    "gdb -q -nx",
    "python3 -",
    "perl",
    "bash",
    "dash",
    "git hash-object --stdin",
    "openssl sha256",
    "sqlite3",
    "gcc -E -",
    "as -o /dev/null",
    "gpg --enarmor",
    "curl -K -",
    "rsync --server . .",
    "make -f -",
    "m4",
    "bc",
    "dc",
    "ed",
    "vim.basic -es",
    "vim.tiny -es",
    "tclsh",
    "lua5.4 -",
    "ruby",
    "php",
    "gawk {print}",
    "mawk {print}",
    "sed s/a/b/",
    "grep -v x",
    "diff - /etc/passwd",
    "cmp - /dev/zero",
    "patch --dry-run",
    "tar -tf -",
    "cpio -t",
    "gzip",
    "xz",
    "bzip2",
    "zstd",
    "lz4",
    "brotli",
    "file -f -",
    "ssh-keygen -lf -",
    "jq .",
    "xmllint -",
    "flex",
    "bison /dev/stdin",
    "c++filt",
    "addr2line -e /bin/true",
    "iconv -f utf8 -t utf16",
    "xargs -n 100000 true",
    "hexdump",
    "column",
    "colrm",
    "rev",
    "ul",
    "more",
    "less",
    "cat",
    "tac",
    "sort",
    "uniq",
    "wc",
    "cut -f1",
    "tr a b",
    "head -c 1G",
    "tail",
    "nl",
    "od",
    "paste -",
    "fold",
    "fmt",
    "pr",
    "expand",
    "unexpand",
    "base32",
    "base64",
    "basenc --base16",
    "cksum",
    "md5sum",
    "sha1sum",
    "sha224sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "b2sum",
    "sum",
    "tee",
    "tsort",
    "factor",
    "numfmt",
    "shuf",
    "ptx",
    "comm - /dev/null",
    "join - /dev/null",
    "dd",
];

/// They run until this is dropped, and each gets a few lines ten times a second.
pub(super) struct Population {
    processes: Vec<Running>,
    ended: Arc<AtomicBool>,
    feeder: Option<JoinHandle<()>>,
}

impl Population {
    /// Starts [`PROCESSES`] processes of [`BINARIES`] files.
    pub(super) fn start() -> Result<Self> {
        let (mut processes, mut pipes) = (Vec::new(), Vec::new());
        let mut files = HashSet::new();
        let mut chosen = Vec::new();
        for line in PROGRAMS {
            let Some((running, pipe)) = start(line)? else { continue };
            // What does not read its input has ended by now.
            thread::sleep(Duration::from_millis(50));
            let Ok(exe) = fs::metadata(format!("/proc/{}/exe", running.pid())) else { continue };
            if files.insert((exe.dev(), exe.ino())) {
                chosen.push(line);
                processes.push(running);
                pipes.push(pipe);
            }
            if chosen.len() == BINARIES {
                break;
            }
        }
        ensure!(
            chosen.len() == BINARIES,
            "only {} of the programs that the benchmark knows run here, {BINARIES} are needed: {}",
            chosen.len(),
            chosen.iter().map(|line| name(line)).collect::<Vec<_>>().join(" ")
        );
        for line in chosen.into_iter().cycle().take(PROCESSES - BINARIES) {
            let (running, pipe) = start(line)?.with_context(|| format!("no {line} any more"))?;
            processes.push(running);
            pipes.push(pipe);
        }
        let ended = Arc::new(AtomicBool::new(false));
        let feeder = feed(pipes, Arc::clone(&ended));
        let population = Self { processes, ended, feeder: Some(feeder) };
        // Each is its own program, its libraries loaded.
        thread::sleep(Duration::from_secs(2));
        population.ensure_alive()?;
        Ok(population)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Running::pid)
    }

    /// Fails if one has ended.
    pub(super) fn ensure_alive(&self) -> Result<()> {
        for pid in self.pids() {
            let exe = fs::read_link(format!("/proc/{pid}/exe"));
            exe.with_context(|| format!("process {pid} of {PROCESSES} has ended"))?;
        }
        Ok(())
    }
}

impl Drop for Population {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
    }
}

/// Starts a program; `None` if the machine has none of the name.
fn start(line: &str) -> Result<Option<(Running, ChildStdin)>> {
    let mut command = Command::new(name(line));
    command.args(line.split(' ').skip(1)).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    let Ok(child) = command.spawn() else { return Ok(None) };
    let mut running = Running { child };
    let pipe = running.child.stdin.take().context("a pipe")?;
    // Some never read.
    fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    Ok(Some((running, pipe)))
}

fn name(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

fn feed(mut pipes: Vec<ChildStdin>, ended: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            for pipe in &mut pipes {
                // A full pipe of one that does not read is none of our business.
                let _ = pipe.write(b"1\n2\n3\n4\n");
            }
            thread::sleep(Duration::from_millis(100));
        }
    })
}
