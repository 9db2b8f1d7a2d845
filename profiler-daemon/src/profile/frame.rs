//! What a frame is called, where names are known and where they are not.

use std::borrow::Cow;

use super::{Location, Mapping, Profile};

/// First address of the kernel's half, on both architectures.
pub(super) const KERNEL_START: u64 = 1 << 63;

/// What stands for the program in a profile of everything.
pub(super) const HOST: &str = "[host]";

impl Profile {
    /// Whether it is a profile of everything, as [`MergedName::Host`](super::merge::MergedName)
    /// makes it.
    pub fn is_host(&self) -> bool {
        self.mappings.first().is_some_and(|mapping| &*mapping.file == HOST)
    }

    /// The mapping that covers `location`, if one does.
    pub fn mapping_of(&self, location: &Location) -> Option<&Mapping> {
        location.mapping.and_then(|index| self.mappings.get(index as usize))
    }

    /// Whether `location` is in the kernel. The `[vsyscall]` page, which lies in the kernel's half
    /// but runs in user mode, is not.
    pub fn is_kernel(&self, location: &Location) -> bool {
        location.avma >= KERNEL_START
            && self.mapping_of(location).is_none_or(|mapping| &*mapping.file != "[vsyscall]")
    }

    /// Names of the functions at `location`, innermost inlined one first; never empty. Where no
    /// name is known it is [`unnamed`].
    pub fn names_of<'a>(
        &'a self,
        location: &'a Location,
    ) -> impl DoubleEndedIterator<Item = Cow<'a, str>> {
        let unnamed = location
            .lines
            .is_empty()
            .then(|| Cow::Owned(unnamed(location.avma, self.mapping_of(location))));
        location
            .lines
            .iter()
            .map(|line| Cow::Borrowed(&*self.functions[line.function as usize].name))
            .chain(unnamed)
    }
}

impl Mapping {
    /// The last part of the file's path; empty without a file.
    pub fn basename(&self) -> &str {
        self.file.rsplit('/').find(|part| !part.is_empty()).unwrap_or("")
    }
}

/// `[binary+0xoffset]`, the offset being the one in the file, so that it is the same in every
/// process; the address itself for the kernel and for what no file is behind; `[unknown]` where nothing is mapped.
pub fn unnamed(avma: u64, mapping: Option<&Mapping>) -> String {
    let Some(mapping) = mapping else {
        return "[unknown]".to_owned();
    };
    let offset = avma.wrapping_sub(mapping.start).wrapping_add(mapping.file_offset);
    match mapping.basename() {
        "" => format!("[anonymous+{avma:#x}]"),
        name if name.starts_with("[kernel") => format!("[kernel+{avma:#x}]"),
        name => format!("[{}+{offset:#x}]", name.trim_matches(['[', ']'])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::mapping;

    #[test]
    fn unnamed_frames_name_their_binary_and_file_offset() {
        let libc = mapping(0x7000, 0x9000, 0x2000, "/usr/lib/libc.so.6");
        assert_eq!(unnamed(0x7010, Some(&libc)), "[libc.so.6+0x2010]");
        let vdso = mapping(0x7000, 0x9000, 0, "[vdso]");
        assert_eq!(unnamed(0x7010, Some(&vdso)), "[vdso+0x10]");
        let jit = mapping(0x7000, 0x9000, 0, "");
        assert_eq!(unnamed(0x7010, Some(&jit)), "[anonymous+0x7010]");
        assert_eq!(unnamed(0x7010, None), "[unknown]");
    }
}
