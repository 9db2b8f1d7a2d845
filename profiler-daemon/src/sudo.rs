//! The user who called sudo: their environment, their search path, their identity.

use std::{env, ffi::OsString, io, os::unix::ffi::OsStringExt as _};

use rustix::{
    process::{Gid, Pid, Uid, getppid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

/// What the user's environment has and sudo's has not.
pub fn environment(uid: u32) -> Vec<(&'static str, OsString)> {
    let mut environment = Vec::new();
    if let Some(user) = env::var_os("SUDO_USER") {
        environment.push(("USER", user.clone()));
        environment.push(("LOGNAME", user));
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid));
    if let Some([.., home, shell]) = entry.as_deref() {
        environment.push(("HOME", home.into()));
        environment.push(("SHELL", shell.into()));
    }
    environment.push(("PATH", search_path()));
    environment
}

/// The search path of whoever called: under sudo, which sets one of its own, that of the sudo
/// process among our ancestors.
pub fn search_path() -> OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    if env::var_os("SUDO_UID").is_none() {
        return own;
    }
    let mut ancestor = getppid();
    for _ in 0..8 {
        let Some(pid) = ancestor.map(Pid::as_raw_nonzero) else { break };
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim_end() == "sudo" {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let path = environment
                .split(|&byte| byte == 0)
                .find_map(|variable| variable.strip_prefix(b"PATH="));
            if let Some(path) = path {
                return OsString::from_vec(path.to_vec());
            }
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ancestor = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_ascii_whitespace().nth(1))
            .and_then(|parent| parent.parse().ok())
            .and_then(Pid::from_raw);
    }
    own
}

/// Gives up root for the user's identity, for good. The process must have one thread.
///
/// # Errors
///
/// What the kernel refused; the process is not to go on then.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<_> = groups.iter().map(|&group| Gid::from_raw(group)).collect();
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(gid))?;
    set_thread_uid(Uid::from_raw(uid))?;
    Ok(())
}
