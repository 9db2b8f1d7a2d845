//! Which files may be touched without risking to wait for ever: those on file systems that the
//! kernel serves by itself. Behind FUSE there is a program, behind NFS and its kin a network.
//!
//! A file system is known by its type in `/proc/PID/mountinfo` (proc_pid_mountinfo(5)), which the
//! kernel prints without asking the file system. Which mount a file is on says `statx` with
//! `AT_STATX_DONT_SYNC`, which does not ask it, either.

use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    fs::File,
    io::{BufRead, BufReader, Read},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, StatxFlags, makedev, readlinkat, statx},
    io::Errno,
};

use super::target_path::Care;

/// File systems that are served by the kernel from memory or block devices. What is not listed may
/// depend on a program or on another machine.
const LOCAL: [&str; 26] = [
    "bcachefs",
    "btrfs",
    "devtmpfs",
    "erofs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "hfsplus",
    "hugetlbfs",
    "iso9660",
    "jfs",
    "nilfs2",
    "ntfs3",
    "overlay",
    "proc",
    "ramfs",
    "reiserfs",
    "rootfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "udf",
    "vfat",
    "zfs",
];

/// File systems that show a file under other devices in `maps` than in `stat`.
const TWO_DEVICES: [&str; 3] = ["bcachefs", "btrfs", "overlay"];

/// An overlay that somebody without privileges mounted has this option; anything may be below it.
const UNPRIVILEGED_OVERLAY: &[u8] = b"userxattr";

/// How long what was read of a mount namespace holds good. A mount's number is given out again
/// after its end, so that it may stand for another file system by then.
const FRESH: Duration = Duration::from_secs(1);

/// The most mount namespaces that are remembered.
const MAX_NAMESPACES: usize = 64;

/// The most bytes read of `mountinfo`: some 100,000 mounts, which is the kernel's own limit
/// (`fs.mount-max`).
const MAX_MOUNTINFO_BYTES: u64 = 32 << 20;

/// What the file system of a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// Its type, as `mountinfo` has it.
    pub(super) name: Arc<str>,
    /// The kernel answers for it alone.
    pub(super) is_local: bool,
}

impl FileSystem {
    fn new(name: &str, options: &[u8]) -> Self {
        let is_foreign_overlay =
            || options.split(|&byte| byte == b',').any(|it| it == UNPRIVILEGED_OVERLAY);
        Self {
            name: name.into(),
            is_local: LOCAL.contains(&name) && !(name == "overlay" && is_foreign_overlay()),
        }
    }

    /// Whether `maps` may show its files under another device than `stat` does.
    pub(super) fn has_two_devices(&self) -> bool {
        TWO_DEVICES.contains(&&*self.name)
    }
}

/// The mounts of one namespace.
#[derive(Debug)]
pub(super) struct MountTable {
    by_id: HashMap<u64, FileSystem>,
    /// Later ones hide earlier ones.
    points: Vec<(PathBuf, FileSystem)>,
    /// Where memory files are: a mount of the kernel's own, in no namespace.
    memory_device: u64,
}

impl MountTable {
    fn parse(mountinfo: &mut impl BufRead, memory_device: u64) -> std::io::Result<Self> {
        let mut table = Self { by_id: HashMap::new(), points: Vec::new(), memory_device };
        let mut line = Vec::new();
        while mountinfo.read_until(b'\n', &mut line)? > 0 {
            if let Some(mount) = Mount::parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
                table.by_id.insert(mount.id, mount.file_system.clone());
                table.points.push((mount.point, mount.file_system));
            }
            line.clear();
        }
        Ok(table)
    }

    /// The file system on which a path is, by the path's text alone; `None`: nothing is known of it.
    pub(super) fn of_path(&self, path: &Path) -> Option<&FileSystem> {
        let above = self.points.iter().filter(|(point, _)| path.starts_with(point));
        // Of equally long ones the last.
        let nearest = above.max_by_key(|(point, _)| point.as_os_str().len());
        nearest.map(|(_, file_system)| file_system)
    }

    /// The file system of an open file or handle; `None`: it is on no mount that is known.
    ///
    /// # Errors
    ///
    /// What `statx` returns.
    pub(super) fn of_handle(&self, handle: impl AsFd) -> Result<Option<FileSystem>, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(handle.as_fd(), "", flags, StatxFlags::MNT_ID)?;
        if makedev(found.stx_dev_major, found.stx_dev_minor) == self.memory_device {
            return Ok(Some(FileSystem::new("tmpfs", b"")));
        }
        Ok(self.by_id.get(&found.stx_mnt_id).cloned())
    }
}

#[cfg(test)]
impl MountTable {
    /// The same mounts, none of which is local.
    pub(super) fn without_local(&self) -> Self {
        let foreign = |_: &FileSystem| FileSystem::new("fuse", b"");
        Self {
            by_id: self.by_id.iter().map(|(id, it)| (*id, foreign(it))).collect(),
            points: self.points.iter().map(|(point, it)| (point.clone(), foreign(it))).collect(),
            memory_device: self.memory_device,
        }
    }
}

/// A line of `mountinfo`.
struct Mount {
    id: u64,
    point: PathBuf,
    file_system: FileSystem,
}

impl Mount {
    /// Reads `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELDS ...] - TYPE SOURCE SUPER-OPTIONS`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let point = OsStr::from_bytes(&unescape(fields.nth(3)?)).into();
        let mut behind = fields.skip_while(|field| field != b"-").skip(1);
        let name = std::str::from_utf8(behind.next()?).ok()?;
        let _source = behind.next()?;
        Some(Self { id, point, file_system: FileSystem::new(name, behind.next()?) })
    }
}

/// Blanks, newlines and backslashes are written as `\040` and the like (`mangle`, `fs/proc_namespace.c`).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, next)) = rest.split_first() {
        let octal = next.get(..3).filter(|_| byte == b'\\');
        let value = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) => {
                plain.push(value);
                rest = &next[3..];
            }
            None => {
                plain.push(byte);
                rest = next;
            }
        }
    }
    plain
}

/// A namespace by its name, such as `mnt:[4026531841]`, and a root in it: two processes of one
/// namespace may have different roots, and see different paths.
type View = (Vec<u8>, Vec<u8>);

/// The mounts that processes see.
#[derive(Debug)]
pub(super) struct Mounts {
    memory_device: u64,
    known: Mutex<HashMap<View, Known>>,
}

/// What was read, and when.
type Known = (Instant, Arc<MountTable>);

impl Mounts {
    /// `memory_device` is the `st_dev` of memory files (`memfd_create`).
    pub(super) fn new(memory_device: u64) -> Self {
        Self { memory_device, known: Mutex::default() }
    }

    /// The mounts that a process sees, as they were within the last [`FRESH`].
    ///
    /// # Errors
    ///
    /// What reading its `mountinfo` returns: the process has ended, most likely.
    pub(super) fn of_process(&self, pid: u32) -> std::io::Result<Arc<MountTable>> {
        self.read(&format!("/proc/{pid}"))
    }

    /// The mounts that this process sees.
    ///
    /// # Errors
    ///
    /// What reading `mountinfo` returns.
    pub(super) fn ours(&self) -> std::io::Result<Arc<MountTable>> {
        self.read("/proc/self")
    }

    /// Lets files be touched that are on local file systems as a process, or we, see them.
    ///
    /// # Errors
    ///
    /// As [`Self::of_process`].
    pub(super) fn care(&self, pid: Option<u32>) -> std::io::Result<Care> {
        pid.map_or_else(|| self.ours(), |pid| self.of_process(pid)).map(Care::Local)
    }

    fn read(&self, process: &str) -> std::io::Result<Arc<MountTable>> {
        let link = |name| {
            let target = readlinkat(CWD, format!("{process}/{name}"), Vec::new());
            target.map(CString::into_bytes)
        };
        let name: Option<View> = link("ns/mnt").ok().zip(link("root").ok());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (read, _)| read.elapsed() < FRESH);
        if let Some((_, table)) = name.as_ref().and_then(|name| known.get(name)) {
            return Ok(Arc::clone(table));
        }
        let file = File::open(format!("{process}/mountinfo"))?.take(MAX_MOUNTINFO_BYTES);
        let table = Arc::new(MountTable::parse(&mut BufReader::new(file), self.memory_device)?);
        if let Some(name) = name.filter(|_| known.len() < MAX_NAMESPACES) {
            known.insert(name, (Instant::now(), Arc::clone(&table)));
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fstat, memfd_create};

    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:26 / /tmp rw,nosuid shared:15 master:3 - tmpfs tmpfs rw,size=1k
41 22 0:50 / /home/a\\040b rw,nosuid - fuse.sshfs a@b:/ rw,user_id=1000
42 22 0:51 / /mnt rw - nfs4 server:/x rw,vers=4.2
43 22 0:52 / /lower rw - overlay overlay rw,lowerdir=/a,userxattr
44 22 0:53 / /upper rw - overlay overlay rw,lowerdir=/a
45 42 8:1 /x /mnt/local rw - ext4 /dev/sda1 rw
";

    fn table(text: &str) -> MountTable {
        MountTable::parse(&mut text.as_bytes(), u64::MAX).unwrap()
    }

    #[test]
    fn the_nearest_mount_point_decides() {
        let table = table(MOUNTS);
        let found = |path: &str| {
            let found = table.of_path(Path::new(path)).unwrap();
            (&*found.name, found.is_local)
        };
        assert_eq!(found("/usr/bin/x"), ("ext4", true));
        assert_eq!(found("/tmp/perf-1.map"), ("tmpfs", true));
        assert_eq!(found("/tmpfile"), ("ext4", true));
        assert_eq!(found("/home/a b/x"), ("fuse.sshfs", false));
        assert_eq!(found("/mnt/x"), ("nfs4", false));
        assert_eq!(found("/mnt/local/x"), ("ext4", true));
        assert_eq!(found("/lower/x"), ("overlay", false));
        assert_eq!(found("/upper/x"), ("overlay", true));
        assert_eq!(table.of_path(Path::new("relative")), None);
    }

    #[test]
    fn a_later_mount_hides_an_earlier_one() {
        let again = format!("{MOUNTS}46 22 0:60 / /tmp rw - fuse x rw\n");
        assert!(!table(&again).of_path(Path::new("/tmp/x")).unwrap().is_local);
    }

    #[test]
    fn lines_that_are_cut_are_left_out() {
        for end in 0..MOUNTS.len() {
            table(&MOUNTS[..end]);
        }
        assert_eq!(unescape(b"a\\040b\\134\\0"), b"a b\\\\0");
    }

    #[test]
    fn this_machines_own_files_are_found() {
        let memory = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let mounts = Mounts::new(fstat(&memory).unwrap().st_dev);
        let table = mounts.ours().unwrap();
        assert!(table.of_handle(&memory).unwrap().unwrap().is_local);
        let proc = File::open("/proc").unwrap();
        assert_eq!(&*table.of_handle(&proc).unwrap().unwrap().name, "proc");
        assert_eq!(&*table.of_path(Path::new("/proc/1")).unwrap().name, "proc");
        let again = mounts.of_process(std::process::id()).unwrap();
        assert!(Arc::ptr_eq(&table, &again), "read once");
        mounts.of_process(u32::MAX).unwrap_err();
    }
}
