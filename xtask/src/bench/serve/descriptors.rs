//! What a daemon holds open, and what of it came on top.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read as _,
    path::Path,
};

/// What a descriptor leads to: a path without what numbers of processes and sockets are in it.
type Target = String;

/// How often each target is open.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    counts: BTreeMap<Target, usize>,
    /// Those that are ELF files.
    elf: BTreeSet<Target>,
}

/// What is held late and was not early.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leaked {
    /// What nothing explains.
    pub(super) targets: BTreeMap<Target, usize>,
    /// Files of programs that were first started meanwhile.
    pub(super) of_new_programs: usize,
}

impl Held {
    /// What these processes hold now.
    pub(super) fn now(pids: &[u32]) -> Self {
        let mut held = Self::default();
        for pid in pids {
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for entry in entries.flatten() {
                let Ok(link) = fs::read_link(entry.path()) else { continue };
                let target = without_numbers(&link.to_string_lossy());
                if is_elf(&link, &entry.path()) {
                    held.elf.insert(target.clone());
                }
                *held.counts.entry(target).or_default() += 1;
            }
        }
        held
    }

    /// Keeps what `other` holds, too: what was open for a moment is not held.
    pub(super) fn keep_what_is_in(&mut self, other: &Self) {
        self.counts.retain(|target, count| {
            *count = (*count).min(other.counts.get(target).copied().unwrap_or_default());
            *count > 0
        });
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.counts.values().sum()
    }

    /// What is held, and was not `early`. The reader keeps the files of programs open, 1,024 of
    /// them, each once: that of one that was not there early is no leak, as something else runs on
    /// this machine, too; the same file twice is one.
    pub(super) fn since(&self, early: &Self) -> Leaked {
        let mut leaked = Leaked::default();
        for (target, count) in &self.counts {
            let before = early.counts.get(target).copied().unwrap_or_default();
            let mut more = count.saturating_sub(before);
            if more > 0 && before == 0 && self.elf.contains(target) {
                more -= 1;
                leaked.of_new_programs += 1;
            }
            if more > 0 {
                leaked.targets.insert(target.clone(), more);
            }
        }
        leaked
    }
}

/// `socket:[1234]` and `/proc/1234/maps` are of one kind each; files keep their names.
fn without_numbers(target: &str) -> Target {
    if target.starts_with('/') && !target.starts_with("/proc/") {
        return target.to_owned();
    }
    let mut plain = String::new();
    for c in target.chars() {
        match c {
            _ if !c.is_ascii_digit() => plain.push(c),
            _ if plain.ends_with('N') => {}
            _ => plain.push('N'),
        }
    }
    plain
}

fn is_elf(link: &Path, descriptor: &Path) -> bool {
    // Whatever else there is may wait for a writer.
    let is_file = link.is_absolute() && fs::metadata(descriptor).is_ok_and(|it| it.is_file());
    if !is_file || link.starts_with("/proc") {
        return false;
    }
    let mut magic = [0; 4];
    File::open(descriptor).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(counts: &[(&str, usize)], elf: &[&str]) -> Held {
        Held {
            counts: counts.iter().map(|(target, count)| ((*target).to_owned(), *count)).collect(),
            elf: elf.iter().map(|target| (*target).to_owned()).collect(),
        }
    }

    #[test]
    fn a_leak_of_one_is_seen_and_a_new_program_is_none() {
        let early = held(&[("/bin/sh", 1), ("socket:[N]", 9), ("pipe:[N]", 4)], &["/bin/sh"]);
        assert_eq!(early.since(&early), Leaked::default());
        let new =
            held(&[("/bin/sh", 1), ("/bin/cc", 1), ("socket:[N]", 9)], &["/bin/sh", "/bin/cc"]);
        assert_eq!(new.since(&early), Leaked { of_new_programs: 1, ..Leaked::default() });
        for (target, count) in
            [("/bin/sh", 2), ("/bin/cc", 2), ("socket:[N]", 10), ("/tmp/a.map", 1)]
        {
            let leaked = held(&[(target, count)], &["/bin/sh", "/bin/cc"]).since(&early);
            assert_eq!(leaked.targets, BTreeMap::from([(target.to_owned(), 1)]), "{leaked:?}");
        }
    }

    #[test]
    fn what_is_open_for_a_moment_is_not_held() {
        let mut all = held(&[("/bin/sh", 1), ("socket:[N]", 9), ("/proc/N/maps", 1)], &[]);
        all.keep_what_is_in(&held(&[("/bin/sh", 2), ("socket:[N]", 8)], &[]));
        assert_eq!(all.counts, held(&[("/bin/sh", 1), ("socket:[N]", 8)], &[]).counts);
        assert_eq!(all.len(), 9);
    }

    #[test]
    fn numbers_of_processes_and_sockets_are_left_out() {
        assert_eq!(without_numbers("socket:[123]"), "socket:[N]");
        assert_eq!(without_numbers("/proc/12/task/345/stat"), "/proc/N/task/N/stat");
        assert_eq!(without_numbers("/usr/lib/libc.so.6"), "/usr/lib/libc.so.6");
    }

    #[test]
    fn ones_own_descriptors() {
        let exe = File::open("/proc/self/exe").expect("it");
        let held = Held::now(&[std::process::id()]);
        let path = fs::read_link("/proc/self/exe").expect("a path").to_string_lossy().into_owned();
        assert!(held.elf.contains(&path) && held.counts[&path] >= 1, "{held:?}");
        drop(exe);
    }
}
