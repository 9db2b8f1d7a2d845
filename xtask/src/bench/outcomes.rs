//! How user stacks ended, by a profile's comments.

use std::{collections::BTreeMap, ops::AddAssign};

use rprofd_tests::Profile;

use super::{Bound, Figure};

/// Numbers of samples by the word for how their stack ended; samples without a user stack are not
/// among them.
#[derive(Default)]
pub(super) struct Outcomes(BTreeMap<String, u64>);

impl Outcomes {
    pub(super) fn of(profile: &Profile) -> Self {
        let counts = profile.counts().into_iter();
        let outcomes = counts.filter_map(|(key, count)| {
            let word = key.strip_prefix("outcome.").filter(|word| *word != "none")?;
            Some((word.to_owned(), count))
        });
        Self(outcomes.collect())
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Share of complete stacks, in percent; 0 without stacks.
    pub(super) fn complete_percent(&self) -> f64 {
        let complete = self.0.get("complete").copied().unwrap_or(0);
        complete as f64 / (self.total() as f64).max(1.0) * 100.0
    }

    /// A figure for each other end.
    pub(super) fn others(&self) -> Vec<Figure> {
        let others = self.0.iter().filter(|(word, _)| *word != "complete");
        others
            .map(|(word, count)| {
                let share = *count as f64 / (self.total() as f64).max(1.0) * 100.0;
                let what = format!("{} ({count} samples)", word.replace('_', " "));
                Figure::new(what, share, "%", Bound::Open)
            })
            .collect()
    }
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, other: Self) {
        for (word, count) in other.0 {
            *self.0.entry(word).or_insert(0) += count;
        }
    }
}
