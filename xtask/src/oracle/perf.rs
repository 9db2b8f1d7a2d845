//! The perf events that copy the registers and the stack of user code, and their rings.
#![expect(unsafe_code, reason = "perf_event_open has no safe wrapper, a ring is shared memory")]

use std::{
    os::fd::{FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{Ordering, fence},
};

use anyhow::{Context as _, Result};
use perf_event_open_sys::{
    bindings::{
        PERF_COUNT_SW_CPU_CLOCK, PERF_FLAG_FD_CLOEXEC, PERF_SAMPLE_IP, PERF_SAMPLE_REGS_USER,
        PERF_SAMPLE_STACK_USER, PERF_SAMPLE_TID, PERF_SAMPLE_TIME, PERF_TYPE_SOFTWARE,
        perf_event_attr, perf_event_mmap_page,
    },
    perf_event_open,
};
use profiler_daemon::kernel::period_ns;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of records a ring holds; a power of two pages. A record with its copy of a stack takes up
/// to 64 KiB.
const DATA_BYTES: usize = 32 << 20;

/// The most of a stack that is copied, in bytes: the kernel takes a multiple of 8 below 64 KiB.
const STACK_BYTES: u32 = 65_528;

/// The registers that are copied, as `arch/x86/include/uapi/asm/perf_regs.h` numbers them: the
/// general ones and the program counter.
const REGISTERS: u64 = 0x00ff_01ff;

/// A sampling event and the ring it writes into: one CPU's, of a process and all that it starts.
pub(super) struct Ring {
    page: NonNull<perf_event_mmap_page>,
    data: NonNull<u8>,
    mapped_bytes: usize,
    _event: OwnedFd,
}

// SAFETY: the memory belongs to this value alone, whichever thread has it.
unsafe impl Send for Ring {}

impl Ring {
    /// An event that samples `pid` on `cpu` from its next exec on, `hertz` times in a second of its
    /// CPU time.
    pub(super) fn open(pid: u32, cpu: u32, hertz: u64) -> Result<Self> {
        let mut attr = perf_event_attr {
            size: size_of::<perf_event_attr>() as u32,
            type_: PERF_TYPE_SOFTWARE,
            config: u64::from(PERF_COUNT_SW_CPU_CLOCK),
            sample_type: u64::from(
                PERF_SAMPLE_IP
                    | PERF_SAMPLE_TID
                    | PERF_SAMPLE_TIME
                    | PERF_SAMPLE_REGS_USER
                    | PERF_SAMPLE_STACK_USER,
            ),
            sample_regs_user: REGISTERS,
            sample_stack_user: STACK_BYTES,
            clockid: libc::CLOCK_BOOTTIME,
            ..Default::default()
        };
        attr.sample_period = period_ns(hertz);
        attr.set_disabled(1);
        attr.set_enable_on_exec(1);
        attr.set_inherit(1);
        attr.set_exclude_kernel(1);
        attr.set_exclude_hv(1);
        attr.set_mmap(1);
        attr.set_mmap2(1);
        attr.set_comm(1);
        attr.set_comm_exec(1);
        attr.set_task(1);
        attr.set_sample_id_all(1);
        attr.set_use_clockid(1);
        // SAFETY: `attr` is initialized and lives through the call.
        let fd = unsafe {
            perf_event_open(
                &raw mut attr,
                pid as i32,
                cpu as i32,
                -1,
                u64::from(PERF_FLAG_FD_CLOEXEC),
            )
        };
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("perf_event_open");
        }
        // SAFETY: the call has just made this descriptor for us.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        let page_bytes = rustix::param::page_size();
        let mapped_bytes = page_bytes + DATA_BYTES;
        // SAFETY: a fresh mapping, which nothing else refers to.
        let memory = unsafe {
            mmap(
                ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &event,
                0,
            )
        }
        .context("mmap(perf event)")?;
        let page = NonNull::new(memory.cast::<perf_event_mmap_page>())
            .expect("mmap gives no null pointer");
        // SAFETY: the records begin one page into the mapping.
        let data = unsafe { page.cast::<u8>().add(page_bytes) };
        Ok(Self { page, data, mapped_bytes, _event: event })
    }

    /// Hands each waiting record to `take` and frees its place. `buffer` is where they are copied.
    pub(super) fn drain(&mut self, buffer: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
        let page = self.page.as_ptr();
        // SAFETY: the first page of the mapping is this structure; the kernel writes `data_head`,
        // and only we write `data_tail`.
        let (head, mut tail) =
            unsafe { (ptr::read_volatile(&raw const (*page).data_head), (*page).data_tail) };
        // Pairs with the kernel's barrier between its records and `data_head`.
        fence(Ordering::Acquire);
        while head.wrapping_sub(tail) >= 8 {
            let header = self.copy(tail, 8, buffer);
            let bytes = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            if bytes < 8 || bytes as u64 > head.wrapping_sub(tail) {
                tail = head;
                break;
            }
            take(self.copy(tail, bytes, buffer));
            tail = tail.wrapping_add(bytes as u64);
        }
        // Our reads end before the kernel may write there again.
        fence(Ordering::Release);
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*page).data_tail, tail) };
    }

    fn copy<'a>(&self, position: u64, bytes: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let start = position as usize & (DATA_BYTES - 1);
        let first = bytes.min(DATA_BYTES - start);
        buffer.clear();
        // SAFETY: both parts lie within the data area; the kernel leaves what is between
        // `data_tail` and `data_head` alone.
        unsafe {
            let data = self.data.as_ptr();
            buffer.extend_from_slice(std::slice::from_raw_parts(data.add(start), first));
            buffer.extend_from_slice(std::slice::from_raw_parts(data, bytes - first));
        }
        buffer
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `open`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), self.mapped_bytes) };
    }
}
