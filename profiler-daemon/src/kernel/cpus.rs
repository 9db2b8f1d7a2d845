//! The machine's CPUs.

use super::KernelError;

/// `/proc/stat` counts in hundredths of a second (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// The CPUs that are online now.
pub(super) fn online() -> Result<Vec<u32>, KernelError> {
    Ok(parse_list(&read("/sys/devices/system/cpu/online")?))
}

/// One more than the highest number that a CPU of this machine can have.
pub(super) fn possible() -> Result<u32, KernelError> {
    let cpus = parse_list(&read("/sys/devices/system/cpu/possible")?);
    Ok(cpus.into_iter().max().map_or(1, |last| last.saturating_add(1)))
}

/// How long `cpus` have been idle since boot, together, in nanoseconds.
pub(super) fn idle_ns(cpus: &[u32]) -> Result<u64, KernelError> {
    Ok(parse_idle(&read("/proc/stat")?, cpus))
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

/// Adds up the columns `idle` and `iowait` (fourth and fifth) of the lines of `cpus`.
fn parse_idle(stat: &str, cpus: &[u32]) -> u64 {
    let mut ticks = 0;
    for line in stat.lines() {
        let mut columns = line.split_ascii_whitespace();
        let cpu = columns.next().and_then(|name| name.strip_prefix("cpu"));
        if let Some(cpu) = cpu.and_then(|number| number.parse().ok())
            && cpus.contains(&cpu)
        {
            ticks += columns.skip(3).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
        }
    }
    ticks * TICK_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("0\n"), [0]);
        assert_eq!(parse_list("\n"), [0; 0]);
    }

    #[test]
    fn idle_time_of_some_cpus() {
        let stat = "cpu  9 9 9 99 9 9\ncpu0 1 2 3 40 5 6\ncpu1 1 2 3 70 1 6\nintr 4 5\n";
        assert_eq!(parse_idle(stat, &[0, 1]), 116 * TICK_NS);
        assert_eq!(parse_idle(stat, &[1]), 71 * TICK_NS);
    }
}
