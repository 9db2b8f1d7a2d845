//! A cgroup that allows less than there is.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// A cgroup with a limit; removed when dropped.
#[derive(Debug)]
pub struct Limited(PathBuf);

impl Limited {
    /// In the hierarchy of a controller, with `text` in the file of version 1 or 2 that sets the
    /// limit; `None` where none can be made.
    fn new(
        controller: &str,
        [first, second]: [&str; 2],
        [text_1, text_2]: [&str; 2],
    ) -> Option<Self> {
        let name = format!("rprofd-test-{}-{controller}", std::process::id());
        let places = [
            (format!("{controller}/{name}"), first, text_1),
            (name.clone(), second, text_2),
            (format!("unified/{name}"), second, text_2),
        ];
        places.iter().find_map(|(dir, file, text)| {
            let dir = Path::new("/sys/fs/cgroup").join(dir);
            fs::create_dir(&dir).ok()?;
            let limited = Self(dir);
            fs::write(limited.0.join(file), text).ok().map(|()| limited)
        })
    }

    /// With 64 MiB of memory; `None` where no cgroup can be made.
    pub fn of_memory() -> Option<Self> {
        Self::new("memory", ["memory.limit_in_bytes", "memory.max"], ["67108864"; 2])
    }

    /// With half of a CPU; `None` where no cgroup can be made.
    pub fn of_cpus() -> Option<Self> {
        Self::new("cpu", ["cpu.cfs_quota_us", "cpu.max"], ["50000", "50000 100000"])
    }

    /// For how long it was kept from running so far, in nanoseconds, as the kernel counts it.
    pub fn throttled_ns(&self) -> u64 {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).expect("statistics");
        let of = |key: &str| {
            let value = stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            value.unwrap_or(0_u64)
        };
        of("throttled_time ") + of("throttled_usec ") * 1_000
    }

    /// As [`Self::throttled_ns`], with what is of it now: the kernel counts that when it ends. Something
    /// in it has to use up all that it may.
    pub fn throttled_to_now_ns(&self) -> u64 {
        let before_ns = self.throttled_ns();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            thread::sleep(Duration::from_millis(10));
            let now_ns = self.throttled_ns();
            if now_ns != before_ns {
                return now_ns;
            }
            assert!(Instant::now() < end, "it is not throttled any more");
        }
    }

    /// Moves a process into it.
    pub fn take(&self, pid: &str) {
        fs::write(self.0.join("cgroup.procs"), pid).expect("move");
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // A process that has just ended may still be in it.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
