//! Compiles the pprof schema, without `protoc`, and tells the program by a digest which rules its
//! unwind tables are made by: those that another version left on disk are not to be used.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// What decides on how a table looks.
const UNWIND_SOURCES: [&str; 2] = ["src/reader/unwind", "../profiler-ebpf/src/unwind"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/profile.proto"], ["proto"])?;
    prost_build::Config::new().disable_comments(["."]).compile_fds(descriptors)?;

    let mut files = Vec::new();
    for dir in UNWIND_SOURCES {
        println!("cargo::rerun-if-changed={dir}");
        find_files(Path::new(dir), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(Sha256::digest(fs::read(file)?));
    }
    let digest = hasher.finalize();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=RPROFD_UNWIND_RULES={digest}");
    Ok(())
}

fn find_files(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
