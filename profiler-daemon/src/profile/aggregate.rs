//! The samples of one window, added up: what is kept until there are names for them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use profiler_ebpf::{
    record,
    unwind::Outcome,
    waits::{STATES, State},
};

use super::{
    Outcomes,
    frame::KERNEL_START,
    labels::{self, LabelSets},
    raw_stacks::RawStacks,
};
use crate::process::{ImageRef, LifeId, Mapping, MappingId, Mappings};

/// Where code is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// In the kernel.
    Kernel,
    /// In a mapped file.
    File(MappingId),
    /// In a mapping that no file is behind: compiled at run time.
    Generated(LifeId, MappingId),
    /// In no mapping that is known.
    Unmapped(LifeId),
    /// Stands for a stack that was lost on its way.
    Lost,
    /// Stands for a stack that was not taken.
    NotTaken,
}

/// A code address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Where it is.
    pub code: Code,
    /// Its avma: for a caller, of the last byte of the call instruction.
    pub avma: u64,
}

/// What was counted of a thread at a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The process.
    pub life: LifeId,
    /// Index in [`Aggregate::stacks`].
    pub stack: u32,
    /// Thread's id in the initial namespace.
    pub tid: u32,
    /// Index in [`Aggregate::threads`].
    pub thread: u32,
    /// What the thread did.
    pub state: State,
    /// The system call that it waited in, while it did.
    pub system_call: u32,
    /// Number in [`Aggregate::labels`].
    pub labels: u32,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// How often.
    pub count: f64,
    /// For how long, in nanoseconds.
    pub time_ns: f64,
}

/// What a sample is of, and stands for.
#[derive(Clone, Copy, Debug)]
pub struct Weighed {
    /// What the thread did.
    pub state: State,
    /// The system call that it waited in, while it did.
    pub system_call: u32,
    /// How often, and for how long.
    pub measured: Measured,
}

impl Weighed {
    /// A thread that ran for this long.
    pub const fn running(time_ns: u64) -> Self {
        let measured = Measured { count: 1.0, time_ns: time_ns as f64 };
        Self { state: State::Running, system_call: 0, measured }
    }
}

/// For how long a thread was in each state, by the state's number, in nanoseconds.
pub type Totals = [u64; STATES];

/// A sample's stack as it was resolved before.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Resolved {
    image: ImageRef,
    generation: u32,
    user: u64,
    kernel: u64,
}

/// The samples of one window.
#[derive(Default)]
pub struct Aggregate {
    /// Distinct places.
    pub places: Vec<Place>,
    /// Distinct stacks: indices into `places`, leaf first.
    pub stacks: Vec<Box<[u32]>>,
    /// Distinct names of threads.
    pub threads: Vec<Arc<str>>,
    /// Distinct sets of labels.
    pub labels: LabelSets,
    /// What was counted of each.
    pub counts: HashMap<Key, Measured>,
    /// The mappings that places are in.
    pub mappings: HashMap<MappingId, Arc<Mapping>>,
    /// How unwinding ended, by process.
    pub outcomes: HashMap<LifeId, Outcomes>,
    /// Samples whose stack was lost.
    pub stacks_lost: u64,
    place_ids: HashMap<Place, u32>,
    stack_ids: HashMap<Box<[u32]>, u32>,
    thread_ids: HashMap<[u8; 16], u32>,
    resolved: HashMap<(u32, Resolved), u32>,
    /// By epoch and ID.
    resolved_labels: HashMap<(u32, u64), u32>,
    named_to: usize,
}

impl Aggregate {
    /// Adds a sample of `image`, whose mappings are `mappings`, for what it stands for. Returns the index of its stack, and
    /// whether every address of its user stack was in a mapping.
    pub fn add(
        &mut self,
        sample: &record::Sample,
        image: ImageRef,
        mappings: Option<&Mappings>,
        raw: &mut RawStacks,
        weighed: &[Weighed],
    ) -> (u32, bool) {
        let generation = mappings.map_or(0, |mappings| mappings.generation(sample.time_ns));
        let resolved =
            Resolved { image, generation, user: sample.user_stack, kernel: sample.kernel_stack };
        let mut covered = true;
        let known = self.resolved.get(&(sample.epoch, resolved)).copied();
        let stack = known.unwrap_or_else(|| {
            let (stack, whole) = self.resolve(sample, image, mappings, raw, &mut covered);
            if whole {
                self.resolved.insert((sample.epoch, resolved), stack);
            }
            stack
        });
        let thread = self.thread(sample.comm);
        let labels = self.label_set(sample, raw);
        for &Weighed { state, system_call, measured } in weighed {
            let (life, tid) = (image.life, sample.tid);
            let key = Key { life, stack, tid, thread, state, system_call, labels };
            let sum = self.counts.entry(key).or_default();
            sum.count += measured.count;
            sum.time_ns += measured.time_ns;
        }
        let outcomes = self.outcomes.entry(image.life).or_default();
        *match Outcome::from_number(sample.outcome) {
            Some(Outcome::Complete) => &mut outcomes.complete,
            Some(Outcome::Guessed) => &mut outcomes.guessed,
            Some(Outcome::Truncated) => &mut outcomes.truncated,
            Some(Outcome::NoMapping) => &mut outcomes.no_mapping,
            Some(Outcome::NoRule) => &mut outcomes.no_rule,
            Some(Outcome::UnsupportedRule) => &mut outcomes.unsupported_rule,
            Some(Outcome::Unreadable) => &mut outcomes.unreadable,
            Some(Outcome::None) | None => &mut outcomes.none,
        } += 1;
        (stack, covered)
    }

    /// The mappings that a stack is in.
    pub fn mappings_of(&self, stack: u32) -> impl Iterator<Item = MappingId> {
        self.stacks[stack as usize].iter().filter_map(|&place| {
            match self.places[place as usize].code {
                Code::File(id) => Some(id),
                _ => None,
            }
        })
    }

    /// The number of a sample's labels; of lost ones it has none.
    fn label_set(&mut self, sample: &record::Sample, raw: &RawStacks) -> u32 {
        if sample.labels == 0 {
            return 0;
        }
        let which = (sample.epoch, sample.labels);
        if let Some(&known) = self.resolved_labels.get(&which) {
            return known;
        }
        let Some(words) = raw.words(sample.epoch, sample.labels) else { return 0 };
        let set = self.labels.add(labels::decode(words));
        self.resolved_labels.insert(which, set);
        set
    }

    /// The stack of a sample, and whether all of it was there.
    fn resolve(
        &mut self,
        sample: &record::Sample,
        image: ImageRef,
        mappings: Option<&Mappings>,
        raw: &mut RawStacks,
        covered: &mut bool,
    ) -> (u32, bool) {
        let mut stack = Vec::new();
        let mut whole = true;
        if sample.kernel_stack != 0 {
            match raw.get(sample.epoch, sample.kernel_stack, sample.kernel_check) {
                Some(frames) => {
                    for (depth, &avma) in frames.iter().enumerate() {
                        let avma = avma - u64::from(depth > 0);
                        stack.push(self.place(Place { code: Code::Kernel, avma }));
                    }
                }
                None => whole = false,
            }
        }
        if sample.user_stack != 0 {
            match raw.get(sample.epoch, sample.user_stack, sample.user_check) {
                Some(frames) => {
                    for (depth, &avma) in frames.iter().enumerate() {
                        let avma = avma.saturating_sub(u64::from(depth > 0));
                        let code = self.user_code(image.life, avma, mappings, sample.time_ns);
                        *covered &= !matches!(code, Code::Unmapped(_));
                        stack.push(self.place(Place { code, avma }));
                    }
                }
                None => whole = false,
            }
        }
        if !whole {
            self.stacks_lost += 1;
            stack.push(self.place(Place { code: Code::Lost, avma: 0 }));
        }
        (self.stack(stack), whole)
    }

    /// What an address of a process is in.
    fn user_code(
        &mut self,
        life: LifeId,
        avma: u64,
        mappings: Option<&Mappings>,
        time_ns: u64,
    ) -> Code {
        let Some(mapping) = mappings.and_then(|mappings| mappings.find(avma, time_ns)) else {
            return Code::Unmapped(life);
        };
        self.mappings.entry(mapping.id).or_insert_with(|| Arc::clone(mapping));
        if mapping.has_file() { Code::File(mapping.id) } else { Code::Generated(life, mapping.id) }
    }

    /// Adds addresses of a process that are to be named, as one stack: no sample of it was taken.
    pub fn add_addresses(
        &mut self,
        life: LifeId,
        avmas: &[u64],
        mappings: Option<&Mappings>,
        time_ns: u64,
    ) {
        let stack = avmas
            .iter()
            .map(|&avma| {
                let code = if avma >= KERNEL_START {
                    Code::Kernel
                } else {
                    self.user_code(life, avma, mappings, time_ns)
                };
                self.place(Place { code, avma })
            })
            .collect();
        let stack = self.stack(stack);
        let thread = self.thread([0; 16]);
        let (state, system_call) = (State::Running, 0);
        let key = Key { life, stack, tid: 0, thread, state, system_call, labels: 0 };
        self.counts.insert(key, Measured::default());
        self.outcomes.entry(life).or_default();
    }

    fn place(&mut self, place: Place) -> u32 {
        if let Some(&id) = self.place_ids.get(&place) {
            return id;
        }
        let id = self.places.len() as u32;
        self.places.push(place.clone());
        self.place_ids.insert(place, id);
        id
    }

    fn stack(&mut self, stack: Vec<u32>) -> u32 {
        let stack = stack.into_boxed_slice();
        if let Some(&id) = self.stack_ids.get(&stack) {
            return id;
        }
        let id = self.stacks.len() as u32;
        self.stacks.push(stack.clone());
        self.stack_ids.insert(stack, id);
        id
    }

    fn thread(&mut self, comm: [u8; 16]) -> u32 {
        if let Some(&id) = self.thread_ids.get(&comm) {
            return id;
        }
        let id = self.threads.len() as u32;
        self.threads.push(comm_text(&comm).into());
        self.thread_ids.insert(comm, id);
        id
    }

    /// Index of the first place that came since the last call: names are to be asked for.
    pub fn take_new_places(&mut self) -> usize {
        std::mem::replace(&mut self.named_to, self.places.len())
    }

    /// The processes that were sampled.
    pub fn lives(&self) -> HashSet<LifeId> {
        self.outcomes.keys().copied().collect()
    }

    /// Has what was counted of each thread last for as long as it was in each state: what samples
    /// and kept waits tell is how that time is shared by stacks. `threads`: their comm, too.
    pub fn stretch(&mut self, threads: &HashMap<(LifeId, u32), (Totals, [u8; 16])>) {
        let mut sums: HashMap<(LifeId, u32, State), f64> = HashMap::new();
        for (key, measured) in &self.counts {
            *sums.entry((key.life, key.tid, key.state)).or_default() += measured.time_ns;
        }
        for (key, measured) in &mut self.counts {
            let sum = sums.get(&(key.life, key.tid, key.state)).copied().unwrap_or_default();
            if let Some((totals, _)) = threads.get(&(key.life, key.tid))
                && sum > 0.0
            {
                let factor = totals[key.state as usize] as f64 / sum;
                measured.count *= factor;
                measured.time_ns *= factor;
            }
        }
        let not_taken = self.place(Place { code: Code::NotTaken, avma: 0 });
        let stack = self.stack(vec![not_taken]);
        for (&(life, tid), (totals, comm)) in threads {
            for (number, &total_ns) in totals.iter().enumerate() {
                let Some(state) = State::from_number(number as u32) else { continue };
                let is_told = sums.get(&(life, tid, state)).is_some_and(|sum| *sum > 0.0);
                if is_told || total_ns == 0 {
                    continue;
                }
                let thread = self.thread(*comm);
                let system_call = u32::MAX;
                let key = Key { life, stack, tid, thread, state, system_call, labels: 0 };
                let measured = Measured { count: 1.0, time_ns: total_ns as f64 };
                self.counts.insert(key, measured);
                self.outcomes.entry(life).or_default();
            }
        }
    }

    /// How often something was counted.
    #[cfg(test)]
    pub fn samples(&self) -> u64 {
        self.counts.values().map(|it| it.count as u64).sum()
    }
}

/// A NUL-padded comm as text.
pub fn comm_text(comm: &[u8; 16]) -> String {
    let text = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAN: Weighed = Weighed::running(10);
    const IMAGE: ImageRef = ImageRef { life: LifeId(1), image: 0 };

    fn header(epoch: u32, id: u64, check: u32, frames: u32) -> record::StackHeader {
        record::StackHeader { kind: 2, epoch, id, check, frames }
    }

    fn mappings(start: u64, time_ns: u64) -> Mappings {
        let mut mappings = Mappings::default();
        let mapping = Mapping {
            id: MappingId(start as u32),
            start,
            end: start + 0x1000,
            file_offset: 0,
            path: "/bin/x".into(),
            build_id: Vec::new(),
            device: 0,
            inode: 0,
        };
        mappings.map(Arc::new(mapping), time_ns);
        mappings
    }

    fn sample(epoch: u32, time_ns: u64) -> record::Sample {
        record::Sample {
            epoch,
            time_ns,
            user_stack: 9,
            user_check: 5,
            pid: 7,
            tid: 7,
            ..Default::default()
        }
    }

    #[test]
    fn a_stack_sent_once_serves_all_its_samples() {
        let mut raw = RawStacks::default();
        raw.add(&header(1, 9, 5, 2), &[0x1004, 0x1010]);
        let mut aggregate = Aggregate::default();
        let mappings = mappings(0x1000, 1);
        for time_ns in 10..20 {
            let (_, covered) =
                aggregate.add(&sample(1, time_ns), IMAGE, Some(&mappings), &mut raw, &[RAN]);
            assert!(covered);
        }
        assert_eq!(aggregate.counts.len(), 1);
        assert_eq!(aggregate.samples(), 10);
        let avmas: Vec<_> = aggregate.places.iter().map(|place| place.avma).collect();
        assert_eq!(avmas, [0x1004, 0x100f], "a return address is behind its call");
        assert_eq!(aggregate.take_new_places(), 0);
        assert_eq!(aggregate.take_new_places(), 2);
    }

    #[test]
    fn samples_are_told_apart_by_labels() {
        let mut raw = RawStacks::default();
        raw.add(&header(1, 9, 5, 1), &[0x1004]);
        let words: Vec<u64> =
            [1 | 2 << 32, u64::from(b'k'), 0, 0, 0, 0, 0x3131].into_iter().chain([0; 9]).collect();
        raw.add(&header(1, 77, 1, 16), &words);
        let mut aggregate = Aggregate::default();
        for labels in [77, 0, 77, 78] {
            let sample = record::Sample { labels, ..sample(1, 10) };
            aggregate.add(&sample, IMAGE, None, &mut raw, &[RAN]);
        }
        let of = |set: u32| {
            let counts = aggregate.counts.iter().filter(|(key, _)| key.labels == set);
            counts.map(|(_, measured)| measured.count).sum::<f64>()
        };
        assert_eq!((of(0), of(1)), (2.0, 2.0), "what did not come is no label");
        let (key, value) = &aggregate.labels.get(1)[0];
        assert_eq!((&**key, &**value), ("k", "11"));
    }

    #[test]
    fn one_stack_means_two_things_when_mappings_change() {
        let mut raw = RawStacks::default();
        raw.add(&header(1, 9, 5, 1), &[0x1004]);
        let mut aggregate = Aggregate::default();
        let mut mappings = mappings(0x1000, 1);
        aggregate.add(&sample(1, 10), IMAGE, Some(&mappings), &mut raw, &[RAN]);
        let other = Mapping {
            id: MappingId(77),
            path: "/bin/y".into(),
            ..mappings.current().next().unwrap().as_ref().clone()
        };
        mappings.map(Arc::new(other), 20);
        aggregate.add(&sample(1, 30), IMAGE, Some(&mappings), &mut raw, &[RAN]);
        assert_eq!(aggregate.places.len(), 2);
        assert_eq!(aggregate.stacks.len(), 2);
    }

    #[test]
    fn lost_and_colliding_stacks_are_counted() {
        let mut raw = RawStacks::default();
        let mut aggregate = Aggregate::default();
        aggregate.add(&sample(1, 10), IMAGE, None, &mut raw, &[RAN]);
        assert_eq!(aggregate.stacks_lost, 1);
        raw.add(&header(1, 9, 6, 1), &[0x2004]);
        raw.add(&header(1, 9, 5, 1), &[0x1004]);
        assert_eq!(raw.collisions(), 1);
        aggregate.add(&sample(1, 10), IMAGE, None, &mut raw, &[RAN]);
        assert_eq!((aggregate.stacks_lost, raw.collisions()), (2, 2));
        assert_eq!(aggregate.samples(), 2, "the samples count all the same");
    }

    #[test]
    fn time_is_stretched_to_what_it_was() {
        let mut raw = RawStacks::default();
        raw.add(&header(1, 9, 5, 1), &[0x1004]);
        let mut aggregate = Aggregate::default();
        for (state, time_ns) in
            [(State::Running, 30.0), (State::Waiting, 50.0), (State::Waiting, 50.0)]
        {
            let measured = Measured { count: 1.0, time_ns };
            let weighed = Weighed { state, system_call: 0, measured };
            aggregate.add(&sample(1, 10), IMAGE, None, &mut raw, &[weighed]);
        }
        let threads = [((IMAGE.life, 7), ([60, 5, 0, 200], [0; 16]))].into();
        aggregate.stretch(&threads);
        let of = |state: State| {
            let counts = aggregate.counts.iter().filter(|(key, _)| key.state == state);
            counts.map(|(_, measured)| measured.time_ns).sum::<f64>()
        };
        assert_eq!(of(State::Running), 60.0);
        assert_eq!(of(State::Waiting), 200.0);
        assert_eq!(of(State::Runnable), 5.0, "of which no stack was taken");
        assert_eq!(aggregate.counts.len(), 3);
    }
}
