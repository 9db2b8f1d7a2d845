//! Rows of Go programs that were stripped of `.debug_frame`, from the table by which the runtime
//! itself unwinds: how far the stack pointer is from where a function found it.

use std::time::Duration;

use profiler_ebpf::unwind::rule::{Rule, cfa};

use super::{
    UnwindError,
    cfi::Work,
    evaluate::{Sink, Unsupported},
    go::Known,
    machine::Machine,
    parts::{Part, Source},
    sections::{Elf, Symbol},
};
use crate::reader::{
    go_table::{self, Functions},
    patience::Patience,
};

/// How long finding the table may take, of a CPU.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest frame that is believed, in bytes.
const MOST_BYTES: i32 = 1 << 24;

/// Bytes of a return address.
const RETURN_ADDRESS: i32 = 8;

/// Where the table is, if it is needed.
pub(super) struct GoRows {
    found: go_table::Found,
    patience: Patience,
}

impl GoRows {
    /// `None`: the file has `.debug_frame`, or no such table.
    pub(super) fn find(elf: &Elf<'_>, bytes: &[u8]) -> Option<Self> {
        if !is_needed(elf) {
            return None;
        }
        let patience = Patience::of(PATIENCE);
        let found = go_table::Found::find(elf, bytes, &patience)?;
        Some(Self { found, patience })
    }

    /// What it says of the functions of the file.
    pub(super) fn functions<'a>(&'a self, bytes: &'a [u8]) -> GoFunctions<'a> {
        GoFunctions(self.found.functions(bytes, &self.patience))
    }
}

/// Whether a file's rows come from such a table.
pub(super) fn is_needed(elf: &Elf<'_>) -> bool {
    elf.machine == Machine::X86_64 && elf.is_go() && !elf.has_debug_frame()
}

/// The functions of a file.
pub(super) struct GoFunctions<'a>(Functions<'a>);

impl GoFunctions<'_> {
    /// A part for each function; and in place of those, parts of functions that are known by name.
    ///
    /// # Errors
    ///
    /// As [`Work::spend`].
    pub(super) fn parts(
        &self,
        elf: &Elf<'_>,
        work: &mut Work,
    ) -> Result<[Vec<Part>; 2], UnwindError> {
        let (mut known, mut plain) = (Vec::new(), Vec::new());
        for index in 0..self.0.count() {
            work.spend(1)?;
            let Some((svma, end, name)) = self.0.function(index) else { continue };
            let end = end.min(elf.code_end(svma));
            if svma >= end {
                continue;
            }
            plain.push(Part { start: svma, end, source: Source::GoTable(index as u32) });
            if let Some(it) = Known::of(elf.machine, name) {
                let symbol = Symbol { name, svma, size: end - svma };
                known.extend(it.part(elf, &symbol, end).filter(|part| part.start < part.end));
            }
        }
        Ok([known, plain])
    }

    /// Hands the rows of a function over.
    ///
    /// # Errors
    ///
    /// Those of the sink, and as [`Work::spend`].
    pub(super) fn evaluate(
        &self,
        index: u32,
        sink: &mut impl Sink,
        work: &mut Work,
    ) -> Result<(), UnwindError> {
        let mut rows = Vec::new();
        if self.0.stack_deltas(index as usize, |svma, delta| rows.push((svma, delta))).is_none() {
            // What came before the damage holds.
            let end = rows.last().map(|(svma, _)| svma + 1);
            if let Some(svma) = end.or_else(|| self.0.function(index as usize).map(|it| it.0)) {
                rows.push((svma, -1));
            }
        }
        work.spend(rows.len() as u64)?;
        for (svma, delta) in rows {
            let rule = if (0..=MOST_BYTES).contains(&delta) {
                Ok(Rule { offset: delta + RETURN_ADDRESS, ..Rule::only(cfa::SP) })
            } else {
                Err(Unsupported::CfaRegister)
            };
            sink.row(svma, rule)?;
        }
        Ok(())
    }
}
