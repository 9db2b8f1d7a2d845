//! Samples of a command: registers and stack of the same event, and what happened to mappings.
//!
//! Layouts are those of `enum perf_event_type` in `include/uapi/linux/perf_event.h`.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use profiler_daemon::kernel::SideBand;
use rustix::process::{Pid, Signal, kill_process_group};

use super::perf::Ring;

const RECORD_SAMPLE: u32 = 9;
/// `PERF_SAMPLE_REGS_ABI_64`
const ABI_64: u64 = 2;
/// How often the rings are emptied: they hold a second of the biggest records at 499 Hz.
const DRAIN_EVERY: Duration = Duration::from_millis(20);
/// A record may be in its ring that much later than another CPU's of the same time.
const LATE: Duration = Duration::from_millis(100);

/// By DWARF's number: which of the copied registers is `rax`, `rdx`, `rcx`, `rbx`, `rsi`, `rdi`,
/// `rbp`, `rsp`, `r8` … `r15`. The kernel copies `ax`, `bx`, `cx`, `dx`, `si`, `di`, `bp`, `sp`,
/// `ip`, `r8` … `r15`.
const BY_DWARF: [usize; 16] = [0, 3, 2, 1, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16];
const COPIED: usize = 17;
const IP: usize = 8;

/// User code, interrupted.
pub(crate) struct Sample {
    pub(crate) pid: u32,
    pub(crate) pc: u64,
    /// By DWARF's numbers.
    pub(crate) registers: [u64; 16],
    /// The bytes from the stack pointer up.
    pub(crate) stack: Vec<u8>,
}

/// What the kernel reported.
pub(crate) enum What {
    Sample(Sample),
    SideBand(SideBand),
}

/// A record and its time at the boot-time clock.
pub(crate) struct Record {
    time_ns: u64,
    pub(crate) what: What,
}

/// What is recorded.
pub(crate) struct Recording<'a> {
    pub(crate) command: &'a [OsString],
    /// Samples in a second of CPU time.
    pub(crate) hertz: u64,
    /// When the command is killed; none: it ends by itself.
    pub(crate) limit: Option<Duration>,
}

impl Recording<'_> {
    /// Runs the command and sends its records, sorted by time, until it and its limit have ended.
    pub(crate) fn run(&self, records: &Sender<Record>) -> Result<()> {
        let mut child = Waiting::start(self.command)?;
        let cpus = online_cpus()?;
        let mut rings: Vec<Ring> = cpus
            .into_iter()
            .map(|cpu| Ring::open(child.pid(), cpu, self.hertz))
            .collect::<Result<_>>()?;
        child.go()?;
        let end = self.limit.map(|limit| Instant::now() + limit);
        let mut waiting = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let is_over = child.has_ended()? || end.is_some_and(|end| Instant::now() >= end);
            if is_over {
                child.kill();
            }
            let before_ns = boot_time_ns();
            for ring in &mut rings {
                ring.drain(&mut buffer, |record| waiting.extend(parse(record)));
            }
            waiting.sort_by_key(|record| record.time_ns);
            let settled_ns = before_ns.saturating_sub(LATE.as_nanos() as u64);
            let settled = if is_over {
                waiting.len()
            } else {
                waiting.partition_point(|record| record.time_ns < settled_ns)
            };
            for record in waiting.drain(..settled) {
                // Nobody listens any more: they have met an error, which they will tell.
                if records.send(record).is_err() {
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
            thread::sleep(DRAIN_EVERY);
        }
    }
}

/// A shell that waits for a line until it becomes the command: the events must be there first.
struct Waiting(Child);

impl Waiting {
    fn start(command: &[OsString]) -> Result<Self> {
        let child = Command::new("sh")
            .args(["-c", "read line; exec \"$@\"", "sh"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start sh")?;
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn go(&mut self) -> Result<()> {
        let mut stdin = self.0.stdin.take().context("no pipe to sh")?;
        stdin.write_all(b"\n").context("write to sh")
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().context("wait for the command")?.is_some())
    }

    /// Ends what runs, the command's children as well.
    fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.pid() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.kill();
    }
}

fn boot_time_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The CPUs that are online now: a list such as `0-3,8`.
fn online_cpus() -> Result<Vec<u32>> {
    let path = "/sys/devices/system/cpu/online";
    let text = fs::read_to_string(path).context(path)?;
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().context(path)?..=last.parse().context(path)?);
    }
    ensure!(!cpus.is_empty(), "no CPU in {path}");
    Ok(cpus)
}

fn parse(record: &[u8]) -> Option<Record> {
    if record.get(..4)? == RECORD_SAMPLE.to_ne_bytes() {
        return parse_sample(record);
    }
    let side_band = SideBand::parse(record)?;
    Some(Record { time_ns: side_band.time_ns, what: What::SideBand(side_band) })
}

/// `None` for a task without user registers of 64 bits.
fn parse_sample(record: &[u8]) -> Option<Record> {
    let word = |index: usize| {
        let bytes = record.get(index * 8..index * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    // Header, IP, pid and tid, time, ABI, registers, size of the copy, copy, how much of it counts.
    let pid = word(2)? as u32;
    let time_ns = word(3)?;
    if word(4)? != ABI_64 {
        return None;
    }
    let mut copied = [0; COPIED];
    for (index, register) in copied.iter_mut().enumerate() {
        *register = word(5 + index)?;
    }
    let size = word(5 + COPIED)? as usize;
    let start = (6 + COPIED) * 8;
    let copy = record.get(start..start.checked_add(size)?)?;
    let used = if size == 0 { 0 } else { word(6 + COPIED + size / 8)? as usize };
    let sample = Sample {
        pid,
        pc: copied[IP],
        registers: BY_DWARF.map(|index| copied[index]),
        stack: copy.get(..used)?.to_vec(),
    };
    Some(Record { time_ns, what: What::Sample(sample) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(abi: u64, stack: &[u64], used: u64) -> Vec<u8> {
        let mut words = vec![0, 0x40_1000, 7 << 32 | 6, 99, abi];
        words.extend((0..COPIED as u64).map(|n| 0x100 + n));
        words.push(stack.len() as u64 * 8);
        words.extend(stack);
        words.push(used);
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
        bytes[..4].copy_from_slice(&RECORD_SAMPLE.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_sample_has_its_registers_by_dwarfs_numbers() {
        let record = parse(&record(ABI_64, &[1, 2, 3], 16)).expect("a sample");
        let What::Sample(sample) = record.what else { panic!("no sample") };
        assert_eq!((record.time_ns, sample.pid, sample.pc), (99, 6, 0x108));
        // rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8, …
        assert_eq!(sample.registers[..5], [0x100, 0x103, 0x102, 0x101, 0x104]);
        assert_eq!(sample.registers[7..10], [0x107, 0x109, 0x10a]);
        assert_eq!(sample.stack.len(), 16, "what the kernel could copy");
    }

    #[test]
    fn a_cut_record_is_none() {
        let whole = record(ABI_64, &[1, 2, 3], 24);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_none(), "{end}");
        }
        assert!(parse(&record(1, &[1], 8)).is_none(), "registers of 32 bits");
        assert!(parse(&record(ABI_64, &[1], 16)).is_none(), "more than was copied");
    }
}
