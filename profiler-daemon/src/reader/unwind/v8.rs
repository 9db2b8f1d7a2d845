//! V8's built-in functions: machine code that the engine is linked with, as Node has it, without
//! any CFI.
//!
//! They keep frame pointers as the code that V8 generates does (V8, `src/execution/frames.h`). A
//! leaf that makes no frame, or is interrupted in its prologue, misses its caller alone.

use profiler_ebpf::unwind::rule::{Rule, cfa, saved};

use super::machine::Machine;
use super::parts::{Part, Source};
use super::sections::Symbol;

/// What their symbols begin with (V8, `src/snapshot/embedded/embedded-file-writer.cc`).
pub(super) const PREFIX: &[u8] = b"Builtins_";

/// The most bytes between two of them: they are aligned to 64 bytes and padded.
const MAX_PADDING_BYTES: u64 = 128;

/// Adds a built-in function, which most often is right behind the one before it.
pub(super) fn root(machine: Machine, symbol: &Symbol<'_>, end: u64, parts: &mut Vec<Part>) {
    let source = Source::Fixed(in_frame(machine));
    match parts.last_mut() {
        Some(last)
            if last.source == source
                && (last.end..=last.end.saturating_add(MAX_PADDING_BYTES))
                    .contains(&symbol.svma) =>
        {
            last.end = last.end.max(end);
        }
        _ => parts.push(Part { start: symbol.svma, end, source }),
    }
}

/// Where the caller is, in a function that has made its frame.
const fn in_frame(machine: Machine) -> Rule {
    let aux = match machine {
        Machine::X86_64 => saved::LOST,
        Machine::Aarch64 => saved::AT_CFA,
    };
    let frame = Rule { offset: 16, fp: saved::AT_CFA, fp_offset: -16, ..Rule::only(cfa::FP) };
    Rule { aux, aux_offset: -8, ..frame }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_part() {
        let symbol = |svma, size| Symbol { name: b"Builtins_Abort", svma, size };
        let mut parts = Vec::new();
        for (svma, size) in [(0x1000, 0x40), (0x1040, 0x30), (0x1080, 0x18), (0x2000, 0x10)] {
            root(Machine::X86_64, &symbol(svma, size), svma + size, &mut parts);
        }
        let ranges: Vec<_> = parts.iter().map(|part| (part.start, part.end)).collect();
        assert_eq!(ranges, [(0x1000, 0x1098), (0x2000, 0x2010)]);
    }
}
