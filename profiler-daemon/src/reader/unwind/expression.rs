//! The few shapes that DWARF expressions for the CFA have in practice.

use gimli::{Encoding, EndianSlice, Expression, LittleEndian, Operation, Register};

/// The longest expression looked at, in operations.
const MAX_OPERATIONS: usize = 10;

/// An expression of a known shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `register + offset`
    Sum {
        /// The register.
        register: Register,
        /// In bytes.
        offset: i64,
    },
    /// `*(register + offset) + extra`
    Deref {
        /// The register.
        register: Register,
        /// In bytes.
        offset: i64,
        /// In bytes.
        extra: i64,
    },
    /// `*(register + 8 * index + offset) + extra`: libcrypto's `bn_mul_mont`, which keeps its
    /// caller's stack pointer above an array of a length that is in a register.
    IndexedDeref {
        /// The register.
        register: Register,
        /// The register that is multiplied.
        index: Register,
        /// In bytes.
        offset: i64,
        /// In bytes.
        extra: i64,
    },
    /// `register + offset + (if pc % 16 >= threshold { 8 } else { 0 })`: what linkers write for
    /// the procedure linkage table.
    Plt {
        /// The register.
        register: Register,
        /// In bytes.
        offset: i64,
        /// After how many bytes of an entry it has pushed its number.
        threshold: i64,
    },
}

impl Shape {
    /// Recognizes an expression.
    pub(super) fn of(
        expression: Expression<EndianSlice<'_, LittleEndian>>,
        encoding: Encoding,
        pc: Register,
    ) -> Option<Self> {
        use Operation::{
            And, Deref, Ge, Mul, Plus, PlusConstant, RegisterOffset, Shl, UnsignedConstant,
        };

        let mut operations = expression.operations(encoding);
        let mut list: Vec<Operation<_, usize>> = Vec::with_capacity(MAX_OPERATIONS);
        while let Some(operation) = operations.next().ok()? {
            if list.len() == MAX_OPERATIONS {
                return None;
            }
            list.push(operation);
        }
        match *list.as_slice() {
            [RegisterOffset { register, offset, .. }] => Some(Self::Sum { register, offset }),
            [RegisterOffset { register, offset, .. }, Deref { size: 8, space: false, .. }] => {
                Some(Self::Deref { register, offset, extra: 0 })
            }
            [
                RegisterOffset { register, offset, .. },
                Deref { size: 8, space: false, .. },
                PlusConstant { value },
            ] => Some(Self::Deref { register, offset, extra: i64::try_from(value).ok()? }),
            [
                RegisterOffset { register, offset, .. },
                RegisterOffset { register: index, offset: 0, .. },
                UnsignedConstant { value: 8 },
                Mul,
                Plus,
                Deref { size: 8, space: false, .. },
                PlusConstant { value },
            ] => Some(Self::IndexedDeref {
                register,
                index,
                offset,
                extra: i64::try_from(value).ok()?,
            }),
            [
                RegisterOffset { register, offset, .. },
                RegisterOffset { register: of_pc, offset: 0, .. },
                UnsignedConstant { value: 15 },
                And,
                UnsignedConstant { value: threshold @ 0..=15 },
                Ge,
                UnsignedConstant { value: 3 },
                Shl,
                Plus,
            ] if of_pc == pc => {
                Some(Self::Plt { register, offset, threshold: threshold.cast_signed() })
            }
            _ => None,
        }
    }
}
