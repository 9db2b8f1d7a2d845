//! Perf maps as a hostile process may put them there: nothing of anybody else's is read.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use profiler_daemon::reader::protocol::{NamePerfMap, Names, request};
use rustix::fs::{CWD, Mode, RenameFlags, makedev, mknodat, renameat_with};

use super::support::{Mapped, Removed, Session, compile, programs};

/// What a map's line says of the address that is asked for.
const AVMA: u64 = 0x1008;

/// A user that no process here runs as.
const SOMEBODY: u32 = 4_321;

/// How long each may take; far more than it does, since other tests run beside.
const LIMIT: Duration = Duration::from_secs(2);

fn ask(session: &mut Session, pid: u32, inner_pid: u32, uid: u32) -> Result<Names, String> {
    let request = NamePerfMap { pid, inner_pid, uid, avmas: vec![AVMA], ..NamePerfMap::default() };
    let begin = Instant::now();
    let answer = session.names(request::Kind::NamePerfMap(request));
    println!("{:?}", begin.elapsed());
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    answer
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("RPROFD_TEST_REQUIRE").is_none(), "root is required");
    is_root
}

#[test]
fn what_is_no_file_of_the_process_is_not_read() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mapped = Mapped::start(&compile(directory.path(), "program.c", programs::C, &["gcc"]));
    let pid = mapped.pid();
    let map = PathBuf::from(format!("/tmp/perf-{pid}.map"));
    let _removed = Removed(map.clone());
    let mut session = Session::start(&[]);
    let mut refused = |what: &str, uid: u32, make: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&map);
        make(&map);
        println!("{what}");
        let answer = ask(&mut session, pid, pid, uid);
        assert!(answer.is_err(), "{what}: {answer:?}");
        answer.unwrap_err()
    };
    let secret = directory.path().join("secret");
    fs::write(&secret, "1000 10 secret\n").unwrap();

    refused("FIFO", 0, &|map| {
        mknodat(CWD, map, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    });
    refused("device", 0, &|map| {
        let device = makedev(1, 5);
        mknodat(CWD, map, rustix::fs::FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        assert!(fs::metadata(map).unwrap().file_type().is_char_device());
    });
    refused("link to somebody's file", 0, &|map| symlink(&secret, map).unwrap());
    refused("link to a device", 0, &|map| symlink("/dev/zero", map).unwrap());
    refused("link to itself", 0, &|map| symlink(map, map).unwrap());
    refused("directory", 0, &|map| fs::create_dir(map).unwrap());
    fs::remove_dir(&map).unwrap();
    let mut refused = |what: &str, uid: u32, make: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&map);
        make(&map);
        println!("{what}");
        ask(&mut session, pid, pid, uid).expect_err(what)
    };
    let why = refused("foreign owner", 0, &|map| {
        fs::write(map, "1000 10 foreign\n").unwrap();
        chown(map, Some(SOMEBODY), None).unwrap();
    });
    assert!(why.contains("belongs to neither"), "{why}");
    // Somebody else's process whose map is another name of a file of root's.
    let beside = Path::new("/tmp").join(format!("rprofd-secret-{pid}"));
    fs::write(&beside, "1000 10 secret\n").unwrap();
    let _removed_too = Removed(beside.clone());
    let why = refused("hard link", SOMEBODY, &|map| fs::hard_link(&beside, map).unwrap());
    assert!(why.contains("another name"), "{why}");
    let why = refused("10 GiB", 0, &|map| {
        fs::File::create(map).unwrap().set_len(10 << 30).unwrap();
    });
    assert!(why.contains("is larger than"), "{why}");
    refused("a line of 1 GiB", 0, &|map| {
        fs::write(map, "1000 10 ").unwrap();
        fs::File::options().write(true).open(map).unwrap().set_len(1 << 30).unwrap();
    });

    // And one that is as it should be.
    fs::remove_file(&map).unwrap();
    fs::write(&map, "1000 10 good\n").unwrap();
    assert_eq!(ask(&mut session, pid, pid, 0).unwrap().strings[1], "good");
}

/// A process with another root directory.
struct Chrooted(Child);

impl Chrooted {
    fn start(root: &Path, program: &Path) -> Self {
        let mut command = Command::new("chroot");
        let mut child = command.arg(root).arg(program).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Self(child)
    }
}

impl Drop for Chrooted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SWAPS: u32 = 100_000;

/// A directory of the way, and then the file itself, changes places with a link that leads out of
/// the process's root, again and again.
#[test]
fn a_path_that_is_swapped_with_a_link_leads_nowhere_else() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "program.c", programs::C, &["gcc", "-static"]);
    let root = directory.path().join("root");
    let outside = directory.path().join("outside");
    for path in [&root, &root.join("tmp"), &outside] {
        fs::create_dir(path).unwrap();
    }
    fs::copy(&program, root.join("program")).unwrap();
    fs::write(root.join("tmp/perf-7.map"), "1000 10 inside\n").unwrap();
    fs::write(outside.join("perf-7.map"), "1000 10 outside\n").unwrap();
    // Below the root the links' targets do not exist.
    symlink(&outside, root.join("away")).unwrap();
    symlink(outside.join("perf-7.map"), root.join("tmp/away")).unwrap();
    let chrooted = Chrooted::start(&root, Path::new("/program"));
    let mut session = Session::start(&[]);

    for (one, other) in [("tmp", "away"), ("tmp/perf-7.map", "tmp/away")] {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let swapper = std::thread::spawn({
            let (one, other) = (root.join(one), root.join(other));
            let (stop, swaps) = (Arc::clone(&stop), Arc::clone(&swaps));
            move || {
                // An even number: both end where they began.
                while !stop.load(Ordering::Relaxed) || swaps.load(Ordering::Relaxed) % 2 == 1 {
                    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let (mut inside, mut refused) = (0, 0);
        while swaps.load(Ordering::Relaxed) < SWAPS || inside == 0 || refused == 0 {
            let request = NamePerfMap {
                pid: chrooted.0.id(),
                inner_pid: 7,
                uid: 0,
                avmas: vec![AVMA],
                anywhere: true,
                // Another process each time: none has a map that is held.
                life: inside + refused,
            };
            match session.names(request::Kind::NamePerfMap(request)) {
                Ok(names) => {
                    assert_eq!(names.strings[1], "inside");
                    inside += 1;
                }
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        println!(
            "{one}: {} swaps, {inside} times read, {refused} times refused",
            swaps.load(Ordering::Relaxed)
        );
    }
}
