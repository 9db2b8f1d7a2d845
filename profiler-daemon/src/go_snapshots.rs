//! What the Go runtimes of a recording's processes keep, read again and again while they run: a process
//! may end at any time, and the last that was read of it is what is written.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::{
    go,
    profile::{Kind, Process, Profile, Window, go::GoTaken},
    reader::protocol::GoMemory,
    recorder::{GoWaitsRequest, NoGoWaits, Order, control::Orders},
};

/// How often all are read, at most.
const EVERY: Duration = Duration::from_secs(1);

/// After all were read they rest for so many times what that took; what is new, and may not be there for
/// long, is read meanwhile, and then rests as long.
const REST: u32 = 10;

/// What is no Go program is asked again after this long: it may have called `exec`.
const OTHERS_EVERY: Duration = Duration::from_secs(5);

/// A recording knows the processes that are there after this long.
const KNOWN: Duration = Duration::from_secs(2);

/// So often it is said why there is nothing to be read, at most.
const MOST_SAID: usize = 10;

/// Longer than any recording.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long the last round may take.
const LAST: Duration = Duration::from_secs(5);

/// Reads what is kept, from now on.
#[derive(Debug)]
pub(crate) struct Snapshots {
    ends: Arc<Notify>,
    task: JoinHandle<Taken>,
}

/// What was read last, by kind.
pub(crate) type Taken = HashMap<Kind, Vec<Profile>>;

impl Snapshots {
    /// Begins; `None`: none of `kinds` is read.
    pub(crate) fn start(orders: &Orders, kinds: &[Kind]) -> Option<Self> {
        let kinds: Vec<Kind> =
            kinds.iter().copied().filter(|&kind| go::what_of(kind).is_some()).collect();
        if kinds.is_empty() {
            return None;
        }
        let ends = Arc::new(Notify::new());
        let round = Rounds {
            orders: orders.clone(),
            kinds,
            begun: Instant::now(),
            last: BTreeMap::new(),
            said: HashSet::new(),
            read: HashSet::new(),
            others: HashMap::new(),
            watches: HashMap::new(),
            next_tag: 0,
        };
        let task = tokio::spawn(round.until(Arc::clone(&ends)));
        Some(Self { ends, task })
    }

    /// Reads once more, and then no more.
    pub(crate) fn end(&self) {
        self.ends.notify_one();
    }

    /// What was read, once it has ended.
    pub(crate) async fn taken(&mut self) -> Taken {
        (&mut self.task).await.unwrap_or_default()
    }
}

/// Reads round by round.
struct Rounds {
    orders: Orders,
    kinds: Vec<Kind>,
    begun: Instant,
    /// By pid and start, and kind.
    last: BTreeMap<Key, (Kind, Instant, GoTaken)>,
    /// Of which it was said why there is nothing.
    said: HashSet<((u32, u64), Kind)>,
    /// Those of which all was read that there is.
    read: HashSet<(u32, u64)>,
    /// When it was found that there is nothing to be read.
    others: HashMap<(u32, u64), Instant>,
    /// By pid, start and kind: those whose goroutines are watched, and what comes when they are not any
    /// more; `None`: they are not.
    watches: HashMap<Key, Option<(u64, Watch)>>,
    /// Under which the last watch was asked for.
    next_tag: u64,
}

/// A process by pid and start, and a kind.
type Key = (u32, u64, &'static str);

/// What comes at the end of a watch.
type Watch = oneshot::Receiver<Result<GoMemory, NoGoWaits>>;

impl Rounds {
    async fn until(mut self, ends: Arc<Notify>) -> Taken {
        let mut rest = Duration::from_millis(200);
        let mut all_at = Instant::now();
        loop {
            let is_last = tokio::select! {
                () = ends.notified() => true,
                () = tokio::time::sleep(rest) => false,
            };
            if is_last {
                // What was read before is there in any case.
                let _ = tokio::time::timeout(LAST, self.last_round()).await;
                break;
            }
            let begun = Instant::now();
            let is_of_all = begun >= all_at;
            self.round(is_of_all).await;
            rest = EVERY.max(begun.elapsed() * REST);
            if is_of_all {
                all_at = Instant::now() + rest;
                rest = EVERY;
            }
        }
        let end = Instant::now();
        let mut taken = Taken::new();
        for (kind, at, mut go) in self.last.into_values() {
            let age = end.saturating_duration_since(at);
            go.comments.push(format!("snapshot_age_ms={}", age.as_millis()));
            taken.entry(kind).or_default().push(go.profile());
        }
        taken
    }

    /// A recording that has just begun does not know any process yet.
    async fn last_round(&mut self) {
        while self.round(true).await == 0 && self.last.is_empty() && self.begun.elapsed() < KNOWN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads all, or what was not read yet; how many processes there are.
    async fn round(&mut self, is_of_all: bool) -> usize {
        let (reply, answer) = oneshot::channel();
        self.orders.give(Order::ListProfiled(reply));
        let processes = answer.await.unwrap_or_default();
        let is_there = |of: &Key| {
            processes.iter().any(|process| (process.pid, process.start_ns) == (of.0, of.1))
        };
        self.watches.retain(|of, _| is_there(of));
        for process in &processes {
            let key = (process.pid, process.start_ns);
            if is_of_all || !self.read.contains(&key) {
                self.look(process).await;
            }
        }
        processes.len()
    }

    async fn look(&mut self, process: &Process) {
        let key = (process.pid, process.start_ns);
        if self.others.get(&key).is_some_and(|at| at.elapsed() < OTHERS_EVERY) {
            return;
        }
        let mut is_read = true;
        for kind in self.kinds.clone() {
            let Some(what) = go::what_of(kind) else { continue };
            let Ok(Ok(memory)) = go::read(&self.orders, None, process.pid, what).await else {
                is_read = false;
                continue;
            };
            if memory.is_other {
                self.others.insert(key, Instant::now());
                return;
            }
            let is_of_waits = matches!(kind, Kind::Block | Kind::Mutex);
            // What threads wait for is recorded anyway, but goroutines are no threads.
            let has_nothing = is_of_waits && memory.rate == 0 && memory.buckets.is_empty();
            if !memory.refusal.is_empty() {
                if self.said.len() < MOST_SAID && self.said.insert((key, kind)) {
                    tracing::warn!("no {}: {}", kind.name(), memory.refusal);
                }
                continue;
            }
            let memory = if has_nothing {
                match self.watched(process, kind).await {
                    Some(memory) => memory,
                    None => continue,
                }
            } else {
                // The program may have set a rate since.
                if is_of_waits {
                    self.watches.insert((key.0, key.1, kind.name()), None);
                }
                memory
            };
            let at = Instant::now();
            let named = go::named(&self.orders, None, process.pid, &memory).await;
            let Ok((named, comments)) = named else { return };
            let shown = if kind == Kind::Goroutine { Kind::Goroutines } else { kind };
            let (time, duration) = (SystemTime::now(), Duration::ZERO);
            let taken = GoTaken { kind: shown, memory, named, time, duration, comments };
            self.last.insert((key.0, key.1, kind.name()), (kind, at, taken));
        }
        if is_read {
            self.read.insert(key);
        }
    }
}

impl Rounds {
    /// What goroutines of a process have waited for since they are watched, which begins here; `None`:
    /// nothing yet, or they cannot be.
    async fn watched(&mut self, process: &Process, kind: Kind) -> Option<GoMemory> {
        let key = (process.pid, process.start_ns, kind.name());
        let Entry::Occupied(mut known) = self.watches.entry(key) else {
            let (reply, over) = oneshot::channel();
            self.next_tag += 1;
            let tag = self.next_tag;
            self.watches.insert(key, Some((tag, over)));
            self.orders.give(Order::WatchGo(Box::new(GoWaitsRequest {
                pid: process.pid,
                kind,
                duration: FOR_EVER,
                tag,
                viewer: None,
                reply,
            })));
            return None;
        };
        let (tag, over) = known.get_mut().as_mut()?;
        if let Ok(over) = over.try_recv() {
            known.insert(None);
            if let Err(why) = over {
                // What there was is of a part of the time.
                self.last.remove(&key);
                let (kind, pid) = (kind.name(), process.pid);
                tracing::warn!("{kind} of process {pid} is of threads, not of goroutines: {why}");
            }
            return None;
        }
        let (reply, answer) = oneshot::channel();
        self.orders.give(Order::TellGo(*tag, reply));
        answer.await.ok().filter(|memory| !memory.buckets.is_empty())
    }
}

/// A window of what was read of a kind alone.
pub(crate) fn window(kind: Kind, start: SystemTime, profiles: &[Profile]) -> Window {
    Window {
        kind,
        start,
        duration: start.elapsed().unwrap_or_default(),
        period: profiles.first().map_or(1, |profile| profile.period),
        comments: crate::run::comments(),
        losses: Vec::new(),
    }
}

/// The recorded profiles of a kind, but for what Go programs tell of themselves.
pub(crate) fn replaced(recorded: Vec<Profile>, read: Vec<Profile>) -> Vec<Profile> {
    let key = |profile: &Profile| profile.processes.first().map(|it| (it.pid, it.start_ns));
    let known: HashSet<_> = read.iter().map(key).collect();
    let others = recorded.into_iter().filter(|it| !known.contains(&key(it)));
    others.chain(read).collect()
}
