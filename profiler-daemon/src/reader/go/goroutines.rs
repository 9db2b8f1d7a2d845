//! All goroutines, as they are while they are read: nobody is stopped, so each is looked at again
//! once its stack was read, and what has moved is read anew.

use std::collections::HashMap;

use super::{
    super::protocol::{GO_RUNNING, GoMemory, GoStacks, Goroutine},
    GoError, give,
    label_sets::LabelSets,
    layout::{self, G_BYTES, SCHED_SP},
    memory::{Deadline, Memory, Pieces, half, word, word_in},
    program::Program,
};

/// The most goroutines that are read; others are counted.
pub(super) const MOST_GOROUTINES: usize = 200_000;

/// The most frames of a stack.
pub(super) const MOST_FRAMES: usize = 128;

/// So many goroutines are read at a time: what bounds memory.
const PART: usize = 1_024;

/// So much of a stack is read first: most that wait have less.
const COMMON_BYTES: u64 = 512;

/// So much is read where a frame is further away.
const FURTHER_BYTES: usize = 4 << 10;

/// The largest stack that is believed: the runtime's own limit is 1 GB.
const MOST_STACK_BYTES: u64 = 1 << 30;

/// How often one that has moved is read anew.
const MOST_TRIES: u32 = 4;

/// What the runtime calls states (`runtime2.go`).
const RUNNABLE: u32 = 1;
const RUNNING: u32 = 2;
const SYSTEM_CALL: u32 = 3;
const WAITING: u32 = 4;
const COPYING: u32 = 8;
const PREEMPTED: u32 = 9;
const LEAKED: u32 = 10;
/// The collector looks at its stack.
const SCANNED: u32 = 0x1000;

/// A goroutine as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    g: u64,
    lo: u64,
    hi: u64,
    sp: u64,
    pc: u64,
    bp: u64,
    status: u32,
    reason: u8,
    stops: u8,
    goid: u64,
    wait_since: u64,
    creator: u64,
    start: u64,
    parent: u64,
    labels: u64,
    is_locked: bool,
    runs_cleanups: bool,
}

/// One that has held still, the return addresses of its stack, if that could be read, and the number
/// of its labels: [`LabelSets::read`].
type Settled = (Seen, Option<Vec<u64>>, Option<u32>);

impl Seen {
    fn parse(g: u64, bytes: &[u8], program: &Program) -> Option<Self> {
        let layout = &program.layout;
        let word = |at: usize| word_in(bytes, at);
        Some(Self {
            g,
            lo: word(layout::STACK)?,
            hi: word(layout::STACK + 8)?,
            sp: word(SCHED_SP)?,
            pc: word(SCHED_SP + 8)?,
            bp: word(layout.sched_bp)?,
            status: word(layout.status)? as u32 & !SCANNED,
            reason: *bytes.get(layout.wait_reason)?,
            stops: *bytes.get(layout.stops)?,
            goid: word(layout.goid())?,
            wait_since: word(layout.wait_since())?,
            creator: word(layout.creator)?,
            start: word(layout.start())?,
            parent: layout.parent.and_then(word).unwrap_or_default(),
            labels: word(layout.labels as usize)?,
            is_locked: word(layout.locked_m)? != 0,
            runs_cleanups: layout
                .runs_cleanups
                .is_some_and(|at| bytes.get(at).is_some_and(|it| *it != 0)),
        })
    }

    fn is_there(&self) -> bool {
        matches!(
            self.status,
            RUNNABLE | RUNNING | SYSTEM_CALL | WAITING | COPYING | PREEMPTED | LEAKED
        )
    }

    /// Whether its stack can be read: it has no CPU, and its stack is not being moved.
    fn is_still(&self) -> bool {
        self.status != RUNNING && self.status != COPYING
    }

    /// Whether what its stack was read by holds.
    fn holds_as(&self, again: &Self) -> bool {
        let key = |it: &Self| (it.goid, it.status, it.lo, it.hi, it.sp, it.pc, it.bp, it.labels);
        key(self) == key(again)
    }

    fn has_sound_stack(&self) -> bool {
        self.lo < self.hi
            && self.hi - self.lo <= MOST_STACK_BYTES
            && (self.lo..=self.hi).contains(&self.sp)
            && self.sp.is_multiple_of(8)
    }

    fn state(&self, program: &Program) -> &'static str {
        match self.status {
            WAITING | LEAKED if self.reason != 0 => {
                program.layout.reason(self.reason).unwrap_or("unknown wait reason")
            }
            WAITING => "waiting",
            RUNNABLE => "runnable",
            RUNNING => GO_RUNNING,
            SYSTEM_CALL => "syscall",
            COPYING => "copystack",
            PREEMPTED => "preempted",
            _ => "leaked",
        }
    }

    /// Whether it works for the runtime: Go's own profiles leave those out.
    fn is_of_system(&self, program: &Program, runs_finalizer: bool) -> bool {
        match program.name_at(self.start) {
            "runtime.main" | "runtime.handleAsyncEvent" | "runtime.corostart" => false,
            "runtime.runfinq" | "runtime.runFinalizers" => !runs_finalizer,
            "runtime.runCleanups" => !self.runs_cleanups,
            name => name.starts_with("runtime."),
        }
    }
}

/// Reads all into `found`, their labels if they are wanted. `now_ns`: the clock that the runtime has
/// (`CLOCK_MONOTONIC`), in nanoseconds.
///
/// # Errors
///
/// [`GoError`], where the list of them is not what it should be.
pub(super) fn read(
    memory: &impl Memory,
    program: &Program,
    now_ns: u64,
    with_labels: bool,
    deadline: Deadline,
    found: &mut GoMemory,
) -> Result<(), GoError> {
    let list = list(memory, program, found)?;
    // `fingRunningFinalizer` of `mfinal.go`; the variable came with it in 1.20.
    let status = program.variable("runtime.fingStatus").ok().and_then(|it| half(memory, it));
    let runs_finalizer = status.is_some_and(|status| status & 2 != 0);
    let mut stacks = GoStacks::default();
    let mut states: Vec<&'static str> = Vec::new();
    let mut is_any_sound = false;
    let mut buffers = [Pieces::default(), Pieces::default()];
    let mut labels = with_labels.then(LabelSets::default);
    // By where goroutines began: it is the same for many.
    let mut of_system: HashMap<u64, bool> = HashMap::new();
    for part in list.chunks(PART) {
        let mut wanted: Vec<u64> = part.to_vec();
        for tries in 1..=MOST_TRIES {
            if deadline.is_over() {
                return Err(GoError::Late);
            }
            let is_last = tries == MOST_TRIES;
            let (settled, moved) =
                look(memory, program, &wanted, is_last, deadline, &mut buffers, labels.as_mut());
            for (seen, frames, labels) in settled {
                is_any_sound |= seen.has_sound_stack();
                if !seen.is_there() {
                    continue;
                }
                let may_be = of_system
                    .entry(seen.start)
                    .or_insert_with(|| program.name_at(seen.start).starts_with("runtime."));
                if *may_be && seen.is_of_system(program, runs_finalizer) {
                    continue;
                }
                let state = seen.state(program);
                let number = states.iter().position(|it| *it == state).unwrap_or(states.len());
                if number == states.len() {
                    states.push(state);
                }
                found.labels_left_out += u64::from(labels.is_none());
                let labels = labels.unwrap_or_default();
                found.goroutines.push(told(&seen, frames, number, labels, now_ns, &mut stacks));
            }
            wanted = moved;
            if wanted.is_empty() {
                break;
            }
        }
    }
    if !list.is_empty() && !is_any_sound {
        return Err(GoError::Inconsistent("no goroutine has a stack"));
    }
    found.states = states.into_iter().map(str::to_owned).collect();
    give(stacks, program, found);
    if let Some(labels) = labels {
        labels.give(found);
    }
    Ok(())
}

/// Where all goroutines' structures are.
fn list(
    memory: &impl Memory,
    program: &Program,
    found: &mut GoMemory,
) -> Result<Vec<u64>, GoError> {
    let read = |name| word(memory, program.variable(name)?).ok_or(GoError::Unreadable(name));
    let array = read("runtime.allgs")?;
    let count = read("runtime.allglen")?;
    let taken = count.min(MOST_GOROUTINES as u64);
    found.left_out = count - taken;
    let mut bytes = vec![0; taken as usize * 8];
    let mut filled = 0;
    while filled < bytes.len() {
        // In pieces of fewer pages than one call takes.
        let end = bytes.len().min(filled + (1 << 20));
        let count = memory.read(array.saturating_add(filled as u64), &mut bytes[filled..end]);
        if count < end - filled {
            return Err(GoError::Unreadable("runtime.allgs"));
        }
        filled = end;
    }
    let all = bytes.chunks_exact(8).filter_map(|it| word_in(it, 0)).filter(|it| *it != 0);
    Ok(all.collect())
}

/// Looks at some goroutines. Gives those that have held still, with their stacks, and the others;
/// with `is_last` all, the others without stacks.
fn look(
    memory: &impl Memory,
    program: &Program,
    wanted: &[u64],
    is_last: bool,
    deadline: Deadline,
    [structures, stacks]: &mut [Pieces; 2],
    labels: Option<&mut LabelSets>,
) -> (Vec<Settled>, Vec<u64>) {
    let with_labels = labels.is_some();
    let parse = |bytes: &[u8], g: u64| {
        let seen = Seen::parse(g, bytes, program)?;
        Some(if with_labels { seen } else { Seen { labels: 0, ..seen } })
    };
    structures.read(memory, &wanted.iter().map(|&g| (g, G_BYTES)).collect::<Vec<_>>());
    let before: Vec<Seen> =
        structures.iter().zip(wanted).filter_map(|(bytes, &g)| parse(bytes, g)).collect();
    // What waits in a system call of an old runtime has its frame pointer below its stack pointer.
    let below = |it: &Seen| it.sp.saturating_sub(16).max(it.lo);
    let ranges: Vec<_> = before
        .iter()
        .map(|it| {
            if !it.is_there() || !it.is_still() || !it.has_sound_stack() {
                return (0, 0);
            }
            let end = it.hi.min(it.sp.saturating_add(COMMON_BYTES));
            (below(it), (end - below(it)) as usize)
        })
        .collect();
    stacks.read(memory, &ranges);
    let frames: Vec<_> = before
        .iter()
        .zip(stacks.iter())
        .map(|(it, bytes)| {
            let is_read = it.is_there() && it.is_still() && it.has_sound_stack();
            is_read.then(|| walk(memory, program, it, below(it), bytes, deadline))
        })
        .collect();
    let pointers: Vec<_> =
        before.iter().map(|it| if it.is_there() { it.labels } else { 0 }).collect();
    let labels = match labels {
        Some(labels) => labels.read(memory, &program.layout, &pointers),
        None => vec![Some(0); pointers.len()],
    };
    structures.read(memory, &before.iter().map(|it| (it.g, G_BYTES)).collect::<Vec<_>>());
    let (mut settled, mut moved) = (Vec::new(), Vec::new());
    for (((seen, frames), labels), bytes) in
        before.into_iter().zip(frames).zip(labels).zip(structures.iter())
    {
        let Some(again) = parse(bytes, seen.g) else { continue };
        if seen.holds_as(&again) || (!seen.is_there() && !again.is_there()) {
            settled.push((again, frames, labels));
        } else if is_last {
            let labels = (again.labels == 0).then_some(0);
            settled.push((again, None, labels));
        } else {
            moved.push(seen.g);
        }
    }
    (settled, moved)
}

/// The return addresses of a stack, leaf first, by frame pointers. `bytes`: what is from `start` on.
fn walk(
    memory: &impl Memory,
    program: &Program,
    seen: &Seen,
    start: u64,
    bytes: &[u8],
    deadline: Deadline,
) -> Vec<u64> {
    let (mut further_start, mut further) = (0, Vec::new());
    let mut read = |avma: u64| -> Option<(u64, u64)> {
        let found = |start: u64, bytes: &[u8]| {
            let at = usize::try_from(avma.checked_sub(start)?).ok()?;
            Some((word_in(bytes, at)?, word_in(bytes, at.checked_add(8)?)?))
        };
        if let Some(pair) = found(start, bytes).or_else(|| found(further_start, &further)) {
            return Some(pair);
        }
        if deadline.is_over() {
            return None;
        }
        further.resize(FURTHER_BYTES.min((seen.hi - avma) as usize), 0);
        let count = memory.read(avma, &mut further);
        further.truncate(count);
        further_start = avma;
        found(further_start, &further)
    };
    let mut frames = vec![seen.pc];
    let is_in_stack = |fp: u64| {
        fp >= seen.lo
            && fp.checked_add(16).is_some_and(|end| end <= seen.hi)
            && fp.is_multiple_of(8)
    };
    let mut fp = seen.bp;
    if seen.status == SYSTEM_CALL && !program.layout.has_system_call_bp {
        // What was called on the way there pushed it.
        fp = seen
            .sp
            .checked_sub(16)
            .filter(|at| is_in_stack(*at))
            .and_then(&mut read)
            .map_or(0, |it| it.0);
    }
    if fp == 0 && seen.pc == seen.start && is_in_stack(seen.sp) {
        // It has not run yet: the stack holds where it returns to, and nothing else.
        frames.extend(read(seen.sp).map(|(back, _)| back));
        return frames;
    }
    let mut least = seen.sp;
    while frames.len() < MOST_FRAMES && fp >= least && is_in_stack(fp) {
        let Some((next, back)) = read(fp) else { break };
        if back == 0 {
            break;
        }
        frames.push(back);
        // A frame's caller has its frame above it.
        (least, fp) = (fp + 16, next);
    }
    frames
}

fn told(
    seen: &Seen,
    frames: Option<Vec<u64>>,
    state: usize,
    labels: u32,
    now_ns: u64,
    stacks: &mut GoStacks,
) -> Goroutine {
    let is_moving = frames.is_none();
    // Of one that runs it is known where it began.
    let frames = frames.unwrap_or_else(|| vec![seen.start]);
    let waits = matches!(seen.status, WAITING | SYSTEM_CALL) && seen.wait_since != 0;
    Goroutine {
        goid: seen.goid,
        stack: stacks.add(frames.into_iter()),
        state: state as u32,
        wait_ns: if waits { now_ns.saturating_sub(seen.wait_since) } else { 0 },
        creator: if seen.creator == 0 { 0 } else { stacks.place(seen.creator) + 1 },
        parent: seen.parent,
        is_locked: seen.is_locked,
        is_moving,
        stops: seen.stops.into(),
        labels,
    }
}

#[cfg(test)]
#[path = "goroutines_tests.rs"]
mod tests;
