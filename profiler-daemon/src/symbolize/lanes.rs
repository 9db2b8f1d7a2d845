//! Which of the reader's names lanes a request goes to.

use crate::reader::{
    child::NAMES_LANES,
    protocol::{FileInfo, HEAVY_BYTES},
};

/// Requests that wait on a lane at once, so that the reader need not wait for us.
const IN_FLIGHT: usize = 4;

/// The lane of whatever takes much memory: one after the other, its peaks do not add up.
const HEAVY_LANE: usize = 0;

/// A request that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trip {
    /// Its lane.
    pub(super) lane: usize,
    /// That of the file it is for.
    pub(super) weight_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    waiting: usize,
    weight_bytes: u64,
}

/// What is under way on each lane.
#[derive(Debug)]
pub(super) struct Lanes(Vec<Lane>);

impl Lanes {
    /// As many lanes as the machine has CPUs to serve them.
    pub(super) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self(vec![Lane::default(); cpus.min(NAMES_LANES)])
    }

    /// Where a request for a file goes now, which is `usual`, if it has been asked for before: the
    /// reader keeps it parsed there. `None` while too much waits.
    pub(super) fn for_file(&self, file: &FileInfo, usual: Option<usize>) -> Option<Trip> {
        let weight_bytes = file.weight_bytes;
        let lane = match usual {
            _ if weight_bytes > HEAVY_BYTES => HEAVY_LANE,
            Some(usual) => usual,
            // Not the shorter queue: one heavy file outlasts many others.
            None => (0..self.0.len()).min_by_key(|lane| self.0[*lane].weight_bytes)?,
        };
        self.trip(lane, weight_bytes)
    }

    /// The same of what is no file: the kernel's symbols, a perf map.
    pub(super) fn for_another(&self) -> Option<Trip> {
        self.trip(HEAVY_LANE, 0)
    }

    fn trip(&self, lane: usize, weight_bytes: u64) -> Option<Trip> {
        (self.0[lane].waiting < IN_FLIGHT).then_some(Trip { lane, weight_bytes })
    }

    /// A request was sent.
    pub(super) fn begin(&mut self, trip: Trip) {
        let lane = &mut self.0[trip.lane];
        lane.waiting += 1;
        lane.weight_bytes = lane.weight_bytes.saturating_add(trip.weight_bytes);
    }

    /// It was answered, or never will be.
    pub(super) fn end(&mut self, trip: Trip) {
        let lane = &mut self.0[trip.lane];
        lane.waiting -= 1;
        lane.weight_bytes = lane.weight_bytes.saturating_sub(trip.weight_bytes);
    }

    /// Requests that are under way.
    pub(super) fn waiting(&self) -> usize {
        self.0.iter().map(|lane| lane.waiting).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(weight_bytes: u64) -> FileInfo {
        FileInfo { weight_bytes, ..FileInfo::default() }
    }

    fn two() -> Lanes {
        Lanes(vec![Lane::default(); 2])
    }

    #[test]
    fn heavy_files_queue_on_one_lane_and_light_ones_go_round_them() {
        let mut lanes = two();
        let heavy = file(HEAVY_BYTES + 1);
        for _ in 0..2 {
            let trip = lanes.for_file(&heavy, None).unwrap();
            assert_eq!(trip.lane, HEAVY_LANE);
            lanes.begin(trip);
        }
        for _ in 0..IN_FLIGHT {
            let trip = lanes.for_file(&file(1), None).unwrap();
            assert_eq!(trip.lane, 1);
            lanes.begin(trip);
        }
        // Better to wait for the other lane than behind heavy files.
        assert_eq!(lanes.for_file(&file(1), None), None);
        assert_eq!(lanes.waiting(), 2 + IN_FLIGHT);
    }

    #[test]
    fn a_file_stays_on_its_lane() {
        let mut lanes = two();
        let first = lanes.for_file(&file(10), None).unwrap();
        lanes.begin(first);
        assert_ne!(lanes.for_file(&file(10), None).unwrap().lane, first.lane);
        assert_eq!(lanes.for_file(&file(10), Some(first.lane)), Some(first));
        for _ in 1..IN_FLIGHT {
            lanes.begin(first);
        }
        assert_eq!(lanes.for_file(&file(10), Some(first.lane)), None);
        lanes.end(first);
        assert_eq!(lanes.for_file(&file(10), Some(first.lane)), Some(first));
    }

    #[test]
    fn all_goes_to_the_only_lane() {
        let mut lanes = Lanes(vec![Lane::default()]);
        for weight_bytes in [1, HEAVY_BYTES * 2, 1] {
            let trip = lanes.for_file(&file(weight_bytes), None).unwrap();
            assert_eq!(trip.lane, 0);
            lanes.begin(trip);
        }
        lanes.begin(lanes.for_another().unwrap());
        assert_eq!(lanes.for_another(), None);
    }
}
