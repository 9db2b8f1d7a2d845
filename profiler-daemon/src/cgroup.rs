//! What cgroups allow, in both of their versions: a process's limits, and how near we are to ours.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Where the hierarchies are: version 2's, or version 1's and, beside them, version 2's.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Version 1 says a number near 2^63 where there is no limit.
const NO_LIMIT: u64 = 1 << 62;

/// What the cgroups of a process allow; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Limits {
    /// Memory, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// CPUs' worth of time.
    pub(crate) cpus: Option<f64>,
}

impl Limits {
    /// Those of the process whose paths by controller are `cgroups`; `` is the unified hierarchy.
    pub(crate) fn of(cgroups: &HashMap<String, String>) -> Self {
        let mut limits = Self::default();
        for (controller, path) in cgroups {
            for root in ROOTS {
                limits.narrow(&Path::new(root).join(controller), path);
            }
        }
        limits
    }

    /// Takes the limits of a cgroup and of those it is in.
    fn narrow(&mut self, base: &Path, path: &str) {
        for dir in up_from(base, path) {
            let number = |file: &str| read(&dir, file)?.trim().parse::<i64>().ok();
            let cpus = read(&dir, "cpu.max").and_then(|text| cpu_max(&text));
            let cpus =
                cpus.or_else(|| share(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?));
            self.memory_bytes = [self.memory_bytes, memory_limit(&dir)].into_iter().flatten().min();
            self.cpus = [self.cpus, cpus].into_iter().flatten().reduce(f64::min);
        }
    }
}

/// A cgroup and those it is in.
fn up_from(base: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    Path::new(path.trim_start_matches('/')).ancestors().map(|cgroup| base.join(cgroup))
}

fn read(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

fn memory_limit(dir: &Path) -> Option<u64> {
    let number = |file: &str| read(dir, file)?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
    limit.filter(|bytes| *bytes < NO_LIMIT)
}

/// Reads `QUOTA PERIOD`, where the first may be `max`.
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    share(quota.parse().ok()?, period.parse().ok()?)
}

fn share(quota: i64, period: i64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// The cgroup whose memory limit is the narrowest of those that hold for us.
#[derive(Debug)]
pub(crate) struct MemoryCgroup {
    dir: PathBuf,
    /// Its limit, in bytes.
    pub(crate) limit_bytes: u64,
}

/// What rprofd's processes need in memory at least, and what is enough on a machine of some hundred
/// processes, in bytes.
pub(crate) const LEAST_BYTES: u64 = 64 << 20;
pub(crate) const ENOUGH_BYTES: u64 = 128 << 20;

impl MemoryCgroup {
    /// Ours; `None` without a limit.
    pub(crate) fn own() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mut found: Option<Self> = None;
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let is_memory = controllers.split(',').any(|it| it == "memory");
            if !is_memory && !controllers.is_empty() {
                continue;
            }
            for root in ROOTS {
                let base = Path::new(root).join(if is_memory { "memory" } else { "" });
                for dir in up_from(&base, path) {
                    let Some(limit_bytes) = memory_limit(&dir) else { continue };
                    if found.as_ref().is_none_or(|found| limit_bytes < found.limit_bytes) {
                        found = Some(Self { dir, limit_bytes });
                    }
                }
            }
        }
        found
    }

    /// What is used of it and cannot be taken back as pages of files can, in bytes.
    pub(crate) fn used_bytes(&self) -> Option<u64> {
        let number = |file: &str| read(&self.dir, file)?.trim().parse::<u64>().ok();
        let all = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
        let of_files = file_pages(&read(&self.dir, "memory.stat").unwrap_or_default());
        Some(all.saturating_sub(of_files))
    }
}

/// Pages of files, in `memory.stat` of either version.
fn file_pages(stat: &str) -> u64 {
    let of = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    ["active_file", "inactive_file"]
        .iter()
        .filter_map(|name| of(&format!("total_{name}")).or_else(|| of(name)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_narrowest_limit_counts_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "a/memory.max", "1000\n");
        write(root, "a/b/memory.max", "max\n");
        write(root, "a/b/cpu.max", "50000 100000\n");
        let mut limits = Limits::default();
        limits.narrow(root, "/a/b");
        assert_eq!(limits, Limits { memory_bytes: Some(1000), cpus: Some(0.5) });
        write(root, "c/memory.limit_in_bytes", "9223372036854771712\n");
        write(root, "c/cpu.cfs_quota_us", "-1\n");
        write(root, "c/cpu.cfs_period_us", "100000\n");
        let mut limits = Limits::default();
        limits.narrow(root, "/c");
        assert_eq!(limits, Limits::default());
        write(root, "c/cpu.cfs_quota_us", "150000\n");
        limits.narrow(root, "/c");
        assert_eq!(limits.cpus, Some(1.5));
    }

    #[test]
    fn pages_of_files_are_not_counted_as_used() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = MemoryCgroup { dir: dir.path().to_owned(), limit_bytes: 1000 };
        assert_eq!(cgroup.used_bytes(), None);
        write(dir.path(), "memory.current", "900\n");
        write(dir.path(), "memory.stat", "anon 1\nactive_file 100\ninactive_file 300\n");
        assert_eq!(cgroup.used_bytes(), Some(500));
        assert_eq!(file_pages("active_file 1\ntotal_active_file 7\ntotal_inactive_file 8\n"), 15);
    }
}
