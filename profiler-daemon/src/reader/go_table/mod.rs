//! Functions, inlined functions and source lines of Go programs, from the table that Go's runtime
//! has of them ("pclntab"). It is in every program, stripped or not.
//!
//! Laid out as `runtime/symtab.go`, `runtime/symtabinl.go` and `runtime/runtime2.go` in Go's sources
//! say, from Go 1.18 on: [`layout`] finds where in a file the parts are, [`functions`] reads what is
//! there of a function.
//!
//! Files are hostile: each offset is checked when it is followed, and what goes over something counts
//! its steps ([`Patience`]). Nothing of the table is copied or kept.
//!
//! Not read: tables of Go 1.17 and before, and those of 32-bit programs, which are named by their
//! DWARF and symbols.

use std::borrow::Cow;

use super::file_pages::FileBytes;
use super::patience::{Over, Patience};
use super::unwind::sections::Elf;
use functions::Tables;
use layout::Layout;

mod functions;
mod layout;
mod module;
#[cfg(test)]
pub(super) mod tests;

/// The most functions at one address: as many as a reply takes.
const MAX_DEPTH: usize = 256;

/// Why a table, or what it says of an address, could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum GoTableError {
    /// An offset or a count leads out of the part it is of.
    #[error("its {0} are not where they should be")]
    Outside(&'static str),
    /// Functions are inlined in each other without an end.
    #[error("it has more than {MAX_DEPTH} functions at one address")]
    TooDeep,
    /// Where code begins is in the runtime's module data, which was not found.
    #[error("the runtime's module data was not found")]
    NoModule,
    /// It keeps the reader busy for longer than a file may.
    #[error("it takes too long to read")]
    TooLong,
}

impl From<Over> for GoTableError {
    fn from(_: Over) -> Self {
        Self::TooLong
    }
}

type Result<T> = std::result::Result<T, GoTableError>;

/// Where a file has the table.
pub(super) struct Found(Layout);

impl Found {
    /// Finds it; `None`: there is none that is read here.
    pub(super) fn find(elf: &Elf<'_>, file: &[u8], patience: &Patience) -> Option<Self> {
        Layout::find(elf, file, patience, || {}).ok().flatten().map(Self)
    }

    /// The functions in it.
    pub(super) fn functions<'a>(&'a self, file: &'a [u8], patience: &'a Patience) -> Functions<'a> {
        Functions { tables: Tables::new(file, &self.0, patience), count: self.0.count }
    }
}

/// The functions of a program, and what the runtime unwinds them by.
pub(super) struct Functions<'a> {
    tables: Tables<'a>,
    count: usize,
}

impl<'a> Functions<'a> {
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// First svma, one past the last, and the name.
    pub(super) fn function(&self, index: usize) -> Option<(u64, u64, &'a [u8])> {
        let (start, end, name) = self.tables.listed(index).ok()?;
        let name = self.tables.names().get(name as usize..)?;
        let end_of_name = name.iter().take(MAX_KNOWN_BYTES).position(|&byte| byte == 0);
        Some((start, end, &name[..end_of_name.unwrap_or(0)]))
    }

    /// Hands over from which svma on the stack pointer is how far below where the function found it,
    /// in bytes. `None`: the table is damaged; what came before that was handed over.
    pub(super) fn stack_deltas(&self, index: usize, take: impl FnMut(u64, i32)) -> Option<()> {
        self.tables.stack_deltas(index, take).ok()
    }
}

/// The longest name that means something to whoever unwinds, in bytes.
const MAX_KNOWN_BYTES: usize = 64;

/// A Go program's table of functions.
pub(super) struct GoTable {
    bytes: FileBytes,
    layout: Layout,
}

/// The functions of a program.
pub(super) struct Listed {
    /// First svma, one past the last, and where the name begins, which a zero byte ends.
    pub(super) functions: Vec<(u64, u64, u32)>,
    pub(super) names: Vec<u8>,
}

/// A function, and the line in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame<'a> {
    /// As Go's runtime prints it.
    pub(super) function: Cow<'a, str>,
    /// The source file; empty if unknown.
    pub(super) file: Cow<'a, str>,
    /// The line in it; 0 if unknown.
    pub(super) line: u32,
    /// The line where the function begins; 0 if unknown, as it is before Go 1.20.
    pub(super) start_line: u32,
}

impl GoTable {
    /// Finds a file's table. `pause` is called now and then.
    ///
    /// `None`: it has none that is read here, see the module.
    ///
    /// # Errors
    ///
    /// It has one that is damaged beyond use.
    pub(super) fn read(
        bytes: FileBytes,
        patience: &Patience,
        pause: impl FnMut(),
    ) -> Result<Option<Self>> {
        let Ok(elf) = Elf::parse(&bytes) else { return Ok(None) };
        let layout = Layout::find(&elf, &bytes, patience, pause)?;
        Ok(layout.map(|layout| Self { bytes, layout }))
    }

    /// Whether it is known which functions were inlined.
    pub(super) fn has_inlined(&self) -> bool {
        self.layout.inlined.is_some()
    }

    /// Looks up `svmas`. Calls `take` with an index into them and the functions there, the innermost
    /// inlined one first, for each that is in a function; and `pause` now and then. Without
    /// `with_lines` that is the function that all the others are inlined in, without a line. Returns
    /// how many could not be read; those that patience did not last for are among them.
    pub(super) fn look_up(
        &self,
        svmas: &[u64],
        with_lines: bool,
        patience: &Patience,
        mut take: impl FnMut(usize, &[Frame<'_>]),
        mut pause: impl FnMut(),
    ) -> usize {
        const BETWEEN_PAUSES: usize = 64;
        let tables = Tables::new(&self.bytes, &self.layout, patience);
        let mut failed = 0;
        let mut frames = Vec::new();
        for (index, svma) in svmas.iter().enumerate() {
            if index % BETWEEN_PAUSES == BETWEEN_PAUSES - 1 {
                pause();
            }
            frames.clear();
            match tables.frames(*svma, with_lines, &mut frames) {
                Ok(()) if frames.is_empty() => {}
                Ok(()) => take(index, &frames),
                Err(GoTableError::TooLong) => return failed + svmas.len() - index,
                Err(_) => failed += 1,
            }
        }
        failed
    }

    /// All functions.
    ///
    /// # Errors
    ///
    /// It is damaged, or takes too long.
    pub(super) fn all(&self, patience: &Patience) -> Result<Listed> {
        let tables = Tables::new(&self.bytes, &self.layout, patience);
        let functions = (0..self.layout.count).map(|index| tables.listed(index));
        Ok(Listed { functions: functions.collect::<Result<_>>()?, names: tables.names().to_vec() })
    }

    /// svmas at which functions begin.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn starts(&self) -> impl Iterator<Item = u64> {
        let patience = Patience::of(std::time::Duration::MAX);
        let tables = Tables::new(&self.bytes, &self.layout, &patience);
        (0..self.layout.count)
            .map_while(move |index| tables.start(index))
            .collect::<Vec<_>>()
            .into_iter()
    }
}
