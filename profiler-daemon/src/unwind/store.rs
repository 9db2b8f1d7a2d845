//! Unwind tables on disk, from one run to the next.
//!
//! A directory of ours alone holds one file per table. Its name is a digest of what the table is
//! of, and of the rules that it was made by; it holds a mark, a checksum, and the table as the
//! reader sent it. What is damaged is removed, and made again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::reader::{
    files::hexadecimal,
    protocol::{FileKey, UnwindTable},
};

/// What an entry begins with.
const MARK: [u8; 8] = *b"rprofd\0u";

/// The mark and the checksum.
const HEADER_BYTES: usize = MARK.len() + 4;

/// The biggest entry that is read, in bytes; no reply of the reader is bigger.
const MAX_ENTRY_BYTES: u64 = 16 << 20;

/// What all entries may take, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// What is left of that when entries had to go.
const KEPT_BYTES: u64 = MAX_BYTES / 4 * 3;

/// What files under way are called.
const UNFINISHED: &str = ".new";

/// The SHA-256 of what a table is made from.
pub type Digest = [u8; 32];

/// Why there can be no tables in a directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be made or read.
    #[error("{path}: {call}: {io_error}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        call: &'static str,
        /// What came of it.
        io_error: io::Error,
    },
    /// Others could put tables there.
    #[error("{0}: others may write there; `chmod 700` and `chown` it to the user rprofd runs as")]
    NotOurs(PathBuf),
}

/// A directory of tables.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    bytes: u64,
}

impl Store {
    /// Opens a directory, and makes it if need be.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed =
            |call| move |io_error| StoreError::Directory { path: dir.to_owned(), call, io_error };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("mkdir"))?;
        let metadata = fs::symlink_metadata(dir).map_err(failed("stat"))?;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || !is_ours || metadata.mode() & 0o022 != 0 {
            return Err(StoreError::NotOurs(dir.to_owned()));
        }
        let mut store = Self { dir: dir.to_owned(), bytes: 0 };
        let entries = store.entries().map_err(failed("read"))?;
        for entry in &entries {
            if entry.path.to_string_lossy().ends_with(UNFINISHED) {
                let _ = fs::remove_file(&entry.path);
            }
        }
        store.bytes = entries.iter().map(|entry| entry.bytes).sum();
        Ok(store)
    }

    fn path(&self, key: &FileKey, digest: &Digest) -> PathBuf {
        let mut hasher = Sha256::new();
        for part in [env!("RPROFD_UNWIND_RULES"), env!("CARGO_PKG_VERSION"), std::env::consts::ARCH]
        {
            hasher.update(part);
            hasher.update([0]);
        }
        hasher.update(key.encode_to_vec());
        hasher.update(digest);
        self.dir.join(hexadecimal(&hasher.finalize()))
    }

    /// The table of a file, if it is there and whole.
    pub(super) fn get(&self, key: &FileKey, digest: &Digest) -> Option<UnwindTable> {
        let path = self.path(key, digest);
        let mut file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
        let table = read(&mut file);
        if table.is_none() {
            tracing::debug!("{} is damaged, and made again", path.display());
            let _ = fs::remove_file(&path);
        }
        // The entry used least recently is the first to go.
        let _ = file.set_modified(SystemTime::now());
        table
    }

    /// Keeps the table of a file.
    pub(super) fn put(
        &mut self,
        key: &FileKey,
        digest: &Digest,
        table: &UnwindTable,
    ) -> io::Result<()> {
        let body = table.encode_to_vec();
        let bytes = (HEADER_BYTES + body.len()) as u64;
        if bytes > MAX_ENTRY_BYTES {
            return Ok(());
        }
        let path = self.path(key, digest);
        let unfinished = path.with_added_extension(&UNFINISHED[1..]);
        // Another rprofd may be about the same.
        let _ = fs::remove_file(&unfinished);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let written = file
            .write_all(&MARK)
            .and_then(|()| file.write_all(&crc32fast::hash(&body).to_le_bytes()))
            .and_then(|()| file.write_all(&body))
            .and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.bytes += bytes;
        if self.bytes > MAX_BYTES { self.make_room() } else { Ok(()) }
    }

    /// Removes what was not used for longest.
    fn make_room(&mut self) -> io::Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.used);
        self.bytes = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if self.bytes <= KEPT_BYTES {
                break;
            }
            fs::remove_file(&entry.path)?;
            self.bytes -= entry.bytes;
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                let used = metadata.modified()?;
                entries.push(Entry { path: entry.path(), bytes: metadata.len(), used });
            }
        }
        Ok(entries)
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// What an entry holds; `None` if it is damaged.
fn read(file: &mut File) -> Option<UnwindTable> {
    let size = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    if size > MAX_ENTRY_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.take(MAX_ENTRY_BYTES).read_to_end(&mut bytes).ok()?;
    let (checksum, body) = bytes.strip_prefix(&MARK)?.split_first_chunk()?;
    (u32::from_le_bytes(*checksum) == crc32fast::hash(body)).then_some(())?;
    UnwindTable::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;

    fn key(inode: u64) -> FileKey {
        FileKey { inode, ..FileKey::default() }
    }

    fn table(bytes: usize) -> UnwindTable {
        UnwindTable { base: 4096, pages: 1, shift: 16, rules: 1, blocks: vec![7; bytes] }
    }

    fn only_file(dir: &Path) -> PathBuf {
        let mut files = fs::read_dir(dir).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    #[test]
    fn a_table_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("deep/er");
        let mut store = Store::open(&dir).unwrap();
        assert_eq!(store.get(&key(1), &[1; 32]), None);
        store.put(&key(1), &[1; 32], &table(8192)).unwrap();
        let store = Store::open(&dir).unwrap();
        assert_eq!(store.get(&key(1), &[1; 32]), Some(table(8192)));
        assert_eq!(store.get(&key(2), &[1; 32]), None, "another file");
        assert_eq!(store.get(&key(1), &[2; 32]), None, "other contents");
        assert!(store.bytes > 8192);
    }

    #[test]
    fn a_damaged_entry_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("tables")).unwrap();
        let damages: [fn(&mut Vec<u8>); 5] = [
            |bytes| bytes.truncate(100),
            |bytes| bytes.clear(),
            |bytes| bytes[20] ^= 1,
            |bytes| bytes[2] ^= 1,
            |bytes| bytes.resize(MAX_ENTRY_BYTES as usize + 1, 0),
        ];
        for damage in damages {
            store.put(&key(1), &[1; 32], &table(4096)).unwrap();
            let path = only_file(&store.dir);
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
            assert_eq!(store.get(&key(1), &[1; 32]), None);
            assert!(!path.exists());
        }
        store.put(&key(1), &[1; 32], &table(4096)).unwrap();
        assert_eq!(store.get(&key(1), &[1; 32]), Some(table(4096)));
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        for inode in 0..4 {
            store.put(&key(inode), &[0; 32], &table(4096)).unwrap();
            let file = File::open(store.path(&key(inode), &[0; 32])).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(inode)).unwrap();
        }
        assert!(store.get(&key(0), &[0; 32]).is_some(), "used just now");
        // As if they took most of the room.
        for inode in 1..3 {
            let path = store.path(&key(inode), &[0; 32]);
            File::options().write(true).open(path).unwrap().set_len(KEPT_BYTES / 2).unwrap();
        }
        let old = store.path(&key(1), &[0; 32]);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::open(&old).unwrap().set_modified(time).unwrap();
        store.make_room().unwrap();
        assert!(!old.exists());
        assert!([0, 2, 3].iter().all(|inode| store.path(&key(*inode), &[0; 32]).exists()));
    }

    #[test]
    fn a_directory_of_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Store::open(&open), Err(StoreError::NotOurs(_))));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(matches!(Store::open(&link), Err(StoreError::NotOurs(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Store::open(&file), Err(StoreError::Directory { .. })));
    }

    #[test]
    fn files_under_way_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = dir.path().join("0123.new");
        fs::write(&unfinished, "x").unwrap();
        Store::open(dir.path()).unwrap();
        assert!(!unfinished.exists());
    }
}
