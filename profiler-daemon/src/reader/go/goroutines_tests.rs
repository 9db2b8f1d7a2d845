use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{super::memory::fake::Fake, *};

const ALLGS: u64 = 0x1000;
const ALLGLEN: u64 = 0x1010;
const LIST: u64 = 0x2000;
const STACKS: u64 = 0x10_0000;
const STACK_BYTES: u64 = 0x1000;

fn program(version: &str) -> Program {
    let functions = [
        (0x100, 0x100, "main.work"),
        (0x200, 0x100, "runtime.main"),
        (0x300, 0x100, "runtime.bgsweep"),
        (0x400, 0x100, "runtime.goexit"),
    ];
    Program::fake(version, &functions, &[("runtime.allgs", ALLGS), ("runtime.allglen", ALLGLEN)])
}

/// A `g` of Go 1.26.
struct G {
    status: u32,
    reason: u8,
    start: u64,
    sp: u64,
    bp: u64,
    hi: u64,
}

const WAITS: G = G { status: WAITING, reason: 19, start: 0x100, sp: 0, bp: 0, hi: 0 };

fn structure(goid: u64, g: &G) -> Vec<u8> {
    let mut bytes = vec![0; G_BYTES];
    let layout = program("go1.26.0").layout;
    let lo = STACKS + goid * STACK_BYTES;
    let hi = if g.hi == 0 { lo + STACK_BYTES } else { g.hi };
    let sp = if g.sp == 0 { hi - 0x100 } else { g.sp };
    let words = [
        (layout::STACK, lo),
        (layout::STACK + 8, hi),
        (SCHED_SP, sp),
        (SCHED_SP + 8, 0x150),
        (layout.sched_bp, g.bp),
        (layout.status, u64::from(g.status)),
        (layout.goid(), goid),
        (layout.wait_since(), 1_000),
        (layout.wait_reason, u64::from(g.reason)),
        (layout.creator, 0x250),
        (layout.start(), g.start),
        (layout.parent.unwrap(), 1),
    ];
    for (at, word) in words {
        let end = (at + 8).min(bytes.len());
        bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
    }
    bytes
}

/// Goroutines at `LIST + number * 0x1000`, with ids from 1 on.
fn memory(all: &[G]) -> Fake {
    let memory = Fake::default();
    let at: Vec<u64> = (0..all.len() as u64).map(|number| 0x100_0000 + number * 0x1000).collect();
    memory.put_words(ALLGS, &[LIST]);
    memory.put_words(ALLGLEN, &[at.len() as u64]);
    memory.put_words(LIST, &at);
    for ((g, at), goid) in all.iter().zip(at).zip(1..) {
        memory.put(at, &structure(goid, g));
    }
    memory
}

/// Frames (frame pointer, return address) at the end of the stack of a goroutine.
fn put_stack(memory: &Fake, goid: u64, words: &[(u64, u64)]) {
    let lo = STACKS + goid * STACK_BYTES;
    let mut stack = vec![0; (STACK_BYTES / 8) as usize];
    for &(at, word) in words {
        stack[((at - lo) / 8) as usize] = word;
    }
    memory.put_words(lo, &stack);
}

fn found(memory: &Fake) -> Result<GoMemory, GoError> {
    let mut found = GoMemory::default();
    let deadline = Deadline::after(Duration::from_secs(1), Duration::from_secs(3));
    read(memory, &program("go1.26.0"), 61_000_001_000, true, deadline, &mut found).map(|()| found)
}

fn frames(found: &GoMemory, number: usize) -> Vec<u64> {
    let stack = &found.stacks[found.goroutines[number].stack as usize];
    stack.places.iter().map(|&it| found.places[it as usize]).collect()
}

/// Stack and frames of goroutine 1: `main.work` three deep.
fn one() -> (G, Vec<(u64, u64)>) {
    let hi = STACKS + 2 * STACK_BYTES;
    let (inner, outer) = (hi - 0xc0, hi - 0x20);
    let words = vec![(inner, outer), (inner + 8, 0x160), (outer, 0), (outer + 8, 0x410)];
    (G { bp: inner, ..WAITS }, words)
}

#[test]
fn a_stack_is_walked_by_its_frame_pointers() {
    let (g, words) = one();
    let system = G { start: 0x300, ..WAITS };
    let dead = G { status: 6, ..WAITS };
    let running = G { status: RUNNING, ..WAITS };
    let fresh = G { status: RUNNABLE, start: 0x150, sp: STACKS + 6 * STACK_BYTES - 16, ..WAITS };
    let memory = memory(&[g, system, dead, running, fresh]);
    put_stack(&memory, 1, &words);
    put_stack(&memory, 5, &[(STACKS + 6 * STACK_BYTES - 16, 0x401)]);
    let all = found(&memory).unwrap();
    let ids: Vec<_> = all.goroutines.iter().map(|it| it.goid).collect();
    assert_eq!(ids, [1, 4, 5], "system and dead ones are left out");
    assert_eq!(frames(&all, 0), [0x150, 0x160, 0x410]);
    let first = all.goroutines[0];
    assert_eq!(all.states[first.state as usize], "chan receive");
    assert_eq!((first.wait_ns, first.parent), (61_000_000_000, 1));
    assert_eq!(all.places[first.creator as usize - 1], 0x250);
    assert_eq!(all.states[all.goroutines[1].state as usize], "running");
    assert!(all.goroutines[1].is_moving);
    assert_eq!(frames(&all, 1), [0x100], "where it began");
    assert_eq!(frames(&all, 2), [0x150, 0x401]);
    assert_eq!(all.entries[0], 0x100);
}

#[test]
fn old_runtimes_note_no_frame_pointer_in_system_calls() {
    let (g, mut words) = one();
    let sp = STACKS + 2 * STACK_BYTES - 0xe0;
    words.push((sp - 16, g.bp));
    let memory = memory(&[G { status: SYSTEM_CALL, sp, bp: 0, ..g }]);
    put_stack(&memory, 1, &words);
    // 1.21 and 1.26 have these fields at the same places, but for three.
    let mut program = program("go1.26.0");
    program.layout.has_system_call_bp = false;
    let mut all = GoMemory::default();
    read(
        &memory,
        &program,
        0,
        true,
        Deadline::after(Duration::from_secs(1), Duration::from_secs(3)),
        &mut all,
    )
    .unwrap();
    assert_eq!(frames(&all, 0), [0x150, 0x160, 0x410]);
}

#[test]
fn what_moves_meanwhile_is_read_again_and_then_marked() {
    let (g, words) = one();
    let mut memory = memory(&[g]);
    put_stack(&memory, 1, &words);
    let change = |until: usize| {
        Box::new(move |reads: usize, pieces: &mut BTreeMap<u64, Vec<u8>>| {
            if reads < until {
                let g = pieces.get_mut(&0x100_0000).unwrap();
                g[SCHED_SP + 8] = reads as u8;
            }
        })
    };
    memory.change = Some(change(12));
    let all = found(&memory).unwrap();
    assert!(!all.goroutines[0].is_moving);
    assert_eq!(frames(&all, 0)[1..], [0x160, 0x410]);
    memory.change = Some(change(usize::MAX));
    let all = found(&memory).unwrap();
    assert!(all.goroutines[0].is_moving);
    assert_eq!(frames(&all, 0), [0x100]);
}

/// A goroutine that takes other labels while it is looked at has those.
#[test]
fn labels_that_change_meanwhile_are_read_again() {
    let (g, words) = one();
    let mut memory = memory(&[g]);
    put_stack(&memory, 1, &words);
    let at = program("go1.26.0").layout.labels as usize;
    for (set, text) in [(0x7000_u64, b"old"), (0x7100, b"new")] {
        memory.put_words(set, &[set + 0x10, 1, set + 0x40, 3, set + 0x40, 3]);
        memory.put(set + 0x40, text);
    }
    // Right before it is looked at the second time.
    memory.change = Some(Box::new(move |reads, pieces| {
        let set: u64 = if reads < 10 { 0x7000 } else { 0x7100 };
        pieces.get_mut(&0x100_0000).unwrap()[at..at + 8].copy_from_slice(&set.to_le_bytes());
    }));
    let all = found(&memory).unwrap();
    assert_eq!((all.goroutines[0].labels, all.labels_left_out), (2, 0));
    let told: Vec<_> = all.label_sets.iter().map(|it| &*it.values[0]).collect();
    assert_eq!(told, ["old", "new"]);
    memory.reads.set(0);
    memory.change = None;
    let mut bare = GoMemory::default();
    let deadline = Deadline::after(Duration::from_secs(1), Duration::from_secs(3));
    read(&memory, &program("go1.26.0"), 0, false, deadline, &mut bare).unwrap();
    assert_eq!((bare.goroutines[0].labels, bare.label_sets.len(), memory.reads.get()), (0, 0, 6));
}

#[test]
fn hostile_stacks_end() {
    let hi = STACKS + 2 * STACK_BYTES;
    for (bp, words) in [
        // A frame that is its own caller, one below, one beyond, one that is askew.
        (hi - 0x80, vec![(hi - 0x80, hi - 0x80), (hi - 0x78, 0x160)]),
        (hi - 0x80, vec![(hi - 0x80, hi - 0xf0), (hi - 0x78, 0x160)]),
        (hi - 0x80, vec![(hi - 0x80, hi - 8), (hi - 0x78, 0x160)]),
        (hi - 0x80, vec![(hi - 0x80, hi - 0x1f), (hi - 0x78, 0x160)]),
        (hi - 0x80, vec![(hi - 0x80, u64::MAX - 7), (hi - 0x78, 0x160)]),
    ] {
        let memory = memory(&[G { bp, ..WAITS }]);
        put_stack(&memory, 1, &words);
        assert_eq!(frames(&found(&memory).unwrap(), 0), [0x150, 0x160]);
    }
    // Deeper than is told.
    let words: Vec<_> = (0..0xf0_u64)
        .flat_map(|n| {
            let fp = hi - 0xf10 + n * 16;
            [(fp, fp + 16), (fp + 8, 0x1000 + n)]
        })
        .collect();
    let memory = memory(&[G { sp: hi - 0xf20, bp: hi - 0xf10, ..WAITS }]);
    put_stack(&memory, 1, &words);
    assert_eq!(frames(&found(&memory).unwrap(), 0).len(), MOST_FRAMES);
}

#[test]
fn hostile_lists_are_errors() {
    let (g, words) = one();
    let memory = memory(&[g]);
    put_stack(&memory, 1, &words);
    memory.put_words(ALLGLEN, &[1 << 60]);
    assert!(matches!(found(&memory), Err(GoError::Unreadable("runtime.allgs"))));
    memory.put_words(ALLGLEN, &[1]);
    memory.put_words(ALLGS, &[u64::MAX - 3]);
    assert!(matches!(found(&memory), Err(GoError::Unreadable("runtime.allgs"))));
    memory.put_words(ALLGS, &[LIST]);
    for g in [0, 8, u64::MAX - 8, LIST] {
        memory.put_words(LIST, &[g]);
        let all = found(&memory);
        assert!(!matches!(&all, Ok(all) if !all.goroutines.is_empty()), "{g:#x}: {all:?}");
    }
    // A stack of 2^60 bytes.
    memory.put_words(LIST, &[0x100_0000]);
    memory.put(0x100_0000, &structure(1, &G { hi: 1 << 60, sp: STACKS + STACK_BYTES, ..WAITS }));
    assert!(matches!(found(&memory), Err(GoError::Inconsistent(_))));
}

#[test]
fn random_memory_never_panics_and_ends() {
    let mut random = super::super::super::tests::Random::new(3);
    let begun = Instant::now();
    for _ in 0..2_000 {
        let (g, words) = one();
        let memory = memory(&[g]);
        put_stack(&memory, 1, &words);
        let mut bytes = structure(1, &WAITS);
        for _ in 0..6 {
            let at = random.below(G_BYTES as u64 / 8) as usize * 8;
            let word = match random.below(3) {
                0 => STACKS + random.below(3 * STACK_BYTES),
                1 => u64::MAX - random.below(64),
                _ => random.below(16),
            };
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        memory.put(0x100_0000, &bytes);
        let _ = found(&memory);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
