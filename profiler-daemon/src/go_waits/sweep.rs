//! Goroutines are looked at again and again: what waits when it is looked at stands for the time since
//! it was looked before.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use super::Asked;
use crate::{
    go::{self, NoAnswer},
    go_leaks::avmas,
    profile,
    reader::protocol::{GO_WAITS, GoMemory, GoWhat, Goroutine},
    recorder::control::Orders,
};

/// How often it is looked, at most.
const EVERY: Duration = Duration::from_millis(20);

/// After a look there is a rest of so many times its length.
const REST: u32 = 4;

/// So many looks in a row may fail.
const MOST_FAILURES: u32 = 5;

/// What stacks may take in memory, in bytes.
const MOST_BYTES: usize = 8 << 20;

/// Measures where goroutines wait; or why there is nothing, in a sentence.
pub(super) async fn measured(
    orders: &Orders,
    asked: Asked,
) -> Result<Result<GoMemory, String>, NoAnswer> {
    let Asked { pid, duration, viewer, .. } = asked;
    let end = Instant::now() + duration;
    let mut sweep = Sweep::default();
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let read = go::read(orders, viewer, pid, GoWhat::BareGoroutines).await?;
        let read = read.and_then(|memory| match memory.refusal.is_empty() {
            true => Ok(memory),
            false => Err(memory.refusal),
        });
        match read {
            Ok(memory) => {
                failures = 0;
                sweep.look(&memory, begun);
            }
            // Its list may just have been moved; or it has ended.
            Err(_) if sweep.looks > 0 && failures < MOST_FAILURES => failures += 1,
            Err(_) if sweep.looks > 0 => return Ok(Ok(sweep.end())),
            Err(why) => return Ok(Err(why)),
        }
        if begun >= end {
            return Ok(Ok(sweep.end()));
        }
        let rest = EVERY.max(begun.elapsed() * REST);
        tokio::time::sleep(rest.min(end.saturating_duration_since(Instant::now()))).await;
    }
}

/// What was seen so far.
#[derive(Default)]
struct Sweep {
    version: String,
    looks: u32,
    first: Option<Instant>,
    last: Option<Instant>,
    /// By goroutine: the wait that it was in when it was last looked at.
    open: HashMap<u64, Open>,
    /// Waits that are over, by stack: how many, and how long.
    over: HashMap<Box<[u64]>, (i64, Duration)>,
    /// What stacks take in memory, about.
    bytes: usize,
    /// Waits that there was no room for.
    left_out: u64,
}

/// What one of [`Sweep::over`] takes beside its stack, in bytes.
const ENTRY_BYTES: usize = size_of::<(Box<[u64]>, (i64, Duration))>();

/// A wait that goes on.
struct Open {
    stack: Box<[u64]>,
    /// How often the goroutine had stopped to run: it tells one wait from the next.
    stops: u32,
    length: Duration,
}

impl Sweep {
    fn look(&mut self, memory: &GoMemory, now: Instant) {
        self.version.clone_from(&memory.version);
        self.looks += 1;
        self.first.get_or_insert(now);
        let passed = self.last.map_or(Duration::ZERO, |last| now - last);
        self.last = Some(now);
        let mut before = std::mem::take(&mut self.open);
        for goroutine in memory.goroutines.iter().filter(|it| waits(memory, it)) {
            let known = before.remove(&goroutine.goid);
            let open = match known {
                Some(open) if open.stops == goroutine.stops => {
                    Open { length: open.length + passed, ..open }
                }
                other => {
                    if let Some(open) = other {
                        self.close(open);
                    }
                    let stack = avmas(memory, goroutine.stack);
                    if self.bytes >= MOST_BYTES && !self.over.contains_key(&*stack) {
                        self.left_out += 1;
                        continue;
                    }
                    self.bytes += size_of_val(&*stack);
                    let stack = stack.into();
                    Open { stack, stops: goroutine.stops, length: passed }
                }
            };
            self.open.insert(goroutine.goid, open);
        }
        for open in before.into_values() {
            self.close(open);
        }
    }

    /// What is over; what still waits is not known yet, as in Go's own profile.
    fn end(self) -> GoMemory {
        let length = self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first);
        let every = length / self.looks.saturating_sub(1).max(1);
        let source = format!("goroutines, looked at every {} ms", every.as_millis());
        let over = self.over.iter().map(|(stack, (count, length))| {
            (&**stack, *count, i64::try_from(length.as_nanos()).unwrap_or(i64::MAX))
        });
        GoMemory { left_out: self.left_out, ..profile::go::measured(&self.version, source, over) }
    }

    /// A wait is over.
    fn close(&mut self, open: Open) {
        self.bytes = self.bytes.saturating_sub(size_of_val(&*open.stack));
        let (count, length) = match self.over.entry(open.stack) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.bytes += size_of_val(&**new.key()) + ENTRY_BYTES;
                new.insert((0, Duration::ZERO))
            }
        };
        *count += 1;
        *length += open.length;
    }
}

/// Whether a goroutine waits for something that Go's block profile has.
fn waits(memory: &GoMemory, goroutine: &Goroutine) -> bool {
    let state = memory.states.get(goroutine.state as usize);
    !goroutine.is_moving && state.is_some_and(|state| GO_WAITS.contains(&&**state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::protocol::GoStack;

    /// Goroutines by number, stack and how often they stopped to run; the second of two states waits.
    fn memory(goroutines: &[(u64, u32, u32)]) -> GoMemory {
        let goroutines = goroutines.iter().map(|&(goid, stack, stops)| Goroutine {
            goid,
            stack,
            stops,
            state: u32::from(stack < 2),
            ..Goroutine::default()
        });
        GoMemory {
            version: "go1.26.8".into(),
            places: vec![10, 20],
            stacks: [[0], [1], [1]].map(|it| GoStack { places: it.into() }).into(),
            states: vec!["running".into(), "chan receive".into()],
            goroutines: goroutines.collect(),
            ..GoMemory::default()
        }
    }

    #[test]
    fn what_waits_stands_for_the_time_since_the_last_look() {
        let mut sweep = Sweep::default();
        let begin = Instant::now();
        let looks = [
            &[(1, 0, 5), (2, 1, 7), (3, 2, 1)][..],
            &[(1, 0, 5), (2, 1, 8)],
            &[(1, 0, 5), (2, 2, 9)],
            &[(1, 0, 6)],
        ];
        for (number, goroutines) in looks.into_iter().enumerate() {
            sweep.look(&memory(goroutines), begin + Duration::from_millis(10 * number as u64));
        }
        let found = sweep.end();
        assert_eq!(found.source, "goroutines, looked at every 10 ms");
        let mut told: Vec<_> = found
            .buckets
            .iter()
            .map(|it| {
                let place = found.stacks[it.stack as usize].places[0];
                (found.places[place as usize], it.count, it.cycles / 1_000_000)
            })
            .collect();
        told.sort_unstable();
        // The first waited through three looks; the second twice, of which one was seen to begin; what
        // the first has begun last is not over.
        assert_eq!(told, [(10, 1, 20), (20, 2, 10)]);
    }
}
