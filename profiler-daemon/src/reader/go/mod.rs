//! What the Go runtime keeps of its own program, read from outside: allocations, waits and
//! contentions by stack, and goroutines. Nobody is stopped, and nothing is written.
//!
//! Everything that is read may be wrong, and may change meanwhile: counts and pointers are believed
//! within limits alone, and what takes too long ends.

mod buckets;
mod goroutines;
mod label_sets;
pub(super) mod labels;
mod layout;
mod memory;
mod program;
mod scheduler;
mod stats;
mod stripped;

use std::{collections::HashMap, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::{
    elf::ElfError,
    file_pages::FilePages,
    mounts::Mounts,
    protocol::{GoMemory, GoRead, GoStacks, GoWhat, MAX_REPLY_BYTES},
    sys,
};
use memory::{Deadline, Memory, ProcessMemory, word};
use program::Program;
pub(super) use program::Programs;

/// How long one answer may take: of a CPU, and by the clock, on a machine that has others to run.
const LONGEST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(2500);

/// How often a program that has just begun is looked at, and how long is in between.
const MOST_TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_millis(15);

/// svmas of variables, by name.
type Variables = HashMap<&'static str, u64>;

/// Why there is nothing to be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum GoError {
    /// It is another language's.
    #[error("it is not a Go program")]
    NotGo,
    /// The program cannot be opened.
    #[error("its program cannot be read: {0}")]
    Program(std::io::Error),
    /// The program's file is damaged.
    #[error("its program cannot be read: {error}")]
    File { error: ElfError },
    /// It is a Go program of an unknown version.
    #[error("its version of Go is not known: {0}")]
    NoVersion(String),
    /// It is one of another version than those whose structures are known.
    #[error("it was built with {0}; what Go keeps is read of 1.19 to 1.27")]
    Version(String),
    /// It has no symbols.
    #[error(
        "its program has no symbol table (it was linked with -s or stripped), and no table of the \
         runtime's that is read here; build it without -ldflags=-s"
    )]
    Stripped,
    /// It is behind another program, or on another machine.
    #[error("its program is on a file system that may not answer, and gets no probes")]
    NotLocal,
    /// Its symbols are more than are read.
    #[error("its symbol table is too large")]
    Large,
    /// Where it lies is not known.
    #[error("where its program lies in memory is not known: its auxv names no entry")]
    NoEntry,
    /// A variable that is needed has no symbol.
    #[error(
        "in its program {0} was not found; where it was stripped, build it without -ldflags=-s"
    )]
    Missing(&'static str),
    /// The linker left the heap profile out.
    #[error(
        "memory profiling is off in this program (MemProfileRate is 0): nothing in it refers to \
         runtime.MemProfile, so the linker left it out, or the program sets it so"
    )]
    NoMemoryProfile,
    /// Memory is not there.
    #[error("the memory of {0} cannot be read")]
    Unreadable(&'static str),
    /// Memory is not what the runtime would have there.
    #[error("its memory is not as Go keeps it: {0}")]
    Inconsistent(&'static str),
    /// There is too much, or it comes too slowly.
    #[error("reading its memory took longer than a second")]
    Late,
    /// More than an answer holds.
    #[error("there is more than an answer holds")]
    TooMuch,
}

/// Reads what is asked for.
pub(super) fn read(
    asked: GoRead,
    programs: &mut Programs,
    pages: &Arc<FilePages>,
    mounts: &Mounts,
) -> GoMemory {
    match read_process(asked, programs, pages, mounts) {
        Ok(found) => found,
        Err(error) => GoMemory {
            is_other: matches!(error, GoError::NotGo),
            refusal: format!("process {}: {error}", asked.pid),
            ..GoMemory::default()
        },
    }
}

fn read_process(
    asked: GoRead,
    programs: &mut Programs,
    pages: &Arc<FilePages>,
    mounts: &Mounts,
) -> Result<GoMemory, GoError> {
    let memory = ProcessMemory(asked.pid);
    let mut tries = 0;
    let program = loop {
        let program = Program::of(asked.pid, programs, pages, mounts)?;
        tries += 1;
        if has_begun(&memory, &program) || tries == MOST_TRIES {
            break program;
        }
        std::thread::sleep(BETWEEN_TRIES);
    };
    let deadline = Deadline::after(LONGEST, PATIENCE);
    let now = clock_gettime(ClockId::Monotonic);
    let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let mut found = read_with(&memory, &program, asked.what(), now_ns, deadline)?;
    if let Some(stats) = &mut found.stats {
        stats.most_resident_bytes = most_resident_bytes(asked.pid);
    }
    if !fits(&found) {
        without_labels(&mut found);
    }
    if fits(&found) { Ok(found) } else { Err(GoError::TooMuch) }
}

fn fits(found: &GoMemory) -> bool {
    prost::Message::encoded_len(found) <= MAX_REPLY_BYTES - 1024
}

/// Leaves the labels out.
fn without_labels(found: &mut GoMemory) {
    found.label_sets.clear();
    for labels in found.goroutines.iter_mut().map(|it| &mut it.labels).filter(|it| **it != 0) {
        *labels = 0;
        found.labels_left_out += 1;
    }
}

/// Whether the runtime has set itself up: before, its variables are as they were compiled. The first
/// goroutine is made right behind.
fn has_begun(memory: &impl Memory, program: &Program) -> bool {
    let count = program.variable("runtime.allglen").ok().and_then(|at| word(memory, at));
    count.is_some_and(|count| count > 0)
}

/// The most memory that a process ever had at a time, in bytes; 0: the kernel does not say.
fn most_resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.map_or(0, |it: u64| it.saturating_mul(1024))
}

fn read_with(
    memory: &impl Memory,
    program: &Program,
    what: GoWhat,
    now_ns: u64,
    deadline: Deadline,
) -> Result<GoMemory, GoError> {
    let mut found = GoMemory { version: program.contents.version.clone(), ..GoMemory::default() };
    let read = |name| word(memory, program.variable(name)?).ok_or(GoError::Unreadable(name));
    match what {
        GoWhat::Heap => {
            found.rate = read("runtime.MemProfileRate")?;
            if found.rate == 0 {
                return Err(GoError::NoMemoryProfile);
            }
            found.stats = stats::read(memory, program, deadline);
        }
        GoWhat::Block => found.rate = read("runtime.blockprofilerate")?,
        GoWhat::Mutex => found.rate = mutex_rate(memory, program)?,
        GoWhat::Goroutines | GoWhat::BareGoroutines => {
            let with_labels = what == GoWhat::Goroutines;
            goroutines::read(memory, program, now_ns, with_labels, deadline, &mut found)?;
            return Ok(found);
        }
        GoWhat::Counts => {
            found.stats = stats::read(memory, program, deadline);
            return Ok(found);
        }
        GoWhat::Scheduler => {
            found.scheduler = Some(scheduler::read(program)?);
            return Ok(found);
        }
    }
    if matches!(what, GoWhat::Block | GoWhat::Mutex) {
        (found.ticks_per_second, found.is_measured) = ticks_per_second(memory, program, now_ns)?;
    }
    buckets::read(memory, program, what, deadline, &mut found)?;
    found.scales_mutexes = program.layout.scales_mutexes;
    Ok(found)
}

/// The mutex fraction; where it is not known, whether there is one: only a list that was not counted
/// up by it needs it.
fn mutex_rate(memory: &impl Memory, program: &Program) -> Result<u64, GoError> {
    const NAME: &str = "runtime.mutexprofilerate";
    let rate = program.variable(NAME);
    if rate.is_err() {
        let list = word(memory, program.variable("runtime.xbuckets")?);
        let is_empty = list.is_none_or(|list| list == 0);
        if is_empty || program.layout.scales_mutexes {
            return Ok(u64::from(!is_empty));
        }
    }
    word(memory, rate?).ok_or(GoError::Unreadable(NAME))
}

/// How fast the runtime's counter counts: as it has measured, if somebody asked it before, and with
/// `true` as it would now.
fn ticks_per_second(
    memory: &impl Memory,
    program: &Program,
    now_ns: u64,
) -> Result<(u64, bool), GoError> {
    const NAME: &str = "runtime.ticks";
    let ticks = program.variable(NAME);
    let read = |at: u64| {
        let ticks = *ticks.as_ref().ok().unwrap_or(&0);
        word(memory, ticks.wrapping_add(at)).ok_or(GoError::Unreadable(NAME))
    };
    let known = if ticks.is_ok() { read(program.layout.ticks)? } else { 0 };
    if known != 0 {
        return Ok((known, false));
    }
    if program.layout.has_begin_of_ticks && ticks.is_ok() {
        let (begin, begin_ns) = (read(8)?, read(16)?);
        let ticks = sys::cpu_ticks().checked_sub(begin).map(|it| it as f64 * 1e9);
        if let Some((ticks, ns)) = ticks.zip(now_ns.checked_sub(begin_ns).filter(|it| *it > 0)) {
            return Ok(((ticks / ns as f64) as u64, true));
        }
    }
    // Both clocks of ours, a while apart.
    let clock = || {
        let now = clock_gettime(ClockId::Monotonic);
        (now.tv_sec as f64).mul_add(1e9, now.tv_nsec as f64)
    };
    let (ticks, ns) = (sys::cpu_ticks(), clock());
    std::thread::sleep(Duration::from_millis(100));
    let (ticks, ns) = (sys::cpu_ticks().saturating_sub(ticks), clock() - ns);
    Ok(((ticks as f64 * 1e9 / ns.max(1.0)) as u64, true))
}

/// Makes stacks those of what was found, with where the functions in them begin.
fn give(stacks: GoStacks, program: &Program, found: &mut GoMemory) {
    stacks.give(found);
    // A return address may be behind the last byte of its function.
    let entry = |avma: u64| match program.entry(avma) {
        entry if entry == avma => entry,
        _ => program.entry(avma.saturating_sub(1)),
    };
    found.entries = found.places.iter().map(|&avma| entry(avma)).collect();
}
