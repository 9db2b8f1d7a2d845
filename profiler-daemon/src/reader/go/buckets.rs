//! What the runtime has counted, by stack: allocations, waits, contentions. `runtime/mprof.go` has the
//! structures: lists of buckets, each with its stack and its record behind it.

use super::{
    super::protocol::{GoBucket, GoMemory, GoStacks, GoWhat},
    GoError, give,
    memory::{Deadline, Memory, Window, half, word, word_in},
    program::Program,
};

/// The most buckets that are read; others are counted.
pub(super) const MOST_BUCKETS: usize = 100_000;

/// The most frames of a stack that are believed: GODEBUG=profstackdepth is at most so much.
const MOST_FRAMES: usize = 1_024;

/// So much is looked at of a bucket whose size is not known yet: most have less.
const COMMON_BYTES: usize = 1_024;

/// Offsets in a bucket, in bytes; the stack is at its end.
const NEXT: usize = 8;
const TYPE: usize = 16;
const SIZE: usize = 32;
const FRAMES: usize = 40;
const STACK: usize = 48;

/// Cycles of which an allocation is counted once two more have begun, `memRecord.future`.
const FUTURES: usize = 3;

/// After how many buckets it is looked how late it is.
const LOOKS_AT_CLOCK: usize = 64;

/// How often a list is read anew if a cycle has ended meanwhile.
const MOST_TRIES: u32 = 3;

/// Stands before stacks of which inlined frames were told apart already (`logicalStackSentinel`).
const LOGICAL: u64 = u64::MAX;

/// Allocations, as one cycle counts them.
#[derive(Clone, Copy, Default)]
struct Cycle {
    allocs: u64,
    frees: u64,
    alloc_bytes: u64,
    free_bytes: u64,
}

impl Cycle {
    fn add(&mut self, other: Self) {
        let Self { allocs, frees, alloc_bytes, free_bytes } = self;
        *allocs = allocs.wrapping_add(other.allocs);
        *frees = frees.wrapping_add(other.frees);
        *alloc_bytes = alloc_bytes.wrapping_add(other.alloc_bytes);
        *free_bytes = free_bytes.wrapping_add(other.free_bytes);
    }
}

/// A bucket as it was read.
struct Bucket<'a> {
    next: u64,
    size: u64,
    /// Its stack, 8 bytes a frame.
    frames: &'a [u8],
    /// What is behind the stack.
    record: &'a [u8],
}

impl Bucket<'_> {
    fn frames(&self) -> impl Iterator<Item = u64> {
        let frames = self.frames.chunks_exact(8);
        frames.filter_map(|it| word_in(it, 0)).filter(|it| *it != LOGICAL)
    }
}

/// Reads one list into `found`.
///
/// # Errors
///
/// [`GoError`], where the list is not what it should be.
pub(super) fn read(
    memory: &impl Memory,
    program: &Program,
    what: GoWhat,
    deadline: Deadline,
    found: &mut GoMemory,
) -> Result<(), GoError> {
    let (list, number) = match what {
        GoWhat::Block => ("runtime.bbuckets", 2),
        GoWhat::Mutex => ("runtime.xbuckets", 3),
        _ => ("runtime.mbuckets", 1),
    };
    let list = program.variable(list)?;
    let mut stacks = GoStacks::default();
    if number != 1 {
        let left_out = walk(memory, list, number, 16, deadline, |it| {
            let stack = stacks.add(it.frames());
            let count = word_in(it.record, 0).map(f64::from_bits).filter(|it| it.is_finite());
            let cycles = word_in(it.record, 8).unwrap_or_default() as i64;
            let count = count.unwrap_or_default() as i64;
            found.buckets.push(GoBucket { stack, count, cycles, ..GoBucket::default() });
        })?;
        found.left_out += left_out;
        give(stacks, program, found);
        return Ok(());
    }
    for tries in 1.. {
        let cycle = cycle(memory, program)?;
        let (mut buckets, mut futures) = (Vec::new(), Vec::new());
        stacks = GoStacks::default();
        let size = if program.layout.counts_bytes { 32 } else { 16 };
        let left_out = walk(memory, list, number, size * (1 + FUTURES), deadline, |it| {
            let stack = stacks.add(it.frames());
            let mut cycles = it.record.chunks_exact(size).map(one_cycle);
            let mut next = || cycles.next().unwrap_or_default();
            buckets.push((stack, it.size, next()));
            futures.push(std::array::from_fn(|_| next()));
        })?;
        if self::cycle(memory, program)? != cycle && tries < MOST_TRIES && !deadline.is_over() {
            continue;
        }
        found.left_out += left_out;
        found.cycle = cycle;
        let published = cycle as usize % FUTURES;
        publish(&mut buckets, &futures, published);
        found.buckets.extend(buckets.into_iter().map(|(stack, size, cycle)| {
            let Cycle { allocs, frees, mut alloc_bytes, mut free_bytes } = cycle;
            if !program.layout.counts_bytes {
                (alloc_bytes, free_bytes) = (allocs.wrapping_mul(size), frees.wrapping_mul(size));
            }
            GoBucket { stack, allocs, frees, alloc_bytes, free_bytes, ..GoBucket::default() }
        }));
        break;
    }
    give(stacks, program, found);
    Ok(())
}

/// Adds what the runtime would, if it was asked: the cycle that is over, or, before the first
/// collection is, all there are.
fn publish(buckets: &mut [(u32, u64, Cycle)], futures: &[[Cycle; FUTURES]], published: usize) {
    for ((.., active), future) in buckets.iter_mut().zip(futures) {
        active.add(future[published]);
    }
    if buckets.iter().all(|(.., active)| active.allocs == 0 && active.frees == 0) {
        for ((.., active), future) in buckets.iter_mut().zip(futures) {
            for (number, future) in future.iter().enumerate() {
                if number != published {
                    active.add(*future);
                }
            }
        }
    }
}

fn one_cycle(bytes: &[u8]) -> Cycle {
    let word = |at: usize| word_in(bytes, at).unwrap_or_default();
    Cycle { allocs: word(0), frees: word(8), alloc_bytes: word(16), free_bytes: word(24) }
}

/// The number of the collector's cycle; the lowest bit of what is read says something else.
fn cycle(memory: &impl Memory, program: &Program) -> Result<u32, GoError> {
    let avma = program.variable("runtime.mProfCycle")?;
    half(memory, avma).map(|it| it >> 1).ok_or(GoError::Unreadable("runtime.mProfCycle"))
}

/// Hands each bucket of a list over. Returns 1 if there are more than are read.
fn walk(
    memory: &impl Memory,
    list: u64,
    number: u64,
    record_bytes: usize,
    deadline: Deadline,
    mut each: impl FnMut(Bucket<'_>),
) -> Result<u64, GoError> {
    let mut at = word(memory, list).ok_or(GoError::Unreadable("a list of buckets"))?;
    let mut window = Window::default();
    // The last one whose number is a power of two: in a list that goes round in a circle it comes
    // again before twice as many have (Brent's algorithm).
    let mut remembered = 0;
    for count in 1.. {
        if at == 0 {
            break;
        }
        if count > MOST_BUCKETS {
            return Ok(1);
        }
        if at == remembered {
            return Err(GoError::Inconsistent("a list of buckets leads back to itself"));
        }
        if count.is_power_of_two() {
            remembered = at;
        }
        if count % LOOKS_AT_CLOCK == 0 && deadline.is_over() {
            return Err(GoError::Late);
        }
        let bucket = bucket(memory, &mut window, at, number, record_bytes)?;
        at = bucket.next;
        each(bucket);
    }
    Ok(0)
}

fn bucket<'a>(
    memory: &impl Memory,
    window: &'a mut Window,
    at: u64,
    number: u64,
    record_bytes: usize,
) -> Result<Bucket<'a>, GoError> {
    const WRONG: GoError = GoError::Inconsistent("a bucket is none");
    let bytes = window.bytes(memory, at, COMMON_BYTES);
    let word = |at: usize| word_in(bytes, at).ok_or(WRONG);
    let frames = usize::try_from(word(FRAMES)?).map_err(|_| WRONG)?;
    if word(TYPE)? != number || frames > MOST_FRAMES {
        return Err(WRONG);
    }
    let (next, size) = (word(NEXT)?, word(SIZE)?);
    let record = STACK + frames * 8;
    let end = record + record_bytes;
    let bytes = window.bytes(memory, at, end);
    if bytes.len() < end {
        return Err(WRONG);
    }
    Ok(Bucket { next, size, frames: &bytes[STACK..record], record: &bytes[record..end] })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::memory::fake::Fake, *};

    const LIST: u64 = 0x1000;
    const CYCLE: u64 = 0x1010;

    fn program(version: &str) -> Program {
        let variables =
            [("runtime.mbuckets", LIST), ("runtime.bbuckets", LIST), ("runtime.mProfCycle", CYCLE)];
        Program::fake(version, &[(0x100, 0x100, "main.f")], &variables)
    }

    /// One with so many words behind its header.
    fn put(memory: &Fake, at: u64, next: u64, number: u64, frames: &[u64], record: &[u64]) {
        let header = [0, next, number, 0, 64, frames.len() as u64];
        memory.put_words(at, &[&header[..], frames, record].concat());
    }

    fn found(memory: &Fake, version: &str, what: GoWhat) -> Result<GoMemory, GoError> {
        let mut found = GoMemory::default();
        let deadline = Deadline::after(Duration::from_secs(1), Duration::from_secs(3));
        read(memory, &program(version), what, deadline, &mut found).map(|()| found)
    }

    fn memory(first: u64, cycle: u32) -> Fake {
        let memory = Fake::default();
        memory.put_words(LIST, &[first]);
        memory.put(CYCLE, &(cycle << 1 | 1).to_le_bytes());
        memory
    }

    #[test]
    fn the_cycle_that_is_over_counts() {
        let memory = memory(0x2000, 4);
        let record = [5, 1, 500, 100, 70, 0, 0, 0, 2, 1, 20, 10, 90, 0, 0, 0];
        put(&memory, 0x2000, 0x3000, 1, &[0x110, 0x120], &record);
        put(&memory, 0x3000, 0, 1, &[0x110, 0x120], &[0; 16]);
        let all = found(&memory, "go1.26.8", GoWhat::Heap).unwrap();
        let [first, second] = &all.buckets[..] else { panic!("{all:?}") };
        assert_eq!(
            (first.allocs, first.frees, first.alloc_bytes, first.free_bytes),
            (7, 2, 520, 110)
        );
        assert_eq!((first.stack, second.stack, second.allocs), (0, 0, 0));
        assert_eq!((&all.places[..], &all.entries[..]), (&[0x110, 0x120][..], &[0x100, 0x100][..]));
        assert_eq!((all.stacks.len(), all.cycle, all.left_out), (1, 4, 0));
    }

    #[test]
    fn before_the_first_collection_all_count() {
        let memory = memory(0x2000, 0);
        let record = [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 20, 0, 3, 1, 30, 10];
        put(&memory, 0x2000, 0, 1, &[0x110], &record);
        let all = found(&memory, "go1.24", GoWhat::Heap).unwrap();
        assert_eq!((all.buckets[0].allocs, all.buckets[0].alloc_bytes), (5, 50));
    }

    #[test]
    fn from_1_27_on_bytes_are_objects_of_a_size() {
        let memory = memory(0x2000, 1);
        put(&memory, 0x2000, 0, 1, &[0x110], &[5, 1, 0, 0, 2, 0, 9, 9]);
        let all = found(&memory, "go1.27.0", GoWhat::Heap).unwrap();
        let bucket = &all.buckets[0];
        assert_eq!((bucket.allocs, bucket.alloc_bytes, bucket.free_bytes), (7, 7 * 64, 64));
    }

    #[test]
    fn waits_are_read() {
        let memory = memory(0x2000, 0);
        put(&memory, 0x2000, 0x3000, 2, &[LOGICAL, 0x110], &[2.75_f64.to_bits(), 99]);
        put(&memory, 0x3000, 0, 2, &[0x120], &[f64::NAN.to_bits(), u64::MAX]);
        let all = found(&memory, "go1.26.8", GoWhat::Block).unwrap();
        let counts: Vec<_> = all.buckets.iter().map(|it| (it.count, it.cycles)).collect();
        assert_eq!(counts, [(2, 99), (0, -1)]);
        assert_eq!(all.places, [0x110, 0x120]);
    }

    #[test]
    fn what_a_hostile_process_has_is_an_error() {
        let said = |memory: &Fake| {
            found(memory, "go1.26.8", GoWhat::Heap).map(|_| ()).unwrap_err().to_string()
        };
        let cyclic = memory(0x2000, 0);
        put(&cyclic, 0x2000, 0x3000, 1, &[1], &[0; 16]);
        put(&cyclic, 0x3000, 0x2000, 1, &[1], &[0; 16]);
        assert!(said(&cyclic).contains("leads back"));
        assert!(said(&memory(0xdead_0000, 0)).contains("a bucket is none"));
        assert!(said(&memory(u64::MAX - 8, 0)).contains("a bucket is none"));
        let other = memory(0x2000, 0);
        put(&other, 0x2000, 0, 2, &[1], &[0; 16]);
        assert!(said(&other).contains("a bucket is none"));
        for frames in [1 << 60, u64::MAX, MOST_FRAMES as u64 + 1, 1_000] {
            let long = memory(0x2000, 0);
            long.put_words(0x2000, &[0, 0, 1, 0, 64, frames, 1, 2, 3]);
            assert!(said(&long).contains("a bucket is none"), "{frames}");
        }
        let mut unsteady = memory(0x2000, 0);
        put(&unsteady, 0x2000, 0, 1, &[1], &[7; 16]);
        unsteady.change = Some(Box::new(|reads, pieces| {
            pieces.insert(CYCLE, (reads as u32).to_le_bytes().to_vec());
        }));
        assert_eq!(found(&unsteady, "go1.26.8", GoWhat::Heap).unwrap().buckets.len(), 1);
        assert!(unsteady.reads.get() < 20);
    }

    #[test]
    fn an_endless_list_ends() {
        let mut endless = memory(0x10_0000, 0);
        endless.change = Some(Box::new(|_, pieces| {
            let (&last, _) = pieces.last_key_value().unwrap();
            let next = last + 0x1000;
            let mut words = vec![0, next, 1, 0, 64, 1, 0x110];
            words.resize(7 + 16, 1);
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            pieces.insert(if last < 0x10_0000 { 0x10_0000 } else { last }, bytes);
            pieces.insert(next, Vec::new());
        }));
        let begun = std::time::Instant::now();
        let all = found(&endless, "go1.26.8", GoWhat::Heap);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        match all {
            Ok(all) => assert!(all.left_out > 0 && all.buckets.len() == MOST_BUCKETS),
            Err(error) => assert!(matches!(error, GoError::Late), "{error}"),
        }
    }
}
