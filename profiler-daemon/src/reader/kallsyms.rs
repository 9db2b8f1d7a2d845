//! Names of kernel addresses, from `/proc/kallsyms`.
//!
//! blazesym reads this file too, but drops the modules' names.

use std::io::{BufRead, BufReader};
use std::ops::Range;

use super::name_table::{Line, NameTable};

/// The kernel's symbols.
const PATH: &str = "/proc/kallsyms";

/// The longest line taken, in bytes: names have up to 511 (`KSYM_NAME_LEN`).
const MAX_LINE_BYTES: usize = 1_024;

/// The most bytes of names kept.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// Marks a symbol that is no code in [`Symbol::text`].
const NOT_CODE: u32 = 1 << 31;

/// The kernel's symbols, sorted by address.
#[derive(Debug, Default)]
pub(super) struct Kallsyms {
    symbols: Vec<Symbol>,
    /// `name\tmodule` or `name`, each ended by a newline.
    text: String,
    /// Addresses of the kernel's own code.
    own_code: Range<u64>,
    hidden: bool,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    address: u64,
    /// Where in [`Kallsyms::text`] it is, or [`NOT_CODE`].
    text: u32,
}

impl Kallsyms {
    /// Reads the running kernel's symbols.
    ///
    /// # Errors
    ///
    /// The error of opening or reading the file.
    pub(super) fn read() -> std::io::Result<Self> {
        Self::parse(&mut BufReader::with_capacity(64 << 10, std::fs::File::open(PATH)?))
    }

    pub(super) fn parse(lines: &mut impl BufRead) -> std::io::Result<Self> {
        let mut table = Self::default();
        let mut line = Vec::new();
        let (mut seen, mut zero) = (0_usize, 0_usize);
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let Some((address, kind, name)) = split(&line) else { continue };
            seen += 1;
            zero += usize::from(address == 0);
            match name {
                "_stext" => table.own_code.start = address,
                "_etext" => table.own_code.end = address,
                _ => {}
            }
            if address == 0 || table.text.len() > MAX_TEXT_BYTES {
                continue;
            }
            let text = if matches!(kind, b't' | b'T' | b'w' | b'W') {
                let at = table.text.len() as u32;
                table.text.push_str(name);
                table.text.push('\n');
                at
            } else {
                NOT_CODE
            };
            table.symbols.push(Symbol { address, text });
        }
        table.hidden = seen > 0 && zero == seen;
        // Of several at one address the first in the file is the global one, mostly.
        table.symbols.sort_by_key(|symbol| (symbol.address, symbol.text == NOT_CODE));
        table.symbols.dedup_by_key(|symbol| symbol.address);
        table.symbols.shrink_to_fit();
        table.text.shrink_to_fit();
        Ok(table)
    }

    /// Whether the symbol at an address stays the same as long as the kernel runs, as those of
    /// modules and BPF programs do not.
    pub(super) fn is_lasting(&self, address: u64) -> bool {
        self.own_code.contains(&address)
    }

    /// Gives each address the symbol that it lies behind.
    pub(super) fn name(&self, addresses: &[u64], names: &mut NameTable) {
        if self.hidden {
            names.warn(
                "kernel addresses are hidden: run `sysctl -w kernel.kptr_restrict=1` and give \
                 rprofd CAP_SYSLOG",
            );
        }
        for (index, address) in addresses.iter().enumerate() {
            if let Some((function, module)) = self.find(*address) {
                let line = Line { function, module, ..Line::default() };
                names.set(index, std::iter::once(line));
            }
        }
    }

    fn find(&self, address: u64) -> Option<(&str, &str)> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols[..after].last().filter(|symbol| symbol.text != NOT_CODE)?;
        let text = self.text.get(symbol.text as usize..)?;
        let text = text.split('\n').next()?;
        Some(text.split_once('\t').unwrap_or((text, "")))
    }
}

/// Splits `ADDRESS TYPE NAME[\tMODULE]`.
fn split(line: &[u8]) -> Option<(u64, u8, &str)> {
    let line = std::str::from_utf8(line.get(..line.len().min(MAX_LINE_BYTES))?).ok()?;
    let (address, rest) = line.trim_ascii_end().split_once(' ')?;
    let (kind, name) = rest.split_once(' ')?;
    let address = u64::from_str_radix(address, 16).ok()?;
    (!name.is_empty()).then_some((address, *kind.as_bytes().first()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"0000000000000000 A fixed_percpu_data\n\
        ffffffff81000000 T _text\n\
        ffffffff81000000 T _stext\n\
        ffffffff81000000 t startup\n\
        ffffffff81000100 T do_work\n\
        ffffffff81000200 D some_data\n\
        bad line\n\
        ffffffff81000800 T _etext\n\
        ffffffffc0000000 t nf_input\t[nf_tables]\n\
        ffffffffc0001000 t bpf_prog_6deef7357e7b4530\t[bpf]\n";

    #[test]
    fn addresses_get_the_code_symbol_before_them() {
        let table = Kallsyms::parse(&mut &FILE[..]).unwrap();
        assert_eq!(table.find(0xffff_ffff_8100_0000), Some(("_text", "")));
        assert_eq!(table.find(0xffff_ffff_8100_01ff), Some(("do_work", "")));
        assert_eq!(table.find(0xffff_ffff_8100_0200), None);
        assert_eq!(table.find(0xffff_ffff_c000_0010), Some(("nf_input", "[nf_tables]")));
        assert_eq!(table.find(0x1000), None);
        assert!(!table.hidden);
    }

    #[test]
    fn the_kernels_own_code_lasts() {
        let table = Kallsyms::parse(&mut &FILE[..]).unwrap();
        assert!(table.is_lasting(0xffff_ffff_8100_0100));
        for address in [0xffff_ffff_80ff_ffff, 0xffff_ffff_8100_0800, 0xffff_ffff_c000_0010] {
            assert!(!table.is_lasting(address));
        }
        assert!(!Kallsyms::parse(&mut &b"ffffffff81000000 T do_work\n"[..]).unwrap().is_lasting(0));
    }

    #[test]
    fn hidden_addresses_are_said_with_the_remedy() {
        let file = b"0000000000000000 T _text\n0000000000000000 T do_work\n";
        let table = Kallsyms::parse(&mut &file[..]).unwrap();
        let mut names = NameTable::new(1);
        table.name(&[0xffff_ffff_8100_0000], &mut names);
        let names = names.finish();
        assert!(names.warning.contains("kptr_restrict"));
        assert!(names.frames[0].lines.is_empty());
    }
}
