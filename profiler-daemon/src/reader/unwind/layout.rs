//! Putting rows into blocks.

use std::ops::Range;

use profiler_ebpf::unwind::rule::Rule;
use profiler_ebpf::unwind::table::{
    BLOCK_WORDS, Block, MAX_SHIFT, MIN_SHIFT, PAGES_IN_BLOCK, RULES_IN_BLOCK, Table,
};

use super::UnwindTable;
use super::rows::{GAP, Row};

/// Where a page's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Counted from the first block of rows.
    block: u32,
    start: u16,
    count: u16,
}

/// Where the rows of all pages are, for one size of pages.
struct Plan {
    shift: u32,
    places: Vec<Place>,
    row_blocks: u32,
}

/// A page: which rows begin in it, and the rule in force at its beginning.
struct Page {
    rows: Range<usize>,
    rule: u16,
    /// A row begins where it does.
    has_first: bool,
}

impl Page {
    /// Rows that it takes in a table.
    fn count(&self) -> usize {
        self.rows.len() + usize::from(!self.has_first)
    }
}

/// Lays rows, which end at `end`, out in the size of pages that takes the fewest blocks.
///
/// `rows` are sorted and not empty.
pub(super) fn lay_out(rows: &[Row], rules: &[Rule], end: u64) -> (Table, Vec<Block>) {
    let plans = (MIN_SHIFT..=MAX_SHIFT).map_while(|shift| plan(rows, rules, end, shift));
    let plan = plans.min_by_key(|plan| (plan.all_blocks(rules), plan.shift));
    // Pages of the smallest size have a row per byte at most, and fit.
    let plan = plan.unwrap_or(Plan { shift: MIN_SHIFT, places: Vec::new(), row_blocks: 0 });
    write(&plan, rows, rules, end)
}

impl Plan {
    fn directory_blocks(&self) -> u32 {
        (self.places.len() as u32).div_ceil(PAGES_IN_BLOCK)
    }

    /// Blocks of all parts.
    fn all_blocks(&self, rules: &[Rule]) -> u32 {
        self.directory_blocks() + rule_blocks(rules) + self.row_blocks
    }
}

fn rule_blocks(rules: &[Rule]) -> u32 {
    (rules.len() as u32).div_ceil(RULES_IN_BLOCK)
}

fn base(rows: &[Row], shift: u32) -> u64 {
    rows.first().map_or(0, |row| row.svma() >> shift << shift)
}

/// The pages of this size, in order.
fn pages(rows: &[Row], end: u64, shift: u32) -> impl Iterator<Item = Page> {
    let base = base(rows, shift);
    let count = (end - base).div_ceil(1 << shift);
    let mut next = 0;
    let mut rule = GAP;
    (0..count).map(move |page| {
        let start = base + (page << shift);
        let page_end = start + (1 << shift);
        let first = next;
        let before = rule;
        while let Some(row) = rows.get(next)
            && row.svma() < page_end
        {
            rule = row.rule();
            next += 1;
        }
        let own = rows.get(first).filter(|row| row.svma() == start);
        Page {
            rows: first..next,
            rule: own.map_or(before, |row| row.rule()),
            has_first: own.is_some(),
        }
    })
}

/// Places pages of this size; `None` if one has more rows than a block.
///
/// Each goes where it leaves least: pages of half a block would else waste the other half.
fn plan(rows: &[Row], rules: &[Rule], end: u64, shift: u32) -> Option<Plan> {
    let mut places = Vec::new();
    let mut free = FreeSpace::new();
    // Where the pages of a single row are: those of the same rule share it.
    let mut singles: Vec<Option<Place>> = vec![None; rules.len()];
    for page in pages(rows, end, shift) {
        let count = page.count();
        if count > BLOCK_WORDS {
            return None;
        }
        let place = if count == 1 {
            *singles[usize::from(page.rule)].get_or_insert_with(|| free.take(1))
        } else {
            free.take(count)
        };
        places.push(place);
    }
    Some(Plan { shift, places, row_blocks: free.blocks })
}

/// What is left in blocks that have been begun.
struct FreeSpace {
    /// Blocks by the words left in them.
    by_words: Vec<Vec<u32>>,
    /// Which of these are not empty.
    occupied: [u64; BLOCK_WORDS / 64 + 1],
    blocks: u32,
}

impl FreeSpace {
    fn new() -> Self {
        let by_words = vec![Vec::new(); BLOCK_WORDS + 1];
        Self { by_words, occupied: [0; BLOCK_WORDS / 64 + 1], blocks: 0 }
    }

    /// Takes `count` words, at most a block, of the block that has least left.
    fn take(&mut self, count: usize) -> Place {
        let (block, left) = match self.least(count).and_then(|left| Some((self.pop(left)?, left))) {
            Some(found) => found,
            None => {
                self.blocks += 1;
                (self.blocks - 1, BLOCK_WORDS)
            }
        };
        let rest = left - count;
        if rest > 0 {
            self.by_words[rest].push(block);
            self.occupied[rest / 64] |= 1 << (rest % 64);
        }
        Place { block, start: (BLOCK_WORDS - left) as u16, count: count as u16 }
    }

    /// The least that is left in any block and is `count` or more.
    fn least(&self, count: usize) -> Option<usize> {
        let (word, bit) = (count / 64, count % 64);
        let first = self.occupied[word] >> bit << bit;
        let words = std::iter::once(first).chain(self.occupied[word + 1..].iter().copied());
        let (index, bits) = words.enumerate().find(|(_, bits)| *bits != 0)?;
        Some((word + index) * 64 + bits.trailing_zeros() as usize)
    }

    fn pop(&mut self, left: usize) -> Option<u32> {
        let block = self.by_words[left].pop();
        if self.by_words[left].is_empty() {
            self.occupied[left / 64] &= !(1 << (left % 64));
        }
        block
    }
}

fn write(plan: &Plan, rows: &[Row], rules: &[Rule], end: u64) -> (Table, Vec<Block>) {
    let directory_blocks = plan.directory_blocks();
    let first_rows = directory_blocks + rule_blocks(rules);
    let table = Table {
        base: base(rows, plan.shift),
        pages: plan.places.len() as u32,
        shift: plan.shift,
        first: 0,
        blocks: first_rows + plan.row_blocks,
        rules: directory_blocks,
        reserved: 0,
    };
    let mut blocks = vec![[0; BLOCK_WORDS]; table.blocks as usize];
    for (index, place) in plan.places.iter().enumerate() {
        let words = &mut blocks[index / PAGES_IN_BLOCK as usize];
        let at = index % PAGES_IN_BLOCK as usize * 2;
        words[at] = first_rows + place.block;
        words[at + 1] = u32::from(place.start) | u32::from(place.count) << 16;
    }
    for (index, rule) in rules.iter().enumerate() {
        let words = &mut blocks[directory_blocks as usize + index / RULES_IN_BLOCK as usize];
        let at = index % RULES_IN_BLOCK as usize * 4;
        words[at..at + 4].copy_from_slice(&rule.to_words());
    }
    for (page, place) in pages(rows, end, plan.shift).zip(&plan.places) {
        let words = &mut blocks[(first_rows + place.block) as usize];
        let start = usize::from(place.start);
        let first = (!page.has_first).then_some(u32::from(page.rule));
        let others = rows[page.rows].iter().map(|row| {
            let address = row.svma() as u32 & ((1 << plan.shift) - 1);
            address << 16 | u32::from(row.rule())
        });
        for (word, row) in words[start..].iter_mut().zip(first.into_iter().chain(others)) {
            *word = row;
        }
    }
    (table, blocks)
}

/// All rows of a table, read back from its blocks.
pub(super) fn rows(of: &UnwindTable) -> impl Iterator<Item = (u64, Rule)> {
    let table = of.table;
    let rule = move |number: u32| {
        let block = of.blocks[(table.rules + number / RULES_IN_BLOCK) as usize];
        let at = (number % RULES_IN_BLOCK) as usize * 4;
        Rule::from_words([block[at], block[at + 1], block[at + 2], block[at + 3]])
    };
    (0..table.pages).flat_map(move |page| {
        let at = (page % PAGES_IN_BLOCK) as usize * 2;
        let directory = &of.blocks[(page / PAGES_IN_BLOCK) as usize];
        let (block, range) = (directory[at] as usize, directory[at + 1]);
        let start = (range & 0xffff) as usize;
        let words = &of.blocks[block][start..start + (range >> 16) as usize];
        let page_start = table.base + (u64::from(page) << table.shift);
        words.iter().map(move |word| (page_start + u64::from(word >> 16), rule(word & 0xffff)))
    })
}
