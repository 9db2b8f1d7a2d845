//! What the table says of a function.

use std::borrow::Cow;

use super::layout::{INDEX_BYTES, Layout, Version, number_at};
use super::{Frame, GoTableError, MAX_DEPTH, Patience, Result};
use crate::reader::elf::u32_at;
use crate::reader::name_table::MAX_NAME_BYTES;

/// What stands for "none" among offsets.
const NONE: u32 = u32::MAX;

/// The table of inlined calls that an address is in (`PCDATA_InlTreeIndex`).
const INLINED_INDEX: u32 = 2;

/// The inlined calls (`FUNCDATA_InlTree`).
const INLINED_CALLS: u32 = 3;

/// Offsets in a function's record, in bytes.
mod record {
    pub(super) const NAME: usize = 4;
    pub(super) const STACK_DELTAS: usize = 16;
    pub(super) const FILES: usize = 20;
    pub(super) const LINES: usize = 24;
    pub(super) const TABLES: usize = 28;
    pub(super) const UNIT: usize = 32;
    /// Not before Go 1.20.
    pub(super) const START_LINE: usize = 36;
}

/// The parts of a table.
pub(super) struct Tables<'a> {
    layout: &'a Layout,
    names: &'a [u8],
    units: &'a [u8],
    files: &'a [u8],
    values: &'a [u8],
    functions: &'a [u8],
    inlined: Option<&'a [u8]>,
    patience: &'a Patience,
}

/// A function.
#[derive(Clone, Copy)]
struct Function<'a> {
    /// Where it begins, from the beginning of the code on.
    start: u64,
    /// Its record, and what is behind it.
    record: &'a [u8],
}

/// A call that was inlined.
struct Call {
    name: u32,
    start_line: u32,
    /// What stands for where the call was, from the beginning of the function on.
    from: u64,
}

impl<'a> Tables<'a> {
    /// The parts of a table in a file.
    pub(super) fn new(file: &'a [u8], layout: &'a Layout, patience: &'a Patience) -> Self {
        let part = |range: &std::ops::Range<usize>| file.get(range.clone()).unwrap_or_default();
        Self {
            layout,
            names: part(&layout.names),
            units: part(&layout.units),
            files: part(&layout.files),
            values: part(&layout.values),
            functions: part(&layout.functions),
            inlined: layout.inlined.as_ref().map(part),
            patience,
        }
    }

    /// Names of functions, each ended by a zero byte.
    pub(super) const fn names(&self) -> &'a [u8] {
        self.names
    }

    /// Where a function begins and ends, and where its name is.
    pub(super) fn listed(&self, index: usize) -> Result<(u64, u64, u32)> {
        const OUTSIDE: GoTableError = GoTableError::Outside("functions");
        self.patience.spend(1)?;
        let at = |word: usize| u32_at(self.functions, index * INDEX_BYTES + word).ok_or(OUTSIDE);
        let (start, record, end) = (at(0)?, at(4)?, at(INDEX_BYTES)?);
        let name = u32_at(self.functions, record as usize + record::NAME).ok_or(OUTSIDE)?;
        let svma = |into: u32| self.layout.text.saturating_add(into.into());
        Ok((svma(start), svma(end), name))
    }

    /// Where the stack pointer is in a function, as [`super::Functions::stack_deltas`] has it.
    pub(super) fn stack_deltas(&self, index: usize, mut take: impl FnMut(u64, i32)) -> Result<()> {
        const OUTSIDE: GoTableError = GoTableError::Outside("stack deltas");
        let (start, end, _) = self.listed(index)?;
        let record = u32_at(self.functions, index * INDEX_BYTES + 4).ok_or(OUTSIDE)?;
        let record = self.functions.get(record as usize..).ok_or(OUTSIDE)?;
        let table = u32_at(record, record::STACK_DELTAS).filter(|table| *table != 0);
        let Some(table) = table else { return Ok(()) };
        let mut rest = self.values.get(table as usize..).ok_or(OUTSIDE)?;
        // As in `value`.
        let (mut value, mut svma) = (-1_i32, start);
        while svma < end {
            self.patience.spend(1)?;
            let change = split_number(&mut rest).ok_or(OUTSIDE)?;
            if change == 0 && svma > start {
                break;
            }
            value = value.wrapping_add((change >> 1) as i32 ^ -((change & 1) as i32));
            take(svma, value);
            let length = split_number(&mut rest).ok_or(OUTSIDE)?;
            svma = svma.saturating_add(u64::from(length) * self.layout.quantum);
        }
        Ok(())
    }

    /// svma at which a function begins.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn start(&self, index: usize) -> Option<u64> {
        self.layout.text.checked_add(u32_at(self.functions, index * INDEX_BYTES)?.into())
    }

    /// Adds the functions at an svma to `frames`; none if it is in no Go function.
    pub(super) fn frames(
        &self,
        svma: u64,
        with_lines: bool,
        frames: &mut Vec<Frame<'a>>,
    ) -> Result<()> {
        let Some(mut at) = svma.checked_sub(self.layout.text) else { return Ok(()) };
        let Some(function) = self.function(at)? else { return Ok(()) };
        let field = |offset| u32_at(function.record, offset);
        let name = field(record::NAME).ok_or(GoTableError::Outside("functions"))?;
        let start_line = match self.layout.version {
            Version::Go118 => 0,
            Version::Go120 => field(record::START_LINE).unwrap_or_default(),
        };
        if !with_lines {
            let (file, line, start_line) = (Cow::default(), 0, 0);
            frames.push(Frame { function: self.name(name)?, file, line, start_line });
            return Ok(());
        }
        while frames.len() < MAX_DEPTH {
            let (file, line) = self.line(&function, at)?;
            if let Some(call) = self.inlined_call(&function, at)? {
                let (name, start_line) = (self.name(call.name)?, call.start_line);
                frames.push(Frame { function: name, file, line, start_line });
                at = function.start.saturating_add(call.from);
            } else {
                frames.push(Frame { function: self.name(name)?, file, line, start_line });
                return Ok(());
            }
        }
        Err(GoTableError::TooDeep)
    }

    /// The function that is `at` bytes into the code.
    fn function(&self, at: u64) -> Result<Option<Function<'a>>> {
        const OUTSIDE: GoTableError = GoTableError::Outside("functions");
        let count = self.layout.count;
        self.patience.spend(1)?;
        let start = |index: usize| {
            let start = u32_at(self.functions, index * INDEX_BYTES);
            start.map(u64::from).ok_or(OUTSIDE)
        };
        if at < start(0)? || at >= start(count)? {
            return Ok(None);
        }
        // The last that does not begin behind it.
        let (mut low, mut high) = (0, count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if start(middle)? <= at { low = middle } else { high = middle }
        }
        let record = u32_at(self.functions, low * INDEX_BYTES + 4).ok_or(OUTSIDE)?;
        let record = self.functions.get(record as usize..).ok_or(OUTSIDE)?;
        let start = start(low)?;
        (u32_at(record, 0).map(u64::from) == Some(start)).then_some(()).ok_or(OUTSIDE)?;
        Ok(Some(Function { start, record }))
    }

    /// The file and the line of what is `at` bytes into the code.
    fn line(&self, function: &Function<'a>, at: u64) -> Result<(Cow<'a, str>, u32)> {
        const OUTSIDE: GoTableError = GoTableError::Outside("lines");
        let field = |offset| u32_at(function.record, offset).ok_or(OUTSIDE);
        let file = self.value(function, field(record::FILES)?, at)?;
        let line = self.value(function, field(record::LINES)?, at)?;
        let (Some(file), Some(line)) = (file, line) else { return Ok(Default::default()) };
        let unit = field(record::UNIT)?;
        if unit == NONE {
            return Ok(Default::default());
        }
        let file = number_at(self.units, u64::from(unit) + u64::from(file));
        match file.ok_or(GoTableError::Outside("files"))? {
            NONE => Ok(Default::default()),
            file => Ok((text_at(self.files, file).ok_or(GoTableError::Outside("files"))?, line)),
        }
    }

    /// The innermost of the inlined calls that what is `at` bytes into the code is in.
    fn inlined_call(&self, function: &Function<'a>, at: u64) -> Result<Option<Call>> {
        const OUTSIDE: GoTableError = GoTableError::Outside("inlined functions");
        let Some(inlined) = self.inlined else { return Ok(None) };
        let size = match self.layout.version {
            Version::Go118 => 40,
            Version::Go120 => 44,
        };
        let tables = u32_at(function.record, record::TABLES).ok_or(OUTSIDE)?;
        let calls = *function.record.get(size - 1).ok_or(OUTSIDE)?;
        if tables <= INLINED_INDEX || u32::from(calls) <= INLINED_CALLS {
            return Ok(None);
        }
        let after = function.record.get(size..).ok_or(OUTSIDE)?;
        let number = |index: u64| number_at(after, index).ok_or(OUTSIDE);
        let calls = number(u64::from(tables) + u64::from(INLINED_CALLS))?;
        if calls == NONE {
            return Ok(None);
        }
        let Some(index) = self.value(function, number(INLINED_INDEX.into())?, at)? else {
            return Ok(None);
        };
        // `inlinedCall`: its size, and where the name, the place and the first line are.
        let (size, name, from, start_line) = match self.layout.version {
            Version::Go118 => (20, 12, 16, None),
            Version::Go120 => (16, 4, 8, Some(12)),
        };
        let call = u64::from(calls) + u64::from(index) * size;
        let call = usize::try_from(call).ok().and_then(|at| inlined.get(at..)).ok_or(OUTSIDE)?;
        let field = |offset| u32_at(call, offset).ok_or(OUTSIDE);
        Ok(Some(Call {
            name: field(name)?,
            start_line: start_line.map_or(Ok(0), field)?,
            from: field(from)?.into(),
        }))
    }

    /// The value of what is `at` bytes into the code; `None` where it has none.
    ///
    /// Pairs of numbers: how much the value changes, and for how many instructions it holds then. It
    /// begins as -1; no change, but in the first pair, ends the table.
    fn value(&self, function: &Function<'a>, table: u32, at: u64) -> Result<Option<u32>> {
        const OUTSIDE: GoTableError = GoTableError::Outside("values");
        if table == 0 {
            return Ok(None);
        }
        let mut rest = self.values.get(table as usize..).ok_or(OUTSIDE)?;
        let (mut value, mut end, mut is_first) = (-1_i32, function.start, true);
        loop {
            self.patience.spend(1)?;
            let change = split_number(&mut rest).ok_or(OUTSIDE)?;
            if change == 0 && !is_first {
                return Ok(None);
            }
            is_first = false;
            // Zigzag: the lowest bit is the sign.
            value = value.wrapping_add((change >> 1) as i32 ^ -((change & 1) as i32));
            let length = split_number(&mut rest).ok_or(OUTSIDE)?;
            end = end.saturating_add(u64::from(length) * self.layout.quantum);
            if at < end {
                return Ok(u32::try_from(value).ok());
            }
        }
    }

    /// A function's name, with the types that a generic one was made for: so it is in profiles that
    /// a program writes of itself, from Go 1.21 on (`runtime_FrameSymbolName`, `runtime/pprof`).
    fn name(&self, offset: u32) -> Result<Cow<'a, str>> {
        text_at(self.names, offset).ok_or(GoTableError::Outside("names"))
    }
}

/// Splits off a number of seven bits a byte, the lowest first.
fn split_number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in (0..u32::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A text that ends with a zero byte, or where it gets too long.
fn text_at(bytes: &[u8], offset: u32) -> Option<Cow<'_, str>> {
    let rest = bytes.get(offset as usize..)?;
    let rest = &rest[..rest.len().min(MAX_NAME_BYTES)];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    Some(String::from_utf8_lossy(&rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_split_off() {
        let split = |mut bytes: &[u8]| split_number(&mut bytes).map(|number| (number, bytes.len()));
        assert_eq!(split(&[0x7f, 1]), Some((127, 1)));
        assert_eq!(split(&[0x80, 1]), Some((128, 0)));
        assert_eq!(split(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Some((u32::MAX, 0)));
        for bytes in [&[][..], &[0x80], &[0x80; 5], &[0x80; 100]] {
            assert_eq!(split(bytes), None);
        }
    }

    #[test]
    fn texts_are_cut_where_they_end_or_get_too_long() {
        assert_eq!(text_at(b"a\0bc\0", 2).unwrap(), "bc");
        assert_eq!(text_at(b"a\0bc", 2).unwrap(), "bc");
        assert_eq!(text_at(b"a\0", 2).unwrap(), "");
        assert_eq!(text_at(b"a\0", 3), None);
        assert_eq!(text_at(&[b'a'; 2 * MAX_NAME_BYTES], 0).unwrap().len(), MAX_NAME_BYTES);
    }
}
