use std::collections::BTreeMap;

use super::*;

/// What `register` says of register 0.
const REGISTERS: u64 = 0x5_0000;

#[derive(Default)]
struct Stack(BTreeMap<u64, u64>);

impl Memory for Stack {
    fn pair(&self, avma: u64) -> Option<[u64; 2]> {
        Some([self.word(avma)?, self.word(avma + 8)?])
    }

    fn word(&self, avma: u64) -> Option<u64> {
        self.0.get(&avma).copied()
    }

    fn register(&self, number: u32) -> Option<u64> {
        (number < 16).then(|| REGISTERS + u64::from(number))
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
    (stack, Registers { pc: 0x40_ffff, sp: 0xff0, fp: 0x1000, aux: 0 })
}

/// A walk that knows no rule.
fn walk(stack: &Stack, registers: &Registers) -> (Vec<u64>, Outcome) {
    let mut walk = Walk::new(registers);
    let mut callers = Vec::new();
    loop {
        match walk.step(stack, &Rule::GAP, false) {
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
    let registers = Registers { pc: 1, sp: 0x7ff0, fp: 0x8000, aux: 0 };
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

fn by_sp(offset: i32) -> Rule {
    Rule { offset, ..Rule::only(cfa::SP) }
}

/// One step from these registers over a stack whose word at `avma` is `!avma`.
fn step(registers: Registers, rule: &Rule) -> (Step, Walk) {
    struct Pattern;
    impl Memory for Pattern {
        fn pair(&self, avma: u64) -> Option<[u64; 2]> {
            Some([!avma, !(avma + 8)])
        }

        fn word(&self, avma: u64) -> Option<u64> {
            Some(!avma)
        }

        fn register(&self, number: u32) -> Option<u64> {
            Some(REGISTERS + u64::from(number) * 0x100)
        }
    }
    let mut walk = Walk::new(&registers);
    let step = walk.step(&Pattern, rule, false);
    (step, walk)
}

const LEAF: Registers = Registers { pc: 0x40_001c, sp: 0x1000, fp: 0x2000, aux: 0x3000 };

#[test]
fn each_cfa_is_computed() {
    let deref = |avma: u64| !avma;
    for (rule, cfa) in [
        (by_sp(24), 0x1018),
        (Rule { offset: 16, ..Rule::only(cfa::FP) }, 0x2010),
        (Rule { offset: -8, ..Rule::only(cfa::AUX) }, 0x2ff8),
        (Rule { register: 2, offset: 8, ..Rule::only(cfa::REGISTER) }, 0x5_0208),
        (Rule { offset: 32, extra: 9, ..Rule::only(cfa::SP_DEREF) }, deref(0x1020) + 9),
        (Rule { offset: -8, extra: 1, ..Rule::only(cfa::FP_DEREF) }, deref(0x1ff8) + 1),
        (
            Rule { register: 1, offset: 8, extra: 1, ..Rule::only(cfa::REGISTER_DEREF) },
            deref(0x5_0108) + 1,
        ),
        (
            Rule { register: 0, offset: 8, extra: 9, ..Rule::only(cfa::SP_INDEXED_DEREF) },
            deref(0x1000 + 8 * REGISTERS + 8) + 9,
        ),
        (Rule { offset: 8, extra: 11, ..Rule::only(cfa::PLT) }, 0x1010),
        (Rule { offset: 8, extra: 13, ..Rule::only(cfa::PLT) }, 0x1008),
    ] {
        let (step, walk) = step(LEAF, &rule);
        assert_eq!(step, Step::Caller(!(cfa - 8)), "{rule:?}");
        let Registers { pc, sp, fp, aux } = walk.registers;
        assert_eq!((pc, sp, fp, aux), (!(cfa - 8), cfa, 0x2000, 0x3000), "{rule:?}");
        assert_eq!(walk.avma(), !(cfa - 8) - 1);
    }
}

#[test]
fn saved_registers_are_restored() {
    let rule = Rule {
        fp: saved::AT_CFA,
        fp_offset: -16,
        aux: saved::AT_CFA,
        aux_offset: -40,
        ..by_sp(64)
    };
    let (_, walk) = step(LEAF, &rule);
    assert_eq!((walk.registers.fp, walk.registers.aux), (!0x1030, !0x1018));
    let realigned = Rule {
        fp: saved::AT_FP,
        fp_offset: 0,
        aux: saved::AT_FP,
        aux_offset: -16,
        ..Rule::only(cfa::FP_DEREF)
    };
    let aligned = Registers { fp: 0x2007, ..LEAF };
    let (found, walk) = step(aligned, &realigned);
    assert_eq!(found, Step::Caller(0x2007 + 8));
    assert_eq!((walk.registers.fp, walk.registers.aux), (!0x2007, !(0x2007 - 16)));
    let (_, walk) = step(LEAF, &Rule { fp_offset: -24, aux: saved::LOST, ..rule });
    assert_eq!(walk.registers.fp, !0x1028);
    assert_eq!(walk.flags, AUX_LOST);
}

#[test]
fn a_register_that_holds_the_return_address() {
    let rule = Rule { register: 5, offset: 8, ..Rule::only(cfa::RETURN_REGISTER) };
    let (found, mut walk) = step(LEAF, &rule);
    assert_eq!(found, Step::Caller(REGISTERS + 0x500));
    let Registers { pc, sp, fp, aux } = walk.registers;
    assert_eq!((pc, sp, fp, aux), (REGISTERS + 0x500, 0x1008, 0x2000, 0x3000));
    assert_eq!(walk.avma(), REGISTERS + 0x4ff, "a return address");
    let stack = Stack::default();
    assert_eq!(walk.step(&stack, &rule, false), Step::End(Outcome::UnsupportedRule));
}

#[test]
fn a_new_thread_and_its_maker() {
    struct Result(u64);
    impl Memory for Result {
        fn pair(&self, avma: u64) -> Option<[u64; 2]> {
            Some([avma, avma + 8])
        }

        fn word(&self, avma: u64) -> Option<u64> {
            Some(avma)
        }

        fn register(&self, _: u32) -> Option<u64> {
            Some(self.0)
        }
    }
    let rule = Rule { offset: 8, ..Rule::only(cfa::CLONE) };
    let mut walk = Walk::new(&LEAF);
    assert_eq!(walk.step(&Result(0), &rule, false), Step::End(Outcome::Complete));
    for result in [17, -38_i64 as u64] {
        let mut walk = Walk::new(&LEAF);
        assert_eq!(walk.step(&Result(result), &rule, false), Step::Caller(0x1000));
        assert_eq!(walk.registers.sp, 0x1008);
        let step = walk.step(&Result(result), &rule, false);
        assert_eq!(step, Step::End(Outcome::UnsupportedRule), "not where it was interrupted");
    }
}

#[test]
fn a_lost_register_is_not_used() {
    let (_, mut walk) = step(LEAF, &Rule { fp: saved::LOST, ..by_sp(16) });
    let stack = Stack::default();
    let by_fp = Rule { offset: 16, ..Rule::only(cfa::FP) };
    assert_eq!(walk.step(&stack, &by_fp, false), Step::End(Outcome::UnsupportedRule));
    assert_eq!(walk.step(&stack, &Rule::GAP, false), Step::End(Outcome::NoRule));
    // What the callers of an interrupted frame have saved of the other registers is not known.
    let by_register = Rule { register: 15, ..Rule::only(cfa::REGISTER) };
    assert_eq!(walk.step(&stack, &by_register, false), Step::End(Outcome::UnsupportedRule));
}

/// libcrypto's `aesni_gcm_encrypt` keeps its CFA in `rax`, and calls its own assembly.
#[test]
fn a_scratch_register_outlives_a_call() {
    let (stack, registers) = chain(2);
    let mut walk = Walk::new(&registers);
    assert_eq!(walk.step(&stack, &Rule::GAP, false), Step::Caller(0x40_0000));
    let mut stack = stack;
    stack.0.insert(REGISTERS + 8, 0x50_0000);
    stack.0.insert(REGISTERS, 0);
    let by_register = Rule { register: 0, offset: 16, ..Rule::only(cfa::REGISTER) };
    assert_eq!(walk.step(&stack, &by_register, false), Step::Caller(0x50_0000));
    assert_eq!(walk.registers.sp, REGISTERS + 16);
}

/// Go's `time.now` calls the vDSO on its thread's stack, and its frame is on the goroutine's.
#[test]
fn a_frame_pointer_may_lead_to_another_stack() {
    let (stack, registers) = chain(3);
    let registers = Registers { sp: 0x7fff_0000, ..registers };
    let by_fp = Rule { offset: 16, fp: saved::AT_CFA, fp_offset: -16, ..Rule::only(cfa::FP) };
    let mut walk = Walk::new(&registers);
    for pc in 0x40_0000..0x40_0003 {
        assert_eq!(walk.step(&stack, &by_fp, false), Step::Caller(pc));
    }
    let mut walk = Walk::new(&registers);
    for _ in 0..MAX_STACK_SWITCHES {
        walk.registers = registers;
        assert_eq!(walk.step(&stack, &by_fp, false), Step::Caller(0x40_0000));
    }
    walk.registers = registers;
    assert_eq!(walk.step(&stack, &by_fp, false), Step::End(Outcome::NoRule));
}

#[test]
fn a_root_completes_unless_a_frame_was_guessed() {
    let (stack, registers) = chain(3);
    let mut walk = Walk::new(&registers);
    assert_eq!(walk.step(&stack, &Rule::END, false), Step::End(Outcome::Complete));
    for (is_generated, outcome) in [(true, Outcome::Complete), (false, Outcome::Guessed)] {
        let mut walk = Walk::new(&registers);
        assert_eq!(walk.step(&stack, &Rule::GAP, is_generated), Step::Caller(0x40_0000));
        assert_eq!(walk.step(&stack, &Rule::END, false), Step::End(outcome));
    }
}

#[test]
fn a_signal_frame_gives_all_registers() {
    let (step, walk) = step(LEAF, &Rule::SIGNAL);
    let at = |offset: u64| !(0x1000 + offset);
    assert_eq!(step, Step::Caller(at(168)));
    let Registers { pc, sp, fp, aux } = walk.registers;
    assert_eq!((pc, sp, fp, aux), (at(168), at(160), at(120), at(128)));
    assert_eq!(walk.avma(), at(168), "what was interrupted, not a return address");
    assert_eq!(walk.signal_frame, 0x1000);
}

#[test]
fn a_stack_that_does_not_grow_ends() {
    assert_eq!(step(LEAF, &by_sp(0)).0, Step::End(Outcome::NoRule));
    assert_eq!(step(LEAF, &by_sp(-16)).0, Step::End(Outcome::NoRule));
    assert_eq!(step(LEAF, &by_sp(13)).0, Step::End(Outcome::NoRule));
    assert_eq!(step(LEAF, &Rule::UNSUPPORTED).0, Step::End(Outcome::UnsupportedRule));
    assert_eq!(step(LEAF, &Rule::only(200)).0, Step::End(Outcome::UnsupportedRule));
}

/// Whatever rules and memory say, a step ends, and what it leaves is fit for the next one.
#[test]
fn hostile_rules_and_memory_are_walked() {
    struct Noise(core::cell::Cell<u64>);
    impl Noise {
        fn next(&self) -> u64 {
            let mut it = self.0.get();
            it ^= it << 13;
            it ^= it >> 7;
            it ^= it << 17;
            self.0.set(it);
            it
        }
    }
    impl Memory for Noise {
        fn pair(&self, avma: u64) -> Option<[u64; 2]> {
            Some([self.word(avma)?, self.word(avma)?])
        }

        fn word(&self, avma: u64) -> Option<u64> {
            match self.next() % 16 {
                0 => None,
                1 => Some(0),
                2 => Some(u64::MAX),
                3 => Some(avma),
                // Stacks grow down: such a word keeps the walk going.
                _ => Some(avma.wrapping_add(self.next() % 64 * 8)),
            }
        }

        fn register(&self, number: u32) -> Option<u64> {
            (number < 16).then(|| self.next())
        }
    }
    let noise = Noise(core::cell::Cell::new(0x9e37_79b9_7f4a_7c15));
    let one_in = |n: u64| noise.next().is_multiple_of(n);
    let mut steps = 0;
    for _ in 0..40_000 {
        let word = || noise.next() & if one_in(16) { u64::MAX } else { 0xffff_fff8 };
        let registers = Registers { pc: word(), sp: word(), fp: word(), aux: word() };
        let mut walk = Walk::new(&registers);
        for _ in 0..64 {
            let rule = Rule {
                cfa: if one_in(2) { cfa::SP } else { (noise.next() % 17) as u8 },
                register: noise.next() as u8 % 20,
                fp: noise.next() as u8 % 6,
                aux: noise.next() as u8 % 6,
                offset: noise.next() as i32 & if one_in(8) { -1 } else { 0xf8 },
                fp_offset: noise.next() as i16,
                aux_offset: noise.next() as i16,
                extra: noise.next() as i32,
            };
            let Step::Caller(pc) = walk.step(&noise, &rule, one_in(2)) else { break };
            assert_ne!(pc, 0);
            let _ = walk.avma();
            steps += 1;
        }
    }
    assert!(steps > 20_000, "{steps}: hardly any walk took a step");
}
