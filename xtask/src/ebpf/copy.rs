//! A copy of the checkout at a path that is unlike the original's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Removed when dropped.
pub(super) struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    /// Copies what is needed to build: everything but build results, Git's and hidden directories.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rprofd another path ").tempdir()?;
        let copy = Self { dir };
        copy_dir(root, &copy.root())?;
        Ok(copy)
    }

    /// Root of the copy.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("some/where/else")
    }
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in from.read_dir().with_context(|| from.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let skipped = name == "target" || name == "node_modules" || name == "profiles";
            if !skipped && !name.as_encoded_bytes().starts_with(b".") {
                copy_dir(&entry.path(), &to.join(name))?;
            }
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name))
                .with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}
