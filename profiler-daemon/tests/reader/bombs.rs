//! Files that are made to be expensive, given to the real reader: each may cost little time and
//! little memory, ends in a clear error or without names, and leaves the reader as it was.

mod debug_information;
mod elf;
mod headers;
mod perf_maps;
mod symbols;
mod unwind_tables;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use profiler_daemon::reader::protocol::{
    FileInfo, NameFile, Reply, Request, Unwind, UnwindDigest, reply, request,
};
use profiler_daemon::reader::wire::{read_message, write_message};

use super::support::Session;
use elf::Elf;

/// What a file may cost of the reader's CPU time, with all that is asked about it: five seconds. A
/// debug build takes several times as long for the same.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 100 } else { 5 });

/// So many in a release build, and an eighth of them in a debug build, which takes several times as
/// long for each. For counts that the outcome does not depend on.
const fn scaled(count: u64) -> u64 {
    if cfg!(debug_assertions) { count / 8 } else { count }
}

/// For how long an answer is waited for: the machine may have other work.
const DEADLINE: Duration = Duration::from_secs(300);

/// What the reader may allocate (`RLIMIT_DATA`), in KiB: a bomb is to stay below that, and not to
/// end there.
const MEMORY_KIB: u64 = (1 << 20) - (64 << 10);

/// Addresses whose names are asked for; all are in the code.
const NAMED: usize = 16_384;

/// What a bomb came to.
#[derive(Debug, Default)]
struct Outcome {
    /// Why it was not opened.
    refused: String,
    /// What was said with its names.
    warning: String,
    /// Names, of the addresses that have one.
    named: Vec<String>,
    /// Why it has no unwind table; empty if it has one.
    no_table: String,
}

/// A figure of the reader's, in KiB.
fn memory_kib(session: &Session, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", session.reader.child.id()));
    let status = status.expect("the reader runs");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The most memory that the reader had allocated, seen from outside, while this lives.
struct Watch {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Watch {
    fn start(session: &Session) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_over = std::sync::Arc::clone(&stop);
        let path = format!("/proc/{}/status", session.reader.child.id());
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let status = fs::read_to_string(&path).unwrap_or_default();
                let line = status.lines().find(|line| line.starts_with("VmData:"));
                let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
                most = number.unwrap_or(0).max(most);
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        Self { stop, thread: Some(thread) }
    }

    fn most_kib(mut self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// How long something took.
struct Took {
    /// The CPU time of the reader's threads.
    cpu: Duration,
    wall: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, wall } = self;
        write!(formatter, "{:>5} ms of CPU in {:>5} ms", cpu.as_millis(), wall.as_millis())
    }
}

fn timed<T>(session: &mut Session, ask: impl FnOnce(&mut Session) -> T) -> (T, Took) {
    let (cpu, begun) = (cpu_time(session), Instant::now());
    let answer = ask(session);
    (answer, Took { cpu: cpu_time(session) - cpu, wall: begun.elapsed() })
}

/// What the reader has run, from `utime` and `stime` of `/proc/PID/stat`.
fn cpu_time(session: &Session) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", session.reader.child.id()));
    let stat = stat.expect("the reader runs");
    // The name before may hold spaces.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

fn ask_tables(session: &mut Session, kind: request::Kind) -> reply::Kind {
    let lane = &mut session.reader.tables;
    lane.set_read_timeout(Some(DEADLINE)).unwrap();
    write_message(lane, &Request { id: 1, kind: Some(kind) }).unwrap();
    let reply: Reply = read_message(lane).unwrap().expect("the reader has ended");
    reply.kind.unwrap()
}

/// Asks all that the core would about a file, and sees what that costs. Twice: what was found to be
/// expensive is remembered.
fn explode(path: &Path) -> Outcome {
    let mut session = Session::start(&[]);
    let data_before = memory_kib(&session, "VmData:");
    let watch = Watch::start(&session);
    let (outcome, took) = timed(&mut session, |session| ask_all(session, path));
    let (second, took_again) = timed(&mut session, |session| ask_all(session, path));
    let data = watch.most_kib();
    let resident = memory_kib(&session, "VmHWM:");
    println!(
        "{:<28} {took}, again {took_again}, {:>4} MiB allocated (of these {} at rest), {:>4} MiB resident",
        path.file_name().unwrap().to_string_lossy(),
        data >> 10,
        data_before >> 10,
        resident >> 10,
    );
    assert!(took.cpu <= PATIENCE, "{took}: {outcome:?}");
    assert!(took_again.cpu <= PATIENCE, "{took_again} the second time: {outcome:?}");
    assert!(data <= MEMORY_KIB, "{} MiB allocated", data >> 10);
    assert_eq!((&outcome.refused, &outcome.no_table), (&second.refused, &second.no_table));
    // The same process still answers.
    session.process(1).ok();
    assert!(session.reader.child.try_wait().unwrap().is_none(), "the reader has died");
    outcome
}

fn ask_all(session: &mut Session, path: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    let FileInfo { key, segments, .. } = match session.open_path(path) {
        Ok(info) => info,
        Err(refused) => return Outcome { refused, ..outcome },
    };
    let code = segments.first().map_or(0, |segment| segment.file_offset);
    let file_offsets: Vec<u64> = (0..NAMED as u64).map(|n| code + 8 + n * 61).collect();
    let request = NameFile { key, file_offsets, no_inlines: false };
    let names = session.names(request::Kind::NameFile(request)).unwrap();
    outcome.warning = names.warning;
    outcome.named = names
        .frames
        .iter()
        .filter_map(|frame| Some(names.strings[frame.lines.first()?.function as usize].clone()))
        .collect();
    for kind in
        [request::Kind::UnwindDigest(UnwindDigest { key }), request::Kind::Unwind(Unwind { key })]
    {
        if let reply::Kind::Error(error) = ask_tables(session, kind) {
            outcome.no_table = error;
        }
    }
    outcome
}

/// A bomb's file, in a directory of its own.
fn bomb(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn explode_elf(name: &str, elf: Elf) -> Outcome {
    let (_directory, path) = bomb(name, &elf.bytes());
    explode(&path)
}
