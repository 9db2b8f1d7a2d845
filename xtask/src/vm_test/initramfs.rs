//! The file system a virtual machine starts from: a cpio archive in the format `newc`.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::step;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

/// An archive in the making.
#[derive(Default)]
pub(super) struct Initramfs {
    bytes: Vec<u8>,
    names: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Adds the executable `file` as `name`, and the libraries that it needs, each where it is here.
    pub(super) fn add_program(&mut self, name: &str, file: &Path) -> Result<()> {
        for library in libraries(file)? {
            self.add(&library, &library)?;
        }
        self.add(Path::new(name), file)
    }

    /// Adds a file unless there is one of its name.
    fn add(&mut self, name: &Path, file: &Path) -> Result<()> {
        let name = name.strip_prefix("/").unwrap_or(name);
        if self.names.contains(name) {
            return Ok(());
        }
        let mut parents: Vec<_> = name.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if !self.names.contains(parent) {
                self.write(parent, DIRECTORY, &[])?;
            }
        }
        let content = fs::read(file).with_context(|| file.display().to_string())?;
        self.write(name, EXECUTABLE, &content)
    }

    fn write(&mut self, name: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.names.insert(name.to_owned());
        let inode = self.names.len();
        self.entry(&name.to_string_lossy(), inode, mode, content)
    }

    /// A header of hexadecimal numbers, the name, the content; each part ends at a multiple of 4.
    fn entry(&mut self, name: &str, inode: usize, mode: u32, content: &[u8]) -> Result<()> {
        let (size, name_size) = (content.len(), name.len() + 1);
        write!(
            self.bytes,
            "070701{inode:08x}{mode:08x}{owner:08x}{group:08x}{links:08x}{time:08x}{size:08x}\
             {device:016x}{special:016x}{name_size:08x}{checksum:08x}{name}\0",
            owner = 0,
            group = 0,
            links = 1,
            time = 0,
            device = 0,
            special = 0,
            checksum = 0,
        )?;
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Ends the archive and writes it to `path`.
    pub(super) fn finish(mut self, path: &Path) -> Result<()> {
        self.entry("TRAILER!!!", 0, 0, &[])?;
        fs::write(path, self.bytes).with_context(|| path.display().to_string())
    }
}

/// What `ldd` says a program loads, the loader included: the absolute paths in its lines.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let lines = step::read(Command::new("ldd").arg(program))?;
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(lines.lines().filter_map(path).collect())
}
