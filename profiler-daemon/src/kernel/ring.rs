//! The ring that a perf event writes its records into.
#![expect(unsafe_code, reason = "the ring is memory shared with the kernel")]

use std::{
    ptr::{self, NonNull},
    sync::atomic::{Ordering, fence},
};

use perf_event_open_sys::bindings::perf_event_mmap_page;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{KernelError, perf::PerfEvent};

/// Bytes of records a ring holds; a power of two pages.
const DATA_BYTES: usize = 256 << 10;

/// What a ring takes, a page of the kernel's notes before the records included.
pub(crate) fn mapped_bytes() -> usize {
    rustix::param::page_size() + DATA_BYTES
}

/// A mapped ring; the kernel writes, we read.
pub(super) struct Ring {
    page: NonNull<perf_event_mmap_page>,
    data: NonNull<u8>,
    mapped_bytes: usize,
    event: PerfEvent,
}

// SAFETY: the memory belongs to this value alone, whichever thread has it.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new(event: PerfEvent) -> Result<Self, KernelError> {
        let page_bytes = rustix::param::page_size();
        let mapped_bytes = mapped_bytes();
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
        .map_err(|error| KernelError::of("mmap(perf event)", error.into()))?;
        let page = NonNull::new(memory.cast::<perf_event_mmap_page>())
            .expect("mmap gives no null pointer");
        // SAFETY: the records begin one page into the mapping.
        let data = unsafe { page.cast::<u8>().add(page_bytes) };
        Ok(Self { page, data, mapped_bytes, event })
    }

    pub(super) fn event(&self) -> &PerfEvent {
        &self.event
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
        // SAFETY: the mapping was made in `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), self.mapped_bytes) };
    }
}
