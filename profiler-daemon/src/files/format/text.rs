//! The hottest functions as a table, in the shape of `go tool pprof -top`.

use std::fmt::Write as _;

use crate::{
    files::{printable, quantity, utc},
    profile::{
        Profile,
        top::{Entry, Top},
    },
};

/// Functions that are shown.
const ROWS: usize = 100;

/// A head that says what was measured, and a row a function, the hottest first.
pub(crate) fn render(profile: &Profile) -> String {
    let top = Top::of(profile);
    let unit = profile.kind.default_type().1;
    let mut text = String::new();
    let file = profile.mappings.first().map_or("", |mapping| mapping.basename());
    // Writing to a String does not fail.
    if !file.is_empty() {
        let _ = writeln!(text, "File: {}", printable::escape(file));
    }
    let _ = write!(
        text,
        "Type: {}\nTime: {}\nDuration: {:.2?}, Total samples = {}\n",
        profile.kind.default_type().0,
        utc::readable(profile.start),
        profile.duration,
        quantity::with_unit(top.total(), unit),
    );
    let shown = top.hottest(ROWS);
    let all = top.hottest(usize::MAX).len();
    let flat = shown.iter().fold(0_i64, |sum, entry| sum.saturating_add(entry.flat));
    let _ = writeln!(
        text,
        "Showing {} of {all} functions, {} of the total",
        shown.len(),
        quantity::percent(flat, top.total())
    );
    let _ = writeln!(
        text,
        "{:>10} {:>6} {:>6}  {:>10} {:>6}  function",
        "flat", "flat%", "sum%", "cum", "cum%"
    );
    let mut sum = 0_i64;
    for Entry { name, binary, flat, cumulative } in shown {
        sum = sum.saturating_add(*flat);
        let binary = if binary.is_empty() || name.starts_with('[') {
            String::new()
        } else {
            format!("  {}", printable::escape(binary))
        };
        let _ = writeln!(
            text,
            "{:>10} {:>6} {:>6}  {:>10} {:>6}  {}{binary}",
            quantity::with_unit(*flat, unit),
            quantity::percent(*flat, top.total()),
            quantity::percent(sum, top.total()),
            quantity::with_unit(*cumulative, unit),
            quantity::percent(*cumulative, top.total()),
            printable::escape(name),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::{empty, program};

    #[test]
    fn looks_like_pprofs_top() {
        assert_eq!(
            render(&program(7, "app", 0x40_0000)),
            "\
File: app
Type: cpu
Time: 2026-11-23 16:00:00 UTC
Duration: 10.00s, Total samples = 100ms
Showing 5 of 5 functions, 100% of the total
      flat  flat%   sum%         cum   cum%  function
      50ms 50.00% 50.00%       100ms   100%  step  app
      30ms 30.00% 80.00%        30ms 30.00%  read  [kernel.kallsyms]
      20ms 20.00%   100%        20ms 20.00%  [libc.so.6+0x1010]
         0     0%   100%       100ms   100%  main  app
         0     0%   100%       100ms   100%  work  app
"
        );
    }

    #[test]
    fn nothing_is_no_division_by_zero() {
        assert!(render(&empty(7, "app")).contains("Showing 0 of 0 functions, 0% of the total"));
    }

    #[test]
    fn escape_sequences_stay_out_of_the_terminal() {
        let mut profile = program(7, "app", 0x40_0000);
        profile.functions[2].name = "\x1b]0;owned\x07".into();
        assert!(!render(&profile).contains('\x1b'));
    }
}
