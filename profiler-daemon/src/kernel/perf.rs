//! The kinds of perf events: the clock that samples, the dummy that carries side-band records, and
//! probes in programs.
#![expect(unsafe_code, reason = "perf_event_open and its ioctls have no safe wrapper")]

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use perf_event_open_sys::{
    bindings::{
        PERF_COUNT_HW_CPU_CYCLES, PERF_COUNT_SW_CPU_CLOCK, PERF_COUNT_SW_DUMMY,
        PERF_FLAG_FD_CLOEXEC, PERF_FORMAT_LOST, PERF_SAMPLE_TID, PERF_SAMPLE_TIME,
        PERF_TYPE_HARDWARE, PERF_TYPE_SOFTWARE, perf_event_attr,
    },
    ioctls, perf_event_open,
};

use super::KernelError;

/// What makes a CPU take a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A timer of the kernel.
    CpuClock,
    /// The CPU's own cycle counter; it interrupts where even interrupts are masked.
    Cycles,
}

/// A perf event: on one CPU, whatever runs there, or of one process.
pub(super) struct PerfEvent(OwnedFd);

impl PerfEvent {
    /// The sampling event, not yet enabled: once in `period_ns` for the clock, about `hertz` times
    /// a second for cycles.
    pub(super) fn sampling(cpu: u32, event: Event, hertz: u64) -> Result<Self, KernelError> {
        let mut attr = perf_event_attr { ..Default::default() };
        match event {
            Event::CpuClock => {
                attr.type_ = PERF_TYPE_SOFTWARE;
                attr.config = u64::from(PERF_COUNT_SW_CPU_CLOCK);
                attr.sample_period = period_ns(hertz);
            }
            Event::Cycles => {
                attr.type_ = PERF_TYPE_HARDWARE;
                attr.config = u64::from(PERF_COUNT_HW_CPU_CYCLES);
                attr.set_freq(1);
                attr.sample_freq = hertz;
            }
        }
        attr.set_disabled(1);
        Self::open(attr, -1, cpu as i32)
    }

    /// The event that a process comes to an instruction, on whatever CPU, not yet enabled: `offset` is
    /// the instruction's place in the file at `path`, `kind` the kernel's number of such events.
    pub(super) fn probe(
        pid: u32,
        kind: u32,
        path: &CStr,
        offset: u64,
    ) -> Result<Self, KernelError> {
        let mut attr = perf_event_attr { type_: kind, ..Default::default() };
        attr.uprobe_path = path.as_ptr() as u64;
        attr.probe_offset = offset;
        attr.set_disabled(1);
        Self::open(attr, pid as i32, -1)
    }

    /// The event that says of each mapping, exec, fork and exit, at the boot-time clock, and wakes
    /// us at each record.
    ///
    /// # Minimum kernel version
    ///
    /// 6.0 (`PERF_FORMAT_LOST`).
    pub(super) fn side_band(cpu: u32) -> Result<Self, KernelError> {
        let mut attr = perf_event_attr {
            type_: PERF_TYPE_SOFTWARE,
            config: u64::from(PERF_COUNT_SW_DUMMY),
            sample_type: u64::from(PERF_SAMPLE_TID | PERF_SAMPLE_TIME),
            clockid: libc::CLOCK_BOOTTIME,
            read_format: u64::from(PERF_FORMAT_LOST),
            ..Default::default()
        };
        attr.set_mmap(1);
        attr.set_mmap2(1);
        attr.set_build_id(1);
        attr.set_comm(1);
        attr.set_comm_exec(1);
        attr.set_task(1);
        attr.set_sample_id_all(1);
        attr.set_use_clockid(1);
        attr.set_watermark(1);
        attr.wakeup_watermark = 1;
        Self::open(attr, -1, cpu as i32)
    }

    /// `pid`, `cpu`: -1 is all.
    fn open(mut attr: perf_event_attr, pid: i32, cpu: i32) -> Result<Self, KernelError> {
        attr.size = size_of::<perf_event_attr>() as u32;
        // SAFETY: `attr` is initialized and lives through the call, as does what it points to.
        let fd = unsafe {
            perf_event_open(&raw mut attr, pid, cpu, -1, u64::from(PERF_FLAG_FD_CLOEXEC))
        };
        if fd < 0 {
            return Err(KernelError::last("perf_event_open"));
        }
        // SAFETY: the call has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Lets `program` run at each sample.
    pub(super) fn attach(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        // SAFETY: both descriptors are open.
        let result = unsafe { ioctls::SET_BPF(self.0.as_raw_fd(), program.as_raw_fd() as u32) };
        if result < 0 { Err(KernelError::last("ioctl(PERF_EVENT_IOC_SET_BPF)")) } else { Ok(()) }
    }

    /// Starts counting and sampling.
    pub(super) fn enable(&self) -> Result<(), KernelError> {
        // SAFETY: the descriptor is open.
        let result = unsafe { ioctls::ENABLE(self.0.as_raw_fd(), 0) };
        if result < 0 { Err(KernelError::last("ioctl(PERF_EVENT_IOC_ENABLE)")) } else { Ok(()) }
    }

    /// Samples at another rate from now on, whether it is enabled or not.
    pub(super) fn set_rate(&self, event: Event, hertz: u64) -> Result<(), KernelError> {
        let mut value = match event {
            Event::CpuClock => period_ns(hertz),
            Event::Cycles => hertz,
        };
        // SAFETY: the descriptor is open; the call reads the value behind the pointer, which lives
        // through it. (The declaration of it calls the pointer a number.)
        let result = unsafe { ioctls::PERIOD(self.0.as_raw_fd(), &raw mut value as u64) };
        if result < 0 { Err(KernelError::last("ioctl(PERF_EVENT_IOC_PERIOD)")) } else { Ok(()) }
    }

    /// Stops counting and sampling.
    pub(super) fn disable(&self) -> Result<(), KernelError> {
        // SAFETY: the descriptor is open.
        let result = unsafe { ioctls::DISABLE(self.0.as_raw_fd(), 0) };
        if result < 0 { Err(KernelError::last("ioctl(PERF_EVENT_IOC_DISABLE)")) } else { Ok(()) }
    }

    /// What the sampling event has counted since it was enabled: nanoseconds for the clock.
    pub(super) fn count(&self) -> Result<u64, KernelError> {
        let [count] = self.read()?;
        Ok(count)
    }

    /// Records that found no room in the side-band event's ring.
    pub(super) fn lost(&self) -> Result<u64, KernelError> {
        let [_count, lost] = self.read()?;
        Ok(lost)
    }

    fn read<const N: usize>(&self) -> Result<[u64; N], KernelError> {
        let mut words = [[0; 8]; N];
        rustix::io::read(&self.0, words.as_flattened_mut())
            .map_err(|error| KernelError::of("read(perf event)", error.into()))?;
        Ok(words.map(u64::from_ne_bytes))
    }
}

impl AsFd for PerfEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether the machine has a cycle counter that can sample.
pub fn has_cycles() -> bool {
    PerfEvent::sampling(0, Event::Cycles, 99).is_ok()
}

/// Nanoseconds between two samples of one CPU at `hertz`.
pub fn period_ns(hertz: u64) -> u64 {
    1_000_000_000 / hertz.max(1)
}
