//! Pages of mapped files, which count as this process's memory while they are in its page table.

use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::sys::{self, FileMapping};

/// Keeps mappings of files in place while their pages are dropped: memory that another thread
/// unmaps meanwhile might hold something else by then.
#[derive(Debug, Default)]
pub(super) struct FilePages(RwLock<()>);

/// What holds mappings of files: they end while no pages are dropped.
pub(super) struct Held<T> {
    /// Always there, until it is dropped.
    inner: Option<T>,
    pages: Arc<FilePages>,
}

/// A file's contents.
pub(super) type FileBytes = Held<FileMapping>;

impl FilePages {
    /// To be held by whoever may map or unmap files.
    pub(super) fn mapping(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps the first `size_bytes` of a file, see [`FileMapping::map`].
    ///
    /// # Errors
    ///
    /// Those of `mmap`.
    pub(super) fn map(
        self: &Arc<Self>,
        file: &File,
        size_bytes: u64,
    ) -> std::io::Result<FileBytes> {
        Ok(self.hold(FileMapping::map(file, size_bytes)?))
    }

    /// Takes charge of what maps files and, when it is dropped, unmaps them. Meanwhile, whoever
    /// makes it map and unmap holds [`Self::mapping`].
    pub(super) fn hold<T>(self: &Arc<Self>, inner: T) -> Held<T> {
        Held { inner: Some(inner), pages: Arc::clone(self) }
    }

    /// Drops the pages of all files that are mapped shared and for reading alone, as blazesym and
    /// [`Self::map`] do. Waits until nobody holds [`Self::mapping`]. They stay in the page cache.
    #[expect(unsafe_code, reason = "what makes the call safe is this type's doing")]
    pub(super) fn drop_all(&self) {
        let _alone = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
        let ranges: Vec<Range<usize>> = maps.lines().filter_map(read_only_file).collect();
        // SAFETY: these are such mappings, and nobody unmaps them: the lock is ours alone.
        unsafe { sys::drop_file_pages(&ranges) };
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let _mapping = self.pages.mapping();
        self.inner = None;
    }
}

/// Memory of this process that is in its page table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    /// Of files, in bytes.
    pub(super) files_bytes: u64,
    /// Of its own: heap and stacks, in bytes.
    pub(super) own_bytes: u64,
}

impl Resident {
    /// As it is now; `None` if `/proc` cannot be read.
    pub(super) fn now() -> Option<Self> {
        let page_bytes = rustix::param::page_size() as u64;
        parse_statm(&std::fs::read_to_string("/proc/self/statm").ok()?, page_bytes)
    }
}

/// `statm` has pages: all, resident, resident of files and shared memory (proc_pid_statm(5)).
fn parse_statm(statm: &str, page_bytes: u64) -> Option<Resident> {
    let mut fields = statm.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, files) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(Resident {
        files_bytes: files * page_bytes,
        own_bytes: resident.saturating_sub(files) * page_bytes,
    })
}

/// The range of a line of `maps`, if that is a shared mapping of a file that allows reading alone.
fn read_only_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (protection, inode) = (fields.next()?, fields.nth(2)?);
    (protection == "r--s" && inode != "0").then_some(())?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_shared_read_only_files_are_found() {
        let line = "7f01000-7f03000 r--s 00001000 fe:00 1234                       /usr/bin/a b";
        assert_eq!(read_only_file(line), Some(0x7f0_1000..0x7f0_3000));
        for other in ["r--p", "rw-s", "r-xs", "---s"] {
            assert_eq!(read_only_file(&line.replace("r--s", other)), None);
        }
        assert_eq!(read_only_file("7f01000-7f03000 r--s 00000000 00:00 0 "), None);
        assert_eq!(read_only_file(""), None);
    }

    #[test]
    fn statm_is_in_pages() {
        let resident = parse_statm("900 70 30 5 0 100 0\n", 4_096).unwrap();
        assert_eq!((resident.files_bytes, resident.own_bytes), (30 * 4_096, 40 * 4_096));
        assert!(parse_statm("1", 4_096).is_none());
        assert!(Resident::now().unwrap().own_bytes > 0);
    }

    #[test]
    #[expect(unsafe_code, reason = "a mapping to look at")]
    fn dropped_pages_come_back_with_their_contents() {
        const SIZE: usize = 32 << 20;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; SIZE]).unwrap();
        // SAFETY: a new mapping of a file that nobody else changes.
        let bytes = unsafe {
            let (protection, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
            let mapped =
                rustix::mm::mmap(std::ptr::null_mut(), SIZE, protection, flags, &file, 0).unwrap();
            std::slice::from_raw_parts(mapped.cast::<u8>(), SIZE)
        };
        assert!(bytes.iter().all(|byte| *byte == 7));
        let before = Resident::now().unwrap().files_bytes;
        FilePages::default().drop_all();
        let after = Resident::now().unwrap().files_bytes;
        assert!(after + SIZE as u64 / 2 < before, "{before} bytes of files, then {after}");
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
