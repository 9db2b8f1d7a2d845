//! A directory that whole files appear in.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use super::utc;

/// The link beside directories named by time, to the newest of them.
const LATEST: &str = "latest";

/// Names of temporary files, among all threads of this process.
static TEMPORARY: AtomicU32 = AtomicU32::new(0);

/// A directory to write to.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Directories that were made for it, outermost first.
    made: Vec<PathBuf>,
    is_dated: bool,
}

impl Directory {
    /// The directory at `path`, which is made unless it is there; files can be made in it.
    ///
    /// # Errors
    ///
    /// Of whichever step failed. What was made by then is gone.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut directory = Self { path: path.to_owned(), made: Vec::new(), is_dated: false };
        directory.make(path)?;
        directory.probe()?;
        Ok(directory)
    }

    /// A new directory in `base`, named by the time.
    ///
    /// # Errors
    ///
    /// As those of [`Directory::open`].
    pub(crate) fn open_dated(base: &Path, start: SystemTime) -> io::Result<Self> {
        let mut directory = Self { path: base.to_owned(), made: Vec::new(), is_dated: true };
        directory.make(base)?;
        let stamp = utc::stamp(start);
        for number in 1.. {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            directory.path = base.join(format!("{stamp}{suffix}"));
            match fs::create_dir(&directory.path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    directory.undo();
                    return Err(error);
                }
            }
        }
        directory.made.push(directory.path.clone());
        directory.probe()?;
        Ok(directory)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what [`Directory::open`] made, as far as nothing is in it.
    pub(crate) fn undo(&mut self) {
        for made in self.made.drain(..).rev() {
            // A directory that is not empty is of use to someone.
            let _ = fs::remove_dir(made);
        }
    }

    /// Makes `path` and what is missing above it.
    fn make(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .take_while(|it| !it.as_os_str().is_empty() && fs::symlink_metadata(it).is_err())
            .map(Path::to_owned)
            .collect();
        fs::create_dir_all(path)?;
        self.made.extend(missing.into_iter().rev());
        Ok(())
    }

    /// Finds out whether files can be made and filled.
    fn probe(&mut self) -> io::Result<()> {
        let probed = Temporary::with(&self.path, b"rprofd").and_then(Temporary::remove);
        if probed.is_err() {
            self.undo();
        }
        probed
    }

    /// Writes a file: it has all of `contents`, or is not there or as it was.
    ///
    /// # Errors
    ///
    /// Of whichever step failed.
    pub(crate) fn write(&self, name: &OsStr, contents: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        Temporary::with(&self.path, contents)?.rename(&path)?;
        Ok(path)
    }

    /// Lets `latest` point to this directory, if directories beside it are named by time and
    /// nothing but such a link is in its place.
    ///
    /// # Errors
    ///
    /// Of whichever step failed.
    pub(crate) fn point_latest(&self) -> io::Result<()> {
        let (true, Some(base), Some(name)) =
            (self.is_dated, self.path.parent(), self.path.file_name())
        else {
            return Ok(());
        };
        let latest = base.join(LATEST);
        if fs::symlink_metadata(&latest).is_ok_and(|it| !it.file_type().is_symlink()) {
            return Ok(());
        }
        let (link, ()) = Temporary::make(base, |path| symlink(name, path))?;
        link.rename(&latest)
    }

    /// A path by which people find the directory: through `latest`, if that leads here.
    pub(crate) fn short_path(&self) -> PathBuf {
        let latest = self.path.with_file_name(LATEST);
        let leads_here = self.is_dated
            && fs::read_link(&latest)
                .is_ok_and(|target| Some(&*target.into_os_string()) == self.path.file_name());
        if leads_here { latest } else { self.path.clone() }
    }
}

/// A file that is removed unless it is given its name.
struct Temporary(Option<PathBuf>);

impl Temporary {
    /// Makes something new in `directory`.
    fn make<T>(directory: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(Self, T)> {
        loop {
            let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".rprofd-{}-{number}.tmp", process::id()));
            match make(&path) {
                Ok(made) => return Ok((Self(Some(path)), made)),
                // Another process of this ID left it behind.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn with(directory: &Path, contents: &[u8]) -> io::Result<Self> {
        let (new, mut file) = Self::make(directory, |path| {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        })?;
        file.write_all(contents)?;
        Ok(new)
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.0 {
            fs::rename(path, to)?;
        }
        self.0 = None;
        Ok(())
    }

    fn remove(mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), fs::remove_file)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // The error that led here says more than one about this file would.
            let _ = fs::remove_file(path);
        }
    }
}
