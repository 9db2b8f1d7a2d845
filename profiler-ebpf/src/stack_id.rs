//! A stack's 64-bit ID: a hash of its frames.
//!
//! The ID speaks of addresses alone. What the addresses mean, in which process and which
//! generation of its mappings, the daemon keeps beside it.

/// Hashes a stack frame by frame.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StackId {
    id: u64,
    check: u64,
}

const MULTIPLY: u64 = 0x9e37_79b9_7f4a_7c15;

impl StackId {
    /// A hash of no frame yet.
    #[inline(always)]
    pub const fn new(seed: u64) -> Self {
        Self { id: seed, check: seed.rotate_left(32) }
    }

    /// Adds a frame.
    #[inline(always)]
    pub const fn push(&mut self, avma: u64) {
        let mixed = (self.id ^ avma).wrapping_mul(MULTIPLY);
        self.id = mixed ^ (mixed >> 29);
        self.check = self.check.rotate_left(7).wrapping_add(avma);
    }

    /// The ID; never 0, which stands for "no stack".
    #[inline(always)]
    pub const fn id(&self) -> u64 {
        let mixed = self.id.wrapping_mul(MULTIPLY);
        (mixed ^ (mixed >> 32)) | 1
    }

    /// A second, independent sum, by which the daemon notices two stacks with one ID.
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        (self.check ^ (self.check >> 32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::StackId;

    fn id_of(frames: &[u64]) -> u64 {
        let mut id = StackId::new(0x1234_5678_9abc_def0);
        for &frame in frames {
            id.push(frame);
        }
        id.id()
    }

    #[test]
    fn order_length_and_content_count() {
        assert_ne!(id_of(&[1, 2]), id_of(&[2, 1]));
        assert_ne!(id_of(&[1]), id_of(&[1, 1]));
        assert_ne!(id_of(&[]), 0);
    }

    #[test]
    fn a_million_similar_stacks_have_distinct_ids() {
        let mut ids = HashSet::new();
        for leaf in 0..1000_u64 {
            for caller in 0..1000_u64 {
                ids.insert(id_of(&[0x55_5555_0000 + leaf, 0x55_5555_8000 + caller * 4]));
            }
        }
        assert_eq!(ids.len(), 1_000_000);
    }
}
