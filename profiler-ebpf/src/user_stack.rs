//! The walk of the interrupted user code's stack.
//!
//! The walk's state is in this CPU's scratch space, not on the BPF stack: the verifier then knows
//! nothing of it, and follows a step once.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_loop, bpf_map_lookup_elem},
};
use profiler_ebpf::{
    go::Labels,
    mappings::{Process, Range, Ranges, Search, state},
    record::MAX_USER_FRAMES,
    stack_id::StackId,
    unwind::{
        Outcome, Registers, Step,
        rule::Rule,
        table::{Block, Blocks, SLAB_BLOCKS, Table},
        walk::Walk,
    },
};

use crate::{
    maps::{PROCESSES, RANGES, SLABS, Scratch, TABLES},
    user_memory::UserMemory,
};

/// What the steps of a walk share.
#[repr(C)]
pub(crate) struct UserWalk {
    walk: Walk,
    id: StackId,
    process: Process,
    /// The mapping that covered the last frame, and its table: the next one is mostly in it, too.
    range: Range,
    table: Table,
    count: u32,
    outcome: u32,
    /// 1: a frame was in a mapping that is not known, or whose table is not there yet.
    lacks_table: u32,
    /// Fills the size to a multiple of 8.
    reserved: u32,
}

impl UserWalk {
    /// Where the process that was walked has the labels of its goroutines.
    #[inline(always)]
    pub(crate) const fn labels(&self) -> Labels {
        self.process.labels
    }
}

/// What a walk found. The frames are in the scratch space.
pub(crate) struct Found {
    pub(crate) id: StackId,
    pub(crate) frames: usize,
    pub(crate) outcome: u32,
    /// A frame was in a mapping that is not known, or whose table is not there yet.
    pub(crate) lacks_table: bool,
}

struct Context {
    scratch: *mut Scratch,
}

/// Walks a user stack of `task`, which must run user code and is the current one, from `registers` on.
#[inline(always)]
pub(crate) fn take(
    scratch: &mut Scratch,
    registers: &Registers,
    task: *mut task_struct,
    (pid, start_ns): (u32, u64),
    seed: u64,
) -> Found {
    let mut id = StackId::new(seed);
    id.push(registers.pc);
    scratch.frames[0] = registers.pc;
    scratch.memory.begin(task);
    // SAFETY: the value is copied before anything can replace it.
    let process = unsafe { PROCESSES.get(pid) }
        .copied()
        .filter(|process| process.start_ns == 0 || process.start_ns == start_ns)
        .unwrap_or_default();
    scratch.user = UserWalk {
        walk: Walk::new(registers),
        id,
        process,
        range: Range::default(),
        table: Table::default(),
        count: 1,
        outcome: Outcome::Truncated as u32,
        lacks_table: 0,
        reserved: 0,
    };
    let mut context = Context { scratch: &raw mut *scratch };
    // SAFETY: `step` takes what it is given here, which outlives the call.
    unsafe {
        bpf_loop(MAX_USER_FRAMES as u32, step as *mut c_void, (&raw mut context).cast(), 0);
    }
    let UserWalk { id, count, outcome, lacks_table, .. } = scratch.user;
    let frames = (count as usize).min(MAX_USER_FRAMES);
    Found { id, frames, outcome, lacks_table: lacks_table != 0 }
}

/// One frame of a user stack; 1 ends the walk.
unsafe extern "C" fn step(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `take` passes a `Context`, whose scratch space is this CPU's, which `busy` keeps for
    // us.
    let scratch = unsafe { &mut *(*context.cast::<Context>()).scratch };
    let memory = UserMemory::new(&raw mut scratch.memory);
    let user = &mut scratch.user;
    let avma = user.walk.avma();
    let is_covered = (user.range.start <= avma && avma < user.range.end) || find(user, avma);
    if !is_covered || user.range.state == state::AWAITED {
        user.lacks_table = 1;
    }
    let rule = if is_covered && user.table.pages != 0 {
        user.table.find(&KernelBlocks, avma.wrapping_sub(user.range.bias))
    } else if is_covered || user.process.count == 0 || user.walk.is_interrupted() {
        Rule::GAP
    } else {
        user.outcome = Outcome::NoMapping as u32;
        return 1;
    };
    let is_generated = is_covered && user.range.state == state::GENERATED;
    let outcome = match user.walk.step(&memory, &rule, is_generated) {
        Step::Caller(_) if user.count as usize >= MAX_USER_FRAMES => Outcome::Truncated,
        Step::Caller(pc) => {
            // As if it was called from there: whoever names it looks one byte before a caller.
            let avma = pc.wrapping_add(u64::from(user.walk.is_interrupted()));
            user.id.push(avma);
            let index = user.count as usize & (MAX_USER_FRAMES - 1);
            user.count += 1;
            scratch.frames[index] = avma;
            return 0;
        }
        Step::End(outcome) => outcome,
    };
    user.outcome = outcome as u32;
    1
}

/// Finds the mapping that covers `avma`, and notes it and its table for the next frames.
#[inline(always)]
fn find(user: &mut UserWalk, avma: u64) -> bool {
    let mut search = Search::new(&user.process, avma);
    // SAFETY: `halve` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(search.steps(), halve as *mut c_void, (&raw mut search).cast(), 0) };
    let Some(range) = search.result(&KernelRanges) else { return false };
    user.range = range;
    user.table = if range.table == 0 {
        Table::default()
    } else {
        TABLES.get(range.table).copied().unwrap_or_default()
    };
    true
}

/// One step of a search; 1 ends it.
unsafe extern "C" fn halve(_index: u32, search: *mut c_void) -> i64 {
    // SAFETY: `find` passes a `Search`.
    let search = unsafe { &mut *search.cast::<Search>() };
    i64::from(!search.step(&KernelRanges))
}

/// The map `RANGES`.
struct KernelRanges;

impl Ranges for KernelRanges {
    #[inline(always)]
    fn range(&self, index: u32) -> Option<Range> {
        RANGES.get(index).copied()
    }
}

/// The slabs in the map `SLABS`.
struct KernelBlocks;

impl Blocks for KernelBlocks {
    #[inline(always)]
    fn block(&self, number: u32) -> Option<&Block> {
        let slab = number / SLAB_BLOCKS;
        let block = number % SLAB_BLOCKS;
        // SAFETY: SLABS is an array of maps; what is found in it is a map, or null.
        let slab = unsafe {
            bpf_map_lookup_elem((&raw const SLABS).cast_mut().cast(), (&raw const slab).cast())
        };
        if slab.is_null() {
            return None;
        }
        // SAFETY: a slab's values are blocks; the kernel keeps it until the program has ended.
        let block = unsafe { bpf_map_lookup_elem(slab, (&raw const block).cast()) };
        // SAFETY: as above; rows that change meanwhile are numbers, whatever they are.
        unsafe { block.cast::<Block>().as_ref() }
    }
}
