//! What the collector has counted.

use super::{
    super::protocol::GoStats,
    memory::{Memory, word, word_in},
    program::Program,
};

/// Pauses that the runtime remembers, in a ring.
pub(super) const PAUSES: usize = 256;

/// Reads it; `None`: a program without symbols does not tell where it is.
pub(super) fn read(memory: &impl Memory, program: &Program) -> Option<GoStats> {
    let counts = program.variable("runtime.memstats").ok()?;
    let control = program.variable("runtime.gcController").ok()?;
    let layout = &program.layout;
    let count = |at: u64| word(memory, counts.wrapping_add(at));
    let control = |at: u64| word(memory, control.wrapping_add(at));
    let cycles = count(layout.last_gc + layout::CYCLES)? as u32;
    let mut ring = [0; PAUSES * 8];
    let at = counts.wrapping_add(layout.last_gc + layout::PAUSES);
    if memory.read(at, &mut ring) < ring.len() {
        return None;
    }
    let mut pauses_ns: Vec<u64> = (0..PAUSES.min(cycles as usize))
        .map(|number| word_in(&ring, number * 8).unwrap_or_default())
        .collect();
    pauses_ns.sort_unstable();
    Some(GoStats {
        cycles,
        last_ns: count(layout.last_gc)?,
        pauses_ns: count(layout.last_gc + layout::PAUSE_TOTAL)?,
        pause_quantiles_ns: quantiles(&pauses_ns),
        percent: control(0)? as i32,
        limit_bytes: control(8)? as i64,
        goal_bytes: control(layout.heap_goal)?,
        live_bytes: control(layout.heap_marked)?,
    })
}

/// Minimum, quartiles and maximum, as `debug.ReadGCStats` has them; nothing of nothing.
fn quantiles(sorted: &[u64]) -> Vec<u64> {
    let Some(&last) = sorted.last() else { return Vec::new() };
    let quarters = (0..4).map(|quarter| sorted[sorted.len() * quarter / 4]);
    quarters.chain([last]).collect()
}

/// From `last_gc_unix` of `mstats` on, in bytes.
pub(super) mod layout {
    /// `pause_total_ns`.
    pub(in super::super) const PAUSE_TOTAL: u64 = 8;
    /// `pause_ns`.
    pub(in super::super) const PAUSES: u64 = 16;
    /// `pause_end`.
    pub(in super::super) const PAUSE_ENDS: u64 = PAUSES + super::PAUSES as u64 * 8;
    /// `numgc`.
    pub(in super::super) const CYCLES: u64 = PAUSE_ENDS + super::PAUSES as u64 * 8;
    /// `numforcedgc`.
    pub(in super::super) const FORCED: u64 = CYCLES + 4;
    /// `gc_cpu_fraction`.
    pub(in super::super) const CPU_FRACTION: u64 = CYCLES + 8;
}

#[cfg(test)]
mod tests {
    use super::{super::memory::fake::Fake, *};

    #[test]
    fn what_the_collector_has_counted() {
        let (counts, control) = (0x1_0000, 0x3_0000);
        let variables = [("runtime.memstats", counts), ("runtime.gcController", control)];
        let program = Program::fake("go1.26.8", &[], &variables);
        let memory = Fake::default();
        let ring: Vec<u64> = (0..256).map(|it| if it < 3 { 30 - it * 10 } else { 0 }).collect();
        let ends = [99; PAUSES];
        memory.put_words(counts + 0xdf0, &[&[77, 60][..], &ring, &ends, &[3]].concat());
        memory.put_words(control, &[100, i64::MAX as u64]);
        memory.put_words(control + 0x48, &[4 << 20]);
        memory.put_words(control + 0x98, &[1 << 20]);
        let found = read(&memory, &program).unwrap();
        assert_eq!((found.cycles, found.last_ns, found.pauses_ns), (3, 77, 60));
        assert_eq!(found.pause_quantiles_ns, [10, 10, 20, 30, 30]);
        assert_eq!((found.percent, found.limit_bytes), (100, i64::MAX));
        assert_eq!((found.goal_bytes, found.live_bytes), (4 << 20, 1 << 20));
        assert_eq!(read(&Fake::default(), &program), None);
    }
}
