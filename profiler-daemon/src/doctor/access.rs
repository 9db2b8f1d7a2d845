//! What stands between rprofd and what the kernel shows of other processes.

use std::{
    fs::{self, File},
    io,
};

use rustix::thread::CapabilitySet;

use super::finding::Finding;
use crate::rights;

/// Yama's setting, in `kernel.yama.ptrace_scope`. It judges who attaches to a process, or reads its
/// memory (`PTRACE_MODE_ATTACH`: `yama_ptrace_access_check`, `security/yama/yama_lsm.c`), and not
/// who reads the rest of what `/proc` shows, as rprofd does.
pub(super) fn yama(scope: Option<i64>) -> Finding {
    const WHAT: &str = "Yama";
    let Some(scope) = scope else { return Finding::ok(WHAT, "not in this kernel") };
    let meaning = match scope {
        0 => "attaching to processes is not restricted".to_owned(),
        1 | 2 => "attaching to processes takes CAP_SYS_PTRACE".to_owned(),
        _ => "attaching to processes is forbidden even with CAP_SYS_PTRACE".to_owned(),
    };
    Finding::ok(WHAT, format!("ptrace_scope={scope}: {meaning}; rprofd attaches to none"))
}

/// Whether `/proc`, by `/proc/self/mountinfo`, hides others' processes from us: proc(5),
/// `has_pid_permissions` in `fs/proc/base.c`.
pub(super) fn hidden_processes(mountinfo: &str, held: CapabilitySet) -> Finding {
    const WHAT: &str = "/proc";
    match hidepid(mountinfo) {
        None | Some("0" | "off") => Finding::ok(WHAT, "shows the processes of all users"),
        Some(mode) if held.contains(CapabilitySet::SYS_PTRACE) => {
            Finding::ok(WHAT, format!("hidepid={mode}, which CAP_SYS_PTRACE sees through"))
        }
        Some(mode) => Finding::note(
            WHAT,
            format!(
                "hidepid={mode} hides other users' processes: their functions have no names, their \
                 stacks are cut short, and --pid does not find them"
            ),
            format!("{}; or sudo mount -o remount,hidepid=0 /proc", rights::mend()),
        ),
    }
}

/// That option of what is mounted on `/proc`: the last mount is the one that is seen.
fn hidepid(mountinfo: &str) -> Option<&str> {
    let at_proc = |line: &&str| {
        line.split_once(" - ").is_some_and(|(mount, file_system)| {
            mount.split(' ').nth(4) == Some("/proc") && file_system.starts_with("proc ")
        })
    };
    let (_, options) = mountinfo.lines().rfind(at_proc)?.rsplit_once(' ')?;
    options.split(',').find_map(|option| option.strip_prefix("hidepid="))
}

/// Opens the file that we run by our own mapping of it.
pub(super) fn open_own_mapping() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let range = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        rest.contains(" /").then_some((number(start)?, number(end)?))
    });
    let (start, end) = range.ok_or(io::ErrorKind::NotFound)?;
    // `maps` fills numbers up with zeros, `map_files` does not.
    File::open(format!("/proc/self/map_files/{start:x}-{end:x}")).map(drop)
}

/// Whether mapped files can be opened by their mappings, judged by `opened`. It takes
/// `CAP_CHECKPOINT_RESTORE` in the initial user namespace: `proc_map_files_get_link` in
/// `fs/proc/base.c`, since Linux 5.9.
pub(super) fn map_files(opened: &io::Result<()>, held: CapabilitySet) -> Finding {
    const WHAT: &str = "map_files";
    let error = match opened {
        Ok(()) => return Finding::ok(WHAT, "mapped files can be opened by their mappings"),
        Err(error) => error,
    };
    let has = held.contains(CapabilitySet::CHECKPOINT_RESTORE);
    Finding::note(
        WHAT,
        format!(
            "mapped files cannot be opened by their mappings ({error}): those that were deleted or \
             replaced since have no names"
        ),
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if has => {
                "start rprofd outside of a user namespace: its capabilities count in that alone"
                    .to_owned()
            }
            Some(libc::EPERM | libc::EACCES) => rights::mend(),
            _ => "mount /proc where rprofd runs; restart programs whose files were replaced"
                .to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    #[test]
    fn yama_does_not_hinder() {
        for scope in [None, Some(0), Some(1), Some(2), Some(3)] {
            assert_eq!(yama(scope).mark, Mark::Ok);
        }
        assert!(yama(Some(1)).found.contains("takes CAP_SYS_PTRACE"));
        assert!(yama(Some(3)).found.contains("even with CAP_SYS_PTRACE"));
    }

    #[test]
    fn hidden_processes_cost_who_has_no_capability() {
        let (all, none) = (CapabilitySet::all(), CapabilitySet::empty());
        let proc = |options: &str| {
            format!("22 1 0:20 / /proc rw,relatime shared:5 - proc proc {options}\n")
        };
        let other =
            "30 1 0:21 / /other rw - proc proc rw,hidepid=2\n31 1 0:22 / /x rw - tmpfs t rw\n";
        for open in [proc("rw"), proc("rw,hidepid=off"), proc("rw") + other, String::new()] {
            assert_eq!(hidden_processes(&open, none).mark, Mark::Ok, "{open}");
        }
        for mode in ["1", "2", "noaccess", "invisible", "ptraceable"] {
            let hiding = proc(&format!("rw,gid=7,hidepid={mode}"));
            let finding = hidden_processes(&hiding, none);
            assert_eq!(finding.mark, Mark::Note);
            assert!(
                finding.found.starts_with(&format!("hidepid={mode} hides")),
                "{}",
                finding.found
            );
            assert!(finding.mend.unwrap().contains("remount,hidepid=0"));
            assert_eq!(hidden_processes(&hiding, all).mark, Mark::Ok);
            assert_eq!(hidden_processes(&(hiding + &proc("rw")), none).mark, Mark::Ok, "covered");
        }
    }

    #[test]
    fn the_refusal_names_what_mends_it() {
        let (all, none) = (CapabilitySet::all(), CapabilitySet::empty());
        assert_eq!(map_files(&Ok(()), none).mark, Mark::Ok);
        let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let finding = map_files(&refused(), none);
        assert_eq!(finding.mark, Mark::Note);
        assert!(finding.mend.unwrap().contains("sudo setcap"));
        assert!(map_files(&refused(), all).mend.unwrap().contains("user namespace"));
        let none_there = Err(io::ErrorKind::NotFound.into());
        assert!(map_files(&none_there, all).mend.unwrap().contains("mount /proc"));
    }
}
