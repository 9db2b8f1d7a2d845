//! The stacks that the kernel side has sent, each once in an epoch, until they are not needed any more.

use std::collections::HashMap;

use profiler_ebpf::record;

/// The stacks that the kernel side has sent, by epoch.
#[derive(Debug, Default)]
pub struct RawStacks {
    /// The current epoch and the one before.
    epochs: [(u32, HashMap<u64, RawStack>); 2],
    /// Stacks of whatever epoch whose waits are not over, by epoch and ID, as they were at the last
    /// two calls of [`Self::pin`].
    pinned: [HashMap<(u32, u64), RawStack>; 2],
    bytes: usize,
    collisions: u64,
}

#[derive(Clone, Debug)]
struct RawStack {
    check: u32,
    frames: Box<[u64]>,
}

impl RawStacks {
    /// Takes a stack.
    pub fn add(&mut self, header: &record::StackHeader, frames: &[u64]) {
        if header.epoch > self.epochs[0].0 {
            self.epochs.swap(0, 1);
            self.epochs[0] = (header.epoch, HashMap::new());
            self.bytes = 0;
        }
        let Some((_, stacks)) = self.epochs.iter_mut().find(|(epoch, _)| *epoch == header.epoch)
        else {
            return;
        };
        let stack = RawStack { check: header.check, frames: frames.into() };
        if let Some(known) = stacks.get(&header.id)
            && known.check != header.check
        {
            self.collisions += 1;
            return;
        }
        self.bytes += size_of_val(frames) + 64;
        stacks.insert(header.id, stack);
    }

    /// The frames of a stack, as avmas, leaf first.
    pub fn get(&mut self, epoch: u32, id: u64, check: u32) -> Option<&[u64]> {
        if self.find(epoch, id)?.check != check {
            self.collisions += 1;
            return None;
        }
        self.find(epoch, id).map(|stack| &*stack.frames)
    }

    fn find(&self, epoch: u32, id: u64) -> Option<&RawStack> {
        let stacks = self.epochs.iter().find(|(known, _)| *known == epoch);
        let pinned = || self.pinned.iter().find_map(|pinned| pinned.get(&(epoch, id)));
        stacks.and_then(|(_, stacks)| stacks.get(&id)).or_else(pinned)
    }

    /// Words that were sent as a stack is, and are no stack.
    pub(super) fn words(&self, epoch: u32, id: u64) -> Option<&[u64]> {
        self.find(epoch, id).map(|stack| &*stack.frames)
    }

    /// Keeps the stacks of these epochs and IDs beyond their epochs' end, and forgets others that
    /// were kept and are not asked for any more.
    pub fn pin(&mut self, stacks: impl Iterator<Item = (u32, u64)>) {
        let pinned =
            stacks.filter_map(|(epoch, id)| Some(((epoch, id), self.find(epoch, id)?.clone())));
        let pinned = pinned.collect();
        self.pinned.swap(0, 1);
        self.pinned[0] = pinned;
    }

    /// Bytes of the current epoch's stacks.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stacks that shared an ID with another, and were lost.
    pub fn collisions(&self) -> u64 {
        self.collisions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(epoch: u32, id: u64, check: u32, frames: u32) -> record::StackHeader {
        record::StackHeader { kind: 2, epoch, id, check, frames }
    }

    #[test]
    fn the_epoch_before_is_still_there() {
        let mut raw = RawStacks::default();
        raw.add(&header(1, 9, 5, 1), &[0x1004]);
        raw.add(&header(2, 8, 5, 1), &[0x1004]);
        assert!(raw.get(1, 9, 5).is_some());
        raw.add(&header(3, 8, 5, 1), &[0x1004]);
        assert!(raw.get(1, 9, 5).is_none());
    }

    #[test]
    fn what_is_pinned_outlives_its_epoch() {
        let mut raw = RawStacks::default();
        raw.add(&header(1, 9, 5, 1), &[0x1004]);
        raw.add(&header(1, 7, 5, 1), &[0x1008]);
        for epoch in 2..10 {
            raw.pin([(1, 9)].into_iter());
            raw.add(&header(epoch, 8, 5, 1), &[0x1004]);
        }
        assert!(raw.get(1, 9, 5).is_some() && raw.get(1, 7, 5).is_none());
        raw.pin([].into_iter());
        assert!(raw.get(1, 9, 5).is_some(), "its record may be under way");
        raw.pin([].into_iter());
        assert!(raw.get(1, 9, 5).is_none());
    }
}
