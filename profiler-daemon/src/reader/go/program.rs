//! The program of a process: its version of Go, where the runtime's variables are, and where its
//! functions begin.

use std::{collections::HashMap, fs::File, sync::Arc, time::Duration};

use super::{
    super::{
        elf::{Header, Image, SectionRange, read_range},
        file_pages::FilePages,
        go_build,
        go_table::GoTable,
        patience::Patience,
        unwind::sections::Elf,
    },
    GoError, Variables,
    layout::Layout,
    memory::{Memory, ProcessMemory},
    stripped,
};

/// How long finding the runtime's table may take, of a CPU.
const PATIENCE: Duration = Duration::from_millis(500);

/// The largest tables that are read, in bytes. Those of the largest Go programs are a tenth of it.
pub(super) const MAX_SYMBOL_BYTES: u64 = 96 << 20;

/// Bytes of a [`Symbol`].
const SYMBOL_BYTES: usize = 24;
const STT_FUNC: u8 = 2;

/// `AT_ENTRY` of `/proc/PID/auxv` (include/uapi/linux/auxvec.h).
const AT_ENTRY: u64 = 9;

/// What is looked for.
const VARIABLES: [&str; 13] = [
    "runtime.mbuckets",
    "runtime.bbuckets",
    "runtime.xbuckets",
    "runtime.mProfCycle",
    "runtime.MemProfileRate",
    "runtime.blockprofilerate",
    "runtime.mutexprofilerate",
    "runtime.ticks",
    "runtime.allgs",
    "runtime.allglen",
    "runtime.fingStatus",
    "runtime.memstats",
    "runtime.gcController",
];

/// A Go program, as a process runs it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) version: String,
    pub(super) layout: Layout,
    bias: u64,
    variables: Variables,
    functions: Vec<Function>,
    names: Vec<u8>,
}

#[derive(Debug)]
struct Function {
    /// First svma, and one past the last.
    start: u64,
    end: u64,
    /// Where its name is.
    name: u32,
}

impl Program {
    /// Reads the program of a process.
    ///
    /// # Errors
    ///
    /// [`GoError`]: it is none of Go, or it cannot be told where things are.
    pub(super) fn of(pid: u32, pages: &Arc<FilePages>) -> Result<Self, GoError> {
        let file = File::open(format!("/proc/{pid}/exe")).map_err(GoError::Program)?;
        let elf = |error| GoError::File { error };
        let header = Header::read(&file).map_err(elf)?.ok_or(GoError::NotGo)?;
        let image = Image::read(&file).map_err(elf)?.ok_or(GoError::NotGo)?;
        if !image.debug.go {
            return Err(GoError::NotGo);
        }
        let build = go_build::read(&file, image.debug.go_build.as_ref());
        let version = build.version;
        if version.is_empty() {
            return Err(GoError::NoVersion(build.not_known));
        }
        let layout = Layout::of(&version).ok_or(GoError::Version(version.clone()))?;
        let bias = entry(pid)?.wrapping_sub(header.entry);
        let Some((table, names)) = header.symbol_table(&file).map_err(elf)? else {
            return Self::without_symbols(&file, pages, &ProcessMemory(pid), version, layout, bias);
        };
        let read = |range: &SectionRange| {
            if range.size > MAX_SYMBOL_BYTES {
                return Err(GoError::Large);
            }
            read_range(&file, range.offset, range.size).map_err(elf)
        };
        let (table, names) = (read(&table)?, read(&names)?);
        let mut program =
            Self { version, layout, bias, variables: HashMap::new(), functions: Vec::new(), names };
        program.take_symbols(&table);
        Ok(program)
    }

    /// The same of one that was stripped.
    fn without_symbols(
        file: &File,
        pages: &Arc<FilePages>,
        memory: &impl Memory,
        version: String,
        layout: Layout,
        bias: u64,
    ) -> Result<Self, GoError> {
        let size = file.metadata().map_err(GoError::Program)?.len();
        let map = || pages.map(file, size).map_err(GoError::Program);
        let patience = Patience::of(PATIENCE);
        let table = GoTable::read(map()?, &patience, || {}).ok().flatten();
        let listing = stripped::functions(&table.ok_or(GoError::Stripped)?)?;
        let bytes = map()?;
        let elf = Elf::parse(&bytes).map_err(|_| GoError::Stripped)?;
        let variables = stripped::variables(&elf, &listing, memory, bias);
        let function = |&(start, end, name): &(u64, u64, u32)| Function { start, end, name };
        let functions = listing.functions.iter().map(function).collect();
        Ok(Self { version, layout, bias, variables, functions, names: listing.names })
    }

    fn take_symbols(&mut self, table: &[u8]) {
        for symbol in symbols(table) {
            let start = symbol.value;
            if symbol.kind == STT_FUNC {
                let end = start.saturating_add(symbol.size);
                self.functions.push(Function { start, end, name: symbol.name });
                continue;
            }
            let name = self.name(symbol.name);
            if !name.starts_with("runtime.") {
                continue;
            }
            if let Some(&known) = VARIABLES.iter().find(|it| **it == name) {
                self.variables.entry(known).or_insert(start);
            }
        }
        self.functions.sort_unstable_by_key(|function| function.start);
    }

    fn name(&self, at: u32) -> &str {
        let bytes = self.names.get(at as usize..).unwrap_or_default();
        // Generic functions have long names; what is asked here is how they begin.
        let bytes = &bytes[..bytes.len().min(256)];
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// avma of a variable.
    ///
    /// # Errors
    ///
    /// [`GoError::Missing`].
    pub(super) fn variable(&self, name: &'static str) -> Result<u64, GoError> {
        let svma = self.variables.get(name).ok_or(GoError::Missing(name))?;
        Ok(svma.wrapping_add(self.bias))
    }

    fn function(&self, avma: u64) -> Option<&Function> {
        let svma = avma.wrapping_sub(self.bias);
        let after = self.functions.partition_point(|function| function.start <= svma);
        let function = self.functions.get(after.checked_sub(1)?)?;
        (svma < function.end).then_some(function)
    }

    /// avma at which the function at `avma` begins; 0 where none is known.
    pub(super) fn entry(&self, avma: u64) -> u64 {
        self.function(avma).map_or(0, |function| function.start.wrapping_add(self.bias))
    }

    /// The name of the function at `avma`, or how it begins; empty where none is known.
    pub(super) fn name_at(&self, avma: u64) -> &str {
        self.function(avma).map_or("", |function| self.name(function.name))
    }

    /// One with these functions (first avma, bytes, name) and variables.
    #[cfg(test)]
    pub(super) fn fake(
        version: &str,
        functions: &[(u64, u64, &str)],
        variables: &[(&'static str, u64)],
    ) -> Self {
        let mut names = Vec::new();
        let functions = functions.iter().map(|&(start, size, name)| {
            let at = names.len() as u32;
            names.extend(name.bytes().chain([0]));
            Function { start, end: start + size, name: at }
        });
        let functions = functions.collect();
        Self {
            version: version.to_owned(),
            layout: Layout::of(version).unwrap(),
            bias: 0,
            variables: variables.iter().copied().collect(),
            functions,
            names,
        }
    }
}

/// A symbol (`Elf64_Sym`).
pub(super) struct Symbol {
    /// Where its name is.
    pub(super) name: u32,
    pub(super) kind: u8,
    pub(super) value: u64,
    pub(super) size: u64,
}

/// The symbols of a table.
pub(super) fn symbols(table: &[u8]) -> impl Iterator<Item = Symbol> {
    table.chunks_exact(SYMBOL_BYTES).map(|symbol| {
        let word =
            |at: usize| symbol[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Symbol {
            name: u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]),
            kind: symbol[4] & 0xf,
            value: word(8),
            size: word(16),
        }
    })
}

/// avma of the program's first instruction, as the kernel told the process. In the middle of an
/// `exec` the new program is there, and this is not yet.
fn entry(pid: u32) -> Result<u64, GoError> {
    const TRIES: u32 = 5;
    const BETWEEN: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match stated_entry(pid) {
            Err(GoError::NoEntry) => std::thread::sleep(BETWEEN),
            stated => return stated,
        }
    }
    stated_entry(pid)
}

fn stated_entry(pid: u32) -> Result<u64, GoError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/auxv")).map_err(GoError::Program)?;
    file.take(4096).read_to_end(&mut bytes).map_err(GoError::Program)?;
    let mut pairs = bytes.chunks_exact(16).map(|pair| {
        let word = |at: usize| pair[at..].first_chunk().map_or(0, |it| u64::from_le_bytes(*it));
        (word(0), word(8))
    });
    pairs.find(|(kind, _)| *kind == AT_ENTRY).map(|(_, value)| value).ok_or(GoError::NoEntry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_go_program_is_said() {
        let pages = Arc::new(FilePages::default());
        assert!(matches!(Program::of(std::process::id(), &pages), Err(GoError::NotGo)));
        assert!(matches!(Program::of(u32::MAX, &pages), Err(GoError::Program(_))));
    }

    #[test]
    fn functions_are_found_by_address() {
        let functions = [(0x1000, 0x10, "main.a"), (0x1020, 0x10, "runtime.b")];
        let program = Program::fake("go1.26.8", &functions, &[("runtime.allgs", 0x5000)]);
        assert_eq!((program.entry(0x100f), program.name_at(0x1025)), (0x1000, "runtime.b"));
        assert_eq!((program.entry(0x1010), program.name_at(0x10)), (0, ""));
        assert_eq!(program.variable("runtime.allgs").unwrap(), 0x5000);
        let missing = program.variable("runtime.ticks").unwrap_err().to_string();
        assert!(missing.contains("runtime.ticks"), "{missing}");
    }

    #[test]
    fn symbols_that_lead_nowhere_are_nothing() {
        let mut program = Program::fake("go1.26.8", &[], &[]);
        let mut symbol = [0xff; SYMBOL_BYTES];
        program.take_symbols(&symbol);
        symbol[4] = STT_FUNC;
        program.take_symbols(&[symbol, symbol].concat());
        assert_eq!((program.entry(u64::MAX), program.name_at(u64::MAX - 1)), (0, ""));
    }
}
