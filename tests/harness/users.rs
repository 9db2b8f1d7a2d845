//! Users of this machine, for tests of who may do what.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Rprofd, dir::TestDir, rprofd};

/// A user without any privilege.
pub const NOBODY: u32 = 65534;

/// A member of the group `rprofd`, in [`with_group`].
pub const MEMBER: u32 = 64_001;

/// A user of no group.
pub const OTHER: u32 = 64_002;

/// A command line of `rprofd` that finds [`MEMBER`] among the group `rprofd`, and nothing on the
/// machine is changed: it has its own `/etc/passwd` and `/etc/group`.
pub fn with_group(dir: &TestDir) -> Rprofd {
    let own = |name: &str, line: String| -> PathBuf {
        let mut text = fs::read_to_string(Path::new("/etc").join(name)).expect("read");
        text.push_str(&line);
        let path = dir.join(name);
        fs::write(&path, text).expect("write");
        path
    };
    let passwd = own("passwd", format!("rprofd-member:x:{MEMBER}:{MEMBER}::/:/bin/false\n"));
    let group = own("group", "rprofd:x:64003:rprofd-member\n".to_owned());
    let script = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && \
                  exec \"$@\"";
    Rprofd::bare(Path::new("unshare"), dir).args(["--mount", "sh", "-c", script, "sh"]).args([
        &*passwd,
        &*group,
        rprofd::binary(),
    ])
}

/// Gives a directory, and what is in it, to a user.
pub fn give(path: &Path, uid: u32) {
    let status = Command::new("chown").args(["-R", &uid.to_string()]).arg(path).status();
    assert!(status.expect("chown").success());
}
