//! A reader to ask, and programs for it to look at.

pub(crate) mod programs;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use profiler_daemon::reader::client::Reader;
use profiler_daemon::reader::protocol::{
    FileInfo, Names, Open, Pids, Process, ProcessInfo, Reply, Request, reply, request,
};
use profiler_daemon::reader::wire::{read_message, write_message};

/// The core's deadline for a request; a debug build takes several times as long.
const DEADLINE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 300 } else { 10 });

/// A reader and the requests made of it.
pub(crate) struct Session {
    pub(crate) reader: Reader,
    next_id: u64,
}

impl Session {
    pub(crate) fn start(debug_dirs: &[PathBuf]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_rprofd"));
        let reader = Reader::spawn_program(program, debug_dirs).unwrap();
        for lane in std::iter::once(&reader.files).chain(&reader.names) {
            lane.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        Self { reader, next_id: 1 }
    }

    pub(crate) fn ask_files(&mut self, kind: request::Kind) -> reply::Kind {
        self.next_id += 1;
        ask(&mut self.reader.files, self.next_id, kind)
    }

    pub(crate) fn pids(&mut self) -> Vec<u32> {
        match self.ask_files(request::Kind::Pids(Pids {})) {
            reply::Kind::Pids(list) => list.pids,
            reply => panic!("{reply:?}"),
        }
    }

    pub(crate) fn process(&mut self, pid: u32) -> Result<ProcessInfo, String> {
        match self.ask_files(request::Kind::Process(Process { pid })) {
            reply::Kind::Description(process) => Ok(process),
            reply::Kind::Gone(_) => Err(format!("{pid} has ended")),
            reply::Kind::Error(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }

    pub(crate) fn open(&mut self, open: Open) -> Result<FileInfo, String> {
        match self.ask_files(request::Kind::Open(open)) {
            reply::Kind::File(info) => Ok(info),
            reply::Kind::Error(error) | reply::Kind::Elsewhere(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }

    /// Opens a file that this process need not run, by its path and identity.
    pub(crate) fn open_path(&mut self, path: &Path) -> Result<FileInfo, String> {
        let metadata = std::fs::metadata(path).unwrap();
        self.open(Open {
            pid: std::process::id(),
            path: path.to_str().unwrap().to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            ..Open::default()
        })
    }

    pub(crate) fn names(&mut self, kind: request::Kind) -> Result<Names, String> {
        self.names_on(0, kind)
    }

    /// Asks on one of the names lanes.
    pub(crate) fn names_on(&mut self, lane: usize, kind: request::Kind) -> Result<Names, String> {
        self.next_id += 1;
        match ask(&mut self.reader.names[lane], self.next_id, kind) {
            reply::Kind::Names(names) => Ok(names),
            reply::Kind::Error(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }
}

fn ask(lane: &mut UnixStream, id: u64, kind: request::Kind) -> reply::Kind {
    write_message(lane, &Request { id, kind: Some(kind) }).unwrap();
    let reply: Reply = read_message(lane).unwrap().expect("the reader has ended");
    assert_eq!(reply.id, id);
    reply.kind.unwrap()
}

/// A running program that has printed a line.
pub(crate) struct Mapped {
    child: Child,
    program: PathBuf,
}

impl Mapped {
    pub(crate) fn start(program: &Path) -> Self {
        let mut child = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self { child, program: program.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The request that opens a program's own executable mapping.
pub(crate) fn mapping_of(session: &mut Session, mapped: &Mapped) -> Open {
    let process = session.process(mapped.pid()).unwrap();
    let mapping = process
        .mappings
        .into_iter()
        .find(|mapping| Path::new(&mapping.path) == mapped.program)
        .unwrap();
    Open {
        pid: process.pid,
        start: mapping.start,
        end: mapping.end,
        path: mapping.path,
        build_id: Vec::new(),
        device: mapping.device,
        inode: mapping.inode,
        anywhere: false,
    }
}

/// Compiles a source text; the program is named as the file is, less its extension.
pub(crate) fn compile(directory: &Path, file: &str, source: &str, command: &[&str]) -> PathBuf {
    let path = directory.join(file);
    std::fs::write(&path, source).unwrap();
    let program = path.with_extension("");
    let arguments = command[1..].iter().map(OsStr::new);
    let rest = [path.as_os_str(), OsStr::new("-o"), program.as_os_str()];
    run(command[0], arguments.chain(rest));
    program
}

pub(crate) fn objcopy(flags: &[&str], from: &Path, to: &Path) {
    run("objcopy", flags.iter().map(OsStr::new).chain([from.as_os_str(), to.as_os_str()]));
}

/// Runs a tool and returns what it prints.
pub(crate) fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Removes a file outside the test's own directory at the end.
pub(crate) struct Removed(pub(crate) PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
