//! What a Go program says of its build: its section `.go.buildinfo`, laid out as `debug/buildinfo`
//! in Go's sources says.

use std::fs::File;

use super::elf::{ElfError, SectionRange, read_range};
use super::name_table::clean_bytes;
use super::protocol::GoBuild;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where the byte with the flags is.
const FLAGS_AT: usize = 15;
/// The strings follow the header, as they do from Go 1.18 on. Before, it held their addresses.
const STRINGS_FOLLOW: u8 = 2;
const HEADER_BYTES: usize = 32;
/// What the linker puts at each end of the second string.
const FRAME_BYTES: usize = 16;
/// The most bytes of a section read. There are some 100 for each module that a program needs.
const MAX_SECTION_BYTES: u64 = 1 << 20;
/// The longest version taken, in bytes: those of toolchains that were not released are sentences.
const MAX_VERSION_BYTES: usize = 256;
/// The longest settings taken, in bytes.
const MAX_SETTINGS_BYTES: usize = 4_096;

/// Why it cannot be told how a program was built.
#[derive(Debug, thiserror::Error)]
pub(super) enum GoBuildError {
    /// There is nothing to read.
    #[error("it has no section .go.buildinfo")]
    NoSection,
    /// Something else is in the section.
    #[error("its section .go.buildinfo does not begin as Go's do")]
    Foreign,
    /// It is older than what is read here.
    #[error("it was built with Go 1.17 or an older one, which keeps the version elsewhere")]
    Old,
    /// A length leads beyond the section.
    #[error("its section .go.buildinfo is cut short")]
    Cut,
    /// The version is no text.
    #[error("its section .go.buildinfo names no version")]
    NoVersion,
    /// Reading failed.
    #[error("its section .go.buildinfo cannot be read: {0}")]
    File(#[from] ElfError),
}

/// Reads the section; `None` where there is none.
pub(super) fn read(file: &File, section: Option<&SectionRange>) -> GoBuild {
    let read = || {
        let SectionRange { offset, size } = section.ok_or(GoBuildError::NoSection)?;
        parse(&read_range(file, *offset, (*size).min(MAX_SECTION_BYTES))?)
    };
    read().unwrap_or_else(|error| GoBuild { not_known: error.to_string(), ..GoBuild::default() })
}

/// Reads what is in the section.
///
/// # Errors
///
/// [`GoBuildError`], but neither `NoSection` nor `File`.
pub(super) fn parse(section: &[u8]) -> Result<GoBuild, GoBuildError> {
    if !section.starts_with(MAGIC) {
        return Err(GoBuildError::Foreign);
    }
    if section.get(FLAGS_AT).ok_or(GoBuildError::Cut)? & STRINGS_FOLLOW == 0 {
        return Err(GoBuildError::Old);
    }
    let strings = section.get(HEADER_BYTES..).ok_or(GoBuildError::Cut)?;
    let (version, rest) = split_string(strings).ok_or(GoBuildError::Cut)?;
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~');
    if version.is_empty() || version.len() > MAX_VERSION_BYTES || !version.iter().all(is_text) {
        return Err(GoBuildError::NoVersion);
    }
    let (module, _) = split_string(rest).ok_or(GoBuildError::Cut)?;
    Ok(GoBuild {
        version: clean_bytes(version, MAX_VERSION_BYTES),
        not_known: String::new(),
        default_godebug: value(module, b"build\tDefaultGODEBUG="),
        labels: None,
        module_version: module_version(module),
        vcs_revision: value(module, b"build\tvcs.revision="),
    })
}

/// Splits off a string, which its length as a varint is before.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Splits off a number, as `encoding/binary` in Go's sources has them: seven bits a byte, the lowest
/// first.
fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(u64::BITS.div_ceil(7) as usize) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * at as u32;
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

/// What is said of the build, line by line.
fn lines(module: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = module.len().saturating_sub(FRAME_BYTES);
    module.get(FRAME_BYTES..end).unwrap_or_default().split(|&byte| byte == b'\n')
}

/// What is behind `key`, such as `build<TAB>NAME=`, in the first line with it; empty without it.
fn value(module: &[u8], key: &[u8]) -> String {
    let found = lines(module).find_map(|line| line.strip_prefix(key));
    found.map(|it| clean_bytes(it, MAX_SETTINGS_BYTES)).unwrap_or_default()
}

/// The version in a line `mod<TAB>PATH<TAB>VERSION…`. One that is built from a directory has none that
/// tells anything.
fn module_version(module: &[u8]) -> String {
    let found = lines(module).find_map(|line| line.strip_prefix(b"mod\t"));
    let version = found.and_then(|line| line.split(|&byte| byte == b'\t').nth(1));
    match version.unwrap_or_default() {
        b"(devel)" => String::new(),
        version => clean_bytes(version, MAX_SETTINGS_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::tests::Random;
    use super::*;

    /// A section as Go 1.18 and later write it.
    fn section(version: &[u8], module: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, STRINGS_FOLLOW]].concat();
        bytes.resize(HEADER_BYTES, 0);
        for string in [version, module] {
            let mut length = string.len();
            while length >= 0x80 {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(string);
        }
        bytes
    }

    fn module(lines: &str) -> Vec<u8> {
        let frame = [0xa5; FRAME_BYTES];
        [&frame, lines.as_bytes(), &frame].concat()
    }

    fn parsed(bytes: &[u8]) -> GoBuild {
        parse(bytes).unwrap()
    }

    #[test]
    fn version_and_settings_are_read() {
        let lines =
            "path\tx\nbuild\t-compiler=gc\nbuild\tDefaultGODEBUG=a=1,b=0\nbuild\tGOOS=linux\n";
        let found = parsed(&section(b"go1.26.8", &module(lines)));
        assert_eq!((found.version.as_str(), found.not_known.as_str()), ("go1.26.8", ""));
        assert_eq!(found.default_godebug, "a=1,b=0");
        let found = parsed(&section(b"devel go1.25-e3d8 Mon", b""));
        assert_eq!(
            (found.version.as_str(), found.default_godebug.as_str()),
            ("devel go1.25-e3d8 Mon", "")
        );
        let many = module(&"dep\tm\tv1\n".repeat(10_000)).len();
        assert_eq!(parsed(&section(b"go1.25", &vec![b'x'; many])).version, "go1.25");
    }

    #[test]
    fn what_is_older_or_not_gos_is_said() {
        let said = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        let mut old = section(b"go1.17", b"");
        old[FLAGS_AT] = 0;
        assert!(said(&old).contains("Go 1.17 or an older one"));
        assert!(said(b"").contains("does not begin"));
        assert!(said(&[0; 64]).contains("does not begin"));
        for version in [&b""[..], b"go1\n", b"\x1b[31m", &[b'a'; MAX_VERSION_BYTES + 1]] {
            assert!(said(&section(version, b"")).contains("names no version"));
        }
    }

    #[test]
    fn each_cut_is_an_error() {
        let whole = section(b"go1.26.8", &module("path\tx\n"));
        for length in MAGIC.len()..whole.len() {
            assert!(matches!(parse(&whole[..length]), Err(GoBuildError::Cut)), "{length}");
        }
    }

    #[test]
    fn lengths_that_are_too_large_are_errors() {
        for length in [&[0xff; 9][..], &[0xff; 10], &[0xff; 11], &[0x80; 11], &[9]] {
            let mut bytes = section(b"", b"");
            bytes.truncate(HEADER_BYTES);
            bytes.extend(length);
            bytes.extend([1, 1]);
            assert!(matches!(parse(&bytes), Err(GoBuildError::Cut)), "{length:?}");
        }
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(split_varint(&most), Some((u64::MAX, &[][..])));
        assert_eq!(split_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
    }

    #[test]
    fn damage_never_panics() {
        let whole = section(b"go1.26.8", &module("build\tDefaultGODEBUG=a=1\n"));
        let mut random = Random::new(11);
        for _ in 0..10_000 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            if let Ok(found) = parse(&bytes) {
                assert!(!found.version.is_empty());
            }
        }
    }

    #[test]
    fn a_section_that_is_not_there_is_said() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&section(b"go1.26.8", b"")).unwrap();
        let range = |offset, size| SectionRange { offset, size };
        let size = file.metadata().unwrap().len();
        assert_eq!(read(&file, Some(&range(0, size))).version, "go1.26.8");
        assert!(read(&file, None).not_known.contains("no section"));
        for (offset, size) in [(1, size), (u64::MAX, size), (0, u64::MAX)] {
            let found = read(&file, Some(&range(offset, size)));
            assert!(
                found.version.is_empty() && found.not_known.contains("cannot be read"),
                "{found:?}"
            );
        }
    }
}
