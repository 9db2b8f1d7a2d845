//! A file's unwind table: a run of blocks, in which the kernel side finds the rule in force at an
//! address with three look-ups.
//!
//! The file's code is divided into pages of `1 << shift` bytes, small enough that the rows of each
//! fit into one block. The run holds, each part beginning with a block of its own:
//!
//! 1. the directory: for each page two words, the block its rows are in (counted from the run's
//!    first), and `start | count << 16`: which rows of that block they are;
//! 2. the rules, four words each ([`Rule::to_words`]);
//! 3. the rows, one word each: `address << 16 | rule`, where `address` is the low `shift` bits of
//!    the first svma at which the rule is in force, and `rule` its number. The rows of a page are
//!    sorted, and the first one is of address 0.
//!
//! Tables are made by a process that reads hostile files: every index in them is masked or checked,
//! and nothing outside of the run is looked at.

use super::rule::Rule;

/// Words of a block.
pub const BLOCK_WORDS: usize = 1024;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK_WORDS * 4;

/// Blocks of a slab: the unit in which the kernel side is given memory.
pub const SLAB_BLOCKS: u32 = 256;

/// Pages that one block of the directory describes.
pub const PAGES_IN_BLOCK: u32 = BLOCK_WORDS as u32 / 2;

/// Rules that one block holds.
pub const RULES_IN_BLOCK: u32 = BLOCK_WORDS as u32 / 4;

/// The smallest pages: as many rows as a block holds are enough for each byte of one.
pub const MIN_SHIFT: u32 = 10;

/// The biggest pages: an address within one has 16 bits.
pub const MAX_SHIFT: u32 = 16;

/// Halvings that leave one of a block's rows.
const HALVINGS: u32 = BLOCK_WORDS.trailing_zeros();

/// A block.
pub type Block = [u32; BLOCK_WORDS];

/// The block of these little-endian words; what is missing of it is 0.
pub fn block_of(bytes: &[u8]) -> Block {
    let mut block = [0; BLOCK_WORDS];
    for (word, bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    block
}

/// Where blocks are.
pub trait Blocks {
    /// The block with this number.
    fn block(&self, number: u32) -> Option<&Block>;
}

/// Where a file's table is, and what it covers; an element of the map `TABLES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// svma at which the first page begins.
    pub base: u64,
    /// Number of pages; 0: there is no table.
    pub pages: u32,
    /// Binary logarithm of a page's bytes.
    pub shift: u32,
    /// Number of the run's first block.
    pub first: u32,
    /// Number of the run's blocks.
    pub blocks: u32,
    /// The rules' first block, counted from the run's first.
    pub rules: u32,
    /// Fills the size to a multiple of 8.
    pub reserved: u32,
}

impl Table {
    /// Whether the parts are where they can be.
    pub const fn is_sound(&self) -> bool {
        MIN_SHIFT <= self.shift
            && self.shift <= MAX_SHIFT
            && self.pages.div_ceil(PAGES_IN_BLOCK) <= self.rules
            && self.rules < self.blocks
            && self.base & ((1 << self.shift) - 1) == 0
            && self.first.checked_add(self.blocks).is_some()
    }

    /// The rule in force at `svma`; [`Rule::GAP`] where the table says nothing.
    #[inline(always)]
    pub fn find(&self, blocks: &impl Blocks, svma: u64) -> Rule {
        match self.look_up(blocks, svma) {
            Some(rule) => rule,
            None => Rule::GAP,
        }
    }

    #[inline(always)]
    fn look_up(&self, blocks: &impl Blocks, svma: u64) -> Option<Rule> {
        let into = svma.wrapping_sub(self.base);
        let shift = self.shift & 31;
        let page = into >> shift;
        if page >= u64::from(self.pages) {
            return None;
        }
        let page = page as u32;
        let directory = blocks.block(self.first.wrapping_add(page / PAGES_IN_BLOCK))?;
        let at = (page % PAGES_IN_BLOCK) as usize * 2;
        let block = directory[at & (BLOCK_WORDS - 1)];
        let range = directory[(at + 1) & (BLOCK_WORDS - 1)];
        if block >= self.blocks {
            return None;
        }
        let rows = blocks.block(self.first.wrapping_add(block))?;
        let address = into as u32 & ((1 << shift) - 1);
        let row = search(rows, range & 0xffff, range >> 16, address << 16 | 0xffff);
        let rule = row & 0xffff;
        let block = self.rules.wrapping_add(rule / RULES_IN_BLOCK);
        if block >= self.blocks {
            return None;
        }
        let rules = blocks.block(self.first.wrapping_add(block))?;
        let at = (rule % RULES_IN_BLOCK) as usize * 4;
        Some(Rule::from_words([
            rules[at & (BLOCK_WORDS - 1)],
            rules[(at + 1) & (BLOCK_WORDS - 1)],
            rules[(at + 2) & (BLOCK_WORDS - 1)],
            rules[(at + 3) & (BLOCK_WORDS - 1)],
        ]))
    }
}

/// The last of the rows `start..start + count` that is not above `key`; the first if all are.
#[inline(always)]
fn search(rows: &Block, start: u32, count: u32, key: u32) -> u32 {
    let mut low = start;
    let mut size = count;
    let mut step = 0;
    while step < HALVINGS {
        let half = size / 2;
        let middle = low.wrapping_add(half);
        if rows[middle as usize & (BLOCK_WORDS - 1)] <= key {
            low = middle;
            size -= half;
        } else {
            size = half;
        }
        step += 1;
    }
    rows[low as usize & (BLOCK_WORDS - 1)]
}

const _: () = assert!(size_of::<Table>() == 32 && size_of::<Rule>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::rule::cfa;

    struct Memory(Vec<Block>);

    impl Blocks for Memory {
        fn block(&self, number: u32) -> Option<&Block> {
            self.0.get(number as usize)
        }
    }

    fn rule(offset: i32) -> Rule {
        Rule { offset, ..Rule::only(cfa::SP) }
    }

    /// A table of one page at 0x1_0000 with these rows, each with a rule whose offset is its index.
    fn table(addresses: &[u32], start: usize) -> (Table, Memory) {
        let mut memory = Memory(vec![[0; BLOCK_WORDS]; 4]);
        memory.0[1][..2].copy_from_slice(&[2, start as u32 | (addresses.len() as u32) << 16]);
        for (index, address) in addresses.iter().enumerate() {
            memory.0[3][start + index] = (address << 16) | (index as u32 % RULES_IN_BLOCK);
            let words = rule((index as u32 % RULES_IN_BLOCK) as i32).to_words();
            let at = index % RULES_IN_BLOCK as usize * 4;
            memory.0[2][at..at + 4].copy_from_slice(&words);
        }
        let table = Table {
            base: 0x1_0000,
            pages: 1,
            shift: MAX_SHIFT,
            first: 1,
            blocks: 3,
            rules: 1,
            reserved: 0,
        };
        (table, memory)
    }

    #[test]
    fn agrees_with_a_linear_search() {
        for count in [1_usize, 2, 3, 7, 8, 200, 255] {
            let addresses: Vec<u32> =
                (0..count as u32).map(|n| n * 201 + u32::from(n > 0) * (n % 7)).collect();
            let (table, memory) = table(&addresses, 1024 - count);
            assert!(table.is_sound());
            for address in (0..0x1_0000_u32).step_by(13).chain(addresses.iter().copied()) {
                let expected = addresses.iter().rposition(|&it| it <= address).unwrap();
                let found = table.find(&memory, 0x1_0000 + u64::from(address));
                assert_eq!(found, rule(expected as i32), "{count} {address}");
            }
            assert_eq!(table.find(&memory, 0xffff), Rule::GAP);
            assert_eq!(table.find(&memory, 0x2_0000), Rule::GAP);
        }
    }

    #[test]
    fn a_full_block_is_searched_to_its_last_row() {
        let addresses: Vec<u32> = (0..1024).map(|n| n * 64).collect();
        let (table, memory) = table(&addresses, 0);
        for n in 0..1024 {
            let found = table.find(&memory, 0x1_0000 + n * 64 + 63);
            assert_eq!(found, rule((n % u64::from(RULES_IN_BLOCK)) as i32), "{n}");
        }
    }

    #[test]
    fn hostile_words_stay_within_the_run() {
        let (table, mut memory) = table(&[0, 5, 9], 0);
        for words in [[u32::MAX; 2], [2, u32::MAX], [3, 0], [2, 0xffff]] {
            memory.0[1][..2].copy_from_slice(&words);
            for svma in 0x1_0000..0x1_0100 {
                let _ = table.find(&memory, svma);
            }
        }
        memory.0[1][..2].copy_from_slice(&[2, 1 << 16]);
        memory.0[3][0] = 0xffff;
        assert_eq!(table.find(&memory, 0x1_0000), Rule::GAP, "a rule beyond the run");
    }
}
