//! Sinks on real file systems.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    process::Command,
    time::Duration,
};

use super::*;
use crate::profile::{
    Kind, Profile, Window,
    sample::{empty, program},
};

const BASE: u64 = 0x40_0000;

fn window() -> Window {
    Window {
        kind: Kind::Cpu,
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_449_600),
        duration: Duration::from_secs(10),
        period: 10_000_000,
        losses: Vec::new(),
        comments: Vec::new(),
    }
}

fn settings(output: Output) -> Settings {
    Settings {
        format: output.format(None),
        output,
        group_by: GroupBy::Pid,
        kinds: 1,
        has_windows: false,
        max_files: Settings::MAX_FILES,
        owner: Owner::Myself,
        viewer: Viewer::Pprof,
    }
}

fn busy(pid: u32, comm: &str, samples: i64) -> Profile {
    let mut profile = program(pid, comm, BASE);
    profile.samples[0].values = [samples, samples * 10_000_000];
    profile
}

/// Names in a directory, hidden ones too.
fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Says why a test can't be run; fails where it has to.
fn skip(reason: &str) {
    assert!(env::var_os("RPROFD_TEST_REQUIRE").is_none_or(|it| it != "1"), "{reason}");
    println!("skipped: {reason}");
}

#[test]
fn a_run_has_a_file_a_process_and_latest() {
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("profiles");
    let start = window().start;
    let mut sink = Sink::open(settings(Output::Dated { base: base.clone(), start })).unwrap();
    let report = sink.write(&window(), &[busy(1, "one", 1), busy(2, "two", 50)]);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(names(&base), ["20261123T160000Z", "latest"]);
    let latest = base.join("latest");
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("20261123T160000Z"));
    assert_eq!(names(&latest), ["all.cpu.pb.gz", "one.1.cpu.pb.gz", "two.2.cpu.pb.gz"]);
    for name in names(&latest) {
        assert_eq!(fs::metadata(latest.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(report.first_look, Some(FirstLook::Pprof(latest.join("two.2.cpu.pb.gz"))));
    assert_eq!(report.everything, Some(latest.join("all.cpu.pb.gz")));

    // A second run in the same second has a directory of its own.
    let mut second = Sink::open(settings(Output::Dated { base: base.clone(), start })).unwrap();
    second.write(&window(), &[busy(1, "one", 1)]);
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("20261123T160000Z-2"));
}

#[test]
fn a_run_that_writes_nothing_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("a/profiles");
    let output = Output::Dated { base, start: window().start };
    drop(Sink::open(settings(output)).unwrap());
    assert!(names(scratch.path()).is_empty());
}

#[test]
fn the_busiest_have_files() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Output::Directory(scratch.path().to_owned());
    let mut sink = Sink::open(Settings { max_files: 2, ..settings(output) }).unwrap();
    let profiles = [busy(1, "a", 1), busy(2, "b", 3), busy(3, "c", 2)];
    let report = sink.write(&window(), &profiles);
    assert_eq!(names(scratch.path()), ["all.cpu.pb.gz", "b.2.cpu.pb.gz", "c.3.cpu.pb.gz"]);
    assert_eq!(report.rows.len(), 3);
    assert_eq!(report.rows[2].file, None);
}

#[test]
fn groups_share_a_file() {
    let profiles = [busy(1, "a", 1), busy(2, "a", 3), busy(3, "b", 2)];
    for (group_by, expected) in [
        (GroupBy::Comm, &["a.cpu.folded", "all.cpu.folded", "b.cpu.folded"][..]),
        (GroupBy::Exe, &["a.cpu.folded", "all.cpu.folded", "b.cpu.folded"]),
        (GroupBy::None, &["all.cpu.folded"]),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let output = Output::Directory(scratch.path().to_owned());
        let format = output.format(Some(Format::Folded));
        let mut sink = Sink::open(Settings { group_by, format, ..settings(output) }).unwrap();
        sink.write(&window(), &profiles);
        assert_eq!(names(scratch.path()), expected);
        if group_by == GroupBy::Comm {
            let folded = fs::read_to_string(scratch.path().join("a.cpu.folded")).unwrap();
            assert!(folded.contains("a;main;work;step;read_[k] 6\n"), "{folded}");
        }
    }
}

#[test]
fn windows_have_their_start_in_names() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Output::File(scratch.path().join("out.pb.gz"));
    let mut sink = Sink::open(Settings { has_windows: true, ..settings(output) }).unwrap();
    for second in [0, 10] {
        let start = window().start + Duration::from_secs(second);
        let report = sink.write(&Window { start, ..window() }, &[busy(1, "a", 1)]);
        assert!(report.everything.is_some());
    }
    assert_eq!(names(scratch.path()), ["out.20261123T160000Z.pb.gz", "out.20261123T160010Z.pb.gz"]);
}

#[test]
fn one_file_takes_everything_in_its_format() {
    for (name, start) in [
        ("x.pb.gz", &b"\x1f\x8b"[..]),
        ("x.svg", b"<?xml"),
        ("x.folded", b"a;main"),
        ("x.txt", b"File: a"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(name);
        let output = Output::of_option(Some(&path), window().start);
        assert_eq!(output, Output::File(path.clone()));
        Sink::open(settings(output)).unwrap().write(&window(), &[busy(1, "a", 1)]);
        assert!(fs::read(&path).unwrap().starts_with(start), "{name}");
        assert_eq!(names(scratch.path()), [name]);
    }
}

#[test]
fn without_go_there_is_a_flame_graph_to_look_at() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Output::Directory(scratch.path().to_owned());
    let mut sink = Sink::open(Settings { viewer: Viewer::Browser, ..settings(output) }).unwrap();
    let report = sink.write(&window(), &[busy(1, "a", 1), busy(2, "b", 9)]);
    let svg = scratch.path().join("b.2.cpu.svg");
    assert!(svg.exists());
    assert_eq!(report.first_look, Some(FirstLook::FlameGraph(svg)));
}

#[test]
fn no_samples_make_no_file() {
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("profiles");
    for profiles in [&[][..], &[empty(1, "a")]] {
        for output in [
            Output::Dated { base: base.clone(), start: window().start },
            Output::Directory(scratch.path().join("directory")),
            Output::File(scratch.path().join("x.svg")),
        ] {
            let report = Sink::open(settings(output)).unwrap().write(&window(), profiles);
            assert!(report.failures.is_empty() && report.directory.is_none());
            assert!(names(scratch.path()).is_empty());
        }
    }
}

#[test]
fn outputs_that_can_not_be_are_refused_before_the_recording() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = Sink::open(settings(Output::Directory(file.join("x")))).unwrap_err().to_string();
    assert!(error.contains("a file is in the way"), "{error}");
    let svg = scratch.path().join("directory.svg");
    fs::create_dir(&svg).unwrap();
    let error = Sink::open(settings(Output::File(svg))).unwrap_err().to_string();
    assert!(error.contains("a directory is in the way"), "{error}");
    let windows = Settings { has_windows: true, ..settings(Output::Stdout) };
    assert!(matches!(Sink::open(windows), Err(Error::ManyToStdout)));
}

#[test]
fn what_latest_is_not_ours_stays() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("latest"), "mine").unwrap();
    let output = Output::Dated { base: scratch.path().to_owned(), start: window().start };
    let report = Sink::open(settings(output)).unwrap().write(&window(), &[busy(1, "a", 1)]);
    assert_eq!(fs::read_to_string(scratch.path().join("latest")).unwrap(), "mine");
    assert_eq!(report.directory, Some(scratch.path().join("20261123T160000Z")));
}

/// A user nobody else is.
const USER: u32 = 54_321;

fn another() -> Owner {
    Owner::User { uid: USER, gid: USER, groups: vec![USER] }
}

#[test]
fn under_sudo_files_are_the_callers() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root writes as somebody else");
    }
    let scratch = tempfile::tempdir().unwrap();
    chown(scratch.path(), Some(USER), Some(USER)).unwrap();
    let output = Output::Dated { base: scratch.path().join("profiles"), start: window().start };
    let mut sink = Sink::open(Settings { owner: another(), ..settings(output) }).unwrap();
    let report = sink.write(&window(), &[busy(1, "a", 1)]);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let latest = scratch.path().join("profiles/latest");
    for path in [latest.clone(), latest.join("."), latest.join("a.1.cpu.pb.gz")] {
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (USER, USER), "{}", path.display());
    }
    // This thread is still root's.
    let mine = scratch.path().join("mine");
    fs::write(&mine, "").unwrap();
    assert_eq!(fs::metadata(mine).unwrap().uid(), 0);
}

#[test]
fn under_sudo_the_callers_links_lead_no_further_than_they_could_go() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root writes as somebody else");
    }
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (theirs, roots) = (scratch.path().join("theirs"), scratch.path().join("roots"));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&roots).unwrap();
    chown(&theirs, Some(USER), Some(USER)).unwrap();
    symlink(&roots, theirs.join("profiles")).unwrap();
    let output = Output::Directory(theirs.join("profiles"));
    let error = Sink::open(Settings { owner: another(), ..settings(output) }).unwrap_err();
    assert!(error.to_string().contains("under sudo"), "{error}");
    assert!(names(&roots).is_empty());

    // A link in place of a file is replaced, not followed.
    let precious = roots.join("precious");
    fs::write(&precious, "precious").unwrap();
    let output = theirs.join("x.pb.gz");
    symlink(&precious, &output).unwrap();
    let output = Settings { owner: another(), ..settings(Output::File(output)) };
    let report = Sink::open(output).unwrap().write(&window(), &[busy(1, "a", 1)]);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
}

/// A small file system that goes as this is dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "rprofd-test"])
            .arg(directory.path());
        match mount.output() {
            Ok(output) if output.status.success() => Ok(Self(directory)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let disk = match Tmpfs::mount("64k") {
        Ok(disk) => disk,
        Err(reason) => return skip(&format!("a small file system cannot be mounted: {reason}")),
    };
    let path = disk.0.path();
    let mut sink = Sink::open(settings(Output::Directory(path.to_owned()))).unwrap();
    // The busiest one's names, and so the file of everything, are more than the disk takes.
    let mut large = busy(1, "large", 100);
    large.functions[0].name = (0..60_000_u64)
        .map(|it| format!("{:x}", it.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect::<String>()
        .into();
    let report = sink.write(&window(), &[large, busy(2, "small", 1)]);
    assert_eq!(names(path), ["small.2.cpu.pb.gz"]);
    assert_eq!(report.failures.len(), 2);
    assert!(report.failures[0].to_string().contains("free some space"), "{:?}", report.failures);
    assert_eq!(report.rows[1].file.as_deref(), Some("small.2.cpu.pb.gz"));

    fs::write(path.join("filler"), vec![0; 1 << 20]).unwrap_err();
    let error = Sink::open(settings(Output::Directory(path.to_owned()))).unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
}
