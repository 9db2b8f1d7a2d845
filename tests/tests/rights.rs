//! Who runs it, and where: without privileges, under sudo, in a pid namespace.

use std::{
    fs,
    ops::Deref,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rprofd_tests::{
    Program, Rprofd, TestDir, machine,
    programs::{Running, copy_executable},
    rprofd,
};

/// A user without rights, whom every system has: `nobody`.
const NOBODY: u32 = 65534;

/// A directory that every user can enter, with a copy of rprofd: the tests' own may be below one
/// that only root can.
struct OpenDir(PathBuf);

impl OpenDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rprofd-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("create a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        copy_executable(rprofd::binary(), &path.join("rprofd"));
        Self(path)
    }

    fn rprofd(&self) -> PathBuf {
        self.0.join("rprofd")
    }
}

impl Deref for OpenDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_privileges_exit_3_and_the_command_to_type() {
    if !machine::can_profile() || !machine::has(&["setpriv"]) {
        return;
    }
    let dir = OpenDir::new("unprivileged");
    let output = as_nobody(&dir, &["-d", "1s", "--comm", "a b*"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let command = format!("sudo {} -d 1s --comm 'a b*'\n", dir.rprofd().display());
    assert!(stderr.contains(&command), "{stderr}");
    assert!(stderr.contains("CAP_BPF") && stderr.contains("CAP_PERFMON"), "{stderr}");
    let once = format!("cap_syslog+ep {}\n", dir.rprofd().display());
    assert!(stderr.contains("sudo setcap cap_bpf,") && stderr.contains(&once), "{stderr}");
    // Below 125 statuses are the command's own.
    let output = as_nobody(&dir, &["--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", text(&output.stderr));
}

#[test]
fn a_missing_capability_is_said_beside_what_it_costs() {
    if !machine::can_profile() || !machine::has(&["setpriv", "gcc"]) {
        return;
    }
    let dir = OpenDir::new("few-capabilities");
    chown(&*dir, Some(NOBODY), Some(NOBODY)).expect("chown");
    let target = Program::build("spin.c").command(&["1", "30"]).stdout(Stdio::null()).spawn();
    let target = Running { child: target.expect("start") };
    let pid = target.pid().to_string();
    let few = "-all,+bpf,+perfmon,+dac_read_search,+checkpoint_restore,+syslog";
    let output = as_nobody_with(few, &dir, &["-d", "1s", "--pid", &pid]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let (_, closing) = stderr.split_once("PROCESS").expect("a table");
    assert!(closing.contains("of the time. rprofd lacks CAP_SYS_PTRACE, "), "{stderr}");
    assert!(closing.contains("sudo setcap "), "{stderr}");
}

/// Root without some capabilities. `CAP_SYS_ADMIN` stands for others, and so goes, too.
fn as_root_without(capabilities: &str, dir: &OpenDir, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-sys_admin,{capabilities}")).arg("--");
    command.arg(dir.rprofd()).args(args).current_dir(&**dir);
    let output = command.output().expect("start setpriv");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn each_capability_that_is_missing_is_said_or_its_loss() {
    if !machine::can_profile() || !machine::has(&["setpriv", "gcc"]) {
        return;
    }
    let dir = OpenDir::new("each-capability");
    // Not readable to others, and deleted.
    let program = Program::build("spin.c").copy_to(&dir.join("closed"));
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let start = |program: &Program| {
        let child = program.command(&["1", "60"]).stdout(Stdio::null()).spawn();
        Running { child: child.expect("start") }
    };
    let closed = start(&program);
    let deleted = program.copy_to(&dir.join("deleted"));
    let deleted_running = start(&deleted);
    fs::remove_file(deleted.path()).expect("remove");

    let closed_args = ["-d", "1s", "--pid", &closed.pid().to_string()];
    for needed in ["bpf", "perfmon"] {
        let (status, stderr) = as_root_without(&format!("-{needed}"), &dir, &closed_args);
        assert_eq!(status, Some(3), "{stderr}");
        assert!(stderr.contains(&format!("CAP_{}", needed.to_uppercase())), "{stderr}");
    }
    for (lost, pid) in [
        ("sys_ptrace", closed.pid()),
        ("dac_read_search", closed.pid()),
        ("checkpoint_restore", deleted_running.pid()),
    ] {
        let args = ["-d", "1s", "--pid", &pid.to_string()];
        let (status, stderr) = as_root_without(&format!("-{lost}"), &dir, &args);
        assert_eq!(status, Some(0), "{stderr}");
        let said = format!("rprofd lacks CAP_{}", lost.to_uppercase());
        assert!(stderr.contains(&said), "{lost}: {stderr}");
        assert!(stderr.contains("Without names: "), "{lost}: {stderr}");
    }
    let (status, stderr) = as_root_without("-syslog", &dir, &closed_args);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("CAP_SYSLOG"), "{stderr}");
    for stays in ["setuid", "setgid"] {
        let (status, stderr) = as_root_without(&format!("-{stays}"), &dir, &closed_args);
        assert_eq!(status, Some(0), "{stderr}");
        assert!(stderr.contains("warning: the readers stay root"), "{stays}: {stderr}");
    }
    // Under sudo files are made as the user who called it.
    let rprofd = Rprofd::bare(Path::new("setpriv"), &dir).with(|command| {
        command.env("SUDO_UID", NOBODY.to_string()).env("SUDO_GID", NOBODY.to_string());
        command.args(["--bounding-set=-sys_admin,-setuid,-setgid,-chown", "--"]);
        command.arg(dir.rprofd()).args(closed_args);
    });
    let run = rprofd.run().expect_code(1);
    assert!(run.stderr.contains("can't be written as the user who called sudo"), "{}", run.stderr);
}

fn as_nobody(dir: &OpenDir, args: &[&str]) -> Output {
    as_nobody_with("-all", dir, args)
}

fn as_nobody_with(capabilities: &str, dir: &OpenDir, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(format!("--inh-caps={capabilities}"));
    command.arg(format!("--ambient-caps={capabilities}")).arg("--");
    command.arg(dir.rprofd()).args(args).current_dir(&**dir);
    command.output().expect("start setpriv")
}

#[test]
fn in_a_pid_namespace_exit_3_and_the_way_out() {
    if !machine::can_profile() || !machine::has(&["unshare"]) {
        return;
    }
    let dir = TestDir::new("rights-namespace");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(rprofd::binary());
    let output = command.args(["-d", "1s"]).current_dir(&*dir).output().expect("start unshare");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("--pid=host") && stderr.contains("hostPID: true"), "{stderr}");
    assert!(fs::read_dir(&*dir).expect("list").next().is_none(), "nothing is left behind");
}

#[test]
fn under_sudo_files_and_command_are_the_callers() {
    if !machine::can_profile() || !machine::has(&["sh", "id"]) {
        return;
    }
    let dir = OpenDir::new("sudo");
    chown(&*dir, Some(NOBODY), Some(NOBODY)).expect("chown");
    let run = |options: &[&str], script: &str| {
        let rprofd = Rprofd::bare(&dir.rprofd(), &dir).with(|command| {
            command.env("SUDO_UID", NOBODY.to_string()).env("SUDO_GID", NOBODY.to_string());
            command.env("SUDO_USER", "nobody").env("HOME", "/root");
        });
        rprofd.args(options).args(["--", "sh", "-c", script]).run().expect_success()
    };
    let ids = "id -u; id -g; id -G";
    let shown = run(&[], &format!("{ids}; echo $HOME $USER; {BUSY}")).stdout_text();
    let groups = Command::new("id").args(["-G", "nobody"]).output().expect("start id").stdout;
    let home = home_of(NOBODY);
    let expected = format!("{NOBODY}\n{NOBODY}\n{}{home} nobody\n", text(&groups));
    assert_eq!(shown, expected);

    let latest = dir.join("profiles/latest");
    let mut files: Vec<_> = fs::read_dir(&latest)
        .expect("list the profiles")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(!files.is_empty());
    files.extend([dir.join("profiles"), fs::canonicalize(&latest).expect("canonicalize"), latest]);
    for file in files {
        let metadata = fs::symlink_metadata(&file).expect("metadata");
        assert_eq!((metadata.uid(), metadata.gid()), (NOBODY, NOBODY), "{}", file.display());
    }

    assert_eq!(run(&["--as-root"], "id -u; echo $HOME").stdout_text(), "0\n/root\n");
}

/// A loop of a shell that takes long enough for samples.
const BUSY: &str = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";

/// A directory the user may not write to is not written to, though rprofd is root.
#[test]
fn under_sudo_permissions_are_the_callers() {
    if !machine::can_profile() {
        return;
    }
    let dir = OpenDir::new("sudo-permissions");
    let rprofd = Rprofd::bare(&dir.rprofd(), &dir).args(["-d", "60s"]).with(|command| {
        command.env("SUDO_UID", NOBODY.to_string()).env("SUDO_GID", NOBODY.to_string());
    });
    let run = rprofd.run().expect_code(1);
    assert!(run.stderr.contains("under sudo"), "{}", run.stderr);
    assert!(!dir.join("profiles").exists());
}

fn home_of(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").expect("read the users");
    let user = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|id| *id == uid.to_string()));
    user.expect("the user")[5].to_owned()
}
