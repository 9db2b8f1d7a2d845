//! The stacks of goroutines that run: of those that hold still the program's memory has them; those
//! that run are in the next samples of the CPUs that they are on.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use profiler_ebpf::{record::RunningGoroutine, unwind::Outcome};

use super::{RecordError, Recorder, SEEK, go::GoRequest};
use crate::{
    process::{LifeId, Table},
    profile::raw_stacks::RawStacks,
    reader::protocol::{GO_RUNNING, GoMemory, GoStacks},
};

/// So many periods of the clock are waited for: whatever runs on meanwhile is met.
const PERIODS: u32 = 3;

/// And so long at most.
const PATIENCE: Duration = Duration::from_millis(300);

/// The most frames of a stack: as many as Go's own profiles have.
const MOST_FRAMES: usize = 128;

/// Those who wait for them.
#[derive(Default)]
pub(super) struct Running {
    sought: Vec<Sought>,
}

struct Sought {
    life: LifeId,
    request: GoRequest,
    until: Instant,
    stacks: Stacks,
}

/// What was read, and what completes it.
struct Stacks {
    memory: GoMemory,
    /// Goroutines without a stack, by their numbers: where among all they are.
    missing: HashMap<u64, usize>,
    /// What stacks end in.
    roots: HashSet<u64>,
    /// Where among all goroutines there are that have one by now, and the stack: avmas, leaf first.
    found: Vec<(usize, Vec<u64>)>,
}

impl Stacks {
    fn of(memory: GoMemory) -> Self {
        let state = memory.states.iter().position(|state| state == GO_RUNNING);
        let all = memory.goroutines.iter().enumerate();
        let missing: HashMap<u64, usize> = all
            .filter(|(_, it)| it.is_moving && Some(it.state as usize) == state)
            .map(|(index, it)| (it.goid, index))
            .collect();
        if missing.is_empty() {
            return Self { memory, missing, roots: HashSet::new(), found: Vec::new() };
        }
        let still = memory.goroutines.iter().filter(|it| !it.is_moving);
        let still = still.filter_map(|it| memory.stacks.get(it.stack as usize)?.places.last());
        let roots = still.filter_map(|&place| memory.places.get(place as usize).copied()).collect();
        Self { memory, missing, roots, found: Vec::new() }
    }

    /// Takes the stack of a goroutine that has none: `frames` as a sample has them.
    fn take(&mut self, goid: u64, frames: &[u64]) {
        // One that ends elsewhere is the scheduler's, and of no goroutine.
        let is_root = |root: &u64| self.roots.is_empty() || self.roots.contains(root);
        if !frames.last().is_some_and(is_root) {
            return;
        }
        let Some(index) = self.missing.remove(&goid) else { return };
        // As if the leaf had called somebody, as all the others have.
        let leaf = frames.first().map(|pc| pc.wrapping_add(1));
        let avmas = leaf.into_iter().chain(frames.iter().skip(1).copied()).take(MOST_FRAMES);
        self.found.push((index, avmas.collect()));
    }

    /// What was read, with the stacks that were taken.
    fn give(self) -> GoMemory {
        let Self { mut memory, found, .. } = self;
        if found.is_empty() {
            return memory;
        }
        let mut stacks = GoStacks::take(&mut memory);
        for (index, avmas) in found {
            if let Some(goroutine) = memory.goroutines.get_mut(index) {
                let stack = stacks.add(avmas.into_iter());
                (goroutine.stack, goroutine.is_moving) = (stack, false);
            }
        }
        stacks.give(&mut memory);
        memory
    }
}

impl Running {
    pub(super) fn is_sought(&self) -> bool {
        !self.sought.is_empty()
    }

    /// Takes what the kernel side tells of a sample.
    pub(super) fn take(&mut self, told: &RunningGoroutine, raw: &mut RawStacks, table: &Table) {
        if told.outcome != Outcome::Complete as u32 {
            return;
        }
        for sought in &mut self.sought {
            let is_of_it =
                || table.life(sought.life).is_some_and(|it| it.started_at(told.start_ns));
            if sought.request.pid == told.pid
                && sought.stacks.missing.contains_key(&told.goid)
                && is_of_it()
                && let Some(frames) = raw.get(told.epoch, told.user_stack, told.user_check)
            {
                sought.stacks.take(told.goid, frames);
            }
        }
    }
}

impl Recorder {
    /// Has somebody answered once the stacks of goroutines that run are there, if there are any.
    pub(super) fn seek_running(&mut self, life: LifeId, request: GoRequest, memory: GoMemory) {
        let wait = Duration::from_secs(1) * PERIODS / self.collections.rate().max(1) as u32;
        // Samples are taken from the ring no more often.
        let until = Instant::now() + wait.clamp(3 * SEEK, PATIENCE);
        self.go.running.sought.push(Sought { life, request, until, stacks: Stacks::of(memory) });
    }

    /// Answers those that have what they wait for, or do not wait any longer.
    pub(super) fn follow_running(&mut self) -> Result<(), RecordError> {
        let now = Instant::now();
        let is_over = |it: &mut Sought| it.stacks.missing.is_empty() || it.until <= now;
        let over: Vec<Sought> = self.go.running.sought.extract_if(.., is_over).collect();
        for Sought { life, request, stacks, .. } in over {
            self.answer_go(life, request, Ok(stacks.give()));
        }
        if self.sampler.tells_goroutines() != self.go.running.is_sought() {
            self.sampler.tell_goroutines(self.go.running.is_sought())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::protocol::{GoStack, Goroutine};

    const EXIT: u64 = 0x9001;

    /// The second and the third run, and the fourth has not held still.
    fn memory() -> GoMemory {
        let goroutine = |goid, stack, state, is_moving| Goroutine {
            goid,
            stack,
            state,
            is_moving,
            ..Goroutine::default()
        };
        GoMemory {
            places: vec![0x1005, EXIT, 0x2000],
            entries: vec![0x1000, 0x9000, 0x2000],
            stacks: vec![GoStack { places: vec![0, 1] }, GoStack { places: vec![2] }],
            states: vec!["select".into(), GO_RUNNING.into()],
            goroutines: vec![
                goroutine(1, 0, 0, false),
                goroutine(2, 1, 1, true),
                goroutine(3, 1, 1, true),
                goroutine(4, 1, 0, true),
            ],
            ..GoMemory::default()
        }
    }

    fn avmas(memory: &GoMemory, index: usize) -> Vec<u64> {
        let stack = &memory.stacks[memory.goroutines[index].stack as usize];
        stack.places.iter().map(|&place| memory.places[place as usize]).collect()
    }

    #[test]
    fn stacks_of_samples_are_those_of_goroutines_that_run() {
        let mut stacks = Stacks::of(memory());
        stacks.take(2, &[0x3000, 0x2044, EXIT]);
        stacks.take(3, &[0x3000, 0x2044, EXIT]);
        stacks.take(3, &[0x4000, EXIT]);
        stacks.take(4, &[0x3000, EXIT]);
        stacks.take(1, &[0x3000, EXIT]);
        assert!(stacks.missing.is_empty());
        let found = stacks.give();
        assert_eq!(avmas(&found, 1), [0x3001, 0x2044, EXIT]);
        assert_eq!(found.goroutines[1].stack, found.goroutines[2].stack, "a stack is there once");
        assert_eq!((avmas(&found, 0), avmas(&found, 3)), (vec![0x1005, EXIT], vec![0x2000]));
        let moving: Vec<bool> = found.goroutines.iter().map(|it| it.is_moving).collect();
        assert_eq!(moving, [false, false, false, true]);
    }

    #[test]
    fn the_schedulers_stack_is_nobodys() {
        let mut stacks = Stacks::of(memory());
        stacks.take(2, &[0x3000, 0x8000]);
        stacks.take(2, &[]);
        assert!(stacks.found.is_empty());
        stacks.take(2, &[EXIT]);
        assert_eq!(stacks.missing.keys().collect::<Vec<_>>(), [&3]);
    }

    #[test]
    fn where_none_runs_nothing_is_sought() {
        let mut still = memory();
        still.goroutines.retain(|it| it.state == 0);
        assert!(Stacks::of(still).missing.is_empty());
    }
}
