//! The walk along saved frame pointers.
//!
//! A function that keeps a frame pointer has stored its caller's at `fp`, and its return address
//! right above it: `(pc, fp, sp) = (*(fp + 8), *fp, fp + 16)`. The System V ABIs of x86_64 and
//! aarch64 agree on this, and both mark the outermost frame by a frame pointer of 0.

use super::{Memory, Outcome, Registers, Step};

/// How often a chain may go down instead of up: each time it leaves one stack for another (a
/// signal's alternate stack, a coroutine's, Go's system stack).
const MAX_STACK_SWITCHES: u32 = 4;

/// The state of a walk between two frames.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    fp: u64,
    /// No frame pointer below this is on the same stack.
    low: u64,
    switches: u32,
    /// Keeps the size a multiple of 8 without padding, which BPF could not copy.
    reserved: u32,
}

impl Walk {
    /// A walk from the innermost frame.
    #[inline(always)]
    pub const fn new(registers: &Registers) -> Self {
        Self { fp: registers.fp, low: registers.sp, switches: 0, reserved: 0 }
    }

    /// Goes to the caller.
    #[inline(always)]
    pub fn step(&mut self, memory: &impl Memory) -> Step {
        let fp = self.fp;
        if fp == 0 {
            return Step::End(Outcome::Guessed);
        }
        if !fp.is_multiple_of(8) {
            return Step::End(Outcome::NoRule);
        }
        if fp < self.low {
            if self.switches == MAX_STACK_SWITCHES {
                return Step::End(Outcome::NoRule);
            }
            self.switches += 1;
        }
        let Some([caller_fp, return_address]) = memory.pair(fp) else {
            return Step::End(Outcome::Unreadable);
        };
        if return_address == 0 {
            return Step::End(Outcome::Guessed);
        }
        self.fp = caller_fp;
        self.low = fp.wrapping_add(16);
        Step::Caller(return_address)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Stack(BTreeMap<u64, u64>);

    impl Memory for Stack {
        fn pair(&self, avma: u64) -> Option<[u64; 2]> {
            Some([*self.0.get(&avma)?, *self.0.get(&(avma + 8))?])
        }
    }

    /// A stack of `depth` frames of 32 bytes from 0x1000 up; frame n returns to 0x40_0000 + n.
    fn chain(depth: u64) -> (Stack, Registers) {
        let mut stack = Stack::default();
        for n in 0..depth {
            let fp = 0x1000 + n * 32;
            let caller = if n + 1 == depth { 0 } else { fp + 32 };
            stack.0.insert(fp, caller);
            stack.0.insert(fp + 8, 0x40_0000 + n);
        }
        (stack, Registers { pc: 0x40_ffff, sp: 0xff0, fp: 0x1000 })
    }

    fn walk(stack: &Stack, registers: &Registers) -> (Vec<u64>, Outcome) {
        let mut walk = Walk::new(registers);
        let mut callers = Vec::new();
        loop {
            match walk.step(stack) {
                Step::Caller(avma) => callers.push(avma),
                Step::End(outcome) => return (callers, outcome),
            }
            assert!(callers.len() <= 10_000, "the walk does not end");
        }
    }

    #[test]
    fn a_chain_is_walked_to_its_end() {
        for depth in [1, 2, 33, 1000] {
            let (stack, registers) = chain(depth);
            let (callers, outcome) = walk(&stack, &registers);
            assert_eq!(callers, (0..depth).map(|n| 0x40_0000 + n).collect::<Vec<_>>());
            assert_eq!(outcome, Outcome::Guessed);
        }
    }

    #[test]
    fn a_return_address_of_zero_ends_it() {
        let (mut stack, registers) = chain(3);
        stack.0.insert(0x1000 + 32 + 8, 0);
        assert_eq!(walk(&stack, &registers), (vec![0x40_0000], Outcome::Guessed));
    }

    #[test]
    fn a_register_used_for_something_else_ends_it() {
        let (stack, mut registers) = chain(3);
        registers.fp = 0x1001;
        assert_eq!(walk(&stack, &registers), (vec![], Outcome::NoRule));
        registers.fp = 0x9_0000;
        assert_eq!(walk(&stack, &registers), (vec![], Outcome::Unreadable));
    }

    #[test]
    fn an_alternate_stack_is_left() {
        let (mut stack, _) = chain(3);
        stack.0.insert(0x8000, 0x1000);
        stack.0.insert(0x8008, 0x50_0000);
        let registers = Registers { pc: 1, sp: 0x7ff0, fp: 0x8000 };
        let (callers, outcome) = walk(&stack, &registers);
        assert_eq!(callers, [0x50_0000, 0x40_0000, 0x40_0001, 0x40_0002]);
        assert_eq!(outcome, Outcome::Guessed);
    }

    #[test]
    fn a_circle_ends() {
        let (mut stack, registers) = chain(3);
        stack.0.insert(0x1000 + 64, 0x1000);
        let (callers, outcome) = walk(&stack, &registers);
        assert_eq!(outcome, Outcome::NoRule);
        assert_eq!(callers.len(), 3 * 5);
    }
}
