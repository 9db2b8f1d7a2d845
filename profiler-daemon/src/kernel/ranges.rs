//! What the kernel side knows of processes' executable mappings: written here.
#![expect(unsafe_code, reason = "the array is memory shared with the programs")]

use std::{
    collections::{HashMap, VecDeque},
    ptr::{self, NonNull},
    time::{Duration, Instant},
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use profiler_ebpf::{
    config,
    mappings::{Process, Range},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::KernelError;

/// A freed run rests before it is given out again: a program may still be searching in it.
const REST: Duration = Duration::from_secs(1);

/// Runs have 8, 16, 32 … elements, so that a process's next run often fits where another's was.
const SMALLEST_RUN: u32 = 8;

/// Publishes the mappings of processes.
pub(super) struct RangeMap {
    elements: NonNull<Range>,
    free: HashMap<u32, Vec<u32>>,
    resting: VecDeque<(Instant, u32, u32)>,
    /// Elements from here on were never given out.
    unused: u32,
    published: HashMap<u32, (Process, u32)>,
}

// SAFETY: the memory belongs to this value alone, whichever thread has it.
unsafe impl Send for RangeMap {}

const BYTES: usize = config::RANGES as usize * size_of::<Range>();

impl RangeMap {
    pub(super) fn new(map: &MapData) -> Result<Self, KernelError> {
        // SAFETY: a fresh mapping of a `BPF_F_MMAPABLE` array, which nothing else refers to.
        let memory = unsafe {
            mmap(
                ptr::null_mut(),
                BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd(),
                0,
            )
        }
        .map_err(|error| KernelError::of("mmap(BPF array)", error.into()))?;
        Ok(Self {
            elements: NonNull::new(memory.cast()).expect("mmap gives no null pointer"),
            free: HashMap::new(),
            resting: VecDeque::new(),
            unused: 0,
            published: HashMap::new(),
        })
    }

    /// A run of at least `count` elements: its first, and its size.
    fn allocate(&mut self, count: u32) -> Option<(u32, u32)> {
        while let Some(&(since, first, size)) = self.resting.front()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
            self.free.entry(size).or_default().push(first);
        }
        let size = count.max(SMALLEST_RUN).checked_next_power_of_two()?;
        if let Some(first) = self.free.get_mut(&size).and_then(Vec::pop) {
            return Some((first, size));
        }
        let first = self.unused;
        let end = first.checked_add(size).filter(|&end| end <= config::RANGES)?;
        self.unused = end;
        Some((first, size))
    }

    /// Tells the programs that the process (`pid`, `start_ns`) has these mappings, sorted by start;
    /// with none, or if there is no room, that nothing is known of it.
    pub(super) fn publish(
        &mut self,
        processes: &mut BpfHashMap<MapData, u32, Process>,
        pid: u32,
        start_ns: u64,
        ranges: impl ExactSizeIterator<Item = Range>,
    ) {
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        let run = if count == 0 { None } else { self.allocate(count) };
        let Some((first, size)) = run else {
            self.forget(processes, pid);
            return;
        };
        for (index, range) in ranges.take(count as usize).enumerate() {
            // SAFETY: the run lies within the array, and no published process refers to it.
            unsafe { self.elements.as_ptr().add(first as usize + index).write_volatile(range) };
        }
        let process = Process { start_ns, first, count };
        if processes.insert(pid, process, 0).is_err() {
            self.free.entry(size).or_default().push(first);
            self.forget(processes, pid);
            return;
        }
        if let Some((old, size)) = self.published.insert(pid, (process, size)) {
            self.resting.push_back((Instant::now(), old.first, size));
        }
    }

    /// Tells the programs that nothing is known of the process any more.
    pub(super) fn forget(&mut self, processes: &mut BpfHashMap<MapData, u32, Process>, pid: u32) {
        if let Some((old, size)) = self.published.remove(&pid) {
            let _ = processes.remove(&pid);
            self.resting.push_back((Instant::now(), old.first, size));
        }
    }
}

impl Drop for RangeMap {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.elements.as_ptr().cast(), BYTES) };
    }
}
