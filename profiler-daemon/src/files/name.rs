//! What files are called: `<comm>.<pid>.<kind>[.<UTC start>].<extension>`.

use std::collections::HashSet;

use crate::{
    files::Format,
    profile::{Kind, Process},
};

/// What gets a file of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupBy {
    /// A process.
    #[default]
    Pid,
    /// All processes of a comm.
    Comm,
    /// All processes of an executable; without a known one, of a comm.
    Exe,
    /// Nothing: there is `all` alone.
    None,
}

/// What processes of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Process ID and start time.
    Process(u32, u64),
    /// A comm, or an executable's path.
    Name(String),
}

impl Group {
    /// The group of a process; none if nothing is grouped.
    pub(crate) fn of(process: &Process, by: GroupBy) -> Option<Self> {
        match by {
            GroupBy::Pid => Some(Self::Process(process.pid, process.start_ns)),
            GroupBy::Exe if !process.exe.is_empty() => Some(Self::Name(process.exe.to_string())),
            GroupBy::Comm | GroupBy::Exe => Some(Self::Name(process.comm.to_string())),
            GroupBy::None => None,
        }
    }

    /// The first part of the group's file names.
    fn stem(&self, process: &Process) -> Stem {
        match self {
            Self::Process(pid, _) => Stem { name: sanitize(&process.comm), pid: format!(".{pid}") },
            Self::Name(name) => {
                let base = name.rsplit('/').find(|part| !part.is_empty()).unwrap_or("");
                // A comm may have slashes ("kworker/0:1") and is no path.
                let is_path = name.starts_with('/');
                Stem { name: sanitize(if is_path { base } else { name }), pid: String::new() }
            }
        }
    }
}

struct Stem {
    name: String,
    pid: String,
}

/// Longest name of a file, in bytes: what Linux's file systems take.
const MAX_NAME: usize = 255;

/// The name of the profile of everything.
const ALL: &str = "all";

/// Gives out names, none twice as long as the windows' start is the same.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Start of the window; none if a run is one window.
    stamp: Option<String>,
    taken: HashSet<String>,
}

impl Names {
    /// Goes on to the window that starts at `stamp`.
    pub(crate) fn begin(&mut self, stamp: Option<String>) {
        if self.stamp != stamp {
            self.taken.clear();
            self.stamp = stamp;
        }
    }

    /// The name of the profile of everything.
    pub(crate) fn all(&mut self, kind: Kind, format: Format) -> String {
        self.free(&Stem { name: ALL.to_owned(), pid: String::new() }, kind, format)
    }

    /// The name of a group's profile; `process` is its first.
    pub(crate) fn of(
        &mut self,
        group: &Group,
        process: &Process,
        kind: Kind,
        format: Format,
    ) -> String {
        self.free(&group.stem(process), kind, format)
    }

    fn free(&mut self, Stem { name, pid }: &Stem, kind: Kind, format: Format) -> String {
        let stamp = self.stamp.as_ref().map(|stamp| format!(".{stamp}")).unwrap_or_default();
        let end = format!("{stamp}.{}", format.extension());
        let free = (1_u64..).find_map(|number| {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let rest = format!("{pid}{suffix}.{}{end}", kind.name());
            // Sanitized names are ASCII.
            let name = &name[..name.len().min(MAX_NAME.saturating_sub(rest.len()))];
            let file = format!("{name}{rest}");
            self.taken.insert(file.clone()).then_some(file)
        });
        free.unwrap_or_default()
    }
}

/// `name` with each byte outside `[A-Za-z0-9._-]` as `_`, and so a first dot, which would hide the
/// file, or dash, which would make it an option; `_` for an empty one.
fn sanitize(name: &str) -> String {
    let clean = name.bytes().enumerate().map(|(position, byte)| match byte {
        b'.' | b'-' if position == 0 => '_',
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte),
        _ => '_',
    });
    let clean: String = clean.collect();
    if clean.is_empty() { "_".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::sample::{any_text, process};

    fn name(by: GroupBy, process: &Process) -> String {
        let group = Group::of(process, by).unwrap();
        Names::default().of(&group, process, Kind::Cpu, Format::Pprof)
    }

    #[test]
    fn names_are_those_of_the_manual() {
        let nginx = process(1234, "nginx");
        assert_eq!(name(GroupBy::Pid, &nginx), "nginx.1234.cpu.pb.gz");
        assert_eq!(name(GroupBy::Comm, &nginx), "nginx.cpu.pb.gz");
        let exe = Process { exe: "/opt/my app/run".into(), ..(*nginx).clone() };
        assert_eq!(name(GroupBy::Exe, &exe), "run.cpu.pb.gz");
        let no_exe = Process { exe: "".into(), ..(*nginx).clone() };
        assert_eq!(name(GroupBy::Exe, &no_exe), "nginx.cpu.pb.gz");
        assert_eq!(Group::of(&nginx, GroupBy::None), None);
        let mut names = Names::default();
        names.begin(Some("20261123T160000Z".to_owned()));
        assert_eq!(names.all(Kind::Cpu, Format::Svg), "all.cpu.20261123T160000Z.svg");
    }

    #[test]
    fn odd_comms() {
        for (comm, expected) in [
            ("", "_.7.cpu.pb.gz"),
            (".", "_.7.cpu.pb.gz"),
            ("..", "_..7.cpu.pb.gz"),
            ("../../etc/x", "_._.._etc_x.7.cpu.pb.gz"),
            ("-rf", "_rf.7.cpu.pb.gz"),
            ("(sd-pam)", "_sd-pam_.7.cpu.pb.gz"),
            ("é", "__.7.cpu.pb.gz"),
        ] {
            assert_eq!(name(GroupBy::Pid, &process(7, comm)), expected);
        }
        assert_eq!(name(GroupBy::Comm, &process(7, "kworker/0:1")), "kworker_0_1.cpu.pb.gz");
    }

    #[test]
    fn taken_names_are_numbered_within_a_window() {
        let mut names = Names::default();
        let next = |names: &mut Names, comm| {
            let process = process(7, comm);
            let group = Group::of(&process, GroupBy::Comm).unwrap();
            names.of(&group, &process, Kind::Cpu, Format::Pprof)
        };
        assert_eq!(names.all(Kind::Cpu, Format::Pprof), "all.cpu.pb.gz");
        assert_eq!(next(&mut names, "all"), "all-2.cpu.pb.gz");
        assert_eq!(next(&mut names, "a b"), "a_b.cpu.pb.gz");
        assert_eq!(next(&mut names, "a:b"), "a_b-2.cpu.pb.gz");
        assert_eq!(next(&mut names, "a;b"), "a_b-3.cpu.pb.gz");
        names.begin(Some("T".to_owned()));
        assert_eq!(next(&mut names, "a;b"), "a_b.cpu.T.pb.gz");
    }

    proptest! {
        #[test]
        fn names_are_files_of_this_directory(comm in any_text(), exe in "/.{0,400}", pid: u32, windows: bool) {
            let process = Process { exe: exe.into(), ..(*process(pid % 1000, &comm)).clone() };
            let mut names = Names::default();
            names.begin(windows.then(|| "20261123T160000Z".to_owned()));
            for by in [GroupBy::Pid, GroupBy::Comm, GroupBy::Exe] {
                let group = Group::of(&process, by).unwrap();
                let first = names.of(&group, &process, Kind::Cpu, Format::Pprof);
                let second = names.of(&group, &process, Kind::Cpu, Format::Pprof);
                prop_assert_ne!(&first, &second);
                for name in [first, second] {
                    prop_assert!(name.len() <= 255 && !name.starts_with(['.', '-']), "{name}");
                    prop_assert!(name.bytes().all(|it| it.is_ascii_alphanumeric() || b"._-".contains(&it)));
                    prop_assert!(name.ends_with(".pb.gz"));
                }
            }
        }
    }
}
