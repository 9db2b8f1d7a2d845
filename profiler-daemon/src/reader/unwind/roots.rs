//! Functions whose CFI is missing or does not say what they are, known by their symbols.

use profiler_ebpf::unwind::rule::{Rule, cfa};

use super::go::Known;
use super::machine::Machine;
use super::parts::{Part, Source};
use super::sections::{Elf, Symbol};
use super::v8;

/// How far a function without a stated size is taken to reach, in bytes.
const UNSIZED_BYTES: u64 = 64;

/// The most functions that are looked at because of their symbols.
const MAX_ROOTS: usize = 1_024;

/// What symbols say.
#[derive(Default)]
pub(super) struct Roots {
    /// In place of what CFI says.
    pub(super) above: Vec<Part>,
    /// Where CFI says nothing.
    pub(super) below: Vec<Part>,
}

/// Looks for known functions among the file's symbols.
pub(super) fn find(elf: &Elf<'_>) -> Roots {
    let mut roots = Roots::default();
    let is_go = elf.is_go();
    // Counted whether or not their code shows what it should: a hostile file has millions that do
    // not, and each look goes over hundreds of bytes.
    let mut of_go = 0;
    elf.for_each_function(|symbol| {
        if of_go + roots.below.len() >= MAX_ROOTS {
            return;
        }
        let end = |size| symbol.svma.saturating_add(size).min(elf.code_end(symbol.svma));
        let sized = if symbol.size == 0 { UNSIZED_BYTES } else { symbol.size };
        let whole = |start: u64, rule| Part { start, end: end(sized), source: Source::Fixed(rule) };
        match symbol.name {
            // glibc's say so themselves, musl's are written in assembly without any CFI.
            b"_start" | b"__clone" | b"clone" | b"__clone3" | b"clone3" => {
                roots.below.push(whole(symbol.svma, Rule::END));
            }
            // `arch/arm64/kernel/vdso/sigreturn.S`, which since Linux 5.8 has no CFI, and musl's.
            b"__kernel_rt_sigreturn" | b"__restore_rt" => {
                roots.below.push(whole(before(elf.machine, &symbol), Rule::SIGNAL));
            }
            name if name.starts_with(v8::PREFIX) => {
                v8::root(elf.machine, &symbol, end(symbol.size), &mut roots.below);
            }
            name if is_go => {
                if let Some(known) = Known::of(elf.machine, name) {
                    of_go += 1;
                    roots.above.extend(known.part(elf, &symbol, end(symbol.size)));
                }
            }
            _ => {}
        }
    });
    roots.below.extend(entry(elf));
    roots.above.retain(|part| part.start < part.end);
    roots.below.retain(|part| part.start < part.end);
    roots
}

/// Where glibc's `clone` and `clone3` call the kernel: no CFI is true of both who returns from it,
/// and theirs leaves these few instructions out (`sysdeps/unix/sysv/linux/x86_64/clone.S`).
pub(super) fn thread_makers(elf: &Elf<'_>, parts: &[Part]) -> Vec<Part> {
    /// `syscall; test rax, rax`
    const X86_64: [u8; 5] = [0x0f, 0x05, 0x48, 0x85, 0xc0];
    /// Up to the thread's own code.
    const MOST_BYTES: u64 = 16;
    if elf.machine != Machine::X86_64 {
        return Vec::new();
    }
    let rule = Rule { offset: 8, ..Rule::only(cfa::CLONE) };
    let gaps = parts.windows(2).map(|pair| (pair[0].end, pair[1].start));
    gaps.filter(|&(start, end)| start < end && end - start <= MOST_BYTES)
        .filter(|&(start, end)| elf.code_at(start, end).starts_with(&X86_64))
        .take(MAX_ROOTS)
        .map(|(start, end)| Part { start, end, source: Source::Fixed(rule) })
        .collect()
}

/// The code that a program or the dynamic linker is started at, if it takes its first stack pointer
/// for an argument, which no function does: glibc's dynamic linker is installed without a symbol of
/// it (`sysdeps/x86_64/dl-machine.h` and `sysdeps/aarch64/dl-start.S`).
fn entry(elf: &Elf<'_>) -> Option<Part> {
    /// `mov rdi, rsp`
    const X86_64: [u8; 3] = [0x48, 0x89, 0xe7];
    /// `mov x0, sp`
    const AARCH64: [u8; 4] = [0xe0, 0x03, 0x00, 0x91];
    let start = elf.entry;
    let end = start.saturating_add(UNSIZED_BYTES).min(elf.code_end(start));
    let code = elf.code_at(start, end);
    let is_entry = match elf.machine {
        Machine::X86_64 => code.starts_with(&X86_64),
        Machine::Aarch64 => code.starts_with(&AARCH64),
    };
    is_entry.then_some(Part { start, end, source: Source::Fixed(Rule::END) })
}

/// Where a trampoline's rows begin: nothing has called it, and who looks a caller up looks below
/// the return address.
pub(super) fn before(machine: Machine, symbol: &Symbol<'_>) -> u64 {
    let instruction_bytes = match machine {
        Machine::X86_64 => 1,
        Machine::Aarch64 => 4,
    };
    symbol.svma.saturating_sub(instruction_bytes)
}
