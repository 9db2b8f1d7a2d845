//! Opening files at the behest of what cannot be trusted: never a device, a FIFO or a socket, and
//! below another process's root never through a symbolic link.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

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
    /// It is relative or holds `..`.
    #[error("not a plain absolute path")]
    NotPlain,
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

/// A root directory to look below.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// The root directory as the process `pid` sees it.
    ///
    /// # Errors
    ///
    /// [`PathError::Call`]: the process is gone or may not be looked at.
    pub(super) fn of_process(pid: u32) -> Result<Self, PathError> {
        Self::at(Path::new(&format!("/proc/{pid}/root")))
    }

    /// The root directory of this process.
    ///
    /// # Errors
    ///
    /// [`PathError::Call`].
    pub(super) fn ours() -> Result<Self, PathError> {
        Self::at(Path::new("/"))
    }

    fn at(path: &Path) -> Result<Self, PathError> {
        let flags = HANDLE | OFlags::DIRECTORY;
        Ok(Self(openat(CWD, path, flags, Mode::empty()).map_err(call("open"))?))
    }

    /// Opens a regular file below this root for reading. No component may be a symbolic link: the
    /// paths that the kernel shows have none, and an absolute link would lead out of the root.
    ///
    /// # Errors
    ///
    /// [`PathError`]; `ENOTDIR` or [`PathError::NotRegular`] where a link was met.
    pub(super) fn open_regular(&self, path: &Path) -> Result<File, PathError> {
        let mut components = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => components.push(name),
                Component::ParentDir | Component::Prefix(_) => return Err(PathError::NotPlain),
            }
        }
        let (Some((name, directories)), true) = (components.split_last(), path.has_root()) else {
            return Err(PathError::NotPlain);
        };
        let mut directory = None;
        for component in directories {
            let next = self.step(directory.as_ref(), component, OFlags::DIRECTORY)?;
            directory = Some(next);
        }
        reopen(&self.step(directory.as_ref(), name, OFlags::empty())?)
    }

    fn step(
        &self,
        directory: Option<&OwnedFd>,
        name: &OsStr,
        extra: OFlags,
    ) -> Result<OwnedFd, PathError> {
        let directory = directory.unwrap_or(&self.0);
        let flags = HANDLE | OFlags::NOFOLLOW | extra;
        openat(directory.as_fd(), name, flags, Mode::empty()).map_err(call("open"))
    }
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
        Root::ours().unwrap().open_regular(&file).unwrap();
    }

    #[test]
    fn links_below_a_root_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, directory.path().join("link")).unwrap();
        std::os::unix::fs::symlink(directory.path(), directory.path().join("self")).unwrap();
        let root = Root::of_process(std::process::id()).unwrap();
        root.open_regular(&file).unwrap();
        for path in ["link", "self/file", "x/../file"] {
            root.open_regular(&directory.path().join(path)).unwrap_err();
        }
        root.open_regular(Path::new("etc/passwd")).unwrap_err();
        root.open_regular(Path::new("/")).unwrap_err();
    }
}
