//! Kernels with known defects that a profiler runs into, and what we leave out there.

use std::fmt;

/// A kernel version: `6.1.36`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Version {
    /// Reads the version at the start of a text.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = text[..end].split('.').map(str::parse);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        Some(Self(major, minor, parts.next().and_then(Result::ok).unwrap_or(0)))
    }

    /// The version of kernel.org's that the running kernel is made from, where it can be told:
    /// distributions' own numbers say less (Debian's `6.1.0-56` is 6.1.192).
    pub fn upstream() -> Option<Self> {
        let system = rustix::system::uname();
        let signature = std::fs::read_to_string("/proc/version_signature").unwrap_or_default();
        Self::from_names(
            &system.release().to_string_lossy(),
            &system.version().to_string_lossy(),
            &signature,
        )
    }

    fn from_names(release: &str, version: &str, signature: &str) -> Option<Self> {
        // Red Hat's kernels keep their number for years, and take fixes and features from all later
        // ones.
        if release.contains(".el") {
            return None;
        }
        // Ubuntu: `Ubuntu 6.2.0-39.40-generic 6.2.16`.
        if let Some(last) = signature.split_whitespace().nth(2) {
            return Self::parse(last);
        }
        // Debian: `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-09-01)`.
        if let Some((_, behind)) = version.split_once("Debian ") {
            return Self::parse(behind);
        }
        Self::parse(release)
    }
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOut {
    /// User stacks are not walked.
    UserStacks,
    /// Frequencies near the kernel's limit, at which it throttles.
    HighFrequencies,
    /// Nothing: a figure is wrong.
    Nothing,
}

/// A defect of a range of versions.
#[derive(Debug)]
pub struct Defect {
    from: Version,
    /// The first version without it.
    fixed: Version,
    /// What happens.
    pub what: &'static str,
    /// The change that ended it, by its title.
    pub fix: &'static str,
    /// The same, by its commit in Linus Torvalds's tree; stable series have it under other ids.
    pub commit: &'static str,
    /// What we do without.
    pub leave_out: LeaveOut,
}

impl Defect {
    /// The first version of this series without it.
    pub fn fixed(&self) -> Version {
        self.fixed
    }
}

const HARDENED_USERCOPY: &str = "reading user memory in an interrupt can lock up the whole machine \
    where CONFIG_HARDENED_USERCOPY is on, as distributions have it";

/// <https://github.com/parca-dev/parca-agent/issues/1675>, Debian bug 1033398. The stable releases
/// with it are 6.1.36 and 6.3.10.
const HARDENED_USERCOPY_FIX: &str = "mm: Fix copy_from_user_nofault().";
const HARDENED_USERCOPY_COMMIT: &str = "d319f344561d";

const DEFECTS: [Defect; 5] = [
    Defect {
        from: Version(6, 1, 0),
        fixed: Version(6, 1, 36),
        what: HARDENED_USERCOPY,
        fix: HARDENED_USERCOPY_FIX,
        commit: HARDENED_USERCOPY_COMMIT,
        leave_out: LeaveOut::UserStacks,
    },
    Defect {
        from: Version(6, 2, 0),
        fixed: Version(6, 3, 10),
        what: HARDENED_USERCOPY,
        fix: HARDENED_USERCOPY_FIX,
        commit: HARDENED_USERCOPY_COMMIT,
        leave_out: LeaveOut::UserStacks,
    },
    // <https://github.com/async-profiler/async-profiler/issues/1578>: seen up to 6.17.6. 6.16 had
    // no further release.
    Defect {
        from: Version(6, 16, 0),
        fixed: Version(6, 17, 8),
        what: "a CPU clock that the kernel throttles can hang the whole machine",
        fix: "perf/core: Fix system hang caused by cpu-clock usage",
        commit: "eb3182ef0405",
        leave_out: LeaveOut::HighFrequencies,
    },
    Defect {
        from: Version(6, 16, 0),
        fixed: Version(6, 17, 10),
        what: "a CPU clock that is stopped does not say what it has counted: samples that were \
               missed at the very end are not counted",
        fix: "perf: Fix 0 count issue of cpu-clock",
        commit: "f1f96511b1c4",
        leave_out: LeaveOut::Nothing,
    },
    // CVE-2026-23014. It came with the mending of the hang; 6.17 got no release with this change.
    Defect {
        from: Version(6, 17, 8),
        fixed: Version(6, 18, 6),
        what: "a CPU clock that ticks while it is closed may be used after it was freed",
        fix: "perf: Ensure swevent hrtimer is properly destroyed",
        commit: "ff5860f5088e",
        leave_out: LeaveOut::Nothing,
    },
];

/// How far frequencies stay below the kernel's limit where throttling is dangerous: it limits
/// samples in a tick of the clock, not in a second.
const THROTTLE_MARGIN: u64 = 10;

/// The defects of a version.
pub fn of(version: Option<Version>) -> impl Iterator<Item = &'static Defect> {
    let has = move |defect: &&Defect| {
        version.is_some_and(|version| (defect.from..defect.fixed).contains(&version))
    };
    DEFECTS.iter().filter(has)
}

/// The highest frequency that is safe where `limit` is the kernel's own, in Hz.
pub fn highest_frequency(limit: u64) -> u64 {
    (limit / THROTTLE_MARGIN).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_say_their_upstream_version_elsewhere() {
        let of = Version::from_names;
        assert_eq!(of("6.18.44-x", "#1 SMP", ""), Some(Version(6, 18, 44)));
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-09-01)";
        assert_eq!(of("6.1.0-56-cloud-amd64", debian, ""), Some(Version(6, 1, 192)));
        let ubuntu = "Ubuntu 6.2.0-39.40-generic 6.2.16\n";
        assert_eq!(of("6.2.0-39-generic", "#40 SMP", ubuntu), Some(Version(6, 2, 16)));
        assert_eq!(of("5.14.0-427.el9.x86_64", "#1 SMP", ""), None);
        assert_eq!(of("6.5-rc1", "", ""), Some(Version(6, 5, 0)));
        assert_eq!(of("linux", "", ""), None);
    }

    #[test]
    fn a_fixed_version_has_no_defect() {
        let left_out = |major, minor, patch| {
            of(Some(Version(major, minor, patch))).map(|it| it.leave_out).collect::<Vec<_>>()
        };
        assert_eq!(left_out(6, 1, 35), [LeaveOut::UserStacks]);
        assert_eq!(left_out(6, 1, 36), []);
        assert_eq!(left_out(6, 2, 16), [LeaveOut::UserStacks]);
        assert_eq!(left_out(6, 4, 0), []);
        assert_eq!(left_out(6, 17, 7), [LeaveOut::HighFrequencies, LeaveOut::Nothing]);
        assert_eq!(left_out(6, 17, 8), [LeaveOut::Nothing; 2]);
        assert_eq!(left_out(6, 18, 5), [LeaveOut::Nothing]);
        assert_eq!(left_out(6, 18, 6), []);
        assert_eq!(of(None).count(), 0);
        assert_eq!(highest_frequency(100_000), 10_000);
        assert_eq!(highest_frequency(3), 1);
    }
}
