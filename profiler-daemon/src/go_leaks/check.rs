//! Whether goroutines of a recording's processes leak, for who is to fail then.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::{Group, Groups, Suspect, named};
use crate::{
    files::printable,
    go,
    profile::Process,
    reader::protocol::GoWhat,
    recorder::{Order, control::Orders},
};

/// How often all are looked at, at most.
const EVERY: Duration = Duration::from_millis(200);

/// After a round there is a rest of so many times its length.
const REST: u32 = 10;

/// What is no Go program is asked again after this long: it may have called `exec`.
const OTHERS_EVERY: Duration = Duration::from_secs(2);

/// A group has grown for so long: what begins to work has all its goroutines before.
const GROWS_FOR: Duration = Duration::from_secs(2);

/// The most functions of a stack that are told.
const MOST_FUNCTIONS: usize = 8;

/// A process's name, and what was suspected of it when it was last looked at, by stack.
type Known = (Arc<str>, Vec<(Vec<u64>, Suspect)>);

/// By pid and start.
type Found = Arc<Mutex<BTreeMap<(u32, u64), Known>>>;

/// Looks again and again, until it is dropped.
pub(crate) struct Check {
    found: Found,
    task: JoinHandle<()>,
}

impl Check {
    pub(crate) fn start(orders: &Orders) -> Self {
        let found = Found::default();
        let looks = Looks {
            orders: orders.clone(),
            found: Arc::clone(&found),
            groups: HashMap::new(),
            others: HashMap::new(),
        };
        Self { found, task: tokio::spawn(looks.run()) }
    }

    /// What was found, as text; `None`: nothing.
    pub(crate) fn text(&self) -> Option<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for ((pid, _), (comm, suspects)) in found.iter() {
            for (_, suspect) in suspects {
                tell(&mut text, *pid, comm, suspect);
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tell(text: &mut String, pid: u32, comm: &str, suspect: &Suspect) {
    let state = if suspect.state.is_empty() { "running" } else { &suspect.state };
    let _ = writeln!(
        text,
        "suspected goroutine leak in {} ({pid}): {} goroutines in {}, {}; they only became more",
        printable::escape(comm),
        suspect.count,
        printable::escape(suspect.function()),
        printable::escape(state)
    );
    for function in suspect.stack.iter().take(MOST_FUNCTIONS) {
        let _ = writeln!(text, "  {}", printable::escape(function));
    }
}

struct Looks {
    orders: Orders,
    found: Found,
    groups: HashMap<(u32, u64), Groups>,
    /// When it was found that there are no goroutines.
    others: HashMap<(u32, u64), Instant>,
}

fn key(process: &Process) -> (u32, u64) {
    (process.pid, process.start_ns)
}

impl Looks {
    async fn run(mut self) {
        loop {
            let (reply, answer) = oneshot::channel();
            self.orders.give(Order::ListProfiled(reply));
            let there = answer.await.unwrap_or_default();
            let is_there = |of: &(u32, u64)| there.iter().any(|process| key(process) == *of);
            self.groups.retain(|of, _| is_there(of));
            self.others.retain(|of, _| is_there(of));
            let mut reading = Duration::ZERO;
            for process in there {
                reading += self.look(&process).await;
            }
            tokio::time::sleep(EVERY.max(reading * REST)).await;
        }
    }

    /// Looks at a process. Returns how long it was read: names, which come once, do not count.
    async fn look(&mut self, process: &Process) -> Duration {
        let begun = Instant::now();
        let key = key(process);
        if self.others.get(&key).is_some_and(|at| at.elapsed() < OTHERS_EVERY) {
            return Duration::ZERO;
        }
        let read = go::read(&self.orders, None, process.pid, GoWhat::BareGoroutines).await;
        let memory = match read {
            Ok(Ok(memory)) if memory.refusal.is_empty() => memory,
            Ok(Ok(memory)) if memory.is_other => {
                self.others.insert(key, Instant::now());
                return begun.elapsed();
            }
            // It may have ended, with what it had.
            _ => return begun.elapsed(),
        };
        let read = begun.elapsed();
        let groups = self.groups.entry(key).or_insert_with(|| Groups::growing_for(GROWS_FOR));
        let suspects = groups.looked(Some(&memory), Instant::now());
        let (comm, known) = self.known(key).unwrap_or_default();
        let is_known = |(stack, group): &(Vec<u64>, Group)| {
            let (_, suspect) = known.iter().find(|(of, _)| of == stack)?;
            Some((stack.clone(), Suspect { count: group.count, ..suspect.clone() }))
        };
        let mut told: Vec<_> = suspects.iter().filter_map(is_known).collect();
        if told.len() < suspects.len() {
            let named = named(&self.orders, process, memory, &suspects).await;
            if named.len() < suspects.len() {
                // It has ended since: what was known of it stays.
                return read;
            }
            told = suspects.into_iter().map(|(stack, _)| stack).zip(named).collect();
        }
        let comm = if comm.is_empty() { Arc::clone(&process.comm) } else { comm };
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(key, (comm, told));
        read
    }

    fn known(&self, key: (u32, u64)) -> Option<Known> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_told_with_its_stack() {
        let suspect = Suspect {
            count: 42,
            per_minute: 60.0,
            state: "chan receive".into(),
            stack: vec!["runtime.gopark".into(), "main.(*Pool).watch".into()],
        };
        let mut text = String::new();
        tell(&mut text, 7, "api\u{1b}", &suspect);
        assert_eq!(
            text,
            "suspected goroutine leak in api\\u{1b} (7): 42 goroutines in main.(*Pool).watch, chan \
             receive; they only became more\n  runtime.gopark\n  main.(*Pool).watch\n"
        );
    }
}
