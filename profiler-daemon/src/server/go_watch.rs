//! Goroutines of all Go programs, counted by stack again and again: a group that only grows is a
//! suspected leak.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{App, endpoints::list, peer::Peer};
use crate::{
    go,
    profile::{
        Process,
        go::frames::{Frames, is_of_runtime},
    },
    reader::protocol::{GoMemory, GoStack, GoStats, GoWhat, Goroutine},
};

/// How often a program is looked at, at most.
const EVERY: Duration = Duration::from_secs(15);

/// So long it is gone on with those that were due, before it is seen which are due now.
const BATCH: Duration = Duration::from_secs(5);

/// What does not keep its goroutines for us to read is asked again after this long: it may have
/// called `exec`.
const OTHERS_EVERY: Duration = Duration::from_secs(300);

/// After a look there is a rest of so many times its length: all looks together take no more than so
/// small a part of a CPU.
const REST: u32 = 200;

/// A group has grown in so many looks, and never become smaller.
const LEAST_INCREASES: u32 = 5;

/// And by so many goroutines.
const LEAST_GROWTH: u32 = 20;

/// One that has not grown for so long is no leak any more.
const GROWS: Duration = Duration::from_secs(300);

/// A goroutine that has waited for so long may wait for ever.
const LONG_WAIT: Duration = Duration::from_secs(300);

/// What is said of [`GoWatch::suspected`].
pub(super) const HEURISTIC: &str = "heuristic=goroutines that have waited for 5 minutes for a channel \
     or a lock, or are of a group that only grows; the runtime was not asked";

/// Whether others alone can end such a wait.
fn may_be_for_ever(state: &str) -> bool {
    ["chan ", "select", "semacquire", "sync."].iter().any(|it| state.starts_with(it))
}

/// The most groups of a program that are watched, the largest.
const MOST_GROUPS: usize = 2_000;

/// The most groups of a program that are told, those that have grown most.
const MOST_SUSPECTS: usize = 10;

/// What is known of the goroutines of all programs.
#[derive(Debug, Default)]
pub(super) struct GoWatch {
    /// By pid and start.
    programs: HashMap<(u32, u64), Watched>,
}

/// A program whose goroutines are counted.
#[derive(Debug)]
struct Watched {
    /// When it is to be looked at again.
    next: Instant,
    goroutines: Option<usize>,
    groups: HashMap<Vec<u64>, Group>,
    suspects: Vec<Suspect>,
    stats: Option<GoStats>,
}

/// Goroutines of one stack.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Group {
    count: u32,
    /// How many they were when they were fewest since they last became fewer, and when that was.
    base: u32,
    since: Instant,
    /// In how many looks there were more, since then.
    increases: u32,
    grown: Instant,
}

impl Group {
    const fn new(count: u32, now: Instant) -> Self {
        Self { count, base: count, since: now, increases: 0, grown: now }
    }

    fn counted(&mut self, count: u32, now: Instant) {
        if count < self.count {
            *self = Self::new(count, now);
        } else if count > self.count {
            (self.count, self.grown) = (count, now);
            self.increases += 1;
        }
    }

    fn is_suspect(&self, now: Instant) -> bool {
        self.increases >= LEAST_INCREASES
            && self.growth() >= LEAST_GROWTH
            && now.duration_since(self.grown) < GROWS
    }

    const fn growth(&self) -> u32 {
        self.count - self.base
    }
}

/// A group of goroutines that only grows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Suspect {
    pub(super) count: u32,
    /// How many came in a minute.
    pub(super) per_minute: f64,
    /// What they wait for.
    pub(super) state: String,
    /// Functions, leaf first.
    pub(super) stack: Vec<String>,
}

impl Suspect {
    /// The first function that is not the runtime's.
    pub(super) fn function(&self) -> &str {
        let mut names = self.stack.iter();
        let own = names.find(|name| !is_of_runtime(name)).or(self.stack.first());
        own.map_or("?", String::as_str)
    }
}

/// A Go program, as far as its goroutines were counted.
#[derive(Clone, Debug)]
pub(super) struct GoProgram {
    pub(super) process: Arc<Process>,
    pub(super) goroutines: usize,
    pub(super) suspects: Vec<Suspect>,
    /// What its collector has counted, if that is known.
    pub(super) stats: Option<GoStats>,
}

impl GoWatch {
    /// The Go programs among these processes, in their order.
    pub(super) fn programs(&self, processes: &[Arc<Process>]) -> Vec<GoProgram> {
        let program = |process: &Arc<Process>| {
            let known = self.programs.get(&key(process))?;
            Some(GoProgram {
                process: Arc::clone(process),
                goroutines: known.goroutines?,
                suspects: known.suspects.clone(),
                stats: known.stats.clone(),
            })
        };
        processes.iter().filter_map(program).collect()
    }

    /// Those goroutines of a process that may wait for ever: [`HEURISTIC`].
    pub(super) fn suspected(&self, process: &Process, mut memory: GoMemory) -> GoMemory {
        let now = Instant::now();
        let groups = self.programs.get(&key(process)).map(|it| &it.groups);
        let grows = |stack: &[u64]| {
            groups.and_then(|groups| groups.get(stack)).is_some_and(|it| it.is_suspect(now))
        };
        let waits = |it: &Goroutine| {
            let state = memory.states.get(it.state as usize).map_or("", String::as_str);
            it.wait_ns >= LONG_WAIT.as_nanos() as u64 && may_be_for_ever(state)
        };
        let is_suspect = |it: &Goroutine| waits(it) || grows(&avmas(&memory, it.stack));
        let suspects: Vec<_> = memory.goroutines.iter().copied().filter(is_suspect).collect();
        memory.goroutines = suspects;
        without_unused(memory)
    }

    /// Which of those that are there are to be looked at: first those that are known as Go programs, and
    /// of those the longest overdue. Forgets others.
    fn due(&mut self, there: &[Arc<Process>], now: Instant) -> Vec<Arc<Process>> {
        let keys: HashSet<_> = there.iter().map(|it| key(it)).collect();
        self.programs.retain(|key, _| keys.contains(key));
        let next = |it: &Process| self.programs.get(&key(it)).map_or(now, |it| it.next);
        let mut due: Vec<_> = there.iter().filter(|it| next(it) <= now).cloned().collect();
        let is_go = |it: &Process| {
            self.programs.get(&key(it)).is_some_and(|known| known.goroutines.is_some())
        };
        due.sort_by_key(|it| (!is_go(it), next(it)));
        due
    }

    /// Takes the goroutines of a program, or that there are none to be read. What is suspected of
    /// them, by stack.
    fn looked(
        &mut self,
        process: &Process,
        memory: Option<&GoMemory>,
        now: Instant,
    ) -> Vec<(Vec<u64>, Group)> {
        let it = self.programs.entry(key(process)).or_insert_with(|| Watched {
            next: now,
            goroutines: None,
            groups: HashMap::new(),
            suspects: Vec::new(),
            stats: None,
        });
        it.next = now + if memory.is_some() { EVERY } else { OTHERS_EVERY };
        it.goroutines = memory.map(|memory| memory.goroutines.len());
        it.stats = memory.and_then(|memory| memory.stats.clone());
        let counts = memory.map(counts).unwrap_or_default();
        it.groups.retain(|stack, _| counts.contains_key(stack));
        for (stack, count) in counts {
            let group = it.groups.entry(stack).or_insert_with(|| Group::new(count, now));
            group.counted(count, now);
        }
        let suspects = it.groups.iter().filter(|(_, group)| group.is_suspect(now));
        let mut suspects: Vec<_> = suspects.map(|(stack, group)| (stack.clone(), *group)).collect();
        suspects.sort_by_key(|(_, group)| std::cmp::Reverse(group.growth()));
        suspects.truncate(MOST_SUSPECTS);
        suspects
    }

    fn named(&mut self, process: &Process, suspects: Vec<Suspect>) {
        if let Some(it) = self.programs.get_mut(&key(process)) {
            it.suspects = suspects;
        }
    }
}

fn key(process: &Process) -> (u32, u64) {
    (process.pid, process.start_ns)
}

/// How many goroutines have each stack, of those that most have.
fn counts(memory: &GoMemory) -> HashMap<Vec<u64>, u32> {
    let mut by_stack: HashMap<u32, u32> = HashMap::new();
    for goroutine in memory.goroutines.iter().filter(|it| !it.is_moving) {
        *by_stack.entry(goroutine.stack).or_default() += 1;
    }
    let mut by_stack: Vec<_> = by_stack.into_iter().collect();
    by_stack.sort_unstable_by_key(|&(stack, count)| (std::cmp::Reverse(count), stack));
    by_stack.truncate(MOST_GROUPS);
    let mut counts = HashMap::new();
    for (stack, count) in by_stack {
        *counts.entry(avmas(memory, stack)).or_default() += count;
    }
    counts
}

fn avmas(memory: &GoMemory, stack: u32) -> Vec<u64> {
    let stack = memory.stacks.get(stack as usize);
    let places = stack.map_or(&[][..], |stack| &stack.places);
    places.iter().filter_map(|&place| memory.places.get(place as usize).copied()).collect()
}

/// The same without stacks and places that are of no goroutine: they need no names.
fn without_unused(mut memory: GoMemory) -> GoMemory {
    let stacks: HashSet<u32> = memory.goroutines.iter().map(|it| it.stack).collect();
    for (number, stack) in (0..).zip(&mut memory.stacks) {
        if !stacks.contains(&number) {
            stack.places.clear();
        }
    }
    let creators = memory.goroutines.iter().filter_map(|it| it.creator.checked_sub(1));
    let used = memory.stacks.iter().flat_map(|it| it.places.iter().copied());
    let used: HashSet<u32> = creators.chain(used).collect();
    // Places keep their numbers relative to each other.
    let mut numbers = HashMap::new();
    let (mut places, mut entries) = (Vec::new(), Vec::new());
    for (number, &avma) in (0_u32..).zip(&memory.places) {
        if used.contains(&number) {
            numbers.insert(number, places.len() as u32);
            places.push(avma);
            entries.push(memory.entries.get(number as usize).copied().unwrap_or_default());
        }
    }
    let number = |place: &u32| numbers.get(place).copied();
    for stack in &mut memory.stacks {
        *stack = GoStack { places: stack.places.iter().filter_map(number).collect() };
    }
    for Goroutine { creator, .. } in &mut memory.goroutines {
        *creator = creator.checked_sub(1).as_ref().and_then(number).map_or(0, |it| it + 1);
    }
    (memory.places, memory.entries) = (places, entries);
    memory
}

/// Looks at all Go programs, for ever.
pub(crate) async fn watch(app: App) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(there) = list(&app, Peer::authenticated()).await else { continue };
        let due = app.with_go(|watch| watch.due(&there, Instant::now()));
        let begun = Instant::now();
        for process in due {
            // Where there are many, Go programs are not to wait for all of them.
            if begun.elapsed() >= BATCH {
                break;
            }
            let begin = Instant::now();
            look(&app, &process).await;
            tokio::time::sleep(begin.elapsed() * REST).await;
        }
    }
}

async fn look(app: &App, process: &Process) {
    let read = go::read(&app.orders, None, process.pid, GoWhat::Goroutines).await;
    let memory = match read {
        Ok(Ok(memory)) if memory.refusal.is_empty() => Some(memory),
        _ => None,
    };
    let suspects = app.with_go(|watch| watch.looked(process, memory.as_ref(), Instant::now()));
    let named = match memory {
        Some(mut memory) if !suspects.is_empty() => {
            let stacks: HashSet<_> = suspects.iter().map(|(stack, _)| stack.clone()).collect();
            let wanted: HashSet<u32> = (0..memory.stacks.len() as u32)
                .filter(|&stack| stacks.contains(&avmas(&memory, stack)))
                .collect();
            memory.goroutines.retain(|it| wanted.contains(&it.stack));
            names(app, process, without_unused(memory), &suspects).await
        }
        _ => Vec::new(),
    };
    app.with_go(|watch| watch.named(process, named));
}

/// What is to be told of groups.
async fn names(
    app: &App,
    process: &Process,
    memory: GoMemory,
    suspects: &[(Vec<u64>, Group)],
) -> Vec<Suspect> {
    let named = go::named(&app.orders, None, process.pid, &memory).await;
    let Ok((named, _)) = named else { return Vec::new() };
    let numbers: HashMap<Vec<u64>, u32> =
        (0..memory.stacks.len() as u32).map(|it| (avmas(&memory, it), it)).collect();
    let frames = Frames::new(&memory, &named);
    let suspect = |(stack, group): &(Vec<u64>, Group)| {
        let number = *numbers.get(stack)?;
        let goroutine = memory.goroutines.iter().find(|it| it.stack == number)?;
        let state = memory.states.get(goroutine.state as usize);
        let stack = frames.of_goroutine(number);
        let lines = stack.iter().flat_map(|&location| frames.location(location).lines.iter());
        let names = lines.map(|line| frames.function(line.function).name.to_string());
        let minutes = group.grown.duration_since(group.since).as_secs_f64() / 60.0;
        Some(Suspect {
            count: group.count,
            per_minute: f64::from(group.growth()) / minutes,
            state: state.cloned().unwrap_or_default(),
            stack: names.collect(),
        })
    };
    suspects.iter().filter_map(suspect).collect()
}

impl App {
    /// What is known of Go programs.
    pub(super) fn with_go<T>(&self, look: impl FnOnce(&mut GoWatch) -> T) -> T {
        look(&mut self.go.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Profile, sample::program};

    fn process() -> Arc<Process> {
        let profile: Profile = program(7, "app", 0x1000);
        Arc::clone(&profile.processes[0])
    }

    /// Goroutines at stacks: so many of each.
    fn memory(counts: &[u32]) -> GoMemory {
        let numbers = 0..counts.len() as u32;
        let goroutines = numbers.clone().zip(counts).flat_map(|(stack, &count)| {
            std::iter::repeat_n(
                Goroutine { stack, creator: 1, ..Goroutine::default() },
                count as usize,
            )
        });
        GoMemory {
            places: numbers.clone().map(|it| 0x1000 + u64::from(it) * 0x10).collect(),
            entries: vec![0; counts.len()],
            stacks: numbers.map(|it| GoStack { places: vec![it] }).collect(),
            goroutines: goroutines.collect(),
            ..GoMemory::default()
        }
    }

    #[test]
    fn what_only_grows_is_suspected() {
        let (mut watch, process) = (GoWatch::default(), process());
        let begin = Instant::now();
        let mut suspects = Vec::new();
        for look in 0..6 {
            // One grows, one goes up and down, one stays.
            let counts = [10 + look * 5, 50 + look % 2 * 30, 99];
            let now = begin + EVERY * look;
            suspects = watch.looked(&process, Some(&memory(&counts)), now);
            assert_eq!(suspects.is_empty(), look < 5, "look {look}");
        }
        let [(stack, group)] = &suspects[..] else { panic!("{suspects:?}") };
        assert_eq!((stack.as_slice(), group.count, group.growth()), (&[0x1000][..], 35, 25));
        // It has stopped to.
        let now = begin + EVERY * 5 + GROWS;
        assert!(watch.looked(&process, Some(&memory(&[35, 50, 99])), now).is_empty());
        assert_eq!(watch.programs(&[process])[0].goroutines, 184);
    }

    #[test]
    fn what_is_no_go_program_is_asked_seldom() {
        let (mut watch, process) = (GoWatch::default(), process());
        let now = Instant::now();
        let there = [Arc::clone(&process)];
        assert_eq!(watch.due(&there, now).len(), 1);
        watch.looked(&process, None, now);
        assert!(watch.due(&there, now + EVERY).is_empty() && watch.programs(&there).is_empty());
        assert_eq!(watch.due(&there, now + OTHERS_EVERY).len(), 1);
        watch.due(&[], now);
        assert!(watch.programs.is_empty(), "it has ended");
    }

    #[test]
    fn a_part_of_the_goroutines_has_its_places_alone() {
        let mut part = memory(&[2, 3, 1]);
        part.goroutines.retain(|it| it.stack == 1);
        let part = without_unused(part);
        assert_eq!((&part.places[..], part.goroutines.len()), (&[0x1000, 0x1010][..], 3));
        let goroutine = part.goroutines[0];
        assert_eq!((avmas(&part, goroutine.stack), goroutine.creator), (vec![0x1010], 1));
    }

    #[test]
    fn long_waits_for_others_are_suspected() {
        let (mut watch, process) = (GoWatch::default(), process());
        let mut all = memory(&[1, 1, 1]);
        all.states = vec!["chan receive".into(), "sleep".into()];
        for goroutine in &mut all.goroutines {
            goroutine.wait_ns = LONG_WAIT.as_nanos() as u64 + 1;
        }
        (all.goroutines[1].state, all.goroutines[2].wait_ns) = (1, 5);
        let found = watch.suspected(&process, all);
        assert_eq!(found.goroutines.iter().map(|it| it.stack).collect::<Vec<_>>(), [0]);
        let now = Instant::now();
        for look in 0..6 {
            watch.looked(&process, Some(&memory(&[5 + look * 5])), now);
        }
        let found = watch.suspected(&process, memory(&[30]));
        assert_eq!(found.goroutines.len(), 30, "a group that grows");
    }
}
