//! The events of each CPU, which come and go with it.
//!
//! When a CPU goes offline the kernel takes its events off it for good
//! (`perf_event_exit_cpu_context` in `kernel/events/core.c`): a CPU that comes back needs new ones.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::{
    Event, KernelError, cpus,
    perf::{PerfEvent, period_ns},
    ring::Ring,
};

/// What one CPU has.
struct CpuEvents {
    cpu: u32,
    clock: PerfEvent,
    ring: Ring,
    /// What the clock had counted when it was last looked at.
    counted_ns: u64,
    /// How long the CPU had been idle at the start, and when it was last looked at.
    idle_ns: (u64, u64),
}

/// What all CPUs have.
pub(super) struct CpuSet {
    event: Event,
    watch: cpus::Watch,
    hertz: u64,
    enabled: bool,
    /// No CPU is sampled, for now.
    off: bool,
    each: Vec<CpuEvents>,
    /// What was counted by clocks that are gone, less the idle time of their CPUs.
    gone_ns: u64,
    /// Side-band records that found no room in rings that are gone.
    gone_lost: u64,
    /// Samples that were to be taken at rates before this one, and what CPUs had been busy then.
    before: (u64, u64),
    looks: u32,
}

/// At each so many looks the clocks are read, too, which interrupts their CPUs.
const CLOCKS_AT: u32 = 3;

impl CpuSet {
    /// The events of the CPUs that are online, not yet enabled; each sample runs `program`.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub(super) fn open(
        event: Event,
        hertz: u64,
        program: BorrowedFd<'_>,
    ) -> Result<Self, KernelError> {
        let mut set = Self {
            event,
            watch: cpus::Watch::open()?,
            hertz,
            enabled: false,
            off: false,
            each: Vec::new(),
            gone_ns: 0,
            gone_lost: 0,
            before: (0, 0),
            looks: 0,
        };
        for cpu in set.watch.online()? {
            set.add(cpu, program)?;
        }
        Ok(set)
    }

    fn add(&mut self, cpu: u32, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        let ring = Ring::new(PerfEvent::side_band(cpu)?)?;
        let clock =
            PerfEvent::sampling(cpu, self.event, self.hertz).map_err(|error| match error {
                KernelError::SystemCall { io_error, .. } if self.event == Event::Cycles => {
                    KernelError::NoCycles(io_error)
                }
                error => error,
            })?;
        clock.attach(program)?;
        if self.enabled {
            clock.enable()?;
        }
        let idle_ns = self.watch.idle()?.of(cpu);
        self.each.push(CpuEvents { cpu, clock, ring, counted_ns: 0, idle_ns: (idle_ns, idle_ns) });
        Ok(())
    }

    /// Number of CPUs that are sampled.
    pub(super) fn count(&self) -> usize {
        self.each.len()
    }

    /// Starts sampling.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub(super) fn enable(&mut self) -> Result<(), KernelError> {
        self.enabled = true;
        let idle = self.watch.idle()?;
        for events in &mut self.each {
            let idle_ns = idle.of(events.cpu);
            events.idle_ns = (idle_ns, idle_ns);
            events.clock.enable()?;
        }
        Ok(())
    }

    /// Stops sampling.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub(super) fn disable(&mut self) -> Result<(), KernelError> {
        self.enabled = false;
        self.each.iter().try_for_each(|events| events.clock.disable())
    }

    /// From the next [`Self::follow`] on, no CPU is sampled and all events are closed; or CPUs are
    /// sampled again.
    pub(super) fn set_off(&mut self, off: bool) {
        self.off = off;
    }

    /// The rings with side-band records.
    pub(super) fn rings(&mut self) -> impl Iterator<Item = &mut Ring> {
        self.each.iter_mut().map(|events| &mut events.ring)
    }

    /// Become readable at each side-band record.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.each.iter().map(|events| events.ring.event().as_fd())
    }

    /// How many samples the clocks should have taken, less those of idle CPUs, whose timers need not
    /// fire. Cycles cannot be told from what they do not count: 0.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub(super) fn expected(&mut self) -> Result<u64, KernelError> {
        if self.event != Event::CpuClock {
            return Ok(0);
        }
        self.look_at_clocks()?;
        let (samples, until_ns) = self.before;
        Ok(samples + self.busy_ns().saturating_sub(until_ns) / period_ns(self.hertz))
    }

    /// How long CPUs were busy, as far as it was looked at.
    fn busy_ns(&self) -> u64 {
        self.gone_ns + self.each.iter().map(CpuEvents::busy_ns).sum::<u64>()
    }

    /// Samples at another rate from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError`]; CPUs may then differ.
    pub(super) fn set_rate(&mut self, hertz: u64) -> Result<(), KernelError> {
        let samples = self.expected()?;
        self.before = (samples, self.busy_ns());
        self.hertz = hertz;
        self.each.iter().try_for_each(|events| events.clock.set_rate(self.event, hertz))
    }

    /// Side-band records that found no room, whether a later record said so or not.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub(super) fn side_band_lost(&self) -> Result<u64, KernelError> {
        self.each
            .iter()
            .try_fold(self.gone_lost, |sum, events| Ok(sum + events.ring.event().lost()?))
    }

    fn look_at_clocks(&mut self) -> Result<(), KernelError> {
        let idle = self.watch.idle()?;
        for events in &mut self.each {
            events.counted_ns = events.clock.count()?;
            events.idle_ns.1 = events.idle_ns.1.max(idle.of(events.cpu));
        }
        Ok(())
    }

    /// CPUs whose clocks have stood still since they were last looked at: they went, and came back
    /// between two looks.
    fn standing(&mut self) -> Result<Vec<u32>, KernelError> {
        let before: Vec<u64> = self.each.iter().map(|events| events.counted_ns).collect();
        self.look_at_clocks()?;
        let runs = self.enabled && self.event == Event::CpuClock;
        let stands = |(events, before): &(&CpuEvents, u64)| {
            runs && *before > 0 && events.counted_ns == *before
        };
        Ok(self.each.iter().zip(before).filter(stands).map(|(events, _)| events.cpu).collect())
    }

    /// Looks for CPUs that went offline or came online; those that came back are sampled from here
    /// on. Returns the numbers of both.
    ///
    /// # Errors
    ///
    /// [`KernelError`] where the list of CPUs cannot be read, or a CPU's events cannot be opened for
    /// another reason than that it is offline again.
    pub(super) fn follow(&mut self, program: BorrowedFd<'_>) -> Result<Moves, KernelError> {
        let online = if self.off { Vec::new() } else { self.watch.online()? };
        let mut gone: Vec<u32> =
            self.each.iter().map(|it| it.cpu).filter(|cpu| !online.contains(cpu)).collect();
        self.looks += 1;
        if self.looks.is_multiple_of(CLOCKS_AT) || !gone.is_empty() {
            gone.extend(self.standing()?);
        }
        let Self { each, gone_ns, gone_lost, .. } = self;
        each.retain(|events| {
            let stays = !gone.contains(&events.cpu);
            if !stays {
                *gone_ns += events.busy_ns();
                *gone_lost += events.ring.event().lost().unwrap_or_default();
            }
            stays
        });
        let mut came = Vec::new();
        for cpu in online {
            if self.each.iter().any(|events| events.cpu == cpu) {
                continue;
            }
            match self.add(cpu, program) {
                Ok(()) => came.push(cpu),
                Err(KernelError::SystemCall { io_error, .. }) if is_offline(&io_error) => {}
                // The next look may find room for them.
                Err(error) if error.is_want_of_descriptors() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Moves { gone, came })
    }
}

/// CPUs that are not sampled any more, and such that are from now on.
#[derive(Debug, Default)]
pub struct Moves {
    /// Went offline.
    pub gone: Vec<u32>,
    /// Came online.
    pub came: Vec<u32>,
}

impl CpuEvents {
    fn busy_ns(&self) -> u64 {
        self.counted_ns.saturating_sub(self.idle_ns.1 - self.idle_ns.0)
    }
}

/// `perf_event_open` of an event on a CPU that is offline returns `ENODEV`.
fn is_offline(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
