//! Demangling, which is a decompression that hostile files may feed: what comes out is bounded, and
//! so is the time.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::time::Duration;

use gimli::DwLang;

use super::patience::busy;

/// The longest name taken as it is written, in bytes. The parser's time is worse than linear in it:
/// some tenths of a second for the worst of these names.
pub(super) const MAX_WRITTEN_BYTES: usize = 16 << 10;

/// The longest demangled name, in bytes.
const MAX_DEMANGLED_BYTES: usize = 16 << 10;

/// What mangled C++ names begin with.
const MARKS: [&str; 5] = ["_Z", "__Z", "___Z", "____Z", "_GLOBAL_"];

/// For how long one request may keep us demangling: a hundred thousand names of usual programs.
/// Code that was not optimized gets more, within what a symbol table gets.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 3 } else { 1 });

/// Demangles the names of one request, for as long as that may take.
#[derive(Default)]
pub(super) struct Demangler {
    spent: Cell<Duration>,
    has_given_up: Cell<bool>,
    /// Addresses are asked for in order, so that many of one function follow each other.
    last: RefCell<Option<Last>>,
}

struct Last {
    mangled: String,
    language: Option<DwLang>,
    name: String,
}

impl Demangler {
    /// The name as its author wrote it; or as it is, if it is not mangled, if it would be too long,
    /// or if names have taken too long already.
    pub(super) fn demangle(&self, mangled: &str, language: Option<DwLang>) -> String {
        if let Some(last) = &*self.last.borrow()
            && last.mangled == mangled
            && last.language == language
        {
            return last.name.clone();
        }
        if self.spent.get() >= PATIENCE {
            self.has_given_up.set(true);
            return mangled.to_owned();
        }
        let begun = busy();
        let name = demangle(mangled, language).unwrap_or_else(|| mangled.to_owned());
        self.spent.set(self.spent.get() + busy().saturating_sub(begun));
        let last = Last { mangled: mangled.to_owned(), language, name: name.clone() };
        *self.last.borrow_mut() = Some(last);
        name
    }

    /// Whether names were left as they are because they took too long.
    pub(super) fn has_given_up(&self) -> bool {
        self.has_given_up.get()
    }
}

fn demangle(mangled: &str, language: Option<DwLang>) -> Option<String> {
    let is_rust = language == Some(gimli::DW_LANG_Rust);
    let is_cpp = matches!(
        language,
        Some(
            gimli::DW_LANG_C_plus_plus
                | gimli::DW_LANG_C_plus_plus_03
                | gimli::DW_LANG_C_plus_plus_11
                | gimli::DW_LANG_C_plus_plus_14
                | gimli::DW_LANG_C_plus_plus_17
                | gimli::DW_LANG_C_plus_plus_20
        )
    );
    let mut name = Bounded(String::new());
    if !is_cpp
        && let Ok(rust) = rustc_demangle::try_demangle(mangled)
        && write!(name, "{rust:#}").is_ok()
    {
        return Some(name.0);
    }
    name.0.clear();
    // Types, which the parser takes at the top, too, look like C's names: `f` is `float`.
    if !is_rust
        && MARKS.iter().any(|mark| mangled.starts_with(mark))
        && let Ok(cpp) = cpp_demangle::Symbol::new(mangled)
        && cpp.structured_demangle(&mut name, &cpp_demangle::DemangleOptions::default()).is_ok()
    {
        return Some(name.0);
    }
    None
}

/// A string that grows to [`MAX_DEMANGLED_BYTES`] at most.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > MAX_DEMANGLED_BYTES {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled_by_their_language() {
        let names = Demangler::default();
        assert_eq!(names.demangle("_Z1fi", None), "f(int)");
        assert_eq!(names.demangle("_Z1fi", Some(gimli::DW_LANG_Rust)), "_Z1fi");
        assert_eq!(names.demangle("_ZN1a1bE", Some(gimli::DW_LANG_C_plus_plus)), "a::b");
        assert_eq!(names.demangle("_RNvC1a1b", None), "a::b");
        for name in ["main", "f", "i", "v", "St", "_Z", "_R"] {
            assert_eq!(names.demangle(name, None), name);
        }
        assert!(!names.has_given_up());
    }

    #[test]
    fn names_that_take_too_long_stay_mangled() {
        let names = Demangler::default();
        names.spent.set(PATIENCE);
        assert_eq!(names.demangle("_Z1fi", None), "_Z1fi");
        assert!(names.has_given_up());
    }

    #[test]
    fn a_name_that_would_be_too_long_stays_mangled() {
        // Each argument is the one before it, twice.
        let digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".as_bytes();
        let mut mangled = "_Z1fI1bIiiE".to_owned();
        for digit in &digits[1..30] {
            let digit = char::from(*digit);
            mangled.push_str(&format!("S0_IS{digit}_S{digit}_E"));
        }
        mangled.push_str("Evv");
        assert!(cpp_demangle::Symbol::new(&mangled).is_ok());
        assert_eq!(Demangler::default().demangle(&mangled, None), mangled);
    }
}
