//! What a recording wants of an address: its names, once they have come.

use super::{FrameNames, Symbolizer, desk::Which, files::MappedFile};
use crate::process::{Life, LifeId, MappingId};

impl Symbolizer {
    /// Asks for the name of an offset in the file behind a mapping.
    pub fn want_file(&mut self, mapping: MappingId, file_offset: u64) {
        match self.mappings.get_mut(&mapping) {
            Some(MappedFile::Asked(_, _, offsets)) => offsets.push(file_offset),
            Some(MappedFile::Known(key)) => {
                if let Some(file) = self.files.get_mut(key)
                    && !file.refused
                {
                    file.addresses.want(file_offset);
                }
            }
            Some(MappedFile::Failed) | None => {}
        }
    }

    /// Asks for the name of a kernel address.
    pub fn want_kernel(&mut self, address: u64) {
        self.kernel.want(address);
    }

    /// Asks for the name of an address that no file covers.
    pub fn want_perf_map(&mut self, life: &Life, avma: u64) {
        let map = self.perf_maps.entry(life.id).or_default();
        let is_new = map.pid == 0;
        map.pid = life.process.pid;
        map.inner_pid = life.inner_pid;
        map.uid = life.uid;
        map.addresses.want(avma);
        if is_new {
            self.hold_perf_map(Which::Steady, life.id);
        }
    }

    /// The names of an offset in the file behind a mapping, if they have come.
    pub fn file_names(&self, mapping: MappingId, file_offset: u64) -> Option<&FrameNames> {
        match self.mappings.get(&mapping)? {
            MappedFile::Known(key) => self.files.get(key)?.addresses.get(file_offset),
            MappedFile::Asked(..) | MappedFile::Failed => None,
        }
    }

    /// The names of a kernel address, if they have come.
    pub fn kernel_names(&self, address: u64) -> Option<&FrameNames> {
        self.kernel.get(address)
    }

    /// The names of an address that no file covers, if they have come.
    pub fn perf_map_names(&self, life: LifeId, avma: u64) -> Option<&FrameNames> {
        self.perf_maps.get(&life)?.addresses.get(avma)
    }

    /// Whether a name of an offset in the file behind a mapping may still come.
    pub fn is_file_pending(&self, mapping: MappingId, file_offset: u64) -> bool {
        match self.mappings.get(&mapping) {
            Some(MappedFile::Asked(..)) => true,
            Some(MappedFile::Known(key)) => {
                self.files.get(key).is_some_and(|file| file.addresses.is_pending(file_offset))
            }
            Some(MappedFile::Failed) | None => false,
        }
    }

    /// Whether a name of a kernel address may still come.
    pub fn is_kernel_pending(&self, address: u64) -> bool {
        self.kernel.is_pending(address)
    }

    /// Whether a name of an address that no file covers may still come.
    pub fn is_perf_map_pending(&self, life: LifeId, avma: u64) -> bool {
        self.perf_maps.get(&life).is_some_and(|map| map.addresses.is_pending(avma))
    }
}
