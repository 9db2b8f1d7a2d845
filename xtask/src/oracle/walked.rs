//! Our stack of a sample: the walk of the BPF program, with tables made on the host.

use std::rc::Rc;

use profiler_ebpf::{
    record::MAX_USER_FRAMES,
    unwind::{Outcome, Registers, Step, rule::Rule, walk::Walk},
};

use super::{file::File, files::Files, mappings::Mappings, recording::Sample, stack::Stack};

/// A frame of ours.
pub(super) struct Frame {
    /// Where its rule is looked up.
    pub(super) avma: u64,
    /// Its file, and what an avma is above its svma.
    pub(super) file: Option<(Rc<File>, u64)>,
    pub(super) rule: Rule,
    /// What the rule led to.
    pub(super) step: Step,
}

impl Frame {
    /// Where its rule is looked up, as its file counts; the avma without a file.
    pub(super) fn svma(&self) -> u64 {
        self.avma.wrapping_sub(self.file.as_ref().map_or(0, |(_, bias)| *bias))
    }

    /// The path of its file.
    pub(super) fn path(&self) -> &str {
        self.file.as_ref().map_or("(no file)", |(file, _)| &file.path)
    }
}

/// Our stack, leaf first.
pub(super) struct Walked {
    pub(super) frames: Vec<Frame>,
    pub(super) outcome: Outcome,
}

impl Walked {
    /// Walks a stack as the kernel side does (`profiler-ebpf/src/user_stack.rs`).
    pub(super) fn new(sample: &Sample, mappings: &Mappings, files: &mut Files<'_>) -> Self {
        let [_, _, _, aux, _, _, fp, sp, ..] = sample.registers;
        let mut walk = Walk::new(&Registers { pc: sample.pc, sp, fp, aux });
        let stack = Stack(sample);
        let mut frames = Vec::new();
        let outcome = loop {
            let avma = walk.avma();
            let mapping = mappings.find(avma);
            if mapping.is_none() && !walk.is_interrupted() {
                break Outcome::NoMapping;
            }
            let file = mapping.and_then(|mapping| files.find(mapping));
            let rule = file
                .as_ref()
                .and_then(|(file, bias)| Some(file.table.as_ref()?.find(avma.wrapping_sub(*bias))));
            let rule = rule.unwrap_or(Rule::GAP);
            let is_generated = mapping.is_some_and(|mapping| !mapping.file.is_file());
            let step = walk.step(&stack, &rule, is_generated);
            frames.push(Frame { avma, file, rule, step });
            match step {
                Step::Caller(_) if frames.len() >= MAX_USER_FRAMES => break Outcome::Truncated,
                Step::Caller(_) => {}
                Step::End(outcome) => break outcome,
            }
        };
        Self { frames, outcome }
    }
}
