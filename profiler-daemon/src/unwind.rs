//! Which files' unwind tables the kernel side has: each is asked for once, and the least recently
//! used are dropped where memory is short.

pub mod cache;
mod store;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use profiler_ebpf::unwind::table::{BLOCK_BYTES, Block, Blocks, Table, block_of};

use crate::{
    kernel::{KernelError, Placed},
    reader::protocol::{FileKey, UnwindTable},
};

/// Tables that wait for room, at most: their bytes are in memory meanwhile.
const MAX_PENDING: usize = 16;

/// How long it takes until the room of a dropped table can be used again.
const ROOM_AFTER: Duration = Duration::from_millis(1_200);

/// How long the table of a file that no process maps any more is kept.
const KEPT_UNMAPPED: Duration = Duration::from_secs(300);

/// Where tables are put.
pub trait Room {
    /// Puts a table, `words` being those of whole blocks; `None`: there is no room now.
    fn put(&mut self, table: &Table, words: &[u8]) -> Result<Option<Placed>, KernelError>;

    /// Takes one back; its room can be used again a little later.
    fn take_back(&mut self, placed: &Placed);
}

enum State {
    /// The reader was asked.
    Asked,
    /// The programs have it.
    Placed(Kept),
    /// It was dropped, and is asked for when it is used again.
    Dropped,
    /// The file has none, or it cannot be read.
    Absent,
}

/// A table that the programs have.
struct Kept {
    placed: Placed,
    used: Used,
    /// Since when no process is known to map its file.
    unmapped: Option<Instant>,
}

/// Number of the touch that was the last.
type Used = u64;

/// What is known of the files' tables.
#[derive(Default)]
pub struct Tables {
    files: HashMap<FileKey, State>,
    pending: VecDeque<(FileKey, UnwindTable)>,
    touches: Used,
    dropped: u64,
    /// When tables were dropped for the first one that waits.
    made_room: Option<Instant>,
}

impl Tables {
    /// Whether the reader has to be asked for this file's table, now that it is used.
    pub fn want(&mut self, key: FileKey) -> bool {
        let state = self.files.entry(key).or_insert(State::Dropped);
        let is_wanted = matches!(state, State::Dropped);
        if is_wanted {
            *state = State::Asked;
        }
        is_wanted
    }

    /// By which number mappings refer to the file's table; 0: there is none.
    pub fn slot(&self, key: &FileKey) -> u32 {
        match self.files.get(key) {
            Some(State::Placed(kept)) => kept.placed.slot(),
            _ => 0,
        }
    }

    /// Whether the file has no table yet, and may have one later.
    pub fn is_awaited(&self, key: &FileKey) -> bool {
        matches!(self.files.get(key), None | Some(State::Asked | State::Dropped))
    }

    /// A sample was in the file. `true`: its table was dropped, and the reader has to be asked.
    pub fn touch(&mut self, key: &FileKey) -> bool {
        self.touches += 1;
        match self.files.get_mut(key) {
            Some(State::Placed(kept)) => kept.used = self.touches,
            Some(state @ State::Dropped) => {
                *state = State::Asked;
                return true;
            }
            _ => {}
        }
        false
    }

    /// The reader's answer; `None`: the file has no table. [`Self::place`] does the rest.
    pub fn answered(&mut self, key: FileKey, table: Option<UnwindTable>) {
        let Some(state) = self.files.get_mut(&key) else { return };
        match table.filter(is_sound) {
            Some(table) if self.pending.len() < MAX_PENDING => self.pending.push_back((key, table)),
            Some(_) => *state = State::Dropped,
            None => *state = State::Absent,
        }
    }

    /// Puts what waits where there is room, and makes room for the next. The files whose slot has
    /// changed: the mappings of them must be published anew.
    ///
    /// # Errors
    ///
    /// [`KernelError`] if the kernel refuses memory.
    pub fn place(&mut self, room: &mut impl Room) -> Result<HashSet<FileKey>, KernelError> {
        let mut changed = HashSet::new();
        while let Some((key, table)) = self.pending.front() {
            let header = header(table);
            let Some(placed) = room.put(&header, &table.blocks)? else {
                if self.made_room.is_none_or(|since| since.elapsed() >= ROOM_AFTER) {
                    let need = table.blocks.len() as u64;
                    self.make_room(need, room, &mut changed);
                }
                break;
            };
            self.made_room = None;
            changed.insert(*key);
            let kept = Kept { placed, used: self.touches, unmapped: None };
            self.files.insert(*key, State::Placed(kept));
            self.pending.pop_front();
        }
        Ok(changed)
    }

    /// Drops the least recently used tables, of `need` bytes together. They may have lain apart from
    /// each other: then the next call drops more.
    fn make_room(&mut self, need: u64, room: &mut impl Room, changed: &mut HashSet<FileKey>) {
        let mut placed: Vec<_> = self
            .files
            .iter()
            .filter_map(|(key, state)| match state {
                State::Placed(kept) => Some((kept.used, *key, kept.placed.bytes())),
                _ => None,
            })
            .collect();
        if placed.is_empty() {
            // It is bigger than all the room there is.
            if let Some((key, _)) = self.pending.pop_front() {
                self.files.insert(key, State::Absent);
            }
            return;
        }
        self.made_room = Some(Instant::now());
        placed.sort_unstable_by_key(|(used, ..)| *used);
        let mut freed = 0;
        for (_, key, bytes) in placed {
            if freed >= need {
                return;
            }
            freed += bytes;
            if let Some(State::Placed(kept)) = self.files.insert(key, State::Dropped) {
                room.take_back(&kept.placed);
            }
            changed.insert(key);
            self.dropped += 1;
        }
    }

    /// Forgets files that no process maps any more. Their tables are kept for a while: programs are
    /// started again and again.
    pub fn retain(
        &mut self,
        is_mapped: impl Fn(&FileKey) -> bool,
        now: Instant,
        room: &mut impl Room,
    ) {
        self.files.retain(|key, state| {
            let is_mapped = is_mapped(key);
            match state {
                State::Asked => true,
                State::Placed(kept) if is_mapped => {
                    kept.unmapped = None;
                    true
                }
                State::Placed(kept) => {
                    let since = *kept.unmapped.get_or_insert(now);
                    let is_kept = now.duration_since(since) < KEPT_UNMAPPED;
                    if !is_kept {
                        room.take_back(&kept.placed);
                    }
                    is_kept
                }
                State::Dropped | State::Absent => is_mapped,
            }
        });
    }

    /// How many tables were dropped for want of room.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Where the parts of a table from the reader are.
pub(crate) fn header(table: &UnwindTable) -> Table {
    Table {
        base: table.base,
        pages: table.pages,
        shift: table.shift,
        first: 0,
        blocks: (table.blocks.len() / BLOCK_BYTES) as u32,
        rules: table.rules,
        reserved: 0,
    }
}

/// The reader may be anybody's by now: what it says has to make sense.
pub(crate) fn is_sound(table: &UnwindTable) -> bool {
    table.blocks.len().is_multiple_of(BLOCK_BYTES) && table.pages > 0 && header(table).is_sound()
}

/// A table's blocks, as the kernel side would have them.
pub(crate) struct TableBlocks(Vec<Block>);

impl TableBlocks {
    pub(crate) fn of(table: &UnwindTable) -> Self {
        Self(table.blocks.chunks_exact(BLOCK_BYTES).map(block_of).collect())
    }
}

impl Blocks for TableBlocks {
    fn block(&self, number: u32) -> Option<&Block> {
        self.0.get(number as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for so many blocks; what is taken back is free after `rest`.
    struct Space {
        free: u32,
        resting: u32,
        next: u32,
    }

    impl Space {
        fn of(free: u32) -> Self {
            Self { free, resting: 0, next: 1 }
        }
    }

    impl Room for Space {
        fn put(&mut self, table: &Table, words: &[u8]) -> Result<Option<Placed>, KernelError> {
            assert_eq!(words.len(), table.blocks as usize * BLOCK_BYTES);
            if table.blocks > self.free {
                return Ok(None);
            }
            self.free -= table.blocks;
            self.next += 1;
            Ok(Some(Placed { slot: self.next, first: 0, blocks: table.blocks }))
        }

        fn take_back(&mut self, placed: &Placed) {
            self.resting += placed.blocks;
        }
    }

    fn key(inode: u64) -> FileKey {
        FileKey { inode, ..FileKey::default() }
    }

    fn table(blocks: usize) -> UnwindTable {
        let blocks = vec![0; blocks * BLOCK_BYTES];
        UnwindTable { base: 0, pages: 1, shift: 16, rules: 1, blocks }
    }

    fn add(tables: &mut Tables, room: &mut Space, inode: u64, blocks: usize) -> HashSet<FileKey> {
        assert!(tables.want(key(inode)));
        assert!(!tables.want(key(inode)), "it was asked for already");
        tables.answered(key(inode), Some(table(blocks)));
        tables.place(room).unwrap()
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let (mut tables, mut room) = (Tables::default(), Space::of(9));
        for inode in 1..=3 {
            assert_eq!(add(&mut tables, &mut room, inode, 3), HashSet::from([key(inode)]));
            assert_ne!(tables.slot(&key(inode)), 0);
        }
        for inode in [2, 1, 3] {
            assert!(!tables.touch(&key(inode)));
        }
        assert_eq!(add(&mut tables, &mut room, 4, 4), HashSet::from([key(2), key(1)]));
        assert_eq!((tables.slot(&key(4)), tables.slot(&key(3)) != 0), (0, true));
        assert!(tables.place(&mut room).unwrap().is_empty(), "what rests is awaited");
        assert_eq!(tables.dropped(), 2);
        room.free += std::mem::take(&mut room.resting);
        assert_eq!(tables.place(&mut room).unwrap(), HashSet::from([key(4)]));
        assert!(tables.touch(&key(2)), "a dropped one is asked for when it is used");
        assert!(!tables.touch(&key(2)));
    }

    #[test]
    fn a_table_bigger_than_all_room_is_done_without() {
        let (mut tables, mut room) = (Tables::default(), Space::of(3));
        assert!(add(&mut tables, &mut room, 1, 4).is_empty());
        assert!(!tables.touch(&key(1)) && !tables.want(key(1)));
        assert_eq!(add(&mut tables, &mut room, 2, 3), HashSet::from([key(2)]));
    }

    #[test]
    fn nonsense_is_no_table() {
        let (mut tables, mut room) = (Tables::default(), Space::of(3));
        for (inode, broken) in (1..).zip([
            UnwindTable { shift: 40, ..table(2) },
            UnwindTable { rules: 7, ..table(2) },
            UnwindTable { pages: u32::MAX, ..table(2) },
            UnwindTable { blocks: vec![0; 5], ..table(2) },
        ]) {
            assert!(tables.want(key(inode)));
            tables.answered(key(inode), Some(broken));
            assert!(tables.place(&mut room).unwrap().is_empty());
        }
    }

    #[test]
    fn files_that_nobody_maps_are_forgotten() {
        let (mut tables, mut room) = (Tables::default(), Space::of(6));
        add(&mut tables, &mut room, 1, 3);
        add(&mut tables, &mut room, 2, 3);
        let now = Instant::now();
        let is_mapped = |it: &FileKey| *it == key(2);
        tables.retain(is_mapped, now, &mut room);
        assert_ne!(tables.slot(&key(1)), 0, "it may be mapped again soon");
        tables.retain(|_| true, now + KEPT_UNMAPPED, &mut room);
        tables.retain(is_mapped, now + KEPT_UNMAPPED, &mut room);
        assert_ne!(tables.slot(&key(1)), 0, "it was mapped meanwhile");
        tables.retain(is_mapped, now + 2 * KEPT_UNMAPPED, &mut room);
        assert_eq!((tables.slot(&key(1)), room.resting), (0, 3));
        assert!(tables.want(key(1)));
        assert_ne!(tables.slot(&key(2)), 0);
    }
}
