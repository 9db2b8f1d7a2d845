//! Notes in which linkers say which build a file is.

use std::fs::File;

use super::{Image, ProgramHeader, read_range, u32_at};

/// The longest build ID taken, in bytes; the kernel takes 20.
const MAX_BUILD_ID_BYTES: usize = 64;
/// The longest Go build ID taken, in bytes; Go's are 83.
const MAX_GO_BUILD_ID_BYTES: usize = 256;
const NT_GNU_BUILD_ID: u32 = 3;
/// `cmd/internal/buildid` in Go's sources.
const NT_GO_BUILD_ID: u32 = 4;

impl Image {
    /// A damaged note segment costs the build ID and nothing else.
    pub(super) fn read_notes(&mut self, file: &File, program: &ProgramHeader, size: u64) {
        let Ok(bytes) = read_range(file, program.offset, size) else { return };
        let align = if program.align == 8 { 8 } else { 4 };
        let mut rest = bytes.as_slice();
        while let Some((note, next)) = Note::split(rest, align) {
            let Note { name, kind, contents } = note;
            match (name, kind) {
                (b"GNU\0", NT_GNU_BUILD_ID)
                    if self.build_id.is_empty() && contents.len() <= MAX_BUILD_ID_BYTES =>
                {
                    self.build_id = contents.to_vec();
                }
                (b"Go\0\0", NT_GO_BUILD_ID)
                    if self.go_build_id.is_empty() && contents.len() <= MAX_GO_BUILD_ID_BYTES =>
                {
                    self.go_build_id = contents
                        .iter()
                        .take_while(|byte| byte.is_ascii_graphic())
                        .map(|&byte| char::from(byte))
                        .collect();
                }
                _ => {}
            }
            rest = next;
        }
    }
}

struct Note<'a> {
    /// With its terminating zero.
    name: &'a [u8],
    kind: u32,
    contents: &'a [u8],
}

impl<'a> Note<'a> {
    /// Splits the first note off.
    fn split(bytes: &'a [u8], align: usize) -> Option<(Self, &'a [u8])> {
        let name_size = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let size = usize::try_from(u32_at(bytes, 4)?).ok()?;
        let kind = u32_at(bytes, 8)?;
        let name = bytes.get(12..12_usize.checked_add(name_size)?)?;
        let start = (12 + name_size).checked_next_multiple_of(align)?;
        let end = start.checked_add(size)?;
        let contents = bytes.get(start..end)?;
        let next = end.checked_next_multiple_of(align)?;
        Some((Self { name, kind, contents }, bytes.get(next..).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_build_id_is_read_from_its_note() {
        let mut note = Vec::new();
        for word in [4_u32, 5, NT_GO_BUILD_ID] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Go\0\0a/b-cXXX");
        let (parsed, rest) = Note::split(&note, 4).unwrap();
        assert_eq!((parsed.name, parsed.kind), (&b"Go\0\0"[..], NT_GO_BUILD_ID));
        assert_eq!((parsed.contents, rest), (&b"a/b-c"[..], &b""[..]));
        assert!(Note::split(&note[..20], 4).is_none());
    }
}
