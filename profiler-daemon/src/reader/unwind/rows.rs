//! Collecting rows: equal neighbours merged, rules numbered.

use std::collections::HashMap;

use profiler_ebpf::unwind::rule::{Rule, saved};

use super::evaluate::Unsupported;
use super::{Stats, UnwindError};

/// The most rows of one file.
const MAX_ROWS: usize = 16 << 20;

/// Rules that a row's 16 bits number.
const MAX_RULES: usize = 1 << 16;

/// The number of [`Rule::GAP`], in every table.
pub(super) const GAP: u16 = 0;

/// The number of [`Rule::UNSUPPORTED`], in every table.
const UNSUPPORTED: u16 = 1;

/// Rules whose numbers are known without hashing.
const RECENT: usize = 1_024;

/// From `svma` on the rule with this number is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row(u64);

impl Row {
    /// svma of the first byte; 48 bits.
    pub(super) fn svma(self) -> u64 {
        self.0 >> 16
    }

    /// Number of the rule.
    pub(super) fn rule(self) -> u16 {
        self.0 as u16
    }
}

/// Rows and rules as they are found.
pub(super) struct Rows {
    rows: Vec<Row>,
    rules: Vec<Rule>,
    /// Rules are chosen by hostile files: the standard hasher's random keys are meant.
    numbers: HashMap<Rule, u16>,
    recent: Vec<(Rule, u16)>,
    /// The number of the rule in force.
    current: u16,
    /// Where the last part ended, if nothing has been said of what follows.
    ended: Option<u64>,
    unsupported: [usize; Unsupported::ALL.len()],
    fp_lost: usize,
}

/// What was found.
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    pub(super) rules: Vec<Rule>,
    pub(super) stats: Stats,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            rules: vec![Rule::GAP, Rule::UNSUPPORTED],
            numbers: HashMap::from([(Rule::GAP, GAP), (Rule::UNSUPPORTED, UNSUPPORTED)]),
            recent: vec![(Rule::GAP, GAP); RECENT],
            current: GAP,
            ended: None,
            unsupported: [0; Unsupported::ALL.len()],
            fp_lost: 0,
        }
    }
}

impl Rows {
    /// A part begins. What lies between it and the one before is a gap.
    pub(super) fn begin(&mut self, start: u64) -> Result<(), UnwindError> {
        if let Some(end) = self.ended.take()
            && end < start
        {
            self.put(end, GAP)?;
        }
        // In case the part has no row at its start.
        self.put(start, GAP)
    }

    /// From `svma` on this rule is in force; or from the last row on, if that is later.
    pub(super) fn push(
        &mut self,
        svma: u64,
        rule: Result<Rule, Unsupported>,
    ) -> Result<(), UnwindError> {
        let number = match rule {
            Ok(rule) => {
                self.fp_lost += usize::from(rule.fp == saved::LOST);
                self.number(rule).unwrap_or_else(|| self.give_up(Unsupported::TooManyRules))
            }
            Err(reason) => self.give_up(reason),
        };
        self.put(svma, number)
    }

    /// A part ends.
    pub(super) fn end(&mut self, end: u64) {
        self.ended = Some(end);
    }

    /// All that was found; after the last part follows a gap.
    pub(super) fn finish(mut self) -> Result<Found, UnwindError> {
        if let Some(end) = self.ended.take() {
            self.put(end, GAP)?;
        }
        let counts = Unsupported::ALL.into_iter().zip(self.unsupported);
        let stats = Stats {
            rows: self.rows.len(),
            rules: self.rules.len(),
            unsupported: counts.filter(|(_, count)| *count > 0).collect(),
            fp_lost: self.fp_lost,
            ..Stats::default()
        };
        Ok(Found { rows: self.rows, rules: self.rules, stats })
    }

    fn give_up(&mut self, reason: Unsupported) -> u16 {
        self.unsupported[reason as usize] += 1;
        UNSUPPORTED
    }

    fn put(&mut self, mut svma: u64, rule: u16) -> Result<(), UnwindError> {
        if rule == self.current {
            return Ok(());
        }
        if self.rows.last().is_some_and(|row| row.svma() >= svma) {
            svma = self.rows.pop().map_or(svma, Row::svma);
            self.current = self.rows.last().map_or(GAP, |row| row.rule());
            if rule == self.current {
                return Ok(());
            }
        }
        if self.rows.len() == MAX_ROWS {
            return Err(UnwindError::TooMuch { what: "rows", limit: MAX_ROWS as u64 });
        }
        self.rows.push(Row(svma << 16 | u64::from(rule)));
        self.current = rule;
        Ok(())
    }

    fn number(&mut self, rule: Rule) -> Option<u16> {
        let words = rule.to_words();
        let mixed = words
            .iter()
            .fold(0_u32, |sum, word| (sum ^ word).wrapping_mul(0x9e37_79b1).rotate_left(11));
        let slot = mixed as usize % RECENT;
        let (recent, number) = self.recent[slot];
        if recent == rule {
            return Some(number);
        }
        let number = match self.numbers.get(&rule) {
            Some(&number) => number,
            None if self.rules.len() < MAX_RULES => {
                let number = self.rules.len() as u16;
                self.rules.push(rule);
                self.numbers.insert(rule, number);
                number
            }
            None => return None,
        };
        self.recent[slot] = (rule, number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::unwind::rule::cfa;

    use super::*;

    fn sp(offset: i32) -> Rule {
        Rule { offset, ..Rule::only(cfa::SP) }
    }

    fn listed(rows: Rows) -> Vec<(u64, Rule)> {
        let found = rows.finish().unwrap();
        found.rows.iter().map(|row| (row.svma(), found.rules[usize::from(row.rule())])).collect()
    }

    #[test]
    fn equal_neighbours_are_one_row() {
        let mut rows = Rows::default();
        for (start, end) in [(0x10, 0x20), (0x20, 0x30), (0x38, 0x40)] {
            rows.begin(start).unwrap();
            rows.push(start, Ok(sp(8))).unwrap();
            rows.push(start + 4, Ok(sp(16))).unwrap();
            rows.push(start + 4, Ok(sp(8))).unwrap();
            rows.end(end);
        }
        let expected = [(0x10, sp(8)), (0x30, Rule::GAP), (0x38, sp(8)), (0x40, Rule::GAP)];
        assert_eq!(listed(rows), expected);
    }

    #[test]
    fn rules_beyond_what_a_row_can_number_are_unsupported() {
        let mut rows = Rows::default();
        rows.begin(0).unwrap();
        for n in 0..70_000 {
            rows.push(n, Ok(sp(n as i32))).unwrap();
        }
        rows.end(70_000);
        let found = rows.finish().unwrap();
        assert_eq!(found.rules.len(), MAX_RULES);
        assert_eq!(found.stats.unsupported, [(Unsupported::TooManyRules, 70_000 - 65_534)]);
        assert_eq!(found.stats.rows, 65_534 + 2);
    }
}
