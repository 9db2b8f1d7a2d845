//! Where the runtime's variables are in a program without symbols: functions of the runtime refer to
//! them, whose names and places the runtime's own table has, and what is in memory there shows which
//! is which.

use std::{ops::Range, time::Duration};

use super::{
    super::{
        elf::u32_at,
        go_table::{GoTable, Listed},
        patience::Patience,
        unwind::sections::Elf,
    },
    GoError, Variables,
    memory::{Memory, half, word},
};

/// How long reading the table may take, of a CPU.
const PATIENCE: Duration = Duration::from_millis(500);

/// The most code of a function that is looked at, in bytes.
const MOST_CODE: usize = 8 << 10;

/// The highest rate that is believed, in bytes.
const MOST_RATE: u64 = 1 << 50;

/// Offset of a bucket's type.
const TYPE: u64 = 16;

/// The functions that the runtime's table in a file has.
///
/// # Errors
///
/// [`GoError::Stripped`]: there is none.
pub(super) fn functions(table: &GoTable) -> Result<Listed, GoError> {
    table.all(&Patience::of(PATIENCE)).map_err(|_| GoError::Stripped)
}

/// Finds the variables in a file, which `memory` has at `bias` further.
/// `functions`: svmas of functions by name.
pub(super) fn variables(
    elf: &Elf<'_>,
    functions: &dyn Fn(&str) -> Option<Range<u64>>,
    memory: &impl Memory,
    bias: u64,
) -> Variables {
    let finder = Finder { elf, functions, memory, bias };
    let mut found = Variables::new();
    let mut add = |name: &'static str, svma: Option<u64>| {
        if let Some(svma) = svma {
            found.insert(name, svma);
        }
    };
    let goroutines = finder.goroutines();
    add("runtime.allgs", goroutines);
    // As long as the slice says.
    add("runtime.allglen", goroutines.map(|it| it.wrapping_add(8)));
    let lists = finder.references("runtime.stkbucket");
    for (name, number) in
        [("runtime.mbuckets", 1), ("runtime.bbuckets", 2), ("runtime.xbuckets", 3)]
    {
        add(name, finder.list(&lists, number));
    }
    add("runtime.mProfCycle", finder.cycle());
    add("runtime.MemProfileRate", finder.memory_rate());
    let [block_rate, mutex_rate] = rates(elf, functions);
    add("runtime.blockprofilerate", block_rate);
    add("runtime.mutexprofilerate", mutex_rate);
    found
}

/// What waits are sampled by, and ends of waits for locks. Who begins to wait looks at both, which are
/// near each other, and at the table of all who wait, which who ends a wait looks at, too.
fn rates(elf: &Elf<'_>, functions: &dyn Fn(&str) -> Option<Range<u64>>) -> [Option<u64>; 2] {
    /// Variables of a package and of one size are together. What cannot be changed is elsewhere.
    const NEAR: u64 = 4 << 10;
    let references = |function| {
        functions(function).map(|function| variables_in(elf, function)).unwrap_or_default()
    };
    let Some(block_rate) = references("runtime.blockevent").first().copied() else {
        return [None; 2];
    };
    let ends = references("runtime.semrelease1");
    let is_rate =
        |at: &u64| *at != block_rate && at.abs_diff(block_rate) < NEAR && !ends.contains(at);
    let begins = references("runtime.semacquire1");
    let rates: Vec<u64> = begins.into_iter().filter(is_rate).collect();
    let mutex_rate = match rates[..] {
        [rate] => Some(rate),
        _ => None,
    };
    [Some(block_rate), mutex_rate]
}

/// The function that looks at the number of the collector's cycle before it looks at anything else.
pub(super) const CYCLE_FLUSHED: &str = "runtime.mProf_Flush";

/// svmas of the variables that a function refers to, nearly in the order of its code, each once.
pub(super) fn variables_in(elf: &Elf<'_>, function: Range<u64>) -> Vec<u64> {
    let code = elf.loaded(function.start).unwrap_or_default();
    let size = usize::try_from(function.end.saturating_sub(function.start)).unwrap_or_default();
    let code = &code[..size.min(MOST_CODE).min(code.len())];
    let mut found = Vec::new();
    for svma in references(code, function.start) {
        let mut data = elf.segments().filter(|it| it.is_writable);
        if data.any(|it| (it.svma..it.end).contains(&svma)) && !found.contains(&svma) {
            found.push(svma);
        }
    }
    found
}

struct Finder<'a, M> {
    elf: &'a Elf<'a>,
    functions: &'a dyn Fn(&str) -> Option<Range<u64>>,
    memory: &'a M,
    bias: u64,
}

impl<M: Memory> Finder<'_, M> {
    fn references(&self, function: &str) -> Vec<u64> {
        let function = (self.functions)(function);
        function.map(|function| variables_in(self.elf, function)).unwrap_or_default()
    }

    fn word(&self, svma: u64) -> Option<u64> {
        word(self.memory, svma.wrapping_add(self.bias))
    }

    /// The slice of all goroutines: the only one that `allgadd` adds to.
    fn goroutines(&self) -> Option<u64> {
        let all = self.references("runtime.allgadd");
        all.iter().copied().find(|&at| {
            let [length, room] = [8, 16].map(|into| at.wrapping_add(into));
            let is_slice = all.contains(&length) || all.contains(&room);
            let [array, length, room] =
                [at, length, room].map(|at| self.word(at).unwrap_or_default());
            is_slice && array != 0 && (1..=room).contains(&length)
        })
    }

    /// A list of buckets of one type. An empty one looks like any other.
    fn list(&self, all: &[u64], number: u64) -> Option<u64> {
        let is_of = |at: &&u64| {
            let bucket = self.word(**at).filter(|bucket| *bucket != 0);
            bucket.and_then(|bucket| word(self.memory, bucket.wrapping_add(TYPE))) == Some(number)
        };
        let is_empty = |at: &&u64| self.word(**at) == Some(0);
        all.iter().find(is_of).or_else(|| all.iter().find(is_empty)).copied()
    }

    /// What [`CYCLE_FLUSHED`] looks at first.
    fn cycle(&self) -> Option<u64> {
        let all = self.references(CYCLE_FLUSHED);
        all.into_iter().find(|&at| half(self.memory, at.wrapping_add(self.bias)).is_some())
    }

    /// What allocations are sampled by: two functions begin to wait for the next sample, and have
    /// nothing else in common.
    fn memory_rate(&self) -> Option<u64> {
        let caches = self.references("runtime.allocmcache");
        let mut both = self.references("runtime.profilealloc");
        both.retain(|at| caches.contains(at) && self.word(*at).is_some_and(|it| it <= MOST_RATE));
        both.first().copied()
    }
}

/// svmas that code may refer to. On x86_64 instructions have 32 bits that the address of the next
/// instruction is added to; which bits those are, decoding would tell: here all are tried, and few of
/// the wrong ones lead to a variable.
#[cfg(target_arch = "x86_64")]
fn references(code: &[u8], start: u64) -> impl Iterator<Item = u64> {
    // What may follow within the instruction: mostly nothing, else a constant.
    const BEHIND: [u64; 3] = [0, 1, 4];
    let all = BEHIND.into_iter().flat_map(move |more| {
        (0..code.len()).filter_map(move |at| {
            let offset = i64::from(u32_at(code, at)? as i32);
            let next = start.wrapping_add(at as u64 + 4 + more);
            Some(next.wrapping_add_signed(offset))
        })
    });
    all.filter(|svma| svma.is_multiple_of(4))
}

/// The same on aarch64: an instruction has the page (`adrp`), and one after it the place in that
/// (`add`, `ldr`, `str`).
#[cfg(target_arch = "aarch64")]
fn references(code: &[u8], start: u64) -> impl Iterator<Item = u64> {
    let mut pages = [None; 32];
    let instructions = (start..).step_by(4).zip(code.chunks_exact(4));
    instructions.filter_map(move |(pc, bytes)| {
        let word = u32_at(bytes, 0)?;
        let register = (word & 31) as usize;
        if word & 0x9f00_0000 == 0x9000_0000 {
            let pages_on = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
            let bytes_on = i64::from((pages_on << 11) as i32 >> 11) << 12;
            pages[register] = Some((pc & !0xfff).wrapping_add_signed(bytes_on));
            return None;
        }
        let base = pages[(word >> 5 & 31) as usize]?;
        let immediate = u64::from(word >> 10 & 0xfff);
        let is_add = word & 0xffc0_0000 == 0x9100_0000;
        let is_of_word = word & 0xff80_0000 == 0xf900_0000;
        let is_of_half = word & 0xff80_0000 == 0xb900_0000;
        let scale = if is_of_word { 8 } else { 4 };
        match () {
            () if is_add => Some(base + immediate),
            () if is_of_word || is_of_half => Some(base + immediate * scale),
            () => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::Arc};

    use super::{
        super::{
            super::go_table::{
                Found,
                tests::{C_PROGRAM, PROGRAM, build, has_go},
            },
            labels::symbol,
        },
        *,
    };
    use crate::reader::file_pages::FilePages;

    #[test]
    fn rates_are_where_symbols_have_them() {
        if !has_go() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let pages: Arc<FilePages> = Arc::default();
        for source in [PROGRAM, C_PROGRAM] {
            for mode in ["-buildmode=exe", "-buildmode=pie"] {
                let found = |name, flags: &[&str]| {
                    let file = File::open(build(directory.path(), name, source, flags)).unwrap();
                    let bytes = pages.map(&file, file.metadata().unwrap().len()).unwrap();
                    let elf = Elf::parse(&bytes).unwrap();
                    let patience = Patience::of(PATIENCE);
                    let table = Found::find(&elf, &bytes, &patience).unwrap();
                    let table = table.functions(&bytes, &patience);
                    let functions = |name: &str| {
                        let mut all = (0..table.count()).filter_map(|it| table.function(it));
                        let (start, end, _) = all.find(|it| it.2 == name.as_bytes())?;
                        Some(start..end)
                    };
                    let names = [&b"runtime.blockprofilerate"[..], b"runtime.mutexprofilerate"];
                    (rates(&elf, &functions), names.map(|name| symbol(&file, name)))
                };
                let (rates, named) = found("whole", &[mode]);
                assert!(named.iter().all(Option::is_some));
                assert_eq!(rates, named, "{mode}");
                let (rates, named) = found("stripped", &[mode, "-ldflags=-s -w"]);
                assert!(rates.iter().all(Option::is_some) && named == [None; 2], "{mode}");
            }
        }
    }
}
