//! Our stacks beside the oracle's, counted.

use std::{borrow::Borrow, collections::BTreeMap, fmt};

use profiler_ebpf::unwind::{Outcome, Step};

use super::{
    files::Files,
    judge::{Judge, Reason, State, Verdict},
    mappings::Processes,
    recording::{Record, Sample, What},
    stack::Stack,
    walked::{Frame, Walked},
};

/// Disagreements that are printed.
const SHOWN: usize = 20;

/// A frame on which we and the oracle do not agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Disagreement {
    /// The file's path.
    pub(crate) path: String,
    /// Where its rule is looked up, as the file counts.
    pub(crate) svma: u64,
    /// Our rule.
    pub(crate) rule: String,
    /// What follows from it, and what the oracle says.
    pub(crate) kind: &'static str,
}

/// What was compared.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) samples: u64,
    /// Samples whose stack of ours is complete.
    pub(crate) complete: u64,
    /// Samples of processes whose mappings were not reported.
    unmapped: u64,
    /// Samples in which both want stack that was not copied.
    pub(crate) truncated: u64,
    /// Samples that agree from the leaf to the end.
    pub(crate) whole: u64,
    /// Frames on which framehop, and gimli's row, says the same as we.
    pub(crate) by_framehop: u64,
    /// Frames that framehop cannot judge, on which gimli's row says the same as we.
    pub(crate) by_row: u64,
    /// How often, and the avmas of an example: of the frame, of our caller, of the oracle's.
    pub(crate) disagreements: BTreeMap<Disagreement, (u64, [u64; 3])>,
    /// Frames that are not judged, by why and by file.
    unjudged: BTreeMap<(Reason, String), (u64, u64)>,
    pub(crate) lost: u64,
}

impl Report {
    /// Compares the stacks of a recording.
    pub(crate) fn add<R: Borrow<Record>>(
        &mut self,
        records: impl IntoIterator<Item = R>,
        files: &mut Files<'_>,
    ) {
        let mut processes = Processes::default();
        for record in records {
            match &record.borrow().what {
                What::SideBand(side_band) => processes.apply(side_band),
                What::Sample(sample) => self.compare(sample, &processes, files),
            }
        }
        self.lost += processes.lost;
    }

    /// Adds another report's counts.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self {
            samples,
            complete,
            unmapped,
            truncated,
            whole,
            by_framehop,
            by_row,
            disagreements,
            unjudged,
            lost,
        } = other;
        self.samples += samples;
        self.complete += complete;
        self.unmapped += unmapped;
        self.truncated += truncated;
        self.whole += whole;
        self.by_framehop += by_framehop;
        self.by_row += by_row;
        self.lost += lost;
        for (disagreement, (count, example)) in disagreements {
            self.disagreements.entry(disagreement).or_insert((0, example)).0 += count;
        }
        for (key, (count, svma)) in unjudged {
            let entry = self.unjudged.entry(key).or_default();
            *entry = (entry.0 + count, svma);
        }
    }

    /// Frames on which there is agreement.
    pub(crate) const fn agreed(&self) -> u64 {
        self.by_framehop + self.by_row
    }

    /// Frames on which there is none.
    pub(crate) fn disagreed(&self) -> u64 {
        self.disagreements.values().map(|(count, _)| count).sum()
    }

    /// Frames that are not judged.
    pub(crate) fn unjudged(&self) -> u64 {
        self.unjudged.values().map(|(count, _)| count).sum()
    }

    /// The share of judged frames on which there is agreement, in percent.
    pub(crate) fn agreement(&self) -> f64 {
        percent(self.agreed(), self.agreed() + self.disagreed())
    }

    /// The share of frames that are not judged, in percent.
    pub(crate) fn unjudged_share(&self) -> f64 {
        let unjudged = self.unjudged();
        percent(unjudged, unjudged + self.agreed() + self.disagreed())
    }

    fn compare(&mut self, sample: &Sample, processes: &Processes, files: &mut Files<'_>) {
        self.samples += 1;
        let Some(mappings) = processes.mappings(sample.pid) else {
            self.unmapped += 1;
            return;
        };
        let ours = Walked::new(sample, mappings, files);
        self.complete += u64::from(ours.outcome == Outcome::Complete);
        let stack = Stack(sample);
        let mut state = State::new(sample);
        let mut is_whole = true;
        for (index, frame) in ours.frames.iter().enumerate() {
            if state.avma() != frame.avma {
                self.disagree(frame, "whether it was interrupted", [frame.avma, 0, state.avma()]);
                return;
            }
            let file = frame.file.as_ref().map(|(file, bias)| (&**file, *bias));
            let (verdict, judge) = state.judge(file, &stack);
            match (frame.step, verdict) {
                (Step::Caller(ours), Verdict::Caller(pc)) if ours == pc => self.agree(judge),
                (Step::End(Outcome::Complete | Outcome::Guessed), Verdict::End) => {
                    self.agree(judge);
                }
                (Step::End(Outcome::Unreadable), Verdict::Unreadable) => {
                    self.truncated += 1;
                    return;
                }
                (step, Verdict::Unjudged(reason)) => {
                    is_whole = false;
                    self.leave(frame, reason);
                    if let Step::Caller(pc) = step
                        && !state.follow_fp(pc, &stack)
                    {
                        for frame in &ours.frames[index + 1..] {
                            self.leave(frame, Reason::Behind);
                        }
                        return;
                    }
                }
                (step, verdict) => {
                    let (kind, callers) = contradiction(step, verdict);
                    self.disagree(frame, kind, [frame.avma, callers[0], callers[1]]);
                    return;
                }
            }
        }
        self.whole += u64::from(is_whole);
    }

    fn agree(&mut self, judge: Judge) {
        match judge {
            Judge::Framehop => self.by_framehop += 1,
            Judge::Row => self.by_row += 1,
        }
    }

    fn leave(&mut self, frame: &Frame, reason: Reason) {
        let entry = self.unjudged.entry((reason, frame.path().to_owned())).or_default();
        *entry = (entry.0 + 1, frame.svma());
    }

    fn disagree(&mut self, frame: &Frame, kind: &'static str, avmas: [u64; 3]) {
        let rule = frame.file.as_ref().map(|(file, _)| file.equation(frame.rule));
        let disagreement = Disagreement {
            path: frame.path().to_owned(),
            svma: frame.svma(),
            rule: rule.unwrap_or_default(),
            kind,
        };
        self.disagreements.entry(disagreement).or_insert((0, avmas)).0 += 1;
    }
}

/// What the disagreement is, and both callers.
const fn contradiction(step: Step, verdict: Verdict) -> (&'static str, [u64; 2]) {
    match (step, verdict) {
        (Step::Caller(ours), Verdict::Contradiction(pc)) => {
            ("framehop and gimli contradict each other", [ours, pc])
        }
        (Step::End(_), Verdict::Contradiction(pc)) => {
            ("framehop and gimli contradict each other", [0, pc])
        }
        (Step::Caller(ours), Verdict::Caller(pc)) => ("another caller", [ours, pc]),
        (Step::Caller(ours), Verdict::End) => ("a caller of the outermost frame", [ours, 0]),
        (Step::Caller(ours), _) => ("a caller beyond the copy", [ours, 0]),
        (Step::End(outcome), Verdict::Caller(pc)) => (ended(outcome), [0, pc]),
        (Step::End(outcome), _) => (ended(outcome), [0, 0]),
    }
}

const fn ended(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete | Outcome::Guessed => "we end where the oracle does not",
        Outcome::NoRule => "we end: no rule",
        Outcome::UnsupportedRule => "we end: unsupported rule",
        Outcome::Unreadable => "we end: unreadable",
        Outcome::NoMapping => "we end: no mapping",
        Outcome::None | Outcome::Truncated => "we end: too many frames",
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, complete, unmapped, truncated, whole, by_framehop, by_row, .. } = self;
        writeln!(f, "samples      {samples}, {complete} complete by our walk")?;
        writeln!(f, "             {whole} agree as a whole, {truncated} until the copy ends")?;
        if *unmapped > 0 {
            writeln!(f, "             {unmapped} of processes whose mappings are not known")?;
        }
        if self.lost > 0 {
            writeln!(f, "lost         {} records", self.lost)?;
        }
        writeln!(
            f,
            "agreed       {} frames, {by_framehop} by framehop, {by_row} by rows",
            self.agreed()
        )?;
        writeln!(
            f,
            "disagreed    {} frames, agreement {:.3} %",
            self.disagreed(),
            self.agreement()
        )?;
        writeln!(f, "not judged   {} frames, {:.3} %", self.unjudged(), self.unjudged_share())?;
        for ((reason, path), (count, svma)) in &self.unjudged {
            writeln!(f, "  {count:7}  {path}: {}, such as {svma:#x}", reason.text())?;
        }
        let mut worst: Vec<_> = self.disagreements.iter().collect();
        worst.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (Disagreement { path, svma, rule, kind }, (count, avmas)) in worst.iter().take(SHOWN) {
            let [avma, ours, oracle] = avmas;
            writeln!(f, "  {count:7}  {path} {svma:#x}: {kind}; our rule: {rule}")?;
            writeln!(f, "           at {avma:#x}: ours {ours:#x}, the oracle's {oracle:#x}")?;
        }
        if worst.len() > SHOWN {
            writeln!(f, "           and {} more places", worst.len() - SHOWN)?;
        }
        Ok(())
    }
}
