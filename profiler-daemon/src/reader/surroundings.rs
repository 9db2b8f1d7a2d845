//! What is around a process, for `doctor`: some variables of its environment, its cgroups, its mounts.

use std::{collections::HashMap, fs::File, io::Read as _};

use rustix::fs::{CWD, readlinkat};

use super::{name_table::clean_bytes, protocol::Surroundings};

/// The most bytes read of an environment.
const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;

/// The most bytes read of a list of cgroups.
const MAX_CGROUP_BYTES: u64 = 64 << 10;

/// The longest value and path taken, in bytes.
const MAX_TEXT_BYTES: usize = 4_096;

/// The variables that leave this process. Others may be secret.
const VARIABLES: [&str; 4] = ["GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GODEBUG"];

/// Controllers whose hierarchies are asked for; the unified one has no name.
const CONTROLLERS: [&str; 3] = ["", "memory", "cpu"];

/// Reads it, as far as it can be read.
pub(super) fn read(pid: u32) -> Surroundings {
    let environ = format!("/proc/{pid}/environ");
    let (environment, environment_error) = match bytes(&environ, MAX_ENVIRONMENT_BYTES) {
        Ok(environment) => (environment, String::new()),
        Err(io_error) => (Vec::new(), format!("{environ}: {io_error}")),
    };
    let cgroups = bytes(&format!("/proc/{pid}/cgroup"), MAX_CGROUP_BYTES).unwrap_or_default();
    let mounts =
        |process: &str| readlinkat(CWD, format!("/proc/{process}/ns/mnt"), Vec::new()).ok();
    let theirs = mounts(&pid.to_string());
    Surroundings {
        go_variables: variables(&environment),
        cgroups: paths(&cgroups),
        sees_our_mounts: theirs.is_some() && theirs == mounts("self"),
        environment_error,
    }
}

fn bytes(path: &str, limit_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Picks out of `NAME=VALUE`, each ended by a zero byte.
fn variables(environment: &[u8]) -> HashMap<String, String> {
    let wanted = |entry: &[u8]| {
        let equals = entry.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (&entry[..equals], &entry[equals + 1..]);
        let name = VARIABLES.iter().find(|known| known.as_bytes() == name)?;
        Some(((*name).to_owned(), clean_bytes(value, MAX_TEXT_BYTES)))
    };
    environment.split(|&byte| byte == 0).filter_map(wanted).collect()
}

/// Picks out of `NUMBER:CONTROLLERS:PATH` lines.
fn paths(cgroups: &[u8]) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for line in cgroups.split(|&byte| byte == b'\n') {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let has = |name: &&str| names.split(|&byte| byte == b',').any(|it| it == name.as_bytes());
        for name in CONTROLLERS.iter().filter(|name| has(name)) {
            found.insert((*name).to_owned(), clean_bytes(path, MAX_TEXT_BYTES));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_variables_leave() {
        let found = variables(b"PASSWORD=x\0GOGC=50\0GOMAXPROCSX=3\0GOMEMLIMIT=1GiB\0=\0\0GOGC");
        assert_eq!(found.len(), 2);
        assert_eq!((found["GOGC"].as_str(), found["GOMEMLIMIT"].as_str()), ("50", "1GiB"));
    }

    #[test]
    fn paths_by_controller() {
        let found = paths(b"3:cpu,cpuacct:/a:b\n2:memory:/m\n1:name=systemd:/s\n0::/u\nbad\n");
        assert_eq!(found["cpu"], "/a:b");
        assert_eq!(found["memory"], "/m");
        assert_eq!(found[""], "/u");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn this_process_is_surrounded() {
        let ours = read(std::process::id());
        assert!(ours.sees_our_mounts && ours.environment_error.is_empty());
        assert!(!ours.cgroups.is_empty());
    }

    #[test]
    fn an_environment_that_cannot_be_read_is_said() {
        let none = read(u32::MAX);
        assert!(!none.sees_our_mounts && none.cgroups.is_empty());
        assert!(none.environment_error.starts_with("/proc/4294967295/environ: No such file"));
    }
}
