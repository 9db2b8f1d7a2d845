//! The labels of the goroutine that runs, read from a Go program's memory, and sent once in each
//! epoch.
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
    record::{self, Kind, MAX_USER_FRAMES, Sample},
    stack_id::StackId,
};

use crate::{maps::Scratch, registers, stacks};

const STRING: u64 = STRING_BYTES as u64;

/// What the steps share.
#[repr(C)]
struct Context {
    scratch: *mut Scratch,
    /// Where the slice's array is, or the map's buckets are.
    start: u64,
    is_map: u64,
    /// Labels that were taken.
    count: u64,
    /// The hash of them.
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
    let labels = scratch.user.labels();
    if labels.form == form::NONE {
        return;
    }
    let Some((start, most)) = find(config, task, &labels) else { return };
    let is_map = u64::from(labels.form == form::MAP);
    let id = StackId::new(config.seed ^ record::LABELS_SEED);
    let mut context = Context { scratch: &raw mut *scratch, start, is_map, count: 0, id };
    // SAFETY: `label` takes what it is given here, which outlives the call.
    unsafe { bpf_loop(most, label as *mut c_void, (&raw mut context).cast(), 0) };
    if context.count == 0 {
        return;
    }
    let words = context.count as usize * LABEL_WORDS;
    sample.labels = context.id.id();
    stacks::send(control, Kind::Labels, &context.id, words, scratch);
}

/// Where the labels of the goroutine are that the thread runs, or last ran, and how many places there
/// are to be looked at.
#[inline(always)]
fn find(config: &Config, task: *mut task_struct, at: &Labels) -> Option<(u64, u32)> {
    let running: u64 = registers::goroutine(config, task, at.g)?;
    // On the system's stack another one runs, for this one.
    let machine: u64 = read(running.wrapping_add(u64::from(at.m)))?;
    let goroutine: u64 = read(machine.wrapping_add(u64::from(at.curg)))?;
    if goroutine == 0 {
        return None;
    }
    let labels: u64 = read(goroutine.wrapping_add(u64::from(at.labels)))?;
    if labels == 0 {
        return None;
    }
    let [first, second]: [u64; 2] = read(labels)?;
    if at.form == form::SLICE {
        return Some((first, second.min(MAX_LABELS as u64) as u32));
    }
    if first == 0 {
        return None;
    }
    let shift: u8 = read(first.wrapping_add(bucket::MAP_SHIFT))?;
    let buckets: u64 = read(first.wrapping_add(bucket::MAP_BUCKETS))?;
    // Of each bucket, and of one more that it may have filled up.
    Some((buckets, (2 * bucket::ENTRIES as u32) << shift.min(bucket::MAX_SHIFT)))
}

/// Takes one label; 1 ends it.
unsafe extern "C" fn label(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `take` passes a `Context`.
    let context = unsafe { &mut *context.cast::<Context>() };
    if context.count >= MAX_LABELS as u64 {
        return 1;
    }
    let _ = one(u64::from(index), context);
    0
}

#[inline(always)]
fn one(index: u64, context: &mut Context) -> Option<()> {
    let [key, key_bytes, value, value_bytes]: [u64; 4] = if context.is_map == 0 {
        read(context.start.wrapping_add(index * 2 * STRING))?
    } else {
        let (number, entry) = (index / bucket::ENTRIES, index % bucket::ENTRIES);
        let mut bucket = context.start.wrapping_add(number / 2 * bucket::BYTES);
        if number & 1 != 0 {
            bucket = read(bucket.wrapping_add(bucket::FURTHER))?;
            if bucket == 0 {
                return None;
            }
        }
        if read::<u8>(bucket.wrapping_add(entry))? < bucket::LEAST_HASH {
            return None;
        }
        let string = bucket.wrapping_add(entry * STRING);
        let [key, key_bytes]: [u64; 2] = read(string.wrapping_add(bucket::KEYS))?;
        let [value, value_bytes]: [u64; 2] = read(string.wrapping_add(bucket::VALUES))?;
        [key, key_bytes, value, value_bytes]
    };
    let first = context.count as usize * LABEL_WORDS;
    // The verifier is to see it bounded.
    if first > (MAX_LABELS - 1) * LABEL_WORDS {
        return None;
    }
    // SAFETY: the scratch space is this CPU's, which `busy` keeps for us; a label's words are within.
    let words = unsafe { (&raw mut (*context.scratch).frames).cast::<u64>().add(first) };
    let mut word = 1;
    while word < LABEL_WORDS {
        // SAFETY: as above.
        unsafe { *words.add(word) = 0 };
        word += 1;
    }
    let length = |bytes: u64| bytes.min(u64::from(u32::MAX));
    // SAFETY: as above.
    unsafe { *words = length(key_bytes) | length(value_bytes) << 32 };
    // SAFETY: as above: the key is behind the lengths, and the value behind the key.
    let (key_words, value_words) = unsafe { (words.add(1), words.add(1 + KEY_BYTES / 8)) };
    copy::<KEY_BYTES>(key_words, key, key_bytes)?;
    copy::<VALUE_BYTES>(value_words, value, value_bytes)?;
    // Here, where the places are constants: a call for each word costs more than the word.
    let mut word = 0;
    while word < LABEL_WORDS {
        // SAFETY: as above.
        context.id.push(unsafe { *words.add(word) });
        word += 1;
    }
    context.count += 1;
    Some(())
}

/// Copies a string, or as much of it as there is room for.
#[inline(always)]
fn copy<const MOST: usize>(to: *mut u64, from: u64, bytes: u64) -> Option<()> {
    // The verifier is to see the number bounded that is passed on, and not another copy of it.
    let bytes = core::hint::black_box(bytes.min(MOST as u64));
    if bytes == 0 || bytes > MOST as u64 {
        return Some(());
    }
    // SAFETY: there is room for as many; the helper checks the address.
    let result = unsafe { read_user_bytes(to.cast(), bytes as u32, from as *const c_void) };
    (result == 0).then_some(())
}

#[inline(always)]
fn read<T>(at: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a wrong one is an error, not a fault.
    unsafe { bpf_probe_read_user(at as *const T) }.ok()
}

const _: () = assert!(MAX_LABELS * LABEL_WORDS <= MAX_USER_FRAMES);
