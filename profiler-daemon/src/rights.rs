//! What rprofd must be allowed to do, and what to type where it is not.

use std::{env, ffi::OsStr, io, path::Path};

use rustix::thread::{CapabilitySet, capabilities};

use crate::kernel::KernelError;

/// The capabilities that recording needs.
const NEEDED: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE"),
    (CapabilitySet::SYSLOG, "CAP_SYSLOG"),
];

/// Where sudo looks for a command: sudoers' `secure_path`, as distributions set it.
const SUDO_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Fails if the kernel would refuse to let us sample, so that it is said before anything else is
/// found wanting. (It may still refuse: a security module has the last word.)
///
/// # Errors
///
/// [`KernelError::NotPermitted`].
pub fn check() -> Result<(), KernelError> {
    if may_sample(held()) {
        return Ok(());
    }
    Err(KernelError::NotPermitted {
        call: "sampling the machine",
        io_error: io::Error::from_raw_os_error(libc::EPERM),
    })
}

/// Before there was `CAP_BPF` and `CAP_PERFMON` (Linux 5.8), `CAP_SYS_ADMIN` was both, and it still
/// is: `bpf_capable` and `perfmon_capable`, `include/linux/capability.h`.
pub(crate) fn may_sample(held: CapabilitySet) -> bool {
    held.contains(CapabilitySet::SYS_ADMIN)
        || held.contains(CapabilitySet::BPF | CapabilitySet::PERFMON)
}

/// What this process may do.
pub(crate) fn held() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// What beside [`NEEDED`] a daemon may need later: to start readers as another user and to end them,
/// to run before others, to hand files on, to lock memory.
const NEEDED_LATER: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::SYS_RESOURCE);

/// Gives up for good every privilege that is not needed: root without them cannot load modules,
/// mount, trace the network, or write to other users' files. Call it before threads are started.
pub fn drop_others() {
    let needed = NEEDED.iter().fold(NEEDED_LATER, |all, (one, _)| all | *one);
    // An old kernel's `CAP_SYS_ADMIN` is what others have `CAP_BPF` for.
    let has_new = held().contains(CapabilitySet::BPF | CapabilitySet::PERFMON);
    if !has_new {
        return;
    }
    let dropped = drop_but(needed);
    if let Err(error) = dropped {
        tracing::debug!("privileges stay as they are: {error}");
    }
}

fn drop_but(needed: CapabilitySet) -> rustix::io::Result<()> {
    use rustix::thread::{
        CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    };
    set_no_new_privs(true)?;
    for capability in (CapabilitySet::all() - needed).iter() {
        // Those that the kernel does not know are none.
        let _ = remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set()?;
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective & needed,
            permitted: held.permitted & needed,
            inheritable: held.inheritable & needed,
        },
    )
}

/// What to do about a refusal: the capabilities that are missing, and the command to type.
pub fn advice() -> String {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(capability, _)| !held().contains(*capability))
        .map(|(_, name)| *name)
        .collect();
    let first = env::args_os().next().unwrap_or_else(|| "rprofd".into());
    let exe = env::current_exe().unwrap_or_default();
    let program = shell_word(&program(&first, &exe));
    if missing.is_empty() {
        return format!(
            "rprofd has the capabilities that it needs; what else may be in the way, such as lockdown, \
             says: {program} doctor"
        );
    }
    let mut command = vec!["sudo".to_owned(), program];
    command.extend(env::args_os().skip(1).map(|word| shell_word(&word.to_string_lossy())));
    let command = command.join(" ");
    format!(
        "rprofd needs root, or these capabilities: {}\ntry: {command}\nor, to need no sudo from \
         then on: {}",
        missing.join(", "),
        setcap(&exe)
    )
}

/// What gives rprofd the capabilities that it lacks.
pub(crate) fn mend() -> String {
    let exe = env::current_exe().unwrap_or_default();
    format!("run it as root (sudo), or once: {}", setcap(&exe))
}

/// What a run that could not name everything says of it: which capabilities it lacked for that, and
/// how it gets them; none if it had them all.
pub fn advice_on_names() -> Option<String> {
    let lacking = lacking_for_names(held());
    let exe = env::current_exe().unwrap_or_default();
    (!lacking.is_empty()).then(|| {
        format!(
            "rprofd lacks {}, and so cannot read every program.\nRun it as root, or once: {}",
            lacking.join(", "),
            setcap(&exe)
        )
    })
}

/// All but those that sampling itself needs.
fn lacking_for_names(held: CapabilitySet) -> Vec<&'static str> {
    let sampling = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let lacks = |one: CapabilitySet| !sampling.contains(one) && !held.contains(one);
    NEEDED.iter().filter(|(one, _)| lacks(*one)).map(|(_, name)| *name).collect()
}

/// The command that gives the program at `exe` its capabilities.
fn setcap(exe: &Path) -> String {
    let names = NEEDED.map(|(_, name)| name.to_ascii_lowercase()).join(",");
    format!("sudo setcap {names}+ep {}", shell_word(&exe.to_string_lossy()))
}

/// How sudo finds this program, which was called as `first` and is at `exe`.
fn program(first: &OsStr, exe: &Path) -> String {
    let is_known = exe.parent().is_some_and(|dir| SUDO_PATH.iter().any(|it| dir == Path::new(it)));
    if is_known || first.as_encoded_bytes().contains(&b'/') || exe.as_os_str().is_empty() {
        return first.to_string_lossy().into_owned();
    }
    exe.to_string_lossy().into_owned()
}

/// A word as a shell takes it for itself.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_=./:,@%+".contains(it);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_admin_or_both_of_the_newer_ones() {
        assert!(may_sample(CapabilitySet::SYS_ADMIN));
        assert!(may_sample(CapabilitySet::BPF | CapabilitySet::PERFMON));
        assert!(!may_sample(CapabilitySet::BPF | CapabilitySet::SYS_PTRACE));
        assert!(!may_sample(CapabilitySet::empty()));
    }

    #[test]
    fn a_program_that_sudo_does_not_find_is_named_by_its_path() {
        let program = |first: &str, exe: &str| program(OsStr::new(first), Path::new(exe));
        assert_eq!(program("rprofd", "/usr/local/bin/rprofd"), "rprofd");
        assert_eq!(
            program("target/debug/rprofd", "/src/target/debug/rprofd"),
            "target/debug/rprofd"
        );
        assert_eq!(program("rprofd", "/home/a/.cargo/bin/rprofd"), "/home/a/.cargo/bin/rprofd");
    }

    #[test]
    fn names_need_more_than_samples_do() {
        let sampling = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let most = CapabilitySet::all().difference(CapabilitySet::SYS_PTRACE);
        assert_eq!(lacking_for_names(sampling).len(), 4);
        assert_eq!(lacking_for_names(most), ["CAP_SYS_PTRACE"]);
        assert_eq!(
            setcap(Path::new("/opt/my tools/rprofd")),
            "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,\
             cap_checkpoint_restore,cap_syslog+ep '/opt/my tools/rprofd'"
        );
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(shell_word("--pid=1,2"), "--pid=1,2");
        assert_eq!(shell_word("a*"), "'a*'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
