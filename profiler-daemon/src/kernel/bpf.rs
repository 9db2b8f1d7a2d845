//! What of the `bpf` system call aya does not offer.
#![expect(unsafe_code, reason = "system calls of our own")]

use std::{
    ffi::CStr,
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
    create(Create {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: value_bytes,
        max_entries: elements,
        map_flags: BPF_F_MMAPABLE,
    })
}

fn create(mut attributes: Create) -> Result<OwnedFd, KernelError> {
    owned("bpf(BPF_MAP_CREATE)", bpf(BPF_MAP_CREATE, &mut attributes))
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

/// More of `enum bpf_cmd`.
const BPF_PROG_LOAD: i32 = 5;
const BPF_BTF_LOAD: i32 = 18;
const BPF_LINK_CREATE: i32 = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
/// Since Linux 6.6.
const BPF_TRACE_UPROBE_MULTI: u32 = 48;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// The head of `union bpf_attr` for `BPF_BTF_LOAD`.
#[repr(C)]
#[derive(Default)]
struct LoadBtf {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    reserved: u32,
}

/// `union bpf_attr` for `BPF_LINK_CREATE` of [`BPF_TRACE_UPROBE_MULTI`].
#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    reserved: u32,
}

/// A program that is to be loaded.
pub(super) struct Probe<'a> {
    /// `struct bpf_insn`, 8 bytes each.
    pub(super) instructions: &'a [u8],
    /// Its type information, and where in the program which function of that begins: records of so many
    /// bytes.
    pub(super) btf: BorrowedFd<'a>,
    pub(super) functions: &'a [u8],
    pub(super) function_bytes: usize,
}

/// Loads type information.
pub(super) fn load_btf(bytes: &[u8]) -> Result<OwnedFd, KernelError> {
    let mut attributes =
        LoadBtf { btf: bytes.as_ptr() as u64, btf_size: bytes.len() as u32, ..LoadBtf::default() };
    owned("bpf(BPF_BTF_LOAD)", bpf(BPF_BTF_LOAD, &mut attributes))
}

/// Loads a program of the kind that [`link_probe`] attaches.
///
/// # Minimum kernel version
///
/// 6.6.
pub(super) fn load_probe(probe: &Probe<'_>) -> Result<OwnedFd, KernelError> {
    let mut attributes = Load {
        prog_type: BPF_PROG_TYPE_KPROBE,
        insn_cnt: (probe.instructions.len() / 8) as u32,
        insns: probe.instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type: BPF_TRACE_UPROBE_MULTI,
        prog_btf_fd: probe.btf.as_raw_fd() as u32,
        func_info_rec_size: probe.function_bytes as u32,
        func_info: probe.functions.as_ptr() as u64,
        func_info_cnt: (probe.functions.len() / probe.function_bytes.max(1)) as u32,
        ..Load::default()
    };
    owned("bpf(BPF_PROG_LOAD)", bpf(BPF_PROG_LOAD, &mut attributes))
}

/// Has a program of [`load_probe`] run whenever the process comes to an instruction: at `offset` in the
/// file at `path`. Drop what is returned to end that.
pub(super) fn link_probe(
    program: BorrowedFd<'_>,
    pid: u32,
    path: &CStr,
    offset: u64,
) -> Result<OwnedFd, KernelError> {
    let mut attributes = Link {
        prog_fd: program.as_raw_fd() as u32,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        path: path.as_ptr() as u64,
        offsets: (&raw const offset) as u64,
        cnt: 1,
        pid,
        ..Link::default()
    };
    owned("bpf(BPF_LINK_CREATE)", bpf(BPF_LINK_CREATE, &mut attributes))
}

fn owned(call: &'static str, result: io::Result<i64>) -> Result<OwnedFd, KernelError> {
    let fd = result.map_err(|error| KernelError::of(call, error))?;
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
