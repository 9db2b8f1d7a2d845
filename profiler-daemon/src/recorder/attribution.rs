//! What becomes of a sample: whose it is, whether it is asked for, and which names it needs.

use std::collections::HashSet;

use profiler_ebpf::{
    record::{Kind, Sample, Wait},
    targets::Target,
};

use super::{
    RecordError, Recorder,
    collection::{CollectionId, Taken},
};
use crate::{
    kernel::{StackCopy, period_ns},
    process::{ImageRef, LifeId},
    profile::aggregate::{Code, Weighed, comm_text},
};

/// What waits until the side band of its time is here.
pub(super) enum Queued {
    Sample(Sample, Option<Box<StackCopy>>),
    WaitCopy(Sample, Box<StackCopy>),
    Wait(Kind, Box<Wait>),
    Spawn(Sample),
}

impl Queued {
    pub(super) fn time_ns(&self) -> u64 {
        match self {
            Self::Sample(sample, _) | Self::WaitCopy(sample, _) | Self::Spawn(sample) => {
                sample.time_ns
            }
            Self::Wait(_, wait) => wait.sample.time_ns,
        }
    }
}

impl Recorder {
    /// Attributes the samples of up to `until_ns`, and those that wait for unwind tables.
    pub(super) fn attribute(&mut self, until_ns: u64) -> Result<(), RecordError> {
        let mut stacks: HashSet<_> = self.try_copies()?.into_iter().collect();
        for (kind, wait) in self.copies.take_complete() {
            self.attribute_wait(kind, wait, &mut stacks)?;
        }
        let is_old = |queued: &mut Queued| queued.time_ns() <= until_ns;
        while let Some(queued) = self.queue.pop_front_if(is_old) {
            match queued {
                Queued::Sample(sample, copy) => {
                    stacks.extend(self.attribute_sample(sample, copy)?);
                }
                Queued::WaitCopy(sample, copy) => {
                    self.copies.begin_wait(&sample);
                    self.walk_wait(sample, copy);
                }
                Queued::Wait(kind, wait) => self.attribute_wait(kind, wait, &mut stacks)?,
                Queued::Spawn(sample) => {
                    let wait =
                        Wait { sample, begin_ns: sample.time_ns, weight: 1, ..Wait::default() };
                    self.attribute_wait(Kind::Spawn, Box::new(wait), &mut stacks)?;
                }
            }
        }
        self.want_names();
        self.touch(&stacks);
        self.attributed_ns = self.attributed_ns.max(until_ns);
        Ok(())
    }

    /// Attributes a sample, unless it has to wait. Returns where it went, and
    /// the index of its stack there.
    pub(super) fn attribute_sample(
        &mut self,
        mut sample: Sample,
        copy: Option<Box<StackCopy>>,
    ) -> Result<Option<(CollectionId, u32)>, RecordError> {
        let Sample { pid, start_ns, exec_id, time_ns, .. } = sample;
        let image = self.table.image_of(pid, start_ns, exec_id, time_ns);
        if self.table.life(image.life).is_some_and(|life| life.is_ours(image.image)) {
            self.account.left_out += 1;
            return Ok(None);
        }
        if pid == sample.tid {
            self.table.seen_comm(image.life, &comm_text(&sample.comm));
        }
        let decided = self.settings.filter.is_all();
        if !decided && !self.is_profiled(image.life, start_ns, exec_id)? {
            self.account.left_out += 1;
            return Ok(None);
        }
        if let Some(copy) = copy
            && !self.walked_or_waits(image, &mut sample, copy)
        {
            return Ok(None);
        }
        let mappings = self.table.life(image.life).and_then(|life| life.mappings(image.image));
        let taken = Taken { time_ns, cpu: sample.cpu, life: self.table.life(image.life) };
        let mut first = None;
        for (id, hertz, aggregate) in self.collections.of(&taken) {
            let weighed = [Weighed::running(period_ns(hertz))];
            let (stack, covered) = aggregate.add(&sample, image, mappings, &mut self.raw, &weighed);
            first.get_or_insert((id, stack, covered));
        }
        let Some((id, stack, covered)) = first else {
            self.account.left_out += 1;
            return Ok(None);
        };
        self.account.stored += 1;
        if !covered {
            self.table.uncovered(image.life, time_ns);
        }
        Ok(Some((id, stack)))
    }

    /// Asks for the names of what was seen for the first time.
    pub(super) fn want_names(&mut self) {
        let Self { collections, symbolizer, table, .. } = self;
        for aggregate in collections.aggregates_mut() {
            let from = aggregate.take_new_places();
            for place in &aggregate.places[from..] {
                match place.code {
                    Code::Kernel => symbolizer.want_kernel(place.avma),
                    Code::File(id) => {
                        if let Some(mapping) = aggregate.mappings.get(&id) {
                            symbolizer.want_file(id, mapping.file_offset_of(place.avma));
                        }
                    }
                    Code::Generated(life, _) => {
                        if let Some(life) = table.life(life) {
                            symbolizer.want_perf_map(life, place.avma);
                        }
                    }
                    Code::Unmapped(_) | Code::Lost | Code::NotTaken => {}
                }
            }
        }
    }

    /// The process and image that a thread is of, if they are to be profiled.
    pub(super) fn profiled_image(
        &mut self,
        sample: &Sample,
    ) -> Result<Option<ImageRef>, RecordError> {
        let Sample { pid, start_ns, exec_id, time_ns, .. } = *sample;
        let image = self.table.image_of(pid, start_ns, exec_id, time_ns);
        let is_profiled =
            self.settings.filter.is_all() || self.is_profiled(image.life, start_ns, exec_id)?;
        let is_ours = self.table.life(image.life).is_some_and(|life| life.is_ours(image.image));
        Ok((is_profiled && !is_ours).then_some(image))
    }

    /// Whether a sampled process is asked for; the kernel side is told, so that it asks no more.
    pub(super) fn is_profiled(
        &mut self,
        id: LifeId,
        start_ns: u64,
        exec_id: u32,
    ) -> Result<bool, RecordError> {
        let Some(life) = self.table.life_mut(id) else { return Ok(false) };
        let Some(profiled) = life.profiled else { return Ok(false) };
        if life.told != Some(exec_id) {
            life.told = Some(exec_id);
            let pids = self.settings.filter.is_pids();
            let target = Target {
                start_ns,
                exec_id,
                profiled: u16::from(profiled),
                inherited: u16::from(profiled && (life.inherited || pids)),
            };
            self.sampler.set_target(life.process.pid, target)?;
        }
        Ok(profiled)
    }
}
