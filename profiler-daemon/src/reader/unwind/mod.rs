//! Making unwind tables from the call frame information (CFI) of ELF files.
//!
//! A file's CFI is a program per function; [`build`] runs them all and leaves what the kernel side
//! looks up: a sorted run of rows, each a [`Rule`], in the form that
//! [`profiler_ebpf::unwind::table`] lays down. Files are hostile: what a file states is bounded
//! before it costs anything, and what is not understood gives rows that say so.

use gimli::{DebugFrame, EhFrame};
use profiler_ebpf::unwind::rule::Rule;
use profiler_ebpf::unwind::table::{BLOCK_BYTES, Block, Blocks, Table};
use sha2::{Digest as _, Sha256};

use cfi::{Cfi, Work};
use evaluate::Sink;
use go::Prologue;
use go_rows::GoRows;
use parts::{Part, Source, lay_below};
use rows::Rows;
use sections::Elf;

use super::protocol::MAX_REPLY_BYTES;

mod cfi;
mod equation;
mod evaluate;
mod expression;
mod go;
mod go_rows;
mod layout;
mod machine;
mod parts;
mod roots;
mod rows;
pub(super) mod sections;
#[cfg(test)]
mod tests;
mod v8;

pub use equation::Equation;
pub use evaluate::Unsupported;
pub use machine::Machine;

/// How far the addresses of one table may be apart, in bytes: bounds its directory.
const MAX_SPAN_BYTES: u64 = 1 << 32;

/// The biggest table, in bytes: what the core takes in a reply, less what else is in that.
const MAX_TABLE_BYTES: usize = MAX_REPLY_BYTES - 1024;

/// Why a file has no unwind table.
#[derive(Debug, thiserror::Error)]
pub enum UnwindError {
    /// Not a file this machine's kind could run: little-endian, 64 bits, x86_64 or aarch64.
    #[error("not an ELF file of x86_64 or aarch64")]
    NotElf,
    /// A header lies beyond the file's end or contradicts itself.
    #[error("the ELF file is malformed: {0}")]
    Malformed(&'static str),
    /// There is neither `.eh_frame` nor `.debug_frame`, or nothing in them is of the file's code.
    #[error("the file has no call frame information")]
    NoCfi,
    /// More of something than is taken from one file.
    #[error("the file has too much call frame information: more than {limit} {what}")]
    TooMuch {
        /// Of what there is too much.
        what: &'static str,
        /// How much is taken.
        limit: u64,
    },
}

/// A file's unwind table, as it goes to the kernel side.
#[derive(Debug)]
pub struct UnwindTable {
    /// Where the parts are; `first` is 0.
    pub table: Table,
    /// The run of blocks.
    pub blocks: Vec<Block>,
    /// What it holds.
    pub stats: Stats,
}

/// What went into an unwind table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The file's machine.
    pub machine: Machine,
    /// Rows, without those that pages begin with.
    pub rows: usize,
    /// Different rules.
    pub rules: usize,
    /// Bytes of `.eh_frame`, and of `.debug_frame` once decompressed.
    pub cfi_bytes: usize,
    /// Functions that the rows are from.
    pub functions: usize,
    /// Rows that say [`Rule::UNSUPPORTED`], by reason; counted before equal neighbours are merged.
    pub unsupported: Vec<(Unsupported, usize)>,
    /// Rows in which the frame pointer is lost, counted likewise.
    pub fp_lost: usize,
}

impl UnwindTable {
    /// The rule in force at `svma`; [`Rule::GAP`] where the file says nothing.
    pub fn find(&self, svma: u64) -> Rule {
        self.table.find(self, svma)
    }

    /// All rows in order: from which svma on which rule is in force. Each page has one at its
    /// beginning.
    pub fn rows(&self) -> impl Iterator<Item = (u64, Rule)> {
        layout::rows(self)
    }

    /// Size of the run, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }
}

impl Blocks for UnwindTable {
    fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.get(number as usize)
    }
}

/// Makes the unwind table of an ELF file.
///
/// Time is linear in the file's size, and bounded for any file; so is memory.
///
/// # Errors
///
/// [`UnwindError`]. CFI that is damaged or of an unknown kind is no error: it gives rows of
/// [`Rule::UNSUPPORTED`] or [`Rule::GAP`].
pub fn build(bytes: &[u8]) -> Result<UnwindTable, UnwindError> {
    let elf = Elf::parse(bytes)?;
    let machine = elf.machine;
    let eh_frame = elf.eh_frame().map(|section| {
        let mut frame = EhFrame::new(section.bytes, gimli::LittleEndian);
        frame.set_vendor(machine.vendor());
        Cfi::new(frame, &section, elf.bases(section.svma))
    });
    let debug_bytes = elf.debug_frame();
    let debug_frame = debug_bytes.as_deref().map(|bytes| {
        let section =
            sections::FrameSection { bytes, svma: 0, is_eh_frame: false, ends_at_zero: false };
        let mut frame = DebugFrame::new(section.bytes, gimli::LittleEndian);
        frame.set_vendor(machine.vendor());
        Cfi::new(frame, &section, elf.bases(section.svma))
    });

    let mut work = Work::default();
    let roots = roots::find(&elf);
    let mut parts = lay_below(&[], roots.above);
    let mut cfi_bytes = 0;
    let mut eh_frame = eh_frame;
    if let Some(cfi) = &mut eh_frame {
        cfi_bytes += cfi.size_bytes();
        parts = lay_below(&parts, cfi.functions(&elf.code, Source::EhFrame, &mut work)?);
    }
    let mut debug_frame = debug_frame;
    if let Some(cfi) = &mut debug_frame {
        cfi_bytes += cfi.size_bytes();
        parts = lay_below(&parts, cfi.functions(&elf.code, Source::DebugFrame, &mut work)?);
    }
    let go_rows = GoRows::find(&elf, bytes);
    let go_functions = go_rows.as_ref().map(|it| it.functions(bytes));
    if let Some(functions) = &go_functions {
        let [known, plain] = functions.parts(&elf, &mut work)?;
        cfi_bytes += plain.len();
        parts = lay_below(&lay_below(&known, parts), plain);
    }
    let parts = lay_below(&parts, roots::thread_makers(&elf, &parts));
    let parts = lay_below(&parts, roots.below);
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Err(UnwindError::NoCfi);
    };
    if last.end - first.start > MAX_SPAN_BYTES {
        return Err(UnwindError::TooMuch { what: "bytes of code", limit: MAX_SPAN_BYTES });
    }

    let is_go = machine == Machine::X86_64 && elf.is_go();
    let mut rows = Rows::default();
    for part in &parts {
        rows.begin(part.start)?;
        match part.source {
            Source::Fixed(rule) => rows.push(part.start, Ok(rule))?,
            Source::GoTable(index) => {
                if let Some(functions) = &go_functions {
                    let prologue = Some(Prologue::new(&elf, part, &mut work)?);
                    let mut sink = Within { part, rows: &mut rows, prologue };
                    functions.evaluate(index, &mut sink, &mut work)?;
                }
            }
            Source::EhFrame(offset) => {
                if let Some(cfi) = &mut eh_frame {
                    let mut sink = Within { part, rows: &mut rows, prologue: None };
                    cfi.evaluate(offset, machine, &mut sink, &mut work)?;
                }
            }
            Source::DebugFrame(offset) => {
                if let Some(cfi) = &mut debug_frame {
                    let prologue =
                        is_go.then(|| Prologue::new(&elf, part, &mut work)).transpose()?;
                    let mut sink = Within { part, rows: &mut rows, prologue };
                    cfi.evaluate(offset, machine, &mut sink, &mut work)?;
                }
            }
        }
        rows.end(part.end);
    }
    let mut found = rows.finish()?;
    found.stats.machine = machine;
    found.stats.cfi_bytes = cfi_bytes;
    found.stats.functions = parts.len();
    let (table, blocks) = layout::lay_out(&found.rows, &found.rules, last.end);
    if blocks.len() * BLOCK_BYTES > MAX_TABLE_BYTES {
        let (what, limit) = ("bytes in its table", MAX_TABLE_BYTES as u64);
        return Err(UnwindError::TooMuch { what, limit });
    }
    Ok(UnwindTable { table, blocks, stats: found.stats })
}

/// The SHA-256 of what [`build`] makes a table from, but for the few instructions and symbols that
/// it looks at: headers and call frame information. It takes a fraction of the time.
///
/// # Errors
///
/// [`UnwindError::NotElf`], [`UnwindError::Malformed`].
pub fn digest(elf: &[u8]) -> Result<[u8; 32], UnwindError> {
    let elf = Elf::parse(elf)?;
    let mut hasher = Sha256::new();
    let go_table = if go_rows::is_needed(&elf) { elf.go_table().map(|(_, it)| it) } else { None };
    for part in elf.headers().into_iter().chain(elf.frame_sections()).chain(go_table) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(hasher.finalize().into())
}

/// Takes of a function's rows those that are in force within a part of it.
struct Within<'a> {
    part: &'a Part,
    rows: &'a mut Rows,
    prologue: Option<Prologue<'a>>,
}

impl Sink for Within<'_> {
    fn row(&mut self, svma: u64, rule: Result<Rule, Unsupported>) -> Result<(), UnwindError> {
        if svma >= self.part.end {
            return Ok(());
        }
        let (Some(prologue), Ok(plain)) = (&mut self.prologue, rule) else {
            return self.rows.push(svma.max(self.part.start), rule);
        };
        let (rule, then) = prologue.amend(svma, plain);
        self.rows.push(svma.max(self.part.start), Ok(rule))?;
        match then {
            Some((svma, rule)) if svma < self.part.end => self.rows.push(svma, Ok(rule)),
            _ => Ok(()),
        }
    }
}
