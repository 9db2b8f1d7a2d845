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
    go_leaks::{self, Group, Groups, Suspect, avmas, without_unused},
    profile::Process,
    reader::protocol::{GoMemory, GoStats, GoWhat, Goroutine},
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

/// A goroutine that has waited for so long may wait for ever.
const LONG_WAIT: Duration = Duration::from_secs(300);

/// What is said of [`GoWatch::suspected`].
pub(super) const HEURISTIC: &str = "heuristic=goroutines that have waited for 5 minutes for a channel \
     or a lock, or are of a group that only grows; the runtime was not asked";

/// Whether others alone can end such a wait.
fn may_be_for_ever(state: &str) -> bool {
    ["chan ", "select", "semacquire", "sync."].iter().any(|it| state.starts_with(it))
}

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
    groups: Groups,
    suspects: Vec<Suspect>,
    stats: Option<GoStats>,
}

/// A Go program, as far as its goroutines were counted.
#[derive(Clone, Debug)]
pub(super) struct GoProgram {
    pub(super) process: Arc<Process>,
    pub(super) goroutines: usize,
    pub(super) suspects: Vec<Suspect>,
    /// What its runtime has of memory, and its collector has counted, if that is known.
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
        let grows = |stack: &[u64]| groups.is_some_and(|groups| groups.grows(stack, now));
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
            groups: Groups::default(),
            suspects: Vec::new(),
            stats: None,
        });
        it.next = now + if memory.is_some() { EVERY } else { OTHERS_EVERY };
        it.goroutines = memory.map(|memory| memory.goroutines.len());
        it.groups.looked(memory, now)
    }

    fn counted(&mut self, process: &Process, stats: Option<GoStats>) {
        if let Some(it) = self.programs.get_mut(&key(process)) {
            it.stats = stats;
        }
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
    let read = async |what| match go::read(&app.orders, None, process.pid, what).await {
        Ok(Ok(memory)) if memory.refusal.is_empty() => Some(memory),
        _ => None,
    };
    let memory = read(GoWhat::BareGoroutines).await;
    let suspects = app.with_go(|watch| watch.looked(process, memory.as_ref(), Instant::now()));
    if memory.is_some() {
        let stats = read(GoWhat::Counts).await.and_then(|counts| counts.stats);
        app.with_go(|watch| watch.counted(process, stats));
    }
    let named = match memory {
        Some(memory) if !suspects.is_empty() => {
            go_leaks::named(&app.orders, process, memory, &suspects).await
        }
        _ => Vec::new(),
    };
    app.with_go(|watch| watch.named(process, named));
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
    use crate::{
        go_leaks::{GROWS, fake::memory},
        profile::{Profile, sample::program},
    };

    fn process() -> Arc<Process> {
        let profile: Profile = program(7, "app", 0x1000);
        Arc::clone(&profile.processes[0])
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
