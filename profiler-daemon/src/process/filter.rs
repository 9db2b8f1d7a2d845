//! Which processes the user asked for.

use std::collections::HashSet;

/// A shell pattern: `*` any text, `?` any character, `[a-z]` one of a set.
#[derive(Clone, Debug)]
pub struct Glob(globset::GlobMatcher);

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, globset::Error> {
        globset::GlobBuilder::new(pattern)
            .literal_separator(false)
            .build()
            .map(|glob| Self(glob.compile_matcher()))
    }

    /// Whether all of `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// What the options `--pid`, `--comm`, `--exe` and `--cgroup` ask for: a process is profiled if it
/// fits one of each kind that was given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Process IDs; empty: any. With other patterns: these, and with `follow` what descends from them,
    /// whether what is between fits or not.
    pub pids: HashSet<u32>,
    /// Patterns of comms; empty: any.
    pub comms: Vec<Glob>,
    /// Patterns of the executable's path; one without a `/` is compared with its last component;
    /// empty: any. A file that was deleted or replaced is found by the path it had, too.
    pub exes: Vec<Glob>,
    /// Patterns of the cgroup's path; empty: any.
    pub cgroups: Vec<Glob>,
    /// Children of a profiled process are profiled.
    pub follow: bool,
}

impl Filter {
    /// Whether every process is profiled.
    pub fn is_all(&self) -> bool {
        let Self { pids, comms, exes, cgroups, follow: _ } = self;
        pids.is_empty() && comms.is_empty() && exes.is_empty() && cgroups.is_empty()
    }

    /// Whether pids alone decide: the kernel side then needs no word from us.
    pub fn is_pids(&self) -> bool {
        !self.pids.is_empty()
            && self.comms.is_empty()
            && self.exes.is_empty()
            && self.cgroups.is_empty()
    }

    /// Whether a process with these properties is asked for; `None` while one that matters is not
    /// known yet (empty). `is_listed`: it is one of `pids`, or counts as one.
    pub fn decide(&self, is_listed: bool, comm: &str, exe: &str, cgroup: &str) -> Option<bool> {
        if !self.pids.is_empty() && !is_listed {
            return Some(false);
        }
        let mut unknown = false;
        // So the kernel marks an executable that its path does not lead to any more.
        let exe_before = exe.strip_suffix(" (deleted)");
        for (globs, text, before) in [
            (&self.comms, comm, None),
            (&self.exes, exe, exe_before),
            (&self.cgroups, cgroup, None),
        ] {
            if globs.is_empty() {
                continue;
            }
            if text.is_empty() {
                unknown = true;
                continue;
            }
            let fits = |text: &str| {
                let name = text.rsplit('/').next().unwrap_or(text);
                globs.iter().any(|glob| glob.matches(text) || glob.matches(name))
            };
            if !fits(text) && !before.is_some_and(fits) {
                return Some(false);
            }
        }
        if unknown { None } else { Some(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_fits_one_of_each_kind() {
        let filter = Filter {
            comms: vec![Glob::new("nginx*").unwrap(), Glob::new("php").unwrap()],
            exes: vec![Glob::new("/usr/*").unwrap()],
            ..Filter::default()
        };
        assert_eq!(filter.decide(true, "nginx: worker", "/usr/sbin/nginx", ""), Some(true));
        assert_eq!(filter.decide(true, "nginx", "/opt/nginx", ""), Some(false));
        assert_eq!(filter.decide(true, "nginx", "", ""), None);
        assert_eq!(filter.decide(true, "bash", "", ""), Some(false));
        assert_eq!(Filter::default().decide(false, "", "", ""), Some(true));
    }

    #[test]
    fn a_file_that_was_replaced_is_found_by_its_path() {
        for (pattern, expected) in [
            ("/usr/sbin/nginx", true),
            ("nginx", true),
            ("*/nginx (deleted)", true),
            ("/usr/sbin/ngin", false),
        ] {
            let exes = vec![Glob::new(pattern).unwrap()];
            let filter = Filter { exes, ..Filter::default() };
            let verdict = filter.decide(true, "nginx", "/usr/sbin/nginx (deleted)", "");
            assert_eq!(verdict, Some(expected), "{pattern}");
        }
    }
}
