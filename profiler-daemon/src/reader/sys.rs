//! The system and C library calls that no safe interface covers.
#![expect(unsafe_code, reason = "calls into the C library that rustix does not wrap")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// First descriptor that a child started with [`pass_descriptors`] does not inherit.
const FIRST_CLOSED_FD: libc::c_uint = 3 + super::child::LANES as libc::c_uint;

/// Descriptors below this one are never a source for [`pass_descriptors`].
pub(super) const FIRST_SOURCE_FD: RawFd = 10;

/// Ignores the signals with which a terminal or a service manager ends a process group: when the
/// reader ends is the core's decision.
pub(super) fn ignore_termination_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN runs no code of ours, and these signals may be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Reads a process's memory from an avma on, as far as it is there. Returns the number of bytes.
pub(super) fn read_memory(pid: u32, start: u64, buffer: &mut [u8]) -> usize {
    const PAGE: u64 = 4096;
    let Ok(pid) = libc::pid_t::try_from(pid) else { return 0 };
    let end = start.saturating_add(buffer.len() as u64);
    // What is read ends before the first part that is not there: parts are to be small.
    let mut parts = Vec::with_capacity(buffer.len() / PAGE as usize + 2);
    let mut at = start;
    while at < end {
        let next = ((at | (PAGE - 1)).saturating_add(1)).min(end);
        parts
            .push(libc::iovec { iov_base: at as *mut libc::c_void, iov_len: (next - at) as usize });
        if next == u64::MAX {
            break;
        }
        at = next;
    }
    let own = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the kernel writes into `buffer` alone, and no more than it holds; it checks the other
    // process's addresses.
    let count = unsafe {
        libc::process_vm_readv(
            pid,
            &raw const own,
            1,
            parts.as_ptr(),
            parts.len() as libc::c_ulong,
            0,
        )
    };
    usize::try_from(count).unwrap_or_default().min(buffer.len())
}

/// Reads ranges (an avma and a length in bytes) of a process's memory into `buffer`, one behind the
/// other, up to the first that is not there. Returns the number of bytes. Takes [`MOST_RANGES`] at
/// most, and no more than fit.
pub(super) fn read_ranges(pid: u32, ranges: &[(u64, usize)], buffer: &mut [u8]) -> usize {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return 0 };
    let parts: Vec<_> = ranges
        .iter()
        .take(MOST_RANGES)
        .map(|&(start, size)| libc::iovec { iov_base: start as *mut libc::c_void, iov_len: size })
        .collect();
    let own = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: as above.
    let count = unsafe {
        libc::process_vm_readv(
            pid,
            &raw const own,
            1,
            parts.as_ptr(),
            parts.len() as libc::c_ulong,
            0,
        )
    };
    usize::try_from(count).unwrap_or_default().min(buffer.len())
}

/// The most ranges that are read at once: `UIO_MAXIOV` (include/uapi/linux/uio.h).
pub(super) const MOST_RANGES: usize = 1_024;

/// The counter that Go's runtime measures waits with (`cputicks` in its assembly).
pub(super) fn cpu_ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction only reads a counter; who forbids it (prctl(PR_SET_TSC)) is ourselves.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: the register is readable in user mode (arch/arm64/kernel/cpufeature.c keeps it so,
        // for the vDSO).
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
}

/// Gives freed heap memory back to the system.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition and is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Blocks of this size, in bytes, and above go back to the system once freed: a section of debug
/// information that was compressed, the tables of a large unit. What a small binary takes stays
/// below, so that naming one after the other does not fault the same memory in again and again.
#[cfg(target_env = "gnu")]
const UNMAPPED_BLOCK_BYTES: libc::c_int = 2 << 20;

/// Free memory in bytes that each thread's heap keeps for the next file, until [`trim_heap`].
#[cfg(target_env = "gnu")]
const KEPT_FREE_BYTES: libc::c_int = 4 << 20;

/// Sets what the allocator gives back to the system by itself. Left alone, glibc raises both
/// limits, up to 32 and 64 MiB, with each large block that is freed. To be called before threads
/// start.
pub(super) fn limit_kept_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes allocator parameters; it is called before threads start.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, UNMAPPED_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES);
    }
}

/// Drops pages of files from this process's share of memory; they come back from the page cache
/// when they are looked at again.
///
/// # Safety
///
/// Each of `ranges` must be a mapping, shared and only readable, of a file, and stay mapped
/// meanwhile: of other memory this would lose the contents.
pub(super) unsafe fn drop_file_pages(ranges: &[std::ops::Range<usize>]) {
    for range in ranges {
        // SAFETY: the caller's promise. MADV_DONTNEED on a shared mapping of a file clears
        // page-table entries alone (madvise(2)). A failure leaves the pages where they are.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
        }
    }
}

/// Takes over a descriptor that this process inherited.
///
/// # Errors
///
/// `EBADF` if `fd` is not open.
pub(super) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD on a number that is no descriptor fails and changes nothing.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the caller, at the start of the process, is the only
    // one that knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the child of `command` have `sources` as its descriptors 3 and up, and no others but
/// the standard three. `sources` must be [`FIRST_SOURCE_FD`] or above and outlive the spawn, and
/// as many from 3 up must be in use in this process, or the standard library's own pipe may sit there.
pub(super) fn pass_descriptors(command: &mut Command, sources: Vec<RawFd>) {
    let place = move || {
        for (&source, target) in sources.iter().zip(3..) {
            // SAFETY: dup2 is async-signal-safe, and replaces descriptors of the child alone.
            if unsafe { libc::dup2(source, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Kernels before 5.11 lack the flag: then close-on-exec, which the standard library sets
        // on all it opens, has to do.
        // SAFETY: the call marks descriptors of the child alone, and closes none before the exec.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                FIRST_CLOSED_FD,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe system calls only and allocates nothing.
    unsafe { command.pre_exec(place) };
}

/// A file's contents, mapped into memory. See `FilePages::map`.
pub(super) struct FileMapping {
    start: std::ptr::NonNull<u8>,
    size: usize,
}

impl FileMapping {
    /// Maps the first `size_bytes` of a file that has as many. Reading what is cut off later ends
    /// this process.
    ///
    /// # Errors
    ///
    /// Those of `mmap`; `EINVAL` for nothing.
    pub(super) fn map(file: &std::fs::File, size_bytes: u64) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let size = usize::try_from(size_bytes).map_err(io::Error::other)?;
        // SAFETY: a fresh mapping, which nothing else refers to.
        let start = unsafe {
            mmap(std::ptr::null_mut(), size, ProtFlags::READ, MapFlags::SHARED, file, 0)?
        };
        let start = std::ptr::NonNull::new(start.cast()).expect("mmap gives no null pointer");
        Ok(Self { start, size })
    }

    /// Has the file read from disk while other things are done.
    pub(super) fn prefetch(&self) {
        // SAFETY: the mapping is ours; the call changes nothing of its contents. Its failure costs
        // nothing but time.
        let _ = unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.size, rustix::mm::Advice::WillNeed)
        };
    }
}

impl std::ops::Deref for FileMapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped as long as this lives, and readable. Somebody may write the file
        // meanwhile: then numbers change between two looks, which their readers must stand anyhow.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map`, and no borrow of it outlives this.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
    }
}
