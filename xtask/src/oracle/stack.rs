//! The copy of a stack that came with a sample.

use profiler_ebpf::unwind::Memory;

use super::recording::Sample;

/// What is read in the red zone, of which there is no copy: no address, and not aligned.
const UNKNOWN: u64 = 0x0bad_0000_0000_0bad;

/// How far below the stack pointer code keeps anything (System V ABI), in bytes.
const RED_ZONE_BYTES: u64 = 128;

/// DWARF's number of `rsp`.
const RSP: usize = 7;

/// The memory and the registers of a sample.
pub(super) struct Stack<'a>(pub(super) &'a Sample);

impl Stack<'_> {
    /// The 8-byte word at `avma`, if it was copied.
    pub(super) fn copied(&self, avma: u64) -> Option<u64> {
        let index = usize::try_from(avma.checked_sub(self.0.registers[RSP])?).ok()?;
        let bytes = self.0.stack.get(index..index.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

impl Memory for Stack<'_> {
    fn pair(&self, avma: u64) -> Option<[u64; 2]> {
        Some([self.word(avma)?, self.word(avma.wrapping_add(8))?])
    }

    fn word(&self, avma: u64) -> Option<u64> {
        let below = self.0.registers[RSP].wrapping_sub(avma);
        if (1..=RED_ZONE_BYTES).contains(&below) { Some(UNKNOWN) } else { self.copied(avma) }
    }

    fn register(&self, number: u32) -> Option<u64> {
        self.0.registers.get(number as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_copy() {
        let mut registers = [0; 16];
        registers[RSP] = 0x1000;
        let stack: Vec<u8> = [1_u64, 2, 3].into_iter().flat_map(u64::to_le_bytes).collect();
        let sample = Sample { pid: 1, pc: 0, registers, stack };
        let stack = Stack(&sample);
        assert_eq!(stack.pair(0x1008), Some([2, 3]));
        assert_eq!(stack.pair(0x1010), None, "beyond the copy");
        assert_eq!(stack.pair(0xff8), Some([UNKNOWN, 1]));
        assert_eq!(stack.copied(0xff8), None);
        assert_eq!(stack.word(0xf00), None);
    }
}
