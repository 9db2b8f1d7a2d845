//! Where in a file the parts of the table are.

use std::ops::Range;

use super::module::Module;
use super::{GoTableError, Patience, Result};
use crate::reader::elf::u32_at;
use crate::reader::unwind::sections::{Elf, u64_at};

/// `pcHeader`, in bytes.
const HEADER_BYTES: usize = 72;

/// An entry of the index of functions: where a function begins, and where its record is.
pub(super) const INDEX_BYTES: usize = 8;

/// The most functions of a program. The largest have some hundred thousand.
const MAX_FUNCTIONS: u64 = 2 << 20;

/// Bytes that are gone over between two looks at how long it takes.
const STRIDE_BYTES: usize = 64 << 10;

/// Bytes gone over that count as one step.
const BYTES_PER_STEP: usize = 64;

/// The most places that are looked at for what they seem to begin.
const MAX_CANDIDATES: usize = 16;

/// Which form records are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Go 1.18 and 1.19.
    Go118,
    /// Go 1.20 and later.
    Go120,
}

/// Where the parts of a table are; ranges are of bytes in the file.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) version: Version,
    /// What the distances between addresses are counted in, in bytes.
    pub(super) quantum: u64,
    /// The number of functions.
    pub(super) count: usize,
    /// svma that addresses in the table are relative to.
    pub(super) text: u64,
    /// Names of functions, each ended by a zero byte.
    pub(super) names: Range<usize>,
    /// Which files a compilation unit has: offsets into `files`.
    pub(super) units: Range<usize>,
    /// Names of files, each ended by a zero byte.
    pub(super) files: Range<usize>,
    /// What changes from address to address: lines, for one.
    pub(super) values: Range<usize>,
    /// The index of functions, then their records.
    pub(super) functions: Range<usize>,
    /// What was inlined in functions, if that was found.
    pub(super) inlined: Option<Range<usize>>,
}

/// The head of a table.
pub(super) struct Header {
    pub(super) svma: u64,
    pub(super) version: Version,
    pub(super) quantum: u64,
    pub(super) count: usize,
    /// svma of the code, if it is stated.
    text: Option<u64>,
    /// Where the names, units, files, values and functions begin, from the header on.
    pub(super) offsets: [usize; 5],
    /// Bytes from the header to the end of what holds it.
    size: usize,
}

impl Layout {
    /// Finds the table of `elf`, which is read from `file`.
    ///
    /// # Errors
    ///
    /// There is one that cannot be read.
    pub(super) fn find(
        elf: &Elf<'_>,
        file: &[u8],
        patience: &Patience,
        mut pause: impl FnMut(),
    ) -> Result<Option<Self>> {
        let Some((header, bytes)) = Header::find(elf, patience, &mut pause)? else {
            return Ok(None);
        };
        let module = Module::find(elf, &header, patience, &mut pause)?;
        let text = module.as_ref().map(|module| module.text).or(header.text);
        let text = text.ok_or(GoTableError::NoModule)?;
        let inlined = module.and_then(|module| elf.loaded(module.inlined?));
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - file.as_ptr() as usize;
            start..start + part.len()
        };
        let base = place(bytes).start;
        let [names, units, files, values, functions] = header.offsets.map(|offset| base + offset);
        Ok(Some(Self {
            version: header.version,
            quantum: header.quantum,
            count: header.count,
            text,
            names: names..units,
            units: units..files,
            files: files..values,
            values: values..functions,
            functions: functions..base + header.size,
            inlined: inlined.map(place),
        }))
    }
}

impl Header {
    /// The header in the section for it, or else wherever one is that makes sense: linkers other
    /// than Go's may put the table into a section with other things.
    fn find<'a>(
        elf: &Elf<'a>,
        patience: &Patience,
        pause: impl FnMut(),
    ) -> Result<Option<(Self, &'a [u8])>> {
        if let Some((svma, bytes)) = elf.go_table() {
            if !u64_at(bytes, 0).is_some_and(is_head) {
                return Ok(None);
            }
            let header = Self::parse(svma, bytes).ok_or(GoTableError::Outside("parts"))?;
            return Ok(Some((header, bytes)));
        }
        let found = find_words(elf, false, patience, pause, is_head)?;
        Ok(found.into_iter().find_map(|svma| {
            let bytes = elf.loaded(svma)?;
            Some((Self::parse(svma, bytes)?, bytes))
        }))
    }

    /// Reads a header at the beginning of `bytes`.
    fn parse(svma: u64, bytes: &[u8]) -> Option<Self> {
        let head = u64_at(bytes, 0).filter(|head| is_head(*head))?;
        let word = |index: usize| u64_at(bytes, index * 8);
        let count = word(1).filter(|count| (1..=MAX_FUNCTIONS).contains(count))?;
        let mut offsets = [0; 5];
        let mut before = HEADER_BYTES;
        for (index, offset) in offsets.iter_mut().enumerate() {
            *offset = usize::try_from(word(4 + index)?).ok()?;
            if *offset < before || *offset > bytes.len() {
                return None;
            }
            before = *offset;
        }
        // One more entry says where the last function ends.
        let index_bytes = (usize::try_from(count).ok()? + 1) * INDEX_BYTES;
        (index_bytes <= bytes.len() - before).then_some(())?;
        Some(Self {
            svma,
            version: if head as u32 == GO_118 { Version::Go118 } else { Version::Go120 },
            quantum: head >> 48 & 0xff,
            count: usize::try_from(count).ok()?,
            text: word(3).filter(|text| *text != 0),
            offsets,
            size: bytes.len(),
        })
    }
}

/// Magic of Go 1.18 and 1.19.
const GO_118: u32 = 0xffff_fff0;
/// Magic of Go 1.20 and later.
const GO_120: u32 = 0xffff_fff1;

/// Whether a header begins with these 8 bytes: the magic, two zeros, the size of the smallest
/// instruction, and that of a pointer.
fn is_head(word: u64) -> bool {
    matches!(word as u32, GO_118 | GO_120) && matches!(word >> 32, 0x0801_0000 | 0x0804_0000)
}

/// svmas of words in loaded segments that `is_wanted` holds of, the first of them.
pub(super) fn find_words(
    elf: &Elf<'_>,
    only_writable: bool,
    patience: &Patience,
    mut pause: impl FnMut(),
    is_wanted: impl Fn(u64) -> bool,
) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for segment in elf.segments().filter(|segment| segment.is_writable || !only_writable) {
        let skipped = (segment.svma.wrapping_neg() & 7) as usize;
        let Some(bytes) = segment.bytes.get(skipped..) else { continue };
        for (stride, bytes) in bytes.chunks(STRIDE_BYTES).enumerate() {
            patience.spend((bytes.len() / BYTES_PER_STEP) as u64)?;
            pause();
            for (index, word) in bytes.as_chunks().0.iter().enumerate() {
                if is_wanted(u64::from_le_bytes(*word)) {
                    let into = skipped + stride * STRIDE_BYTES + index * 8;
                    found.push(segment.svma.wrapping_add(into as u64));
                    if found.len() == MAX_CANDIDATES {
                        return Ok(found);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The 32-bit number at an index of a table of such.
pub(super) fn number_at(bytes: &[u8], index: u64) -> Option<u32> {
    u32_at(bytes, usize::try_from(index.checked_mul(4)?).ok()?)
}
