//! What the runtime has of memory, and its collector has counted, as `runtime.ReadMemStats` would tell it
//! now: without stopping the program, so that figures of one that runs may be of slightly different
//! moments.

use super::{
    super::protocol::GoStats,
    layout::Layout,
    memory::{Deadline, Memory, Pieces, half, word, word_in},
    program::Program,
};

/// Sizes of the objects of each class, in bytes: the same from 1.19 to 1.27. Class 0 is of larger ones.
const SIZES: [u64; 68] = [
    0, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320,
    352, 384, 416, 448, 480, 512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792,
    2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5376, 6144, 6528, 6784, 6912, 8192, 9472, 9728,
    10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760, 24576, 27264, 28672,
    32768,
];

/// The most processors (`GOMAXPROCS`) that are believed.
const MOST_PROCESSORS: u64 = 1_024;

/// Spans that a processor has at hand: one of each class, with and without pointers.
const CACHED: usize = SIZES.len() * 2;

/// Changes of the heap are counted in three parts, which belong together.
const PARTS: u64 = 3;

/// `gcControllerState.memoryLimit`; `gcPercent` begins the structure.
const LIMIT: u64 = 8;

/// Pauses that the runtime remembers, in a ring.
const PAUSES: usize = 256;

/// By how much the goal stays below a memory limit, in percent and in bytes at least (`mgcpacer.go`).
const HEADROOM_PERCENT: u64 = 3;
const LEAST_HEADROOM: u64 = 1 << 20;

/// Reads it, but what the kernel knows; `None`: a program without symbols does not tell where it is.
pub(super) fn read(memory: &impl Memory, program: &Program, deadline: Deadline) -> Option<GoStats> {
    let at = Variables::of(program)?;
    let layout = &program.layout;
    let mut heap = Heap::read(memory, at.counts, layout)?;
    heap.add_cached(memory, at.processors, layout, deadline)?;
    let [in_use, released, free, all, freed, ready]: [u64; 6] =
        words(memory, at.control.wrapping_add(layout.heap_in_use))?;
    let last = at.counts.wrapping_add(layout.last_gc);
    let [stacks, spans, caches, profiles, collector, other]: [u64; 6] =
        words(memory, last.wrapping_sub(6 * 8))?;
    let [span_bytes, cache_bytes] =
        layout.structures_in_use.map(|into| word(memory, at.heap.wrapping_add(into)));
    let control = |into: u64| word(memory, at.control.wrapping_add(into));
    let (limit, marked) = (control(LIMIT)?, control(layout.heap_marked)?);
    let goals = Goals {
        by_percent: control(layout.heap_goal)?,
        limit,
        marked,
        free,
        alloc: all.wrapping_sub(freed),
        ready,
    };
    let collector_notes = heap.work.wrapping_add(heap.scalar_bits);
    let sys =
        [in_use, free, released, stacks, spans, caches, profiles, collector, other, heap.stacks];
    let sys_bytes = sys.into_iter().fold(collector_notes, u64::wrapping_add);
    let pauses = |into: u64| {
        let pauses: [u64; PAUSES] = words(memory, last.wrapping_add(into))?;
        Some(pauses.to_vec())
    };
    let count = |into: u64| half(memory, last.wrapping_add(into));
    Some(GoStats {
        alloc_bytes: heap.alloc_bytes.wrapping_sub(heap.free_bytes),
        total_alloc_bytes: heap.alloc_bytes,
        mallocs: heap.allocs,
        frees: heap.frees,
        sys_bytes,
        heap_idle_bytes: free.wrapping_add(released),
        heap_in_use_bytes: in_use,
        heap_released_bytes: released,
        stack_in_use_bytes: heap.stacks,
        stack_sys_bytes: heap.stacks.wrapping_add(stacks),
        span_in_use_bytes: span_bytes?,
        span_sys_bytes: spans,
        cache_in_use_bytes: cache_bytes?,
        cache_sys_bytes: caches,
        profile_sys_bytes: profiles,
        collector_sys_bytes: collector.wrapping_add(collector_notes),
        other_sys_bytes: other,
        next_bytes: goals.next(),
        percent: control(0)? as i32,
        limit_bytes: limit as i64,
        live_bytes: marked,
        last_ns: word(memory, last)?,
        pauses_ns: word(memory, last.wrapping_add(cycles::PAUSE_TOTAL))?,
        pause_ns: pauses(cycles::PAUSES)?,
        pause_ends_ns: pauses(cycles::PAUSE_ENDS)?,
        cycles: count(cycles::CYCLES)?,
        forced_cycles: count(cycles::FORCED)?,
        cpu_fraction: f64::from_bits(word(memory, last.wrapping_add(cycles::CPU_FRACTION))?),
        most_resident_bytes: 0,
    })
}

/// avmas of the runtime's variables.
struct Variables {
    /// `memstats`.
    counts: u64,
    /// `gcController`.
    control: u64,
    /// `mheap_`.
    heap: u64,
    /// `allp`.
    processors: u64,
}

impl Variables {
    fn of(program: &Program) -> Option<Self> {
        let variable = |name| program.variable(name).ok();
        Some(Self {
            counts: variable("runtime.memstats")?,
            control: variable("runtime.gcController")?,
            heap: variable("runtime.mheap_")?,
            processors: variable("runtime.allp")?,
        })
    }
}

/// What was allocated and freed (`heapStatsDelta`).
struct Heap {
    stacks: u64,
    work: u64,
    scalar_bits: u64,
    allocs: u64,
    alloc_bytes: u64,
    frees: u64,
    free_bytes: u64,
}

impl Heap {
    fn read(memory: &impl Memory, start: u64, layout: &Layout) -> Option<Self> {
        // Committed, released, in the heap, stacks, work, scalar bits, tiny ones, large ones' bytes and
        // number, small ones; the last three also of what was freed.
        let words = 6 + usize::from(layout.has_scalar_bits) + 2 * (2 + SIZES.len());
        let mut sums = vec![0_u64; words];
        let mut bytes = vec![0; words * 8];
        for part in 0..PARTS {
            let at = start.wrapping_add(part * bytes.len() as u64);
            if memory.read(at, &mut bytes) < bytes.len() {
                return None;
            }
            for (sum, word) in sums.iter_mut().zip(bytes.chunks_exact(8)) {
                *sum = sum.wrapping_add(word_in(word, 0)?);
            }
        }
        let mut sums = sums.into_iter().skip(3);
        let mut next = || sums.next();
        let (stacks, work) = (next()?, next()?);
        let scalar_bits = if layout.has_scalar_bits { next()? } else { 0 };
        let tiny = next()?;
        let mut objects = || {
            // Of tiny ones, which share an object, the runtime counts each, without its bytes.
            let (mut bytes, mut count) = (next()?, next()?.wrapping_add(tiny));
            for size in SIZES {
                let of_class = next()?;
                count = count.wrapping_add(of_class);
                bytes = bytes.wrapping_add(of_class.wrapping_mul(size));
            }
            Some((count, bytes))
        };
        let ((allocs, alloc_bytes), (frees, free_bytes)) = (objects()?, objects()?);
        Some(Self { stacks, work, scalar_bits, allocs, alloc_bytes, frees, free_bytes })
    }

    /// Adds what processors have allocated of the spans that they have at hand, and not counted yet.
    fn add_cached(
        &mut self,
        memory: &impl Memory,
        processors: u64,
        layout: &Layout,
        deadline: Deadline,
    ) -> Option<()> {
        let [array, count]: [u64; 2] = words(memory, processors)?;
        let mut pieces = Pieces::default();
        let mut read = |ranges: &[(u64, usize)]| -> Vec<Vec<u8>> {
            pieces.read(memory, ranges);
            pieces.iter().map(<[u8]>::to_vec).collect()
        };
        let first = |bytes: &Vec<u8>| word_in(bytes, 0).filter(|it| *it != 0);
        let places = (0..count.min(MOST_PROCESSORS))
            .map(|number| (array.wrapping_add(number * 8), 8))
            .collect::<Vec<_>>();
        let processors = read(&places);
        let caches: Vec<_> = processors
            .iter()
            .filter_map(first)
            .map(|it| (it.wrapping_add(layout.cache as u64), 8))
            .collect();
        // From the number of tiny ones on.
        let caches: Vec<_> = read(&caches)
            .iter()
            .filter_map(first)
            .map(|it| (it.wrapping_add(layout.cached_spans as u64 - 8), 8 + CACHED * 8))
            .collect();
        for cache in read(&caches) {
            if deadline.is_over() {
                return None;
            }
            let tiny = word_in(&cache, 0).unwrap_or_default();
            self.allocs = self.allocs.wrapping_add(tiny);
            self.frees = self.frees.wrapping_add(tiny);
            let spans: Vec<_> = (1..=CACHED)
                .map(|number| word_in(&cache, number * 8).unwrap_or_default())
                .map(|span| (span.wrapping_add(layout.span_objects as u64), 8))
                .collect();
            for (class, span) in read(&spans).iter().enumerate() {
                let number =
                    |at: usize| span.get(at..)?.first_chunk().map(|it| u16::from_le_bytes(*it));
                let Some((now, before)) = number(0).zip(number(6)) else { continue };
                let more = u64::from(now).wrapping_sub(before.into());
                self.allocs = self.allocs.wrapping_add(more);
                let bytes = more.wrapping_mul(SIZES[class / 2]);
                self.alloc_bytes = self.alloc_bytes.wrapping_add(bytes);
            }
        }
        Some(())
    }
}

/// What the collector's next goal comes from, in bytes.
struct Goals {
    by_percent: u64,
    limit: u64,
    marked: u64,
    free: u64,
    alloc: u64,
    ready: u64,
}

impl Goals {
    /// By GOGC, or by the memory limit, whichever is lower (`memoryLimitHeapGoal`, `mgcpacer.go`).
    fn next(&self) -> u64 {
        let over = self.ready.saturating_sub(self.limit);
        let others = self.ready.saturating_sub(self.free).saturating_sub(self.alloc);
        let taken = others.saturating_add(over);
        let by_limit = match self.limit.checked_sub(taken) {
            None | Some(0) => self.marked,
            Some(left) => {
                let headroom = (left / 100 * HEADROOM_PERCENT).max(LEAST_HEADROOM);
                left.saturating_sub(headroom).max(headroom).max(self.marked)
            }
        };
        self.by_percent.min(by_limit)
    }
}

/// From `mstats.last_gc_unix` on, in bytes.
mod cycles {
    /// `pause_total_ns`.
    pub(super) const PAUSE_TOTAL: u64 = 8;
    /// `pause_ns`.
    pub(super) const PAUSES: u64 = 16;
    /// `pause_end`.
    pub(super) const PAUSE_ENDS: u64 = PAUSES + super::PAUSES as u64 * 8;
    /// `numgc`.
    pub(super) const CYCLES: u64 = PAUSE_ENDS + super::PAUSES as u64 * 8;
    /// `numforcedgc`.
    pub(super) const FORCED: u64 = CYCLES + 4;
    /// `gc_cpu_fraction`.
    pub(super) const CPU_FRACTION: u64 = CYCLES + 8;
}

/// Words that lie side by side.
fn words<const COUNT: usize>(memory: &impl Memory, at: u64) -> Option<[u64; COUNT]> {
    let mut bytes = vec![0; COUNT * 8];
    if memory.read(at, &mut bytes) < bytes.len() {
        return None;
    }
    let mut words = [0; COUNT];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = word_in(bytes, 0)?;
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::memory::fake::Fake, *};

    const COUNTS: u64 = 0x10_0000;
    const CONTROL: u64 = 0x20_0000;
    const HEAP: u64 = 0x30_0000;
    const PROCESSORS: u64 = 0x40_0000;

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(9), Duration::from_secs(9))
    }

    fn program(version: &str) -> Program {
        let variables = [
            ("runtime.memstats", COUNTS),
            ("runtime.gcController", CONTROL),
            ("runtime.mheap_", HEAP),
            ("runtime.allp", PROCESSORS),
        ];
        Program::fake(version, &[], &variables)
    }

    /// One part of three: a large object, two of class 1 and one of these freed, three tiny ones.
    fn memory(version: &str) -> Fake {
        let memory = Fake::default();
        let layout = Layout::of(version).unwrap();
        let mut part = vec![0, 0, 0, 4096, 64];
        part.extend(layout.has_scalar_bits.then_some(8));
        part.extend([3, 40_000, 1, 0, 2]);
        part.resize(part.len() + 66, 0);
        part.extend([0, 0, 0, 1]);
        part.resize(part.len() + 66, 0);
        let last = layout.last_gc as usize / 8;
        let mut counts = vec![0; last + 3 + 2 * PAUSES + 1];
        counts[..part.len()].copy_from_slice(&part);
        counts[last - 6..last].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        counts[last] = 77;
        counts[last + 1] = 60;
        counts[last + 2] = 30;
        counts[last + 2 + PAUSES] = 76;
        counts[last + 2 + 2 * PAUSES] = 1 << 32 | 1;
        counts[last + 3 + 2 * PAUSES] = 0.5_f64.to_bits();
        memory.put_words(COUNTS, &counts);
        let mut control = vec![0; 0x200 / 8];
        control[0] = 100;
        control[1] = i64::MAX as u64;
        control[layout.heap_marked as usize / 8] = 1 << 20;
        control[layout.heap_goal as usize / 8] = 4 << 20;
        let heap = layout.heap_in_use as usize / 8;
        control[heap..heap + 6].copy_from_slice(&[100, 20, 3, 50, 10, 200]);
        memory.put_words(CONTROL, &control);
        for (number, into) in layout.structures_in_use.into_iter().enumerate() {
            memory.put_words(HEAP + into, &[160 * (number as u64 + 1)]);
        }
        memory.put_words(PROCESSORS, &[0x50_0000, 2]);
        memory.put_words(0x50_0000, &[0x50_1000, 0]);
        memory.put_words(0x50_1000 + layout.cache as u64, &[0x50_2000]);
        let mut cache = vec![7];
        cache.resize(1 + CACHED, 0);
        // The class of the runtime's empty span, and class 2.
        cache[1 + 4] = 0x50_3000;
        memory.put_words(0x50_2000 + layout.cached_spans as u64 - 8, &cache);
        memory.put_words(0x50_3000 + layout.span_objects as u64, &[10 | 4 << 48]);
        memory
    }

    #[test]
    fn what_the_runtime_would_tell() {
        for version in ["go1.19.13", "go1.21.13", "go1.24.1", "go1.25.1", "go1.27.0"] {
            let found = read(&memory(version), &program(version), deadline()).unwrap();
            assert_eq!((found.mallocs, found.frees), (1 + 2 + 3 + 7 + 6, 1 + 3 + 7), "{version}");
            assert_eq!(found.total_alloc_bytes, 40_000 + 2 * 8 + 6 * 16);
            assert_eq!(found.alloc_bytes, found.total_alloc_bytes - 8);
            let bits = if Layout::of(version).unwrap().has_scalar_bits { 8 } else { 0 };
            assert_eq!(found.collector_sys_bytes, 5 + 64 + bits);
            assert_eq!(found.sys_bytes, 123 + 21 + 4096 + 64 + bits);
            assert_eq!((found.heap_idle_bytes, found.heap_in_use_bytes), (23, 100));
            assert_eq!((found.stack_in_use_bytes, found.stack_sys_bytes), (4096, 4097));
            assert_eq!((found.span_in_use_bytes, found.cache_in_use_bytes), (160, 320));
            assert_eq!((found.cycles, found.forced_cycles, found.cpu_fraction), (1, 1, 0.5));
            assert_eq!((found.pause_ns[0], found.pause_ends_ns[0]), (30, 76));
            assert_eq!((found.next_bytes, found.last_ns, found.pauses_ns), (4 << 20, 77, 60));
            assert_eq!((found.percent, found.limit_bytes), (100, i64::MAX));
            assert_eq!(found.live_bytes, 1 << 20);
        }
    }

    #[test]
    fn a_limit_lowers_the_goal() {
        let goals = Goals {
            by_percent: 400 << 20,
            limit: 100 << 20,
            marked: 10 << 20,
            free: 1 << 20,
            alloc: 20 << 20,
            ready: 31 << 20,
        };
        assert_eq!(goals.next(), (90 << 20) - (90 << 20) / 100 * 3);
        assert_eq!(Goals { limit: 5 << 20, ..goals }.next(), 10 << 20);
    }

    #[test]
    fn what_a_hostile_process_has_ends() {
        assert_eq!(read(&Fake::default(), &program("go1.26.8"), deadline()), None);
        let wide = memory("go1.26.8");
        wide.put_words(PROCESSORS, &[0x50_0000, u64::MAX]);
        wide.put_words(0x50_0000, &vec![0x50_1000; MOST_PROCESSORS as usize]);
        assert!(read(&wide, &program("go1.26.8"), deadline()).is_some());
        assert!(wide.reads.get() < 200_000);
    }
}
