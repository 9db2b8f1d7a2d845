//! The runtime's `moduledata`, which says where the code and the inlined functions are.
//!
//! No symbol is needed to find it: its first words point to the parts of the table. In programs that
//! may be loaded anywhere, relocations hold what the words will be.

use super::layout::{Header, Version, find_words};
use super::{Patience, Result};
use crate::reader::unwind::sections::{Elf, u64_at};

/// The words of `moduledata` that are looked at.
const WORDS: usize = 48;

/// The most places that are looked at because a relocation makes them point to the table.
const MAX_RELOCATED: usize = 16;

/// Relocations that count as one step.
const RELOCATIONS_PER_STEP: usize = 8;

/// The word with where code begins (`text`).
const TEXT: usize = 22;

/// Where `gofunc` is, which the inlined functions of all functions are relative to, and where a slice
/// (`textsectmap`) follows, which shows that it is there. The layout has no number.
const GO_118: &[(usize, usize)] = &[(38, 39)];
/// From Go 1.20, 1.26 and 1.27 on.
const GO_120: &[(usize, usize)] = &[(40, 41), (40, 42), (43, 45)];

/// The most sections that code is in: one, but for machines that are not read here.
const MAX_TEXT_SECTIONS: u64 = 1_024;

/// What is taken of a `moduledata`.
pub(super) struct Module {
    /// svma of the code.
    pub(super) text: u64,
    /// svma that inlined functions are relative to, if its place in the layout is known.
    pub(super) inlined: Option<u64>,
}

/// The words from an svma on, as they are at run time.
struct Words {
    svma: u64,
    words: [u64; WORDS],
}

impl Module {
    /// Finds the one that points to a table.
    ///
    /// # Errors
    ///
    /// It takes too long.
    pub(super) fn find(
        elf: &Elf<'_>,
        header: &Header,
        patience: &Patience,
        mut pause: impl FnMut(),
    ) -> Result<Option<Self>> {
        let mut candidates =
            find_words(elf, true, patience, &mut pause, |word| word == header.svma)?;
        let before = candidates.len();
        for (count, relocated) in elf.relocated().enumerate() {
            spend(count, patience, &mut pause)?;
            if relocated.value == header.svma && candidates.len() < before + MAX_RELOCATED {
                candidates.push(relocated.svma);
            }
        }
        let mut candidates: Vec<Words> =
            candidates.into_iter().filter_map(|svma| Words::read(elf, svma)).collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        for (count, relocated) in elf.relocated().enumerate() {
            spend(count, patience, &mut pause)?;
            for words in &mut candidates {
                words.relocate(relocated.svma, relocated.value);
            }
        }
        Ok(candidates.iter().find_map(|words| words.module(elf, header)))
    }
}

fn spend(count: usize, patience: &Patience, mut pause: impl FnMut()) -> Result<()> {
    const BETWEEN_PAUSES: usize = 1 << 14;
    if count.is_multiple_of(RELOCATIONS_PER_STEP) {
        patience.spend(1)?;
    }
    if count.is_multiple_of(BETWEEN_PAUSES) {
        pause();
    }
    Ok(())
}

impl Words {
    fn read(elf: &Elf<'_>, svma: u64) -> Option<Self> {
        let bytes = elf.loaded(svma)?;
        let mut words = [0; WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = u64_at(bytes, index * 8)?;
        }
        Some(Self { svma, words })
    }

    fn relocate(&mut self, svma: u64, value: u64) {
        let into = svma.wrapping_sub(self.svma);
        if into.is_multiple_of(8)
            && let Some(word) =
                usize::try_from(into / 8).ok().and_then(|index| self.words.get_mut(index))
        {
            *word = value;
        }
    }

    /// What it says, if it is the `moduledata` of this table.
    fn module(&self, elf: &Elf<'_>, header: &Header) -> Option<Module> {
        let [names, units, files, values, functions] =
            header.offsets.map(|offset| header.svma.wrapping_add(offset as u64));
        let expected = [
            (0, header.svma),
            (1, names),
            (4, units),
            (7, files),
            (10, values),
            (13, functions),
            (16, functions),
            (17, header.count as u64 + 1),
        ];
        expected.iter().all(|(index, word)| self.words[*index] == *word).then_some(())?;
        let layouts = match header.version {
            Version::Go118 => GO_118,
            Version::Go120 => GO_120,
        };
        let inlined = layouts.iter().find_map(|(inlined, slice)| {
            let [pointer, length, room] = [0, 1, 2].map(|into| self.words[slice + into]);
            let is_slice = length == room && (1..=MAX_TEXT_SECTIONS).contains(&length);
            let inlined = self.words[*inlined];
            (is_slice && elf.loaded(pointer).is_some() && elf.loaded(inlined).is_some())
                .then_some(inlined)
        });
        Some(Module { text: self.words[TEXT], inlined })
    }
}
