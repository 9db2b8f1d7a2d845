//! Root file systems, and programs that run in them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Program,
    programs::{Running, copy_executable},
};

/// Makes `root` a root file system with `program` as `/bin/<its name>`, its libraries where it looks
/// for them, and a `/tmp`. Returns the program's path below it.
pub fn make_root(root: &Path, program: &Program) -> PathBuf {
    for dir in ["bin", "tmp", "proc", "dev", "sys"] {
        fs::create_dir_all(root.join(dir)).expect("create");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    for library in libraries(program.path()) {
        let to = root.join(library.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(to.parent().expect("a directory")).expect("create");
        copy_executable(&library, &to);
    }
    let name = program.path().file_name().expect("a name");
    copy_executable(program.path(), &root.join("bin").join(name));
    Path::new("/bin").join(name)
}

/// The libraries that a program loads, and what loads them; none if it is static.
fn libraries(program: &Path) -> Vec<PathBuf> {
    // `ldd` knows the programs of its own C library; another one's loader is all that they need.
    for (command, argument) in [("ldd", None), ("readelf", Some("-l"))] {
        let output = Command::new(command).args(argument).arg(program).output();
        let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_path = |word: &&str| word.starts_with('/');
        let paths: Vec<PathBuf> = text
            .split(|c: char| c.is_whitespace() || c == ']')
            .filter(is_path)
            .map(PathBuf::from)
            .filter(|path| path != program && path.is_file())
            .collect();
        if output.status.success() && !paths.is_empty() {
            return paths;
        }
    }
    Vec::new()
}

/// An overlay whose lower directory is `lower`; unmounted when dropped.
pub struct Overlay {
    mount: PathBuf,
}

impl Overlay {
    /// Mounts it in `dir`.
    pub fn new(dir: &Path, lower: &Path) -> Self {
        let [upper, work, mount] = ["upper", "work", "merged"].map(|name| dir.join(name));
        for dir in [&upper, &work, &mount] {
            fs::create_dir_all(dir).expect("create");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "overlay", "-o", &options]).arg(&mount);
        let status = command.status().expect("start mount");
        assert!(status.success(), "{command:?}: {status}");
        Self { mount }
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

/// A container that runc runs; removed when dropped.
pub struct Container {
    /// What it is called.
    pub id: String,
    /// The process that runs runc.
    pub runc: Running,
}

impl Container {
    /// Runs `args` in `root`, which may be written to. `changes`: texts of runc's own configuration,
    /// and what replaces them.
    pub fn run(dir: &Path, root: &Path, args: &[&str], changes: &[(&str, &str)]) -> Self {
        let bundle = dir.join("bundle");
        fs::create_dir_all(&bundle).expect("create");
        let _ = fs::remove_file(bundle.join("config.json"));
        let status = Command::new("runc").arg("spec").current_dir(&bundle).status();
        assert!(status.expect("start runc").success());
        let mut config = fs::read_to_string(bundle.join("config.json")).expect("read");
        let mut replace = |from: &str, to: &str| {
            assert!(config.contains(from), "no {from} in {config}");
            config = config.replacen(from, to, 1);
        };
        replace("\"terminal\": true", "\"terminal\": false");
        replace("\"readonly\": true", "\"readonly\": false");
        replace("\"rootfs\"", &format!("{:?}", root.display().to_string()));
        replace(
            "\"sh\"\n",
            &args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>().join(","),
        );
        for (from, to) in changes {
            replace(from, to);
        }
        fs::write(bundle.join("config.json"), config).expect("write");
        let dir = dir.file_name().expect("a name").to_string_lossy();
        let id = format!("rprofd-{dir}-{}", std::process::id());
        let mut command = Command::new("runc");
        command.args(["run", "--bundle"]).arg(&bundle).arg(&id).stdout(Stdio::null());
        Self { runc: Running::start(&mut command), id }
    }

    /// The pid that its first process has on the host, once it runs.
    pub fn pid(&self) -> Option<u32> {
        let output = Command::new("runc").args(["state", &self.id]).output().expect("start runc");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("\"pid\""))?;
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok().filter(|pid| *pid > 0)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let quiet = |arguments: &[&str]| {
            let mut command = Command::new("runc");
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = command.status();
        };
        quiet(&["kill", &self.id, "KILL"]);
        let _ = self.runc.child.wait();
        quiet(&["delete", "--force", &self.id]);
    }
}
