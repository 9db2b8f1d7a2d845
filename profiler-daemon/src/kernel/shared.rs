//! An array that the programs read and we write, mapped into memory.
#![expect(unsafe_code, reason = "memory shared with the programs")]

use std::{
    os::fd::AsFd,
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::KernelError;

/// A `BPF_F_MMAPABLE` array of `T`.
pub(super) struct SharedArray<T> {
    elements: NonNull<T>,
    count: u32,
}

// SAFETY: the memory belongs to this value alone, whichever thread has it.
unsafe impl<T: Send> Send for SharedArray<T> {}

impl<T: Copy> SharedArray<T> {
    /// Maps the array `map` of `count` elements.
    pub(super) fn new(map: impl AsFd, count: u32) -> Result<Self, KernelError> {
        // SAFETY: a fresh mapping, which nothing else refers to.
        let memory = unsafe {
            mmap(
                ptr::null_mut(),
                Self::bytes(count),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )
        }
        .map_err(|error| KernelError::of("mmap(BPF array)", error.into()))?;
        let elements = NonNull::new(memory.cast()).expect("mmap gives no null pointer");
        Ok(Self { elements, count })
    }

    const fn bytes(count: u32) -> usize {
        count as usize * size_of::<T>()
    }

    /// Reads one element.
    ///
    /// # Panics
    ///
    /// If there is no such element.
    pub(super) fn get(&self, index: u32) -> T {
        assert!(index < self.count, "element {index} of {}", self.count);
        // SAFETY: it lies within, and we alone write it.
        unsafe { self.elements.as_ptr().add(index as usize).read_volatile() }
    }

    /// One element, if there is such a one.
    pub(super) fn element(&self, index: u32) -> Option<&T> {
        // SAFETY: it lies within; the programs only read it, and we write through `&mut self`.
        (index < self.count).then(|| unsafe { &*self.elements.as_ptr().add(index as usize) })
    }

    /// Writes one element.
    ///
    /// # Panics
    ///
    /// If there is no such element.
    pub(super) fn set(&mut self, index: u32, value: T) {
        assert!(index < self.count, "element {index} of {}", self.count);
        // SAFETY: it lies within; the programs may see a part of it, which does not hurt them.
        unsafe { self.elements.as_ptr().add(index as usize).write_volatile(value) };
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        let bytes = self.count as usize * size_of::<T>();
        // SAFETY: the mapping was made in `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.elements.as_ptr().cast(), bytes) };
    }
}
