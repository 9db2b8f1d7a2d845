//! Two commands of the `bpf` system call that aya does not offer.
#![expect(unsafe_code, reason = "system calls of our own")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::KernelError;

/// `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: i32 = 0;
/// Since Linux 5.6; for arrays of maps since 5.12.
const BPF_MAP_UPDATE_BATCH: i32 = 26;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The head of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// `union bpf_attr` for the batch commands.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attributes`, and what the
    // callers below point to from there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes).cast::<libc::c_void>(),
            size_of::<T>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes an array that can be mapped into memory.
pub(super) fn create_array(value_bytes: u32, elements: u32) -> Result<OwnedFd, KernelError> {
    let mut attributes = Create {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: value_bytes,
        max_entries: elements,
        map_flags: BPF_F_MMAPABLE,
    };
    let fd = bpf(BPF_MAP_CREATE, &mut attributes)
        .map_err(|error| KernelError::of("bpf(BPF_MAP_CREATE)", error))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts maps into elements `first..` of an array of maps, all at once: the kernel waits some 8 ms
/// after each such call, however many it changes.
pub(super) fn put_maps(
    outer: BorrowedFd<'_>,
    first: u32,
    maps: &[OwnedFd],
) -> Result<(), KernelError> {
    let keys: Vec<u32> = (first..).take(maps.len()).collect();
    let values: Vec<i32> = maps.iter().map(AsRawFd::as_raw_fd).collect();
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: maps.len() as u32,
        map_fd: outer.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_BATCH, &mut attributes)
        .map_err(|error| KernelError::of("bpf(BPF_MAP_UPDATE_BATCH)", error))?;
    Ok(())
}
