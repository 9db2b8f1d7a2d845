//! Symbols and their names.

use super::elf::{CODE, CODE_BYTES, Elf, Section, symbol, with_symbols};
use super::{NAMED, explode_elf, scaled};

#[test]
fn ten_million_symbols() {
    let symbols = (0..10_000_000).flat_map(|n| symbol(1, CODE + n * 7 % CODE_BYTES, 7)).collect();
    let outcome =
        explode_elf("ten-million-symbols", Elf::of(with_symbols(symbols, b"\0f\0".into())));
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

#[test]
fn four_million_symbols_are_named() {
    // In the order of their addresses, and in none.
    for (name, step) in [("four-million-symbols", 7), ("symbols-out-of-order", 0x9_e377)] {
        let address = |n: u64| CODE + n * step % CODE_BYTES;
        let symbols = (0..scaled(4_000_000)).flat_map(|n| symbol(1, address(n), 7)).collect();
        let outcome = explode_elf(name, Elf::of(with_symbols(symbols, b"\0f\0".into())));
        assert_eq!(outcome.named.len(), NAMED, "{outcome:?}");
        assert!(outcome.named.iter().all(|name| name == "f"));
        assert_eq!(outcome.warning, "");
    }
}

#[test]
fn a_million_symbols_of_one_address() {
    // None of them covers what is asked.
    let symbols = (0..1_000_000).flat_map(|_| symbol(1, CODE, 1)).collect();
    let outcome =
        explode_elf("symbols-of-one-address", Elf::of(with_symbols(symbols, b"\0f\0".into())));
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

#[test]
fn names_of_symbols_that_never_end() {
    let symbols = (0..10_000).flat_map(|n| symbol(n as u32, CODE + n * 64, 64)).collect();
    let mut names = vec![b'n'; 32 << 20];
    names.push(0);
    let outcome = explode_elf("endless-names", Elf::of(with_symbols(symbols, names)));
    assert!(outcome.named.is_empty() && outcome.warning.contains("costly"), "{outcome:?}");
}

/// A symbol for every `code_bytes` of code, each with a name of its own.
fn with_names(code_bytes: u64, name: impl Fn(u64) -> String) -> Vec<Section> {
    let mut names = vec![0];
    let mut symbols = Vec::new();
    for n in 0..CODE_BYTES / code_bytes {
        symbols.extend(symbol(names.len() as u32, CODE + n * code_bytes, code_bytes));
        names.extend(name(n).as_bytes());
        names.push(0);
    }
    with_symbols(symbols, names)
}

/// The function `f<function>`, Itanium-mangled, with so many arguments, below 36, each of which is
/// the one before it twice.
fn growing_name(function: u64, arguments: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut name = format!("_Z7f{function:06}I1bIiiE");
    for digit in &DIGITS[1..arguments] {
        let last = char::from(*digit);
        name.push_str(&format!("S0_IS{last}_S{last}_E"));
    }
    name + "Evv"
}

#[test]
fn mangled_names_that_grow() {
    let outcome = explode_elf("mangled", Elf::of(with_names(64, |n| growing_name(n, 3))));
    assert_eq!(outcome.named.len(), NAMED, "{}", outcome.warning);
    let (one, two) = ("b<int, int>", "b<b<int, int>, b<int, int> >");
    assert_eq!(outcome.named[0], format!("void f000000<{one}, {two}, b<{two}, {two} > >()"));
    // Of 2^35 there is no end: they stay as they are.
    let outcome = explode_elf("mangled-growing", Elf::of(with_names(64, |n| growing_name(n, 36))));
    assert_eq!(outcome.named.len(), NAMED, "{}", outcome.warning);
    assert_eq!(outcome.named[0], growing_name(0, 36));
}

#[test]
fn mangled_names_that_are_slow_to_parse() {
    // Calls within calls: each of them is tried as something else first. As long as names are taken,
    // or as take a debug build as long.
    let length = if cfg!(debug_assertions) { 2 << 10 } else { 16 << 10 };
    let name = |n| format!("_Z{}{n}", "plc".repeat(length / 3 - 2));
    let outcome = explode_elf("mangled-slow", Elf::of(with_names(2 << 10, name)));
    assert_eq!(outcome.named.len(), NAMED, "{}", outcome.warning);
    assert!(outcome.named.iter().all(|name| name.starts_with("_Zplc") && name.len() <= 4_096));
}
