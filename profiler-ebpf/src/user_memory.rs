//! The memory of the interrupted process, read through a window: neighbouring frames are mostly
//! within a kilobyte.

use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_probe_read_kernel, bpf_probe_read_user,
        generated::{bpf_probe_read_user as read_user_bytes, bpf_task_pt_regs},
    },
};
use profiler_ebpf::unwind::Memory;

use crate::registers;

/// Words of the window.
const WORDS: usize = 128;
const BYTES: u64 = WORDS as u64 * 8;

/// What is read before the first word asked for: registers saved in the frame above it.
const BEFORE: u64 = 128;

/// A copy of a piece of the process's memory.
#[repr(C)]
pub(crate) struct Window {
    /// avma of the first word; 0: there is none.
    start: u64,
    /// Address of the `pt_regs` of the interrupted code.
    pt_regs: u64,
    words: [u64; WORDS],
}

impl Window {
    /// Forgets what was read of another process.
    #[inline(always)]
    pub(crate) fn begin(&mut self, task: *mut task_struct) {
        self.start = 0;
        // SAFETY: the verifier knows `task` as the current task.
        self.pt_regs = unsafe { bpf_task_pt_regs(task) } as u64;
    }
}

/// The memory seen through a window that is this program's alone.
pub(crate) struct UserMemory {
    window: *mut Window,
}

impl UserMemory {
    /// `window` must be valid, and nobody else's, as long as this lives.
    #[inline(always)]
    pub(crate) const fn new(window: *mut Window) -> Self {
        Self { window }
    }

    /// Index in the window of the word at `avma`, with `more` bytes behind it.
    #[inline(always)]
    fn index(&self, avma: u64, more: u64) -> Option<usize> {
        // SAFETY: see `new`.
        let window = unsafe { &mut *self.window };
        let into = avma.wrapping_sub(window.start);
        if into <= BYTES - 8 - more {
            return Some(into as usize / 8);
        }
        let start = avma.wrapping_sub(BEFORE);
        // SAFETY: the helper writes as many bytes as the window has, or fails.
        let result = unsafe {
            read_user_bytes(window.words.as_mut_ptr().cast(), BYTES as u32, start as *const _)
        };
        if result != 0 {
            window.start = 0;
            return None;
        }
        window.start = start;
        Some(BEFORE as usize / 8)
    }

    #[inline(always)]
    fn at(&self, index: usize) -> u64 {
        // SAFETY: see `new`; the index is within.
        unsafe { (*self.window).words[index & (WORDS - 1)] }
    }
}

impl Memory for UserMemory {
    #[inline(always)]
    fn pair(&self, avma: u64) -> Option<[u64; 2]> {
        if avma & 7 == 0
            && let Some(index) = self.index(avma, 8)
        {
            return Some([self.at(index), self.at(index + 1)]);
        }
        // SAFETY: the helper checks the address; a wrong one is an error, not a fault.
        unsafe { bpf_probe_read_user(avma as *const [u64; 2]) }.ok()
    }

    #[inline(always)]
    fn word(&self, avma: u64) -> Option<u64> {
        if avma & 7 == 0
            && let Some(index) = self.index(avma, 0)
        {
            return Some(self.at(index));
        }
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(avma as *const u64) }.ok()
    }

    #[inline(always)]
    fn register(&self, number: u32) -> Option<u64> {
        // SAFETY: see `new`.
        let pt_regs = unsafe { (*self.window).pt_regs };
        let offset = registers::offset(number)?;
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel((pt_regs + offset) as *const u64) }.ok()
    }
}
