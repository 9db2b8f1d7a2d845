//! The unwind tables of files, as the kernel side has them: written here.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::MapData;
use profiler_ebpf::{
    config,
    unwind::{
        rule::Rule,
        table::{BLOCK_BYTES, Block, Blocks, SLAB_BLOCKS, Table, block_of},
    },
};

use super::{KernelError, bpf, runs::Runs, shared::SharedArray};

/// Where a table was put.
#[derive(Debug)]
pub struct Placed {
    pub(crate) slot: u32,
    pub(crate) first: u32,
    pub(crate) blocks: u32,
}

impl Placed {
    /// The element of the map `TABLES`, by which mappings refer to it.
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// What it takes.
    pub const fn bytes(&self) -> u64 {
        self.blocks as u64 * BLOCK_BYTES as u64
    }
}

impl Blocks for TableMap {
    fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.get((number / SLAB_BLOCKS) as usize)?.element(number % SLAB_BLOCKS)
    }
}

/// Publishes unwind tables.
pub(super) struct TableMap {
    slabs: OwnedFd,
    blocks: Vec<SharedArray<Block>>,
    tables: SharedArray<Table>,
    runs: Runs,
    slots: Runs,
    /// Blocks that may be made.
    limit: u32,
}

impl TableMap {
    /// `limit_bytes`: what all tables may take.
    pub(super) fn new(
        slabs: &MapData,
        tables: &MapData,
        limit_bytes: u64,
    ) -> Result<Self, KernelError> {
        let tables = SharedArray::new(tables.fd(), config::TABLES)?;
        let mut slots = Runs::default();
        slots.grow(config::TABLES);
        // Slot 0 stands for "no table".
        let _ = slots.take(1);
        let limit = (limit_bytes / BLOCK_BYTES as u64).min(u64::from(config::SLABS * SLAB_BLOCKS));
        let slabs = slabs.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            slabs: slabs.map_err(|error| KernelError::of("dup", error))?,
            blocks: Vec::new(),
            tables,
            runs: Runs::default(),
            slots,
            limit: limit as u32,
        })
    }

    /// What is set aside for tables, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(SLAB_BLOCKS) * BLOCK_BYTES as u64
    }

    /// Makes a table known; where it is, or `None` if there is no room.
    ///
    /// `words` are those of whole blocks.
    pub(super) fn insert(
        &mut self,
        table: &Table,
        words: &[u8],
    ) -> Result<Option<Placed>, KernelError> {
        let count = (words.len() / BLOCK_BYTES) as u32;
        let Some(first) = self.take(count)? else { return Ok(None) };
        let Some(slot) = self.slots.take(1) else {
            self.runs.give_back(first, count);
            return Ok(None);
        };
        for (number, bytes) in (first..).zip(words.chunks_exact(BLOCK_BYTES)) {
            let slab = &mut self.blocks[(number / SLAB_BLOCKS) as usize];
            slab.set(number % SLAB_BLOCKS, block_of(bytes));
        }
        self.tables.set(slot, Table { first, blocks: count, ..*table });
        Ok(Some(Placed { slot, first, blocks: count }))
    }

    /// The rule in force at `svma` of the file whose table is in this slot.
    pub(super) fn rule(&self, slot: u32, svma: u64) -> Rule {
        self.tables.element(slot).map_or(Rule::GAP, |table| table.find(self, svma))
    }

    /// A run of blocks, new ones if need be.
    fn take(&mut self, count: u32) -> Result<Option<u32>, KernelError> {
        if let Some(first) = self.runs.take(count) {
            return Ok(Some(first));
        }
        let limit = self.limit / SLAB_BLOCKS;
        let have = self.blocks.len() as u32;
        let need = count.div_ceil(SLAB_BLOCKS);
        // Twice as many each time: adding some takes as long as adding one.
        let add = need.max(have).min(limit.saturating_sub(have));
        if add < need {
            return Ok(None);
        }
        let maps = (0..add).map(|_| bpf::create_array(BLOCK_BYTES as u32, SLAB_BLOCKS));
        let maps: Vec<_> = match maps.collect::<Result<_, _>>() {
            Err(error) if KernelError::is_want_of_descriptors(&error) => return Ok(None),
            maps => maps?,
        };
        bpf::put_maps(self.slabs.as_fd(), have, &maps)?;
        for map in &maps {
            self.blocks.push(SharedArray::new(map, SLAB_BLOCKS)?);
        }
        self.runs.grow(add * SLAB_BLOCKS);
        Ok(self.runs.take(count))
    }

    /// Takes back a table that no mapping refers to any more.
    pub(super) fn remove(&mut self, placed: &Placed) {
        let &Placed { slot, first, blocks } = placed;
        self.slots.give_back(slot, 1);
        self.runs.give_back(first, blocks);
    }
}
