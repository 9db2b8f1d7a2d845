//! Opening files at the behest of what cannot be trusted: never a device, a FIFO or a socket, below
//! another process's root never anything outside it, and, where that is asked for, nothing that may
//! not answer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::mounts::MountTable;

/// For reading; a lease or a FIFO does not make it wait, and a terminal does not become ours.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Only a handle: the file behind it is not opened.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Why a path was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum PathError {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// It is a directory, device, FIFO or socket.
    #[error("not a regular file")]
    NotRegular,
    /// It is relative.
    #[error("not an absolute path")]
    NotPlain,
    /// What is mounted where is not known: the process has ended, most likely.
    #[error("mountinfo: {0}")]
    Mounts(std::io::Error),
    /// It is on a file system behind which is a program or another machine.
    #[error("on a file system that may not answer ({0})")]
    MayHang(String),
}

/// The path by which this process reaches a file it has open.
pub(super) fn descriptor_path(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Opens a regular file for reading, following links. For paths of the kernel's making, and for
/// directories an administrator named.
///
/// # Errors
///
/// [`PathError`].
pub(super) fn open_regular(path: &Path) -> Result<File, PathError> {
    let handle = openat(CWD, path, HANDLE, Mode::empty()).map_err(call("open"))?;
    reopen(&handle)
}

/// Which files may be touched.
#[derive(Clone, Debug)]
pub(super) enum Care {
    /// Those of which the kernel alone answers, by these mounts: no call waits for a program or
    /// another machine.
    Local(Arc<MountTable>),
    /// All of them: a call may never return.
    None,
}

impl Care {
    /// Fails for a path that, by its text, leads to a file system that may not answer.
    ///
    /// # Errors
    ///
    /// [`PathError::MayHang`].
    pub(super) fn check_path(&self, path: &Path) -> Result<(), PathError> {
        match self {
            Self::None => Ok(()),
            Self::Local(mounts) => match mounts.of_path(path) {
                Some(found) if !found.is_local => Err(PathError::MayHang(found.name.to_string())),
                _ => Ok(()),
            },
        }
    }

    fn check(&self, handle: &OwnedFd) -> Result<(), PathError> {
        let Self::Local(mounts) = self else { return Ok(()) };
        match mounts.of_handle(handle).map_err(call("statx"))? {
            Some(found) if found.is_local => Ok(()),
            Some(found) => Err(PathError::MayHang(found.name.to_string())),
            None => Err(PathError::MayHang("unknown".to_owned())),
        }
    }
}

/// A root directory to look below.
#[derive(Debug)]
pub(super) struct Root {
    handle: OwnedFd,
    care: Care,
}

/// What a path's last component may be.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    File,
    FileOrLink,
}

/// The most symbolic links on one way (`MAXSYMLINKS` in `include/linux/namei.h`).
const MAX_LINKS: u32 = 40;

impl Root {
    /// The root directory as the process `pid` sees it.
    ///
    /// # Errors
    ///
    /// [`PathError::Call`]: the process is gone or may not be looked at. [`PathError::MayHang`].
    pub(super) fn of_process(pid: u32, care: Care) -> Result<Self, PathError> {
        care.check_path(Path::new("/"))?;
        Self::at(Path::new(&format!("/proc/{pid}/root")), care)
    }

    /// The root directory of this process.
    ///
    /// # Errors
    ///
    /// [`PathError::Call`].
    pub(super) fn ours(care: Care) -> Result<Self, PathError> {
        Self::at(Path::new("/"), care)
    }

    fn at(path: &Path, care: Care) -> Result<Self, PathError> {
        let flags = HANDLE | OFlags::DIRECTORY;
        let handle = openat(CWD, path, flags, Mode::empty()).map_err(call("open"))?;
        care.check(&handle)?;
        Ok(Self { handle, care })
    }

    /// Opens a regular file below this root for reading. Directories may be symbolic links, which
    /// never lead out of the root; the file itself may not.
    ///
    /// # Errors
    ///
    /// [`PathError`]; [`PathError::NotRegular`] where the file is a link.
    pub(super) fn open_regular(&self, path: &Path) -> Result<File, PathError> {
        self.open(path, Last::File)
    }

    /// The same, if need be at the end of symbolic links.
    ///
    /// # Errors
    ///
    /// [`PathError`].
    pub(super) fn open_linked(&self, path: &Path) -> Result<File, PathError> {
        self.open(path, Last::FileOrLink)
    }

    /// Whether `maps` may show a file below this root under another device than `stat` does.
    pub(super) fn has_two_devices(&self, file: &File) -> bool {
        matches!(&self.care, Care::Local(mounts)
            if mounts.of_handle(file).is_ok_and(|it| it.is_some_and(|it| it.has_two_devices())))
    }

    /// Walks a path as `openat2` does with `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`, which the
    /// system-call filter cannot let through: it sees no flags behind a pointer.
    fn open(&self, path: &Path, last: Last) -> Result<File, PathError> {
        if !path.has_root() {
            return Err(PathError::NotPlain);
        }
        self.care.check_path(path)?;
        // What is still to be walked, the next component at the end.
        let mut ahead = backwards(path);
        // Directories from below the root down to where we are: the way back, since `..` in the
        // file system could be moved.
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            if component == ".." {
                way.pop();
                continue;
            }
            let is_last = ahead.is_empty();
            if !is_last {
                match self.step(way.last(), &component, OFlags::DIRECTORY) {
                    // A symbolic link, most likely.
                    Err(PathError::Call { errno: Errno::NOTDIR, .. }) => {}
                    directory => {
                        way.push(directory?);
                        continue;
                    }
                }
            }
            let handle = self.step(way.last(), &component, OFlags::empty())?;
            let kind = fstat(&handle).map_err(call("fstat"))?.st_mode;
            let is_link = FileType::from_raw_mode(kind) == FileType::Symlink;
            if is_last && (!is_link || last == Last::File) {
                return reopen(&handle);
            }
            if !is_link {
                return Err(PathError::Call { call: "open", errno: Errno::NOTDIR });
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(PathError::Call { call: "open", errno: Errno::LOOP });
            }
            let target = readlinkat(&handle, "", Vec::new()).map_err(call("readlink"))?;
            let target = Path::new(OsStr::from_bytes(target.to_bytes()));
            if target.has_root() {
                way.clear();
            }
            ahead.extend(backwards(target));
        }
        Err(PathError::NotRegular)
    }

    fn step(
        &self,
        directory: Option<&OwnedFd>,
        name: &OsStr,
        extra: OFlags,
    ) -> Result<OwnedFd, PathError> {
        let directory = directory.unwrap_or(&self.handle);
        let flags = HANDLE | OFlags::NOFOLLOW | extra;
        let handle = openat(directory.as_fd(), name, flags, Mode::empty()).map_err(call("open"))?;
        self.care.check(&handle)?;
        Ok(handle)
    }
}

/// The components of a path, the first one at the end.
fn backwards(path: &Path) -> Vec<OsString> {
    let plain = |component| match component {
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        Component::ParentDir => Some(OsString::from("..")),
        Component::Normal(name) => Some(name.to_owned()),
    };
    path.components().rev().filter_map(plain).collect()
}

/// A path as the kernel shows it in `maps`, where a newline is written `\012` (`mangle_path` in
/// `fs/seq_file.c`). A name that really holds these four characters cannot be told from it.
pub(super) fn unescape(path: &str) -> std::path::PathBuf {
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, next)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(byte);
            rest = next;
        }
    }
    OsStr::from_bytes(&plain).into()
}

fn reopen(handle: &OwnedFd) -> Result<File, PathError> {
    let stat = fstat(handle).map_err(call("fstat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(PathError::NotRegular);
    }
    let path = descriptor_path(handle);
    Ok(openat(CWD, path, READ, Mode::empty()).map_err(call("open"))?.into())
}

fn call(call: &'static str) -> impl FnOnce(Errno) -> PathError {
    move |errno| PathError::Call { call, errno }
}

#[cfg(test)]
mod tests {
    use super::super::mounts::Mounts;
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let status = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(status.success());
        assert!(matches!(open_regular(&fifo), Err(PathError::NotRegular)));
        assert!(matches!(open_regular(directory.path()), Err(PathError::NotRegular)));
        assert!(matches!(open_regular(Path::new("/dev/null")), Err(PathError::NotRegular)));

        let file = directory.path().join("with\nnewline");
        std::fs::write(&file, "x").unwrap();
        let shown = file.to_str().unwrap().replace('\n', "\\012");
        assert_eq!(unescape(&shown), file);
        Root::ours(Care::None).unwrap().open_regular(&file).unwrap();
    }

    #[test]
    fn links_never_lead_out_of_a_root() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        let link = |target: &str, path: &str| {
            std::os::unix::fs::symlink(target, directory.path().join(path)).unwrap();
        };
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "inside").unwrap();
        std::fs::write(at("passwd"), "inside").unwrap();
        link("/a/b", "absolute");
        link("b/../../absolute", "a/roundabout");
        link("../../../../../../..", "a/up");
        link("file", "a/b/link");
        link("/etc/passwd", "outside");
        link("loop", "loop");
        link("/proc/self/fd/0", "magic");
        let root = Root::at(directory.path(), Care::None).unwrap();
        let text = |file: Result<File, PathError>| {
            file.map(|file| std::io::read_to_string(file).unwrap())
                .map_err(|error| error.to_string())
        };
        for path in ["/a/b/file", "/absolute/file", "/a/roundabout/file", "/a/up/a/b/../b/file"] {
            assert_eq!(text(root.open_regular(Path::new(path))).unwrap(), "inside", "{path}");
        }
        assert_eq!(text(root.open_regular(Path::new("/../../passwd"))).unwrap(), "inside");
        assert_eq!(text(root.open_linked(Path::new("/absolute/link"))).unwrap(), "inside");
        root.open_regular(Path::new("/absolute/link")).unwrap_err();
        for path in ["/outside", "/loop", "/loop/x", "/magic", "/a", "/", "/passwd/x", "passwd"] {
            root.open_linked(Path::new(path)).unwrap_err();
        }
    }

    #[test]
    fn what_may_hang_is_not_touched() {
        let mounts = Mounts::new(0).ours().unwrap();
        let care = Care::Local(Arc::clone(&mounts));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        Root::ours(care.clone()).unwrap().open_regular(&file).unwrap();
        let none = Care::Local(Arc::new(mounts.without_local()));
        let error = Root::ours(none).unwrap_err();
        assert!(matches!(error, PathError::MayHang(_)), "{error}");
    }
}
