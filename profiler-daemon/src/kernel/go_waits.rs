//! Go programs whose goroutines are watched as they wait: two functions of their scheduler have
//! probes at their entries meanwhile.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
};

use profiler_ebpf::{
    config,
    go_waits::{GO_WAIT_BYTES, GoWait, Place, Program},
    record::Sample,
};

use super::{
    KernelError, Sampler,
    error::from_aya,
    object::Object,
    probe::{Entry, Probe, Target},
    sampler::{long, sample},
};

/// Where the functions of a Go program's scheduler are, in which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduler {
    /// `runtime.gopark`: its first byte's offset in the file.
    pub park: u64,
    /// `runtime.ready`: the same.
    pub ready: u64,
    /// The file: `st_dev` and `st_ino`.
    pub file: (u64, u64),
}

/// The most processes that are watched at a time, together with those whose probes have not come, or
/// gone, yet.
const MOST_WATCHED: usize = 16;

/// Probes in a program, or the attempt to have some; drop it to have them removed.
///
/// Both wait for locks that the program may hold for long, so that neither is done here, but in a
/// thread of its own.
#[derive(Debug)]
pub struct Probes {
    attached: mpsc::Receiver<Result<(), KernelError>>,
    /// Nothing is ever sent: that it is dropped is the signal.
    _end: mpsc::Sender<()>,
}

impl Probes {
    /// Whether they are there by now, once; `None`: not yet, or it was said.
    pub fn attached(&self) -> Option<Result<(), KernelError>> {
        self.attached.try_recv().ok()
    }
}

impl Sampler {
    /// Begins to watch a process. `wake` is written to when it is known whether that worked.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn watch_go(
        &mut self,
        pid: u32,
        program: &Program,
        scheduler: Scheduler,
        wake: Arc<OwnedFd>,
    ) -> Result<Probes, KernelError> {
        // One clone each is a thread's that has not ended.
        if Arc::strong_count(&self.go_watches) > MOST_WATCHED {
            return Err(KernelError::TooManyProbes(MOST_WATCHED));
        }
        let programs = [self.object.entry("park")?, self.object.entry("ready")?];
        let inserted = self.object.go_programs.insert(pid, program, 0);
        inserted.map_err(|error| from_aya(&error))?;
        let (told, attached) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let watches = Arc::clone(&self.go_watches);
        let watch = move || {
            let _watches = watches;
            let (probes, result) = match attach(pid, scheduler, &programs) {
                Ok(probes) => (Some(probes), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = told.send(result);
            let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
            let _ = ended.recv();
            drop(probes);
        };
        let thread = std::thread::Builder::new().name("probes".into()).spawn(watch);
        thread.map_err(|error| KernelError::of("clone", error))?;
        Ok(Probes { attached, _end: end })
    }

    /// How often goroutines of a process that is watched began to wait, and were to go on; and how many
    /// of these were lost.
    pub fn go_events(&self, pid: u32) -> (u64, u64) {
        let program = self.object.go_programs.get(&pid, 0);
        program.map_or((0, 0), |program| (program.events, program.lost))
    }

    /// Forgets a process that was watched, and what was known of its goroutines.
    pub fn forget_go(&mut self, pid: u32) {
        let Object { go_programs, go_parked, go_locks, .. } = &mut self.object;
        let _ = go_programs.remove(&pid);
        let of_it = |place: &Place| place.pid == pid;
        // Others change the maps meanwhile: a walk may come back to where it was.
        let (parked, locks) = (2 * config::GO_PARKED as usize, 2 * config::GO_LOCKS as usize);
        let parked: Vec<_> =
            go_parked.keys().take(parked).filter_map(Result::ok).filter(of_it).collect();
        for place in parked {
            let _ = go_parked.remove(&place);
        }
        let locks: Vec<_> =
            go_locks.keys().take(locks).filter_map(Result::ok).filter(of_it).collect();
        for place in locks {
            let _ = go_locks.remove(&place);
        }
    }
}

/// Puts the probes into the program that a process runs, if it is the one that is meant: first where
/// goroutines go on, so that no end of a wait is missed. What is returned is dropped in the other order.
fn attach(
    pid: u32,
    scheduler: Scheduler,
    [park, ready]: &[Entry; 2],
) -> Result<[Probe; 2], KernelError> {
    let program = Target::of_process(pid, scheduler.file)?;
    let [at_park, at_ready] =
        [program.entry_of_go(scheduler.park)?, program.entry_of_go(scheduler.ready)?];
    let ready = ready.attach(&program, at_ready)?;
    Ok([park.attach(&program, at_park)?, ready])
}

/// Decodes a goroutine's wait.
pub(super) fn decode(bytes: &[u8]) -> Option<GoWait> {
    const AT: usize = size_of::<Sample>();
    let bytes = bytes.get(..GO_WAIT_BYTES)?;
    Some(GoWait {
        sample: sample(bytes)?,
        delay_ns: long(bytes, AT)?,
        rate_ns: long(bytes, AT + 8)?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_goroutines_wait_is_read_field_by_field() {
        let bytes: Vec<u8> = (0..GO_WAIT_BYTES as u32 / 4).flat_map(u32::to_ne_bytes).collect();
        let wait = decode(&bytes).unwrap();
        let at = (size_of::<Sample>() / 4) as u32;
        assert_eq!((wait.delay_ns as u32, wait.rate_ns as u32), (at, at + 2));
        for length in 0..GO_WAIT_BYTES {
            assert!(decode(&bytes[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn another_file_gets_no_probes() {
        let programs = [0, 1].map(|_| Entry::of(File::open("/dev/null").unwrap().into(), None));
        let scheduler = Scheduler { park: 64, ready: 64, file: (1, 2) };
        assert!(attach(std::process::id(), scheduler, &programs).is_err());
    }
}
