//! Directories that tests write to.

use std::{
    env, fs,
    ops::Deref,
    path::{Path, PathBuf},
};

/// A test's own directory: empty at first, kept for a look when the test fails.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// Makes the directory for the test called `name`, which no other test has.
    pub fn new(name: &str) -> Self {
        let path = build_dir().join("rprofd-tests").join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("remove {}: {error}", path.display())
            }
            _ => {}
        }
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }
}

impl Deref for TestDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// `target/debug`, `target/release`: where the program that runs now was built.
pub(crate) fn build_dir() -> PathBuf {
    let exe = env::current_exe().expect("the path of this test");
    let dir = exe.parent().expect("a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("a directory") } else { dir };
    dir.to_owned()
}
