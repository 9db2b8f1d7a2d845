//! The machine's CPUs.

use std::{collections::HashMap, fs::File, os::unix::fs::FileExt as _};

use super::KernelError;

const ONLINE: &str = "/sys/devices/system/cpu/online";
const STAT: &str = "/proc/stat";

/// `/proc/stat` counts in hundredths of a second (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// The CPUs that are online now.
pub(super) fn online() -> Result<Vec<u32>, KernelError> {
    Ok(parse_list(&read(ONLINE)?))
}

/// What the kernel says of the CPUs, to be read again and again: its files stay open, since there
/// may be no descriptor for them later.
#[derive(Debug)]
pub(super) struct Watch {
    online: File,
    stat: File,
}

impl Watch {
    /// Opens the files.
    pub(super) fn open() -> Result<Self, KernelError> {
        let open = |path| File::open(path).map_err(|io_error| KernelError::File { path, io_error });
        Ok(Self { online: open(ONLINE)?, stat: open(STAT)? })
    }

    /// The CPUs that are online now.
    pub(super) fn online(&self) -> Result<Vec<u32>, KernelError> {
        Ok(parse_list(&reread(&self.online, ONLINE)?))
    }

    /// How long each CPU has been idle until now.
    pub(super) fn idle(&self) -> Result<Idle, KernelError> {
        Ok(Idle(parse_idle(&reread(&self.stat, STAT)?)))
    }
}

/// Reads a file of the kernel's from its begin: what it says now.
fn reread(file: &File, path: &'static str) -> Result<String, KernelError> {
    let mut bytes = Vec::new();
    let mut part = [0; 8192];
    loop {
        let read = file.read_at(&mut part, bytes.len() as u64);
        match read.map_err(|io_error| KernelError::File { path, io_error })? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
}

/// How many CPUs are online now, whichever of them we may use.
pub(crate) fn count() -> Result<usize, KernelError> {
    Ok(online()?.len())
}

/// One more than the highest number that a CPU of this machine can have.
pub(super) fn possible() -> Result<u32, KernelError> {
    let cpus = parse_list(&read("/sys/devices/system/cpu/possible")?);
    Ok(cpus.into_iter().max().map_or(1, |last| last.saturating_add(1)))
}

/// How long each CPU that is online has been idle since boot.
pub(super) struct Idle(HashMap<u32, u64>);

impl Idle {
    /// Of one CPU, in nanoseconds; 0 while it is offline.
    pub(super) fn of(&self, cpu: u32) -> u64 {
        self.0.get(&cpu).copied().unwrap_or_default()
    }
}

fn read(path: &'static str) -> Result<String, KernelError> {
    std::fs::read_to_string(path).map_err(|io_error| KernelError::File { path, io_error })
}

/// Parses a list such as `0-3,8`.
fn parse_list(text: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// The columns `idle` and `iowait` (fourth and fifth) of each CPU's line, together.
fn parse_idle(stat: &str) -> HashMap<u32, u64> {
    let of_line = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let cpu = columns.next()?.strip_prefix("cpu")?.parse().ok()?;
        let ticks: u64 = columns.skip(3).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Some((cpu, ticks * TICK_NS))
    };
    stat.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_read_again_from_an_open_file() {
        let watch = Watch::open().unwrap();
        for _ in 0..2 {
            let online = watch.online().unwrap();
            assert_eq!(online, super::online().unwrap());
            let idle = watch.idle().unwrap();
            assert!(online.iter().all(|cpu| idle.0.contains_key(cpu)));
        }
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("0\n"), [0]);
        assert_eq!(parse_list("\n"), [0; 0]);
    }

    #[test]
    fn idle_time_of_some_cpus() {
        let stat = "cpu  9 9 9 99 9 9\ncpu0 1 2 3 40 5 6\ncpu1 1 2 3 70 1 6\nintr 4 5\n";
        let idle = parse_idle(stat);
        assert_eq!((idle[&0], idle[&1], idle.len()), (45 * TICK_NS, 71 * TICK_NS, 2));
    }
}
