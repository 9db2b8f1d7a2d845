//! The program of a process: its version of Go, where the runtime's variables are, and where its
//! functions begin.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    time::Duration,
};

use super::{
    super::{
        elf::{Header, Image, SectionRange, read_range},
        file_pages::FilePages,
        go_build,
        go_table::GoTable,
        mounts::Mounts,
        patience::Patience,
        protocol::Segment,
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
const VARIABLES: [&str; 15] = [
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
    "runtime.mheap_",
    "runtime.allp",
];

/// A Go program, as a process runs it.
#[derive(Debug)]
pub(super) struct Program {
    /// Its file: what is in it.
    pub(super) contents: Arc<Contents>,
    pub(super) layout: Layout,
    /// The kernel answers for its file alone.
    pub(super) is_local: bool,
    bias: u64,
    variables: Variables,
}

/// What is in a Go program's file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) identity: Identity,
    pub(super) version: String,
    layout: Layout,
    /// Executable segments.
    pub(super) segments: Vec<Segment>,
    entry: u64,
    /// It has a symbol table, and these are in it.
    variables: Option<Variables>,
    functions: Vec<Function>,
    names: Vec<u8>,
}

/// Which file it is, and as of when: whoever can fool this fools itself alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// `st_dev` and `st_ino`.
    pub(super) file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> Result<Self, GoError> {
        let is = file.metadata().map_err(GoError::Program)?;
        Ok(Self {
            file: (is.dev(), is.ino()),
            size: is.len(),
            changed: (is.ctime(), is.ctime_nsec()),
        })
    }
}

/// The files that were read last.
#[derive(Default)]
pub(in super::super) struct Programs {
    known: VecDeque<Arc<Contents>>,
}

/// What they may take in memory, in bytes.
const MOST_KNOWN_BYTES: usize = 24 << 20;

impl Programs {
    /// What is in a file: known, or read.
    fn contents(&mut self, file: &File, pages: &Arc<FilePages>) -> Result<Arc<Contents>, GoError> {
        let identity = Identity::of(file)?;
        let place = self.known.iter().position(|it| it.identity == identity);
        let contents = match place.and_then(|place| self.known.remove(place)) {
            Some(known) => known,
            None => Arc::new(Contents::read(file, identity, pages)?),
        };
        self.known.push_front(Arc::clone(&contents));
        while self.known.len() > 1
            && self.known.iter().map(|it| it.size_bytes()).sum::<usize>() > MOST_KNOWN_BYTES
        {
            self.known.pop_back();
        }
        Ok(contents)
    }
}

#[derive(Debug)]
struct Function {
    /// First svma, and one past the last.
    start: u64,
    end: u64,
    /// Where its name is.
    name: u32,
}

impl Contents {
    fn read(file: &File, identity: Identity, pages: &Arc<FilePages>) -> Result<Self, GoError> {
        let elf = |error| GoError::File { error };
        let header = Header::read(file).map_err(elf)?.ok_or(GoError::NotGo)?;
        let image = Image::read(file).map_err(elf)?.ok_or(GoError::NotGo)?;
        if !image.debug.go {
            return Err(GoError::NotGo);
        }
        let build = go_build::read(file, image.debug.go_build.as_ref());
        let version = build.version;
        if version.is_empty() {
            return Err(GoError::NoVersion(build.not_known));
        }
        let layout = Layout::of(&version).ok_or(GoError::Version(version.clone()))?;
        let mut contents = Self {
            identity,
            version,
            layout,
            segments: image.segments,
            entry: header.entry,
            variables: None,
            functions: Vec::new(),
            names: Vec::new(),
        };
        let Some((table, names)) = header.symbol_table(file).map_err(elf)? else {
            contents.take_runtime_table(file, pages)?;
            return Ok(contents);
        };
        let read = |range: &SectionRange| {
            if range.size > MAX_SYMBOL_BYTES {
                return Err(GoError::Large);
            }
            read_range(file, range.offset, range.size).map_err(elf)
        };
        let table = read(&table)?;
        contents.names = read(&names)?;
        contents.take_symbols(&table);
        Ok(contents)
    }

    /// Takes the functions of one that was stripped.
    fn take_runtime_table(&mut self, file: &File, pages: &Arc<FilePages>) -> Result<(), GoError> {
        let bytes = pages.map(file, self.identity.size).map_err(GoError::Program)?;
        let patience = Patience::of(PATIENCE);
        let table = GoTable::read(bytes, &patience, || {}).ok().flatten();
        let listing = stripped::functions(&table.ok_or(GoError::Stripped)?)?;
        let function = |&(start, end, name): &(u64, u64, u32)| Function { start, end, name };
        self.functions = listing.functions.iter().map(function).collect();
        self.names = listing.names;
        Ok(())
    }

    /// The first function of this name.
    fn named(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| self.name(function.name) == name)
    }

    fn size_bytes(&self) -> usize {
        self.functions.len() * size_of::<Function>() + self.names.len()
    }

    fn take_symbols(&mut self, table: &[u8]) {
        let mut variables = Variables::new();
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
                variables.entry(known).or_insert(start);
            }
        }
        self.variables = Some(variables);
        self.functions.sort_unstable_by_key(|function| function.start);
    }

    fn name(&self, at: u32) -> &str {
        let bytes = self.names.get(at as usize..).unwrap_or_default();
        // Generic functions have long names; what is asked here is how they begin.
        let bytes = &bytes[..bytes.len().min(256)];
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl Program {
    /// The program of a process.
    ///
    /// # Errors
    ///
    /// [`GoError`]: it is none of Go, or it cannot be told where things are.
    pub(super) fn of(
        pid: u32,
        programs: &mut Programs,
        pages: &Arc<FilePages>,
        mounts: &Mounts,
    ) -> Result<Self, GoError> {
        let file = File::open(format!("/proc/{pid}/exe")).map_err(GoError::Program)?;
        let contents = programs.contents(&file, pages)?;
        let bias = entry(pid)?.wrapping_sub(contents.entry);
        let file_system = mounts.of_process(pid).map(|mounts| mounts.of_handle(&file));
        let is_local = matches!(file_system, Ok(Ok(Some(found))) if found.is_local);
        let layout = contents.layout;
        let mut program = Self { contents, layout, is_local, bias, variables: HashMap::new() };
        match &program.contents.variables {
            Some(known) => program.variables.clone_from(known),
            None => program.find_variables(&file, pages, &ProcessMemory(pid))?,
        }
        Ok(program)
    }

    /// Finds the variables of one that was stripped: what is in memory tells which is which.
    fn find_variables(
        &mut self,
        file: &File,
        pages: &Arc<FilePages>,
        memory: &impl Memory,
    ) -> Result<(), GoError> {
        let bytes = pages.map(file, self.contents.identity.size).map_err(GoError::Program)?;
        let elf = Elf::parse(&bytes).map_err(|_| GoError::Stripped)?;
        let functions =
            |name: &str| self.contents.named(name).map(|function| function.start..function.end);
        self.variables = stripped::variables(&elf, &functions, memory, self.bias);
        Ok(())
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
        let functions = &self.contents.functions;
        let after = functions.partition_point(|function| function.start <= svma);
        let function = functions.get(after.checked_sub(1)?)?;
        (svma < function.end).then_some(function)
    }

    /// avma at which the function at `avma` begins; 0 where none is known.
    pub(super) fn entry(&self, avma: u64) -> u64 {
        self.function(avma).map_or(0, |function| function.start.wrapping_add(self.bias))
    }

    /// The name of the function at `avma`, or how it begins; empty where none is known.
    pub(super) fn name_at(&self, avma: u64) -> &str {
        self.function(avma).map_or("", |function| self.contents.name(function.name))
    }

    /// The same in a file with one executable segment.
    #[cfg(test)]
    pub(super) fn in_segment(mut self, segment: Segment) -> Self {
        Arc::get_mut(&mut self.contents).unwrap().segments.push(segment);
        self
    }

    /// Whether there is a function of this name, and where in the file it begins, if it is there.
    pub(super) fn place_of(&self, name: &str) -> Option<Option<u64>> {
        let svma = self.contents.named(name)?.start;
        let offset = self.contents.segments.iter().find_map(|it| {
            let into = svma.checked_sub(it.svma).filter(|into| *into < it.size_bytes)?;
            it.file_offset.checked_add(into)
        });
        Some(offset)
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
        let contents = Contents {
            identity: Identity::default(),
            version: version.to_owned(),
            layout: Layout::of(version).unwrap(),
            segments: Vec::new(),
            entry: 0,
            variables: None,
            functions,
            names,
        };
        Self {
            layout: contents.layout,
            contents: Arc::new(contents),
            is_local: true,
            bias: 0,
            variables: variables.iter().copied().collect(),
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
        let (pages, mounts) = (Arc::new(FilePages::default()), Mounts::new(0));
        let of = |pid| Program::of(pid, &mut Programs::default(), &pages, &mounts);
        assert!(matches!(of(std::process::id()), Err(GoError::NotGo)));
        assert!(matches!(of(u32::MAX), Err(GoError::Program(_))));
    }

    fn contents(version: &str) -> Contents {
        let fake = Program::fake(version, &[], &[]);
        Arc::into_inner(fake.contents).unwrap()
    }

    #[test]
    fn files_that_were_read_are_known() {
        let file = File::open("/proc/self/exe").unwrap();
        let identity = Identity::of(&file).unwrap();
        let pages = Arc::new(FilePages::default());
        let mut programs = Programs::default();
        programs.contents(&file, &pages).unwrap_err();
        let known = Contents { identity, names: vec![0; MOST_KNOWN_BYTES], ..contents("go1.25.1") };
        programs.known.push_back(Arc::new(known));
        assert_eq!(programs.contents(&file, &pages).unwrap().version, "go1.25.1");
        let large = Contents { names: vec![0; 1], ..contents("go1.26.1") };
        programs.known.push_front(Arc::new(large));
        assert_eq!(programs.contents(&file, &pages).unwrap().version, "go1.25.1");
        assert_eq!(programs.known.len(), 1, "what was read last stays as long as there is room");
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
        let mut contents = contents("go1.26.8");
        let mut symbol = [0xff; SYMBOL_BYTES];
        contents.take_symbols(&symbol);
        symbol[4] = STT_FUNC;
        contents.take_symbols(&[symbol, symbol].concat());
        let program =
            Program { contents: Arc::new(contents), ..Program::fake("go1.26.8", &[], &[]) };
        assert_eq!((program.entry(u64::MAX), program.name_at(u64::MAX - 1)), (0, ""));
    }
}
