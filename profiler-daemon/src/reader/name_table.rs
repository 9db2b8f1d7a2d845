//! Building a [`Names`] reply, and cleaning strings that come from a target.

use std::collections::HashMap;

use super::protocol::{FrameNames, MAX_REPLY_BYTES, NameLine, Names};

/// The longest function name, file or module taken, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 4_096;

/// All strings and functions of a reply together, in bytes: the rest, what frames the functions of
/// each address and the warning, takes less than what is left of the longest reply.
const MAX_ENCODED_BYTES: usize = MAX_REPLY_BYTES - (256 << 10);

/// What a string takes in a reply beside its bytes: tag and length.
const STRING_FRAMING_BYTES: usize = 4;

/// What a function takes in a reply at most: five numbers, three of which are below 2^28, each with
/// its tag; and its own tag and length.
const LINE_BYTES: usize = 5 + 3 * 4 + 2 * 5 + 2;

/// The most functions at one address.
const MAX_LINES: usize = 256;

/// The most functions in a reply.
const MAX_ALL_LINES: usize = 512 << 10;

/// The longest warning, in bytes.
const MAX_WARNING_BYTES: usize = 1_024;

/// A function and where in it an address is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Function.
    pub(super) function: &'a str,
    /// Source file; empty if unknown.
    pub(super) file: &'a str,
    /// Line; 0 if unknown.
    pub(super) line: u32,
    /// Line where the function begins; 0 if unknown.
    pub(super) start_line: u32,
    /// Kernel module; empty if none.
    pub(super) module: &'a str,
}

/// A [`Names`] under construction: one entry for each address of a request.
#[derive(Debug)]
pub(super) struct NameTable {
    names: Names,
    indexes: HashMap<String, u32>,
    encoded_bytes: usize,
    all_lines: usize,
}

impl NameTable {
    /// A table for `addresses` addresses, none of which has a name.
    pub(super) fn new(addresses: usize) -> Self {
        let names = Names {
            strings: vec![String::new()],
            frames: vec![FrameNames::default(); addresses],
            warning: String::new(),
            cpu_us: 0,
        };
        Self { names, indexes: HashMap::new(), encoded_bytes: 0, all_lines: 0 }
    }

    /// Whether an address has no name yet.
    pub(super) fn is_unnamed(&self, index: usize) -> bool {
        self.names.frames[index].lines.is_empty()
    }

    /// Gives an address its functions, innermost first. Ones without a name are left out.
    pub(super) fn set<'a>(&mut self, index: usize, lines: impl Iterator<Item = Line<'a>>) {
        let mut frame = Vec::new();
        for line in lines.filter(|line| !line.function.is_empty()).take(MAX_LINES) {
            if self.all_lines + frame.len() >= MAX_ALL_LINES
                || self.encoded_bytes + LINE_BYTES > MAX_ENCODED_BYTES
            {
                self.warn("names were left out: there are too many");
                break;
            }
            let function = self.string(line.function);
            if function == 0 {
                break;
            }
            self.encoded_bytes += LINE_BYTES;
            frame.push(NameLine {
                function,
                file: self.string(line.file),
                line: line.line,
                start_line: line.start_line,
                module: self.string(line.module),
            });
        }
        self.all_lines += frame.len();
        self.names.frames[index].lines = frame;
    }

    /// Adds a sentence on what could not be read.
    pub(super) fn warn(&mut self, sentence: &str) {
        let warning = &mut self.names.warning;
        if warning.contains(sentence) || warning.len() + sentence.len() > MAX_WARNING_BYTES {
            return;
        }
        if !warning.is_empty() {
            warning.push_str("; ");
        }
        warning.push_str(sentence);
    }

    /// The finished reply.
    pub(super) fn finish(self) -> Names {
        self.names
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(index) = self.indexes.get(text) {
            return *index;
        }
        let text = clean(text, MAX_NAME_BYTES);
        if text.is_empty() {
            return 0;
        }
        if let Some(index) = self.indexes.get(&text) {
            return *index;
        }
        let size_bytes = text.len() + STRING_FRAMING_BYTES;
        if self.encoded_bytes + size_bytes > MAX_ENCODED_BYTES {
            self.warn("names were left out: they are too long");
            return 0;
        }
        self.encoded_bytes += size_bytes;
        let index = u32::try_from(self.names.strings.len())
            .expect("strings are bounded by MAX_ENCODED_BYTES");
        self.names.strings.push(text.clone());
        self.indexes.insert(text, index);
        index
    }
}

/// A string of a target's making, without NUL and cut to `limit_bytes`.
pub(super) fn clean(text: &str, limit_bytes: usize) -> String {
    let mut clean: String = if text.len() > limit_bytes {
        text[..text.floor_char_boundary(limit_bytes)].to_owned()
    } else {
        text.to_owned()
    };
    clean.retain(|character| character != '\0');
    clean
}

/// As [`clean`], for bytes, of which invalid UTF-8 becomes U+FFFD.
pub(super) fn clean_bytes(bytes: &[u8], limit_bytes: usize) -> String {
    clean(&String::from_utf8_lossy(&bytes[..bytes.len().min(limit_bytes)]), limit_bytes)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::protocol::MAX_ADDRESSES;
    use super::*;

    #[test]
    fn equal_strings_are_kept_once() {
        let mut table = NameTable::new(2);
        let line = Line { function: "f", file: "f.c", line: 3, start_line: 2, module: "" };
        table.set(0, [line].into_iter());
        table.set(1, [Line { function: "", ..line }, line].into_iter());
        let names = table.finish();
        assert_eq!(names.strings, ["", "f", "f.c"]);
        assert_eq!(names.frames[0], names.frames[1]);
    }

    #[test]
    fn hostile_strings_are_cleaned() {
        assert_eq!(clean("a\0b", 10), "ab");
        assert_eq!(clean("ééé", 3), "é");
        assert_eq!(clean_bytes(b"a\xff\0", 10), "a\u{fffd}");
        let mut table = NameTable::new(1);
        let long = "x".repeat(MAX_NAME_BYTES * 2);
        table.set(0, [Line { function: &long, ..Line::default() }].into_iter());
        assert_eq!(table.finish().strings[1].len(), MAX_NAME_BYTES);
    }

    #[test]
    fn the_longest_reply_is_one_that_the_core_takes() {
        let mut table = NameTable::new(MAX_ADDRESSES);
        let mut next = 0_u32;
        for index in 0..MAX_ADDRESSES {
            let names: Vec<[String; 3]> = (0..MAX_LINES)
                .map(|_| {
                    next += 1;
                    [format!("{next:05x}"), format!("f{next:04x}"), format!("m{next:04x}")]
                })
                .collect();
            let lines = names.iter().map(|[function, file, module]| Line {
                function,
                file,
                line: u32::MAX,
                start_line: u32::MAX,
                module,
            });
            table.set(index, lines);
        }
        let size = table.finish().encoded_len();
        assert!((8 << 20..MAX_REPLY_BYTES - 2 * MAX_WARNING_BYTES).contains(&size), "{size}");
        // And with names that are known already.
        let mut table = NameTable::new(MAX_ADDRESSES);
        let long =
            Line { function: "f", file: "g", line: u32::MAX, start_line: u32::MAX, module: "m" };
        let many: Vec<String> = (0..400_000).map(|n| format!("{n:07x}")).collect();
        for (index, names) in many.chunks(MAX_LINES).enumerate() {
            table.set(index, names.iter().map(|function| Line { function, ..long }));
        }
        let last = &many[200_000];
        for index in 0..MAX_ADDRESSES {
            let line = Line { function: last, file: last, module: last, ..long };
            table.set(index, std::iter::repeat_n(line, MAX_LINES));
        }
        let size = table.finish().encoded_len();
        assert!(size < MAX_REPLY_BYTES - 2 * MAX_WARNING_BYTES, "{size}");
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_said() {
        let mut table = NameTable::new(8_000);
        for index in 0..8_000 {
            let name = format!("{index:04096}");
            table.set(index, [Line { function: &name, ..Line::default() }].into_iter());
        }
        let names = table.finish();
        assert!(names.strings.iter().map(String::len).sum::<usize>() <= MAX_ENCODED_BYTES);
        assert_ne!(names.warning, "");
    }
}
