//! User stacks that were copied to be walked later.

use profiler_ebpf::{
    arch::{self, REGISTERS},
    record::{COPY_HEADER_BYTES, MAX_COPY_BYTES, Sample},
    unwind::{Memory, Registers},
};

use super::sampler::{long, sample};

/// The interrupted code's registers, and its stack as far as it was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackCopy {
    registers: [u64; REGISTERS],
    /// avma of the first byte.
    start: u64,
    bytes: Box<[u8]>,
}

impl StackCopy {
    pub(super) const fn new(registers: [u64; REGISTERS], start: u64, bytes: Box<[u8]>) -> Self {
        Self { registers, start, bytes }
    }

    /// Decodes a record: a [`CopyHeader`](profiler_ebpf::record::CopyHeader) and what follows it.
    pub(super) fn decode(record: &[u8]) -> Option<(Sample, Box<Self>)> {
        let sample = sample(record)?;
        let mut at = size_of::<Sample>();
        let mut registers = [0; REGISTERS];
        for register in &mut registers {
            *register = long(record, at)?;
            at += 8;
        }
        let start = long(record, at)?;
        let count = usize::try_from(long(record, at + 8)?).ok()?;
        if count > MAX_COPY_BYTES {
            return None;
        }
        let bytes = record.get(COPY_HEADER_BYTES..COPY_HEADER_BYTES + count)?.into();
        Some((sample, Box::new(Self { registers, start, bytes })))
    }

    /// The registers that its walk begins with.
    pub fn walk_registers(&self) -> Registers {
        arch::registers(&self.registers)
    }

    /// What it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

impl Memory for StackCopy {
    fn pair(&self, avma: u64) -> Option<[u64; 2]> {
        Some([self.word(avma)?, self.word(avma.checked_add(8)?)?])
    }

    fn word(&self, avma: u64) -> Option<u64> {
        let into = usize::try_from(avma.checked_sub(self.start)?).ok()?;
        let word = self.bytes.get(into..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*word))
    }

    fn register(&self, number: u32) -> Option<u64> {
        // The last one is the program counter, which has no number here.
        self.registers[..REGISTERS - 1].get(number as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::record::Kind;

    use super::*;

    fn record(stack: &[u64], stated_bytes: u64) -> Vec<u8> {
        let mut words = vec![0; size_of::<Sample>() / 8];
        words[0] = u64::from(Kind::Copy as u32);
        words.extend(100..100 + REGISTERS as u64);
        words.extend([0x7000, stated_bytes]);
        words.extend(stack);
        words.into_iter().flat_map(u64::to_ne_bytes).collect()
    }

    #[test]
    fn a_copy_is_read_back() {
        let (sample, copy) = StackCopy::decode(&record(&[7, 8, 9], 24)).unwrap();
        assert_eq!(sample.kind, Kind::Copy as u32);
        assert_eq!(copy.word(0x7000), Some(7));
        assert_eq!(copy.word(0x7004), Some(8 << 32), "frames of assembly may lie anywhere");
        assert_eq!(copy.pair(0x7008), Some([8, 9]));
        assert_eq!((copy.pair(0x7010), copy.word(0x6ff8), copy.word(0x7018)), (None, None, None));
        assert_eq!((copy.word(u64::MAX), copy.pair(u64::MAX - 3)), (None, None));
        assert_eq!((copy.register(0), copy.register(REGISTERS as u32 - 1)), (Some(100), None));
        assert_eq!(copy.walk_registers().pc, 100 + REGISTERS as u64 - 1);
    }

    #[test]
    fn a_short_record_is_none() {
        let whole = record(&[7, 8, 9], 24);
        for length in 0..whole.len() {
            assert_eq!(StackCopy::decode(&whole[..length]), None, "{length}");
        }
        assert_eq!(StackCopy::decode(&record(&[7], u64::MAX)), None);
    }
}
