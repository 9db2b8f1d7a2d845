//! The labels of the goroutine that runs, read from a Go program's memory, and sent once in each
//! epoch.
//!
//! Strings of Go do not change, and their memory is used again only after the collector's next cycle:
//! where they are and how long they are, and the number of the cycle, tell them apart. So what they say
//! is read only where it has to be sent.
//!
//! The program may hold anything there: all reads are bounded, and what cannot be read is no label.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_loop, bpf_probe_read_user as read_user_bytes},
    },
};
use profiler_ebpf::{
    config::{Config, Control},
    go::{KEY_BYTES, LABEL_WORDS, Labels, MAX_LABELS, STRING_BYTES, VALUE_BYTES, bucket, form},
    record::{self, Kind, MAX_USER_FRAMES, RunningGoroutine, Sample},
    stack_id::StackId,
};

use crate::{
    maps::{RECORDS, Scratch, submit_flags},
    registers, stacks,
};

/// Words of the headers of a label's strings.
const HEADER_WORDS: usize = 2 * STRING_BYTES / 8;
/// Where among the frames the headers are put, behind the labels' words.
const HEADERS: usize = MAX_USER_FRAMES / 2;
/// Where a bucket of a map is put.
const BUCKET: usize = HEADERS + MAX_USER_FRAMES / 4;
const BUCKET_WORDS: usize = bucket::BYTES as usize / 8;

/// Numbers of labels that there is room for.
const ROOM_MASK: usize = 15;

/// What the steps share.
#[repr(C)]
struct Context {
    scratch: *mut Scratch,
    /// Where a map has its buckets.
    buckets: u64,
    /// Labels whose headers there are.
    found: u64,
    /// Labels that were copied.
    copied: u64,
    /// What stands for them.
    id: StackId,
}

/// Takes the labels of what `task` runs, which is the current one and whose user stack was taken
/// right before.
#[inline(always)]
pub(crate) fn take(
    config: &Config,
    control: &Control,
    sample: &mut Sample,
    task: *mut task_struct,
    scratch: &mut Scratch,
) {
    let at = scratch.user.labels();
    if at.form == form::NONE {
        return;
    }
    let Some(goroutine) = goroutine(config, task, &at) else { return };
    if control.tells_goroutines != 0 {
        tell(control, sample, goroutine.wrapping_add(u64::from(at.goid)));
    }
    let labels: u64 = read(goroutine.wrapping_add(u64::from(at.labels))).unwrap_or_default();
    if labels == 0 {
        return;
    }
    let seed = config.seed ^ record::LABELS_SEED;
    let id = StackId::new(seed);
    let mut context = Context { scratch: &raw mut *scratch, buckets: 0, found: 0, copied: 0, id };
    if gather(labels, at.form, &mut context).is_none() || context.found == 0 {
        return;
    }
    let known = cycle(&at).map(|cycle| identify(seed, cycle, sample, &mut context));
    if let Some(id) = &known
        && stacks::is_sent(control, id)
    {
        sample.labels = id.id();
        return;
    }
    let found = (context.found as u32).min(MAX_LABELS as u32);
    // SAFETY: `copy_label` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(found, copy_label as *mut c_void, (&raw mut context).cast(), 0) };
    let copied = (context.copied as usize).min(MAX_LABELS);
    if copied == 0 {
        return;
    }
    let words = copied * LABEL_WORDS;
    let id = match known {
        Some(id) if context.copied == context.found => id,
        // What could not be read now may be there later.
        _ => stacks::hash_frames(seed, words, scratch),
    };
    sample.labels = id.id();
    stacks::send(control, Kind::Labels, &id, words, scratch);
}

/// Where the goroutine is that the thread runs, or last ran.
#[inline(always)]
fn goroutine(config: &Config, task: *mut task_struct, at: &Labels) -> Option<u64> {
    let running: u64 = registers::goroutine(config, task, at.g)?;
    // On the system's stack another one runs, for this one.
    let machine: u64 = read(running.wrapping_add(u64::from(at.m)))?;
    read(machine.wrapping_add(u64::from(at.curg))).filter(|goroutine| *goroutine != 0)
}

/// Tells that a sample is of the goroutine whose number is there.
#[inline(always)]
fn tell(control: &Control, sample: &Sample, goid: u64) {
    let Some(goid) = read(goid) else { return };
    let told = RunningGoroutine {
        kind: Kind::RunningGoroutine as u32,
        epoch: sample.epoch,
        goid,
        start_ns: sample.start_ns,
        user_stack: sample.user_stack,
        pid: sample.pid,
        user_check: sample.user_check,
        outcome: sample.outcome,
        reserved: 0,
    };
    // One that is lost is of the next sample.
    let _ = RECORDS.output::<RunningGoroutine>(told, submit_flags(control));
}

/// Reads where the labels' strings are.
#[inline(always)]
fn gather(labels: u64, form: u16, context: &mut Context) -> Option<()> {
    let [first, second]: [u64; 2] = read(labels)?;
    if form == form::SLICE {
        // The verifier is to see the number bounded that is passed on, and not another copy of it.
        let count = core::hint::black_box(second.min(MAX_LABELS as u64));
        if count == 0 || count > MAX_LABELS as u64 {
            return None;
        }
        context.found = count;
        // SAFETY: there is room for as many; the helper checks the address.
        let result = unsafe {
            let to = (&raw mut (*context.scratch).frames[HEADERS]).cast();
            read_user_bytes(to, count as u32 * (HEADER_WORDS * 8) as u32, first as *const c_void)
        };
        return (result == 0).then_some(());
    }
    if first == 0 {
        return None;
    }
    let shift: u8 = read(first.wrapping_add(bucket::MAP_SHIFT))?;
    context.buckets = read(first.wrapping_add(bucket::MAP_BUCKETS))?;
    // Of each bucket, and of one more that it may have filled up.
    let most = (2 * bucket::ENTRIES as u32) << shift.min(bucket::MAX_SHIFT);
    // SAFETY: `gather_entry` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(most, gather_entry as *mut c_void, (&raw mut *context).cast(), 0) };
    Some(())
}

/// Notes where the strings of an entry of a bucket are. Each odd bucket is what the one before it leads
/// to.
unsafe extern "C" fn gather_entry(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `gather` passes a `Context`.
    let context = unsafe { &mut *context.cast::<Context>() };
    // SAFETY: the scratch space is this CPU's, which `busy` keeps for us.
    let frames = unsafe { &mut (*context.scratch).frames };
    let index = u64::from(index);
    let (number, entry) = (index / bucket::ENTRIES, (index % bucket::ENTRIES) as usize);
    if entry == 0 {
        let from = if number & 1 == 0 {
            context.buckets.wrapping_add(number / 2 * bucket::BYTES)
        } else {
            frames[BUCKET + BUCKET_WORDS - 1]
        };
        // SAFETY: there is room for as many; the helper checks the address.
        let result = unsafe {
            let to = (&raw mut frames[BUCKET]).cast();
            read_user_bytes(to, bucket::BYTES as u32, from as *const c_void)
        };
        if result != 0 {
            // An empty one, which leads nowhere.
            frames[BUCKET] = 0;
            frames[BUCKET + BUCKET_WORDS - 1] = 0;
        }
    }
    let is_used = (frames[BUCKET] >> (8 * entry)) as u8 >= bucket::LEAST_HASH;
    if !is_used || context.found >= MAX_LABELS as u64 {
        return 0;
    }
    // The verifier is to see it bounded.
    let to = HEADERS + (context.found as usize & ROOM_MASK) * HEADER_WORDS;
    let key = BUCKET + bucket::KEYS as usize / 8 + entry * 2;
    let value = BUCKET + bucket::VALUES as usize / 8 + entry * 2;
    frames[to] = frames[key];
    frames[to + 1] = frames[key + 1];
    frames[to + 2] = frames[value];
    frames[to + 3] = frames[value + 1];
    context.found += 1;
    0
}

/// The number of the collector's cycle; its lowest bit is that of something else.
#[inline(always)]
fn cycle(at: &Labels) -> Option<u64> {
    if at.cycle == 0 {
        return None;
    }
    read::<u32>(at.cycle).map(|cycle| u64::from(cycle >> 1))
}

/// What stands for labels of the process in this cycle.
#[inline(always)]
fn identify(seed: u64, cycle: u64, sample: &Sample, context: &mut Context) -> StackId {
    context.id = StackId::new(seed);
    context.id.push(u64::from(sample.pid) << 32 | u64::from(sample.exec_id));
    context.id.push(sample.start_ns);
    context.id.push(cycle);
    let labels = context.found as u32;
    // SAFETY: `identify_label` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(labels, identify_label as *mut c_void, (&raw mut *context).cast(), 0) };
    context.id
}

/// Adds where the strings of a label are.
unsafe extern "C" fn identify_label(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `identify` passes a `Context`.
    let context = unsafe { &mut *context.cast::<Context>() };
    // SAFETY: the scratch space is this CPU's, which `busy` keeps for us.
    let frames = unsafe { &(*context.scratch).frames };
    let header = HEADERS + (index as usize & ROOM_MASK) * HEADER_WORDS;
    let mut word = 0;
    while word < HEADER_WORDS {
        context.id.push(frames[header + word]);
        word += 1;
    }
    0
}

/// Copies the strings of a label.
unsafe extern "C" fn copy_label(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `take` passes a `Context`.
    let context = unsafe { &mut *context.cast::<Context>() };
    // The verifier is to see them bounded.
    let (index, copied) = (index as usize & ROOM_MASK, context.copied as usize & ROOM_MASK);
    // SAFETY: the scratch space is this CPU's, which `busy` keeps for us.
    let frames = unsafe { &mut (*context.scratch).frames };
    let header = HEADERS + index * HEADER_WORDS;
    let [key, key_bytes] = [frames[header], frames[header + 1]];
    let [value, value_bytes] = [frames[header + 2], frames[header + 3]];
    let first = copied * LABEL_WORDS;
    let length = |bytes: u64| bytes.min(u64::from(u32::MAX));
    frames[first] = length(key_bytes) | length(value_bytes) << 32;
    let mut word = 1;
    while word < LABEL_WORDS {
        frames[first + word] = 0;
        word += 1;
    }
    // The value is behind the key.
    let is_copied = copy::<KEY_BYTES>(&raw mut frames[first + 1], key, key_bytes)
        && copy::<VALUE_BYTES>(&raw mut frames[first + 1 + KEY_BYTES / 8], value, value_bytes);
    context.copied += u64::from(is_copied);
    0
}

/// Copies a string, or as much of it as there is room for.
#[inline(always)]
fn copy<const MOST: usize>(to: *mut u64, from: u64, bytes: u64) -> bool {
    // As above.
    let bytes = core::hint::black_box(bytes.min(MOST as u64));
    if bytes == 0 || bytes > MOST as u64 {
        return true;
    }
    // SAFETY: there is room for as many; the helper checks the address.
    unsafe { read_user_bytes(to.cast(), bytes as u32, from as *const c_void) == 0 }
}

#[inline(always)]
fn read<T>(at: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a wrong one is an error, not a fault.
    unsafe { bpf_probe_read_user(at as *const T) }.ok()
}

const _: () = assert!(
    MAX_LABELS <= ROOM_MASK
        && (ROOM_MASK + 1) * LABEL_WORDS <= HEADERS
        && HEADERS + (ROOM_MASK + 1) * HEADER_WORDS <= BUCKET
        && BUCKET + BUCKET_WORDS <= MAX_USER_FRAMES
);
