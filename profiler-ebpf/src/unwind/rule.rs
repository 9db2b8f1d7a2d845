//! Unwind rules: how the caller of a frame is found from the frame's registers.

/// How the canonical frame address (CFA) is computed: the caller's stack pointer at the call.
///
/// A number, not an `enum`: rules are made by a process that reads hostile files.
pub mod cfa {
    /// There is no caller: the return address is undefined, this is the outermost frame.
    pub const END: u8 = 0;
    /// `cfa = sp + offset`
    pub const SP: u8 = 1;
    /// `cfa = fp + offset`
    pub const FP: u8 = 2;
    /// `cfa = aux + offset`
    pub const AUX: u8 = 3;
    /// `cfa = register + offset`; only where all registers are known: in a frame that was
    /// interrupted.
    pub const REGISTER: u8 = 4;
    /// `cfa = *(sp + offset) + extra`
    pub const SP_DEREF: u8 = 5;
    /// `cfa = *(fp + offset) + extra`
    pub const FP_DEREF: u8 = 6;
    /// `cfa = *(register + offset) + extra`; where all registers are known.
    pub const REGISTER_DEREF: u8 = 7;
    /// In an entry of the procedure linkage table:
    /// `cfa = sp + offset + (if pc % 16 >= extra { 8 } else { 0 })`
    pub const PLT: u8 = 8;
    /// In a signal trampoline: all registers are in the signal frame at `sp`.
    pub const SIGNAL: u8 = 9;
    /// A rule that is not supported.
    pub const UNSUPPORTED: u8 = 10;
    /// No rule is known here.
    pub const GAP: u8 = 11;
    /// `cfa = *(sp + 8 * register + offset) + extra`; where all registers are known.
    pub const SP_INDEXED_DEREF: u8 = 12;
    /// Behind the system call that makes a thread, whose result says who returns from it: in the
    /// thread, 0, and it is the end; in its maker `cfa = sp + offset`.
    pub const CLONE: u8 = 13;
    /// The return address is in a register, which is known in a frame that was interrupted:
    /// `cfa = sp + offset`; the other registers are the same.
    pub const RETURN_REGISTER: u8 = 14;
}

/// Where the caller's value of a register is.
pub mod saved {
    /// It is the register's value in this frame.
    pub const SAME: u8 = 0;
    /// `*(cfa + offset)`
    pub const AT_CFA: u8 = 1;
    /// It cannot be told.
    pub const LOST: u8 = 2;
    /// `*(fp + offset)`, of this frame's frame pointer: where the stack was realigned.
    pub const AT_FP: u8 = 3;
}

/// How the caller of a frame is found. The return address of x86_64 is always at `cfa - 8`; that of
/// aarch64 is the caller's `aux`, which there is the link register.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// One of [`cfa`].
    pub cfa: u8,
    /// DWARF's number of the register that the CFA, or the return address, is computed from.
    pub register: u8,
    /// One of [`saved`]: the frame pointer.
    pub fp: u8,
    /// One of [`saved`]: `rbx` on x86_64, the link register on aarch64.
    pub aux: u8,
    /// In bytes.
    pub offset: i32,
    /// From the CFA or the frame pointer, in bytes.
    pub fp_offset: i16,
    /// From the CFA or the frame pointer, in bytes.
    pub aux_offset: i16,
    /// In bytes.
    pub extra: i32,
}

impl Rule {
    /// Where no rule is known.
    pub const GAP: Self = Self::only(cfa::GAP);
    /// Where a rule is known but not supported.
    pub const UNSUPPORTED: Self = Self::only(cfa::UNSUPPORTED);
    /// In an outermost function.
    pub const END: Self = Self::only(cfa::END);
    /// In a signal trampoline.
    pub const SIGNAL: Self = Self::only(cfa::SIGNAL);

    /// A rule that its kind says everything of.
    pub const fn only(cfa: u8) -> Self {
        Self { cfa, register: 0, fp: 0, aux: 0, offset: 0, fp_offset: 0, aux_offset: 0, extra: 0 }
    }

    /// As four words, the form in which tables hold it.
    pub const fn to_words(self) -> [u32; 4] {
        [
            u32::from_le_bytes([self.cfa, self.register, self.fp, self.aux]),
            self.offset as u32,
            self.fp_offset as u16 as u32 | (self.aux_offset as u16 as u32) << 16,
            self.extra as u32,
        ]
    }

    /// The rule that these words are.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self {
            cfa: words[0] as u8,
            register: (words[0] >> 8) as u8,
            fp: (words[0] >> 16) as u8,
            aux: (words[0] >> 24) as u8,
            offset: words[1] as i32,
            fp_offset: words[2] as u16 as i16,
            aux_offset: (words[2] >> 16) as u16 as i16,
            extra: words[3] as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        let rule = Rule {
            cfa: cfa::REGISTER_DEREF,
            register: 12,
            fp: saved::AT_CFA,
            aux: saved::LOST,
            offset: -123_456,
            fp_offset: -16,
            aux_offset: i16::MIN,
            extra: i32::MIN,
        };
        assert_eq!(Rule::from_words(rule.to_words()), rule);
    }
}
