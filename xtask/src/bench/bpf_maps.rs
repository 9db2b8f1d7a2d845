//! The BPF maps of a running rprofd, as the kernel has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError};
use profiler_ebpf::mappings::{Process, Range};

use super::bpf_statistics::field;

/// All of them, opened by the IDs that the core's descriptors tell.
pub(super) struct Maps {
    processes: HashMap<MapData, u32, Process>,
    ranges: Array<MapData, Range>,
    /// The maps in it have no descriptor in the core.
    slabs: ArrayOfMaps<MapData>,
    all: Vec<OwnedFd>,
}

impl Maps {
    /// Those of the core `pid`; `None` as long as it has not loaded them.
    pub(super) fn of(pid: u32) -> Result<Option<Self>> {
        // A map may have several descriptors.
        let mut ids = BTreeSet::new();
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            let Ok(text) = fs::read_to_string(file?.path()) else { continue };
            if let Some(id) = field(&text, "map_id:") {
                ids.insert(u32::try_from(id)?);
            }
        }
        let mut all = Vec::new();
        let mut named = BTreeMap::new();
        for id in ids {
            let map = MapData::from_id(id).context("open a BPF map by its ID")?;
            let name = map.info()?.name_as_str().unwrap_or_default().to_owned();
            all.push(map.fd().as_fd().try_clone_to_owned()?);
            named.insert(name, map);
        }
        let (Some(processes), Some(ranges), Some(slabs)) =
            (named.remove("PROCESSES"), named.remove("RANGES"), named.remove("SLABS"))
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            processes: HashMap::try_from(Map::HashMap(processes))?,
            ranges: Array::try_from(Map::Array(ranges))?,
            slabs: ArrayOfMaps::try_from(Map::ArrayOfMaps(slabs))?,
            all,
        }))
    }

    /// What the kernel accounts to them, the slabs of unwind tables included.
    pub(super) fn memory_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for map in &self.all {
            bytes += memory_bytes(map.as_fd())?;
        }
        for index in 0..self.slabs.len() {
            match self.slabs.get(&index, 0) {
                Ok(slab) => bytes += memory_bytes(slab.fd().as_fd())?,
                // They are filled from the first on.
                Err(MapError::KeyNotFound) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    /// How many processes the programs know the mappings of.
    pub(super) fn processes(&self) -> usize {
        self.processes.keys().filter(Result::is_ok).count()
    }

    /// First avmas of the mappings of `pid` whose files' unwind tables the programs have.
    pub(super) fn with_table(&self, pid: u32) -> Result<Vec<u64>> {
        let process = match self.processes.get(&pid, 0) {
            Ok(process) => process,
            Err(MapError::KeyNotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut starts = Vec::new();
        for index in (process.first..).take(process.count as usize) {
            let range = self.ranges.get(&index, 0)?;
            if range.table != 0 {
                starts.push(range.start);
            }
        }
        Ok(starts)
    }
}

fn memory_bytes(map: BorrowedFd<'_>) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    field(&text, "memlock:").with_context(|| format!("no “memlock” in {path}"))
}
