//! What a file holds.

mod folded;
pub(crate) mod go;
mod svg;
mod text;
mod threads;

use std::{io, path::Path, str::FromStr};

use crate::profile::{Profile, pprof};

/// The form in which a profile is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// pprof, gzip'd.
    #[default]
    Pprof,
    /// pprof, not compressed.
    PprofPlain,
    /// Collapsed stacks: `comm;root;…;leaf count`.
    Folded,
    /// A flame graph.
    Svg,
    /// The hottest functions.
    Text,
    /// Each thread's stack: an answer alone, no file.
    Threads,
}

impl Format {
    const ALL: [Self; 5] = [Self::Pprof, Self::PprofPlain, Self::Folded, Self::Svg, Self::Text];

    /// How names of such files end, without the dot before it.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Pprof => "pb.gz",
            Self::PprofPlain => "pb",
            Self::Folded => "folded",
            Self::Svg => "svg",
            Self::Text | Self::Threads => "txt",
        }
    }

    /// The format that the name of a file asks for; none for what is taken for a directory.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Self::ALL.into_iter().find(|format| {
            name.strip_suffix(format.extension()).is_some_and(|stem| stem.ends_with('.'))
        })
    }

    /// Whether two of them, one after the other, are still one.
    pub(crate) fn can_be_joined(self) -> bool {
        match self {
            Self::Folded | Self::Text | Self::Threads => true,
            Self::Pprof | Self::PprofPlain | Self::Svg => false,
        }
    }

    /// Whether it can be shown on a terminal.
    pub(crate) fn is_text(self) -> bool {
        match self {
            Self::Folded | Self::Text | Self::Threads | Self::Svg => true,
            Self::Pprof | Self::PprofPlain => false,
        }
    }

    /// The file's contents.
    ///
    /// # Errors
    ///
    /// If a flame graph can't be drawn.
    pub fn render(self, profile: &Profile) -> io::Result<Vec<u8>> {
        match self {
            Self::Pprof => Ok(pprof::encode(profile)),
            Self::PprofPlain => Ok(pprof::encode_plain(profile)),
            Self::Folded => Ok(folded::render(profile).into_bytes()),
            Self::Svg => svg::render(profile),
            Self::Text => Ok(text::render(profile).into_bytes()),
            Self::Threads => Ok(threads::render(profile).into_bytes()),
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "pprof" => Ok(Self::Pprof),
            "folded" => Ok(Self::Folded),
            "svg" => Ok(Self::Svg),
            "text" => Ok(Self::Text),
            _ => Err(UnknownFormat),
        }
    }
}

/// A name of no format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the formats are pprof, folded, svg and text")]
pub struct UnknownFormat;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        let of = |name: &str| Format::of_path(Path::new(name));
        assert_eq!(of("a/x.pb.gz"), Some(Format::Pprof));
        assert_eq!(of("x.pb"), Some(Format::PprofPlain));
        assert_eq!(of("x.y.svg"), Some(Format::Svg));
        assert_eq!(of("x.folded"), Some(Format::Folded));
        assert_eq!(of("x.txt"), Some(Format::Text));
        for directory in ["profiles", "pb.gz", "x.gz", "/", "profiles.d/", ".."] {
            assert_eq!(of(directory), None, "{directory}");
        }
    }
}
