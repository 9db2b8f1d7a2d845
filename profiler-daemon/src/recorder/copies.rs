//! Samples whose stacks were copied: walked here, when the unwind tables that the kernel side lacked
//! have come.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    time::{Duration, Instant},
};

use profiler_ebpf::{
    record::{Kind, MAX_USER_FRAMES, Sample, StackHeader, Wait},
    unwind::{Outcome, Step, rule::Rule, walk::Walk},
};

use super::{RecordError, Recorder, clock, collection::CollectionId, mappings::bias};
use crate::{
    kernel::StackCopy,
    process::{ImageRef, Mappings},
    reader::protocol::FileKey,
};

/// How long a sample waits for tables.
const PATIENCE_NS: u64 = 2_000_000_000;

/// What copies that wait may take in memory, in bytes.
const MAX_BYTES: usize = 32 << 20;

/// How long copies are walked at a time: the kernel side's records do not wait for longer.
const AT_A_TIME: Duration = Duration::from_millis(50);

/// A sample that waits.
struct Copied {
    sample: Sample,
    copy: Box<StackCopy>,
    lacking: Lacking,
}

/// Whether a sample has waited for long enough.
fn is_impatient(sample: &Sample, now_ns: u64) -> bool {
    sample.time_ns.saturating_add(PATIENCE_NS) <= now_ns
}

/// The program counter that a walk came to, as one behind its instruction: who looks a caller up
/// looks below it, and what a signal interrupted is no return address. It is the target's memory
/// that says what it is.
pub(crate) fn return_address(pc: u64, walk: &Walk) -> u64 {
    pc.wrapping_add(u64::from(walk.is_interrupted()))
}

/// Samples that wait for tables.
#[derive(Default)]
pub(super) struct Copies {
    waiting: Vec<Copied>,
    bytes: usize,
    /// Whether some need not wait any longer, and were too many for one time.
    more: bool,
    /// IDs of stacks of waits that wait.
    of_waits: HashSet<u64>,
    /// How the walks of such stacks ended, until their waits are over.
    ended: HashMap<u64, Outcome>,
    /// Waits that are over before their stacks are walked.
    held: Vec<(Kind, Box<Wait>)>,
}

impl Copies {
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether some can be walked by now.
    pub(super) const fn has_more(&self) -> bool {
        self.more
    }

    /// These alone wait.
    fn keep(&mut self, waiting: Vec<Copied>) {
        self.waiting.clear();
        self.bytes = 0;
        self.put_back(waiting);
    }

    /// These wait, too.
    fn put_back(&mut self, waiting: impl IntoIterator<Item = Copied>) {
        for copied in waiting {
            self.bytes += copied.copy.size_bytes();
            self.waiting.push(copied);
        }
    }

    /// A stack of a wait has come.
    pub(super) fn begin_wait(&mut self, sample: &Sample) {
        self.of_waits.insert(sample.user_stack);
    }

    /// Takes a wait if it has to wait for its stack to be walked; else it comes back.
    pub(super) fn hold(&mut self, kind: Kind, wait: Box<Wait>) -> Option<Box<Wait>> {
        if !self.of_waits.contains(&wait.sample.user_stack) {
            return Some(wait);
        }
        self.held.push((kind, wait));
        None
    }

    /// Waits whose stacks are walked by now.
    pub(super) fn take_complete(&mut self) -> Vec<(Kind, Box<Wait>)> {
        let of_waits = &self.of_waits;
        let is_walked =
            |(_, wait): &mut (Kind, Box<Wait>)| !of_waits.contains(&wait.sample.user_stack);
        self.held.extract_if(.., is_walked).collect()
    }

    /// How the walk of a wait's stack ended, if it was walked here.
    pub(super) fn outcome(&self, stack: u64) -> Option<Outcome> {
        self.ended.get(&stack).copied()
    }

    /// A wait is over: nothing more will be asked of its stack.
    pub(super) fn forget(&mut self, stack: u64) {
        self.ended.remove(&stack);
    }

    /// Boot-time clock of the oldest sample that waits, in nanoseconds.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.waiting.iter().map(|copied| copied.sample.time_ns).min()
    }
}

/// Why a stack cannot be walked yet.
#[derive(Clone, Copy)]
pub(super) enum Lacking {
    /// A file's table.
    Table(FileKey),
    /// A mapping, or the file behind it.
    Mapping,
}

/// A mapping, as a walk needs it.
struct Place {
    range: Range<u64>,
    /// Of its file's table; 0: there is none.
    slot: u32,
    bias: u64,
    /// Whether its code was made by its process.
    is_generated: bool,
}

impl Recorder {
    /// Walks a copied stack, if all that is needed is there or the sample has waited for long;
    /// `false`: it has to wait, and does.
    pub(super) fn walked_or_waits(
        &mut self,
        image: ImageRef,
        sample: &mut Sample,
        copy: Box<StackCopy>,
    ) -> bool {
        match self.walk(image, sample.time_ns, &copy) {
            Ok((frames, outcome)) => {
                (sample.user_stack, sample.user_check) = self.add_stack(sample.epoch, &frames);
                sample.outcome = outcome as u32;
                true
            }
            Err(lacking) => {
                if !self.waits(lacking, *sample, &copy) {
                    return true;
                }
                self.copies.waiting.push(Copied { sample: *sample, copy, lacking });
                false
            }
        }
    }

    /// Walks the stack of a wait; if something is lacking, it waits for that.
    pub(super) fn walk_wait(&mut self, sample: Sample, copy: Box<StackCopy>) {
        let Sample { pid, start_ns, exec_id, time_ns, .. } = sample;
        let image = self.table.image_of(pid, start_ns, exec_id, time_ns);
        match self.walk(image, time_ns, &copy) {
            Ok((frames, outcome)) => self.walked(&sample, &frames, outcome),
            Err(lacking) => {
                if self.waits(lacking, sample, &copy) {
                    self.copies.waiting.push(Copied { sample, copy, lacking });
                } else {
                    self.walked(&sample, &[copy.walk_registers().pc], Outcome::NoMapping);
                }
            }
        }
    }

    /// The stack of a wait is as good as it gets.
    fn walked(&mut self, sample: &Sample, frames: &[u64], outcome: Outcome) {
        /// Some waits never end.
        const MOST: usize = 1 << 16;
        let header = StackHeader {
            epoch: sample.epoch,
            id: sample.user_stack,
            check: sample.user_check,
            frames: frames.len() as u32,
            ..StackHeader::default()
        };
        self.raw.add(&header, frames);
        self.copies.of_waits.remove(&sample.user_stack);
        if self.copies.ended.len() >= MOST {
            self.copies.ended.clear();
        }
        self.copies.ended.insert(sample.user_stack, outcome);
    }

    /// Takes a stack as if the kernel side had sent it: its ID and second sum.
    pub(super) fn add_stack(&mut self, epoch: u32, frames: &[u64]) -> (u64, u32) {
        let mut id = self.sampler.user_stack_id();
        for &avma in frames {
            id.push(avma);
        }
        let header = StackHeader {
            epoch,
            id: id.id(),
            check: id.check(),
            frames: frames.len() as u32,
            ..StackHeader::default()
        };
        self.raw.add(&header, frames);
        (header.id, header.check)
    }

    /// Asks for what a walk lacks.
    pub(super) fn want_lacking(&mut self, lacking: Lacking) {
        if let Lacking::Table(key) = lacking
            && self.tables.touch(&key)
        {
            self.symbolizer.want_table(key);
        }
    }

    /// Asks for what a walk lacks; `false`: it is not waited for.
    fn waits(&mut self, lacking: Lacking, sample: Sample, copy: &StackCopy) -> bool {
        self.want_lacking(lacking);
        let size = copy.size_bytes();
        if is_impatient(&sample, clock::boot_ns()) || self.copies.bytes + size > MAX_BYTES {
            return false;
        }
        self.copies.bytes += size;
        true
    }

    /// Attributes those that wait, if all that they need is there by now. Returns where
    /// they went, and the indices of their stacks there.
    pub(super) fn try_copies(&mut self) -> Result<Vec<(CollectionId, u32)>, RecordError> {
        let now_ns = clock::boot_ns();
        let tables = &self.tables;
        // To walk deep stacks again and again to where they lack the same takes longer than to make
        // what they lack.
        let is_ripe = |copied: &Copied| match copied.lacking {
            Lacking::Table(key) => !tables.is_awaited(&key) || is_impatient(&copied.sample, now_ns),
            Lacking::Mapping => true,
        };
        let (ripe, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.copies.waiting).into_iter().partition(is_ripe);
        self.copies.keep(waiting);
        let mut ripe = ripe.into_iter();
        let begin = Instant::now();
        let mut stacks = Vec::new();
        while begin.elapsed() < AT_A_TIME
            && let Some(Copied { sample, copy, .. }) = ripe.next()
        {
            if sample.kind == Kind::WaitCopy as u32 {
                self.walk_wait(sample, copy);
            } else {
                stacks.extend(self.attribute_sample(sample, Some(copy))?);
            }
        }
        self.copies.more = ripe.len() > 0;
        self.copies.put_back(ripe);
        Ok(stacks)
    }

    /// Attributes those that wait, as they are, if they are of an epoch before `epoch`.
    pub(super) fn give_copies_up(&mut self, epoch: u32) -> Result<(), RecordError> {
        let (old, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.copies.waiting)
            .into_iter()
            .partition(|copied| copied.sample.epoch < epoch);
        self.copies.keep(waiting);
        for Copied { sample, copy, .. } in old {
            if sample.kind == Kind::WaitCopy as u32 {
                self.walked(&sample, &[copy.walk_registers().pc], Outcome::NoMapping);
            } else {
                self.attribute_sample(sample, None)?;
            }
        }
        self.want_names();
        Ok(())
    }

    /// Walks a stack as the kernel side does (`profiler-ebpf/src/user_stack.rs`).
    pub(super) fn walk(
        &self,
        image: ImageRef,
        time_ns: u64,
        copy: &StackCopy,
    ) -> Result<(Vec<u64>, Outcome), Lacking> {
        let mappings = self.table.life(image.life).and_then(|life| life.mappings(image.image));
        let mappings = mappings
            .filter(|mappings| mappings.current().next().is_some())
            .ok_or(Lacking::Mapping)?;
        let registers = copy.walk_registers();
        let mut walk = Walk::new(&registers);
        let mut frames = vec![registers.pc];
        // Deep stacks are mostly of one mapping.
        let mut place: Option<Place> = None;
        loop {
            let avma = walk.avma();
            if !place.as_ref().is_some_and(|place| place.range.contains(&avma)) {
                place = self.place_at(mappings, time_ns, avma)?;
            }
            let rule = match &place {
                Some(Place { slot: 0, .. }) => Rule::GAP,
                Some(place) => self.sampler.rule(place.slot, avma.wrapping_sub(place.bias)),
                None if walk.is_interrupted() => Rule::GAP,
                None => return Ok((frames, Outcome::NoMapping)),
            };
            let is_generated = place.as_ref().is_some_and(|place| place.is_generated);
            match walk.step(copy, &rule, is_generated) {
                Step::Caller(_) if frames.len() >= MAX_USER_FRAMES => {
                    return Ok((frames, Outcome::Truncated));
                }
                Step::Caller(pc) => frames.push(return_address(pc, &walk)),
                Step::End(outcome) => return Ok((frames, outcome)),
            }
        }
    }

    /// The mapping that covered `avma`, as a walk needs it; `None`: none did.
    fn place_at(
        &self,
        mappings: &Mappings,
        time_ns: u64,
        avma: u64,
    ) -> Result<Option<Place>, Lacking> {
        let Some(mapping) = mappings.find(avma, time_ns) else { return Ok(None) };
        let mut place =
            Place { range: mapping.start..mapping.end, slot: 0, bias: 0, is_generated: false };
        if !mapping.has_file() {
            place.is_generated = mapping.path.is_empty();
            return Ok(Some(place));
        }
        match self.symbolizer.file(mapping.id) {
            Some(file) if self.tables.is_awaited(&file.key) => {
                return Err(Lacking::Table(file.key));
            }
            Some(file) => {
                place.slot = self.tables.slot(&file.key);
                place.bias = bias(mapping, file);
            }
            None if self.symbolizer.is_refused(mapping.id) => {}
            None => return Err(Lacking::Mapping),
        }
        Ok(Some(place))
    }
}
