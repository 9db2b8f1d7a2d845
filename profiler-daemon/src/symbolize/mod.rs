//! Names for addresses: asks the reader, keeps what it answered.

mod desk;
mod files;
mod go;
mod lanes;
mod names;
mod processes;
mod tables;
mod wants;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use names::of_answer;
pub use names::{FrameNames, NamedLine};
pub use tables::FileNews;

use std::{
    collections::{HashMap, HashSet},
    os::fd::BorrowedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    process::{LifeId, MappingId},
    reader::{
        client::ReaderError,
        link::{Failure, LaneName, Outcome},
        protocol::{
            FileInfo, FileKey, MAX_ADDRESSES, NameFile, NameKernel, NamePerfMap, ProcessInfo,
            Surroundings, reply, request,
        },
    },
    unwind::cache::{Cache, Digest},
};
use desk::{Desks, Which};
use files::{File, MappedFile, Refusals};
pub use go::ReadGo;
use lanes::Trip;
use names::{Addresses, Strings};
use processes::{Descriptions, ReadStacks};

/// The first new addresses are collected this long before they are asked for, the next twice as
/// long, and so on: each request may parse the file anew, and what a program does at its start it
/// mostly goes on doing.
const COLLECT: Duration = Duration::from_secs(1);

/// How often we look for what has been collected long enough, which then is asked for together:
/// one by one, as each is due, all but one of the reader's lanes would have nothing to do.
const ROUND: Duration = Duration::from_secs(1);

/// The longest that addresses are collected.
const COLLECT_LONGEST: Duration = Duration::from_secs(64);

/// Addresses of one file are collected this many times as long as naming the last ones took: it may
/// take a thousandth of a CPU.
const COLLECT_PER_COST: u32 = 1000;

/// A file or perf map under which the reader died or was late this often in a row is not tried again. After
/// the first time it is asked for alone: what else was being named is under suspicion as well.
const STRIKES: u32 = 2;

/// What an answer is the answer to.
#[derive(Debug)]
enum Mark {
    Pids,
    Describe(u32),
    Surroundings,
    HoldPerfMap(Which, LifeId),
    /// Under what tag, and of which process.
    Stacks(u64, u32),
    /// The same.
    Go(u64, u32),
    Rest,
    Open(MappingId),
    Reopen(FileKey),
    TableDigest(FileKey),
    /// With the digest under which the table is to be kept.
    Table(FileKey, Option<Digest>),
    Name(Which, Trip, Named),
}

/// What was to be named.
#[derive(Debug)]
enum Named {
    File(FileKey, Vec<u64>),
    Kernel(Vec<u64>),
    PerfMap(LifeId, Vec<u64>),
}

/// A process whose perf map is asked.
#[derive(Debug, Default)]
struct PerfMap {
    pid: u32,
    inner_pid: u32,
    uid: u32,
    reader: Option<Which>,
    strikes: u32,
    addresses: Addresses,
}

impl PerfMap {
    fn request(&self, life: LifeId, which: Which, avmas: Vec<u64>) -> NamePerfMap {
        let Self { pid, inner_pid, uid, .. } = *self;
        NamePerfMap { pid, inner_pid, uid, avmas, anywhere: which.goes_anywhere(), life: life.0 }
    }
}

/// How much was named, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Addresses that were answered.
    pub addresses: u64,
    /// Files they were in.
    pub files: u64,
    /// Time the reader had a naming request.
    pub busy: Duration,
    /// Unwind tables that were kept from an earlier run.
    pub tables_cached: u64,
    /// Unwind tables that a reader made.
    pub tables_made: u64,
}

/// Names for addresses.
pub struct Symbolizer {
    desks: Desks,
    descriptions: Descriptions,
    surroundings: Option<Result<Surroundings, String>>,
    stacks: Vec<ReadStacks>,
    go: Vec<ReadGo>,
    no_inlines: bool,
    mappings: HashMap<MappingId, MappedFile>,
    files: HashMap<FileKey, File>,
    refusals: Refusals,
    kernel: Addresses,
    kernel_strikes: u32,
    perf_maps: HashMap<LifeId, PerfMap>,
    /// When the last round began.
    round: Instant,
    strings: Strings,
    outcomes: Vec<(Mark, Outcome)>,
    asked: Option<Instant>,
    figures: Figures,
    warned: HashSet<String>,
    /// Files whose unwind tables are to be asked for.
    tables_wanted: Vec<FileKey>,
    /// Tables on disk.
    cache: Option<Cache>,
    news: Vec<FileNews>,
}

impl Symbolizer {
    /// Starts the reader. Unwind tables are kept in `cache`.
    ///
    /// # Errors
    ///
    /// [`ReaderError`].
    pub fn start(
        debug_dirs: Vec<PathBuf>,
        no_inlines: bool,
        cache: Option<Cache>,
    ) -> Result<Self, ReaderError> {
        Ok(Self {
            desks: Desks::start(debug_dirs)?,
            descriptions: Descriptions::default(),
            surroundings: None,
            stacks: Vec::new(),
            go: Vec::new(),
            no_inlines,
            mappings: HashMap::new(),
            files: HashMap::new(),
            refusals: Refusals::default(),
            kernel: Addresses::default(),
            kernel_strikes: 0,
            perf_maps: HashMap::new(),
            round: Instant::now(),
            strings: Strings::default(),
            outcomes: Vec::new(),
            asked: None,
            figures: Figures::default(),
            warned: HashSet::new(),
            tables_wanted: Vec::new(),
            cache,
            news: Vec::new(),
        })
    }

    /// Become readable when [`Self::poll`] has something to do.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.desks.fds()
    }

    /// Those of [`Self::fds`] that were not there at the last call.
    pub fn new_fds(&mut self) -> Vec<BorrowedFd<'_>> {
        self.desks.new_fds()
    }

    /// How many readers there were so far.
    pub fn readers_started(&self) -> u32 {
        self.desks.started()
    }

    /// The pids of the readers that run.
    pub fn readers(&self) -> impl Iterator<Item = u32> {
        self.desks.readers()
    }

    /// How many files are not read any more: readers died of them, or were late.
    pub fn refused(&self) -> usize {
        self.files.values().filter(|file| file.refused).count()
    }

    /// From now on names are to come from symbol tables alone, or not.
    pub fn set_no_inlines(&mut self, no_inlines: bool) {
        if std::mem::replace(&mut self.no_inlines, no_inlines) && !no_inlines {
            for file in self.files.values_mut().filter(|file| !file.refused) {
                file.addresses.want_all_again();
            }
        }
    }

    /// How much was named so far.
    pub fn figures(&self) -> Figures {
        Figures {
            files: self.files.values().filter(|file| file.named).count() as u64,
            ..self.figures
        }
    }

    /// Has a process's perf map opened, while it can be.
    fn hold_perf_map(&mut self, which: Which, life: LifeId) {
        let Some(map) = self.perf_maps.get(&life) else { return };
        let kind = request::Kind::HoldPerfMap(map.request(life, which, Vec::new()));
        self.desks.open(which, kind, Mark::HoldPerfMap(which, life));
    }

    /// Has the readers give up what they keep between requests.
    pub fn relieve(&mut self) {
        for which in Which::BOTH {
            self.desks.of(which).rest();
        }
        self.strings.forget_unused();
    }

    /// What the file behind a mapping is.
    pub fn file(&self, mapping: MappingId) -> Option<&FileInfo> {
        match self.mappings.get(&mapping)? {
            MappedFile::Known(key) => self.files.get(key).map(|file| &file.info),
            MappedFile::Asked(..) | MappedFile::Failed => None,
        }
    }

    /// Whether the file behind a mapping cannot be known.
    pub fn is_refused(&self, mapping: MappingId) -> bool {
        matches!(self.mappings.get(&mapping), Some(MappedFile::Failed))
    }

    /// Whether names are made as soon as other programs' work is done, or whenever CPUs have nothing
    /// else to do: on a full machine that may be never.
    pub fn hurry(&mut self, hurries: bool) {
        self.desks.hurry(hurries);
    }

    /// Takes answers, and asks what is to be asked. `urgent`: everything that is wanted, now.
    /// Returns processes that were described.
    pub fn poll(&mut self, urgent: bool) -> Vec<ProcessInfo> {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let restarted = self.desks.poll(&mut outcomes);
        let mut described = Vec::new();
        for (mark, outcome) in outcomes.drain(..) {
            self.outcome(mark, outcome, &mut described);
        }
        self.outcomes = outcomes;
        if self.desks.naming() == 0
            && let Some(asked) = self.asked.take()
        {
            self.figures.busy += asked.elapsed();
        }
        for which in restarted {
            self.reader_is_new(which);
        }
        for complaint in self.desks.complaints() {
            self.warn(&complaint);
        }
        self.ask_processes();
        self.take_from_cache();
        self.ask_tables();
        self.ask(urgent);
        described
    }

    fn outcome(&mut self, mark: Mark, outcome: Outcome, described: &mut Vec<ProcessInfo>) {
        match mark {
            Mark::Pids => self.pids_answered(outcome),
            Mark::Surroundings => {
                self.surroundings = Some(match outcome {
                    Outcome::Answer(reply::Kind::Surroundings(found)) => Ok(found),
                    Outcome::Answer(reply::Kind::Error(error)) => Err(error),
                    Outcome::Answer(_) => Err("the reader answered something else".to_owned()),
                    Outcome::Failed(failure) => Err(format!("the reader {}", said(failure))),
                });
            }
            Mark::HoldPerfMap(which, life) => {
                if which == Which::Steady
                    && let Outcome::Answer(reply::Kind::Elsewhere(_)) = outcome
                {
                    self.hold_perf_map(Which::Expendable, life);
                }
            }
            Mark::Rest => {}
            Mark::Stacks(tag, pid) => self.stacks_answered(tag, pid, outcome),
            Mark::Go(tag, pid) => self.go_answered(tag, pid, outcome),
            Mark::Describe(pid) => self.described(pid, outcome, described),
            Mark::Open(mapping) => self.opened(mapping, outcome),
            Mark::Reopen(key) => self.reopened(key, outcome),
            Mark::TableDigest(key) => self.digest_answered(key, outcome),
            Mark::Table(key, digest) => self.table_answered(key, digest, outcome),
            Mark::Name(which, trip, named) => {
                self.desks.of(which).lanes.end(trip);
                match named {
                    Named::File(key, offsets) => self.file_named(which, key, &offsets, outcome),
                    Named::Kernel(addresses) => self.kernel_named(&addresses, outcome),
                    Named::PerfMap(life, avmas) => {
                        self.perf_map_named(which, life, &avmas, outcome);
                    }
                }
            }
        }
    }

    fn kernel_named(&mut self, addresses: &[u64], outcome: Outcome) {
        match outcome {
            Outcome::Answer(kind) => {
                self.kernel_strikes = 0;
                match kind {
                    reply::Kind::Names(names) => {
                        self.figures.addresses += addresses.len() as u64;
                        self.kernel.answer(addresses, &names, &mut self.strings);
                        self.warn(&names.warning);
                    }
                    reply::Kind::Error(error) => {
                        self.kernel.no_names(addresses);
                        self.warn(&error);
                    }
                    _ => self.kernel.no_names(addresses),
                }
            }
            Outcome::Failed(failure) => {
                self.kernel_strikes += u32::from(failure != Failure::Lost);
                if self.kernel_strikes < STRIKES {
                    self.kernel.put_back(addresses);
                } else {
                    self.kernel.no_names(addresses);
                }
            }
        }
    }

    fn perf_map_named(&mut self, which: Which, life: LifeId, avmas: &[u64], outcome: Outcome) {
        let Some(map) = self.perf_maps.get_mut(&life) else { return };
        match outcome {
            Outcome::Answer(kind) => {
                map.strikes = 0;
                match kind {
                    reply::Kind::Names(names) => {
                        self.figures.addresses += avmas.len() as u64;
                        map.addresses.answer(avmas, &names, &mut self.strings);
                    }
                    reply::Kind::Elsewhere(why) => {
                        tracing::debug!("{why}");
                        map.reader = Some(Which::Expendable);
                        map.addresses.put_back(avmas);
                    }
                    reply::Kind::Error(error) => {
                        tracing::debug!("{error}");
                        map.addresses.no_names(avmas);
                    }
                    _ => map.addresses.no_names(avmas),
                }
            }
            Outcome::Failed(failure) => {
                map.strikes += which.strikes_for(failure);
                if map.strikes < STRIKES {
                    map.addresses.put_back(avmas);
                } else {
                    map.addresses.no_names(avmas);
                }
            }
        }
    }

    /// Says a thing once.
    fn warn(&mut self, text: &str) {
        if !text.is_empty() && self.warned.len() < 1000 && self.warned.insert(text.to_string()) {
            tracing::warn!("{}", text.escape_debug());
        }
    }

    fn file_named(&mut self, which: Which, key: FileKey, offsets: &[u64], outcome: Outcome) {
        let Some(file) = self.files.get_mut(&key) else { return };
        file.named = true;
        match outcome {
            Outcome::Answer(reply::Kind::Names(names)) => {
                self.figures.addresses += offsets.len() as u64;
                file.strikes = 0;
                file.addresses.answer(offsets, &names, &mut self.strings);
                self.warn(&names.warning);
            }
            Outcome::Answer(kind) => {
                file.addresses.no_names(offsets);
                if let reply::Kind::Error(error) = kind {
                    self.warn(&error);
                }
            }
            Outcome::Failed(Failure::Lost) => file.addresses.put_back(offsets),
            Outcome::Failed(failure) => {
                file.strikes += which.strikes_for(failure);
                file.addresses.put_back(offsets);
                if file.strikes >= STRIKES {
                    file.refused = true;
                    file.addresses.give_up();
                    let text = format!(
                        "{} is left unnamed: the reader {} over it",
                        file.open.path,
                        said(failure)
                    );
                    self.warn(&text);
                }
            }
        }
    }

    /// Keeps the reader busy with what is to be asked.
    fn ask(&mut self, urgent: bool) {
        if self.round.elapsed() >= ROUND {
            self.round = Instant::now();
        }
        let round = (!urgent).then_some(self.round);
        for which in Which::BOTH {
            while self.desks.of(which).link.is_running() && self.ask_next(which, round) {
                self.asked.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Sends one naming request; `false`: there is none to send now.
    fn ask_next(&mut self, which: Which, round: Option<Instant>) -> bool {
        let desk = self.desks.of(which);
        desk.alone &= desk.lanes.waiting() > 0;
        if desk.alone {
            return false;
        }
        if self.ask_one(which, round, false) {
            return true;
        }
        // Alone, so that a second strike is surely deserved.
        let alone = self.desks.of(which).lanes.waiting() == 0 && self.ask_one(which, round, true);
        self.desks.of(which).alone = alone;
        alone
    }

    /// Sends one naming request, for what is suspected of the last reader's end, or for what is
    /// not.
    fn ask_one(&mut self, which: Which, round: Option<Instant>, suspected: bool) -> bool {
        self.ask_kernel(which, round, suspected)
            || self.ask_file(which, round, suspected)
            || self.ask_perf_map(which, round, suspected)
    }

    fn ask_kernel(&mut self, which: Which, round: Option<Instant>, suspected: bool) -> bool {
        if which != Which::Steady
            || (self.kernel_strikes > 0) != suspected
            || !self.kernel.is_ripe(round)
        {
            return false;
        }
        let Some(trip) = self.desks.of(which).lanes.for_another() else { return false };
        let addresses = self.kernel.take_wanted(MAX_ADDRESSES);
        let kind = request::Kind::NameKernel(NameKernel { addresses: addresses.clone() });
        self.send(which, trip, kind, Named::Kernel(addresses))
    }

    fn ask_file(&mut self, which: Which, round: Option<Instant>, suspected: bool) -> bool {
        // The heaviest first: what comes last keeps one lane busy while the others have no work.
        let mut ripe: Option<(FileKey, Trip)> = None;
        for (&key, file) in &mut self.files {
            if file.reader != which
                || (file.strikes > 0) != suspected
                || !file.addresses.is_ripe(round)
                || !file.is_open_or_asked(key, &mut self.desks)
                || ripe.is_some_and(|(_, heaviest)| heaviest.weight_bytes >= file.info.weight_bytes)
            {
                continue;
            }
            if let Some(trip) = self.desks.of(which).lanes.for_file(&file.info, file.lane) {
                ripe = Some((key, trip));
            }
        }
        let Some((key, trip)) = ripe else { return false };
        let Some(file) = self.files.get_mut(&key) else { return false };
        file.lane = Some(trip.lane);
        let file_offsets = file.addresses.take_wanted(MAX_ADDRESSES);
        let named = Named::File(key, file_offsets.clone());
        let no_inlines = self.no_inlines;
        let kind = request::Kind::NameFile(NameFile { key, file_offsets, no_inlines });
        self.send(which, trip, kind, named)
    }

    fn ask_perf_map(&mut self, which: Which, round: Option<Instant>, suspected: bool) -> bool {
        let ripe = self.perf_maps.iter_mut().find(|(_, map)| {
            map.reader.unwrap_or(Which::Steady) == which
                && (map.strikes > 0) == suspected
                && map.addresses.is_ripe(round)
        });
        let Some((&life, map)) = ripe else { return false };
        let Some(trip) = self.desks.of(which).lanes.for_another() else { return false };
        let avmas = map.addresses.take_wanted(MAX_ADDRESSES);
        let named = Named::PerfMap(life, avmas.clone());
        let kind = request::Kind::NamePerfMap(map.request(life, which, avmas));
        self.send(which, trip, kind, named)
    }

    fn send(&mut self, which: Which, trip: Trip, kind: request::Kind, named: Named) -> bool {
        let desk = self.desks.of(which);
        let mark = Mark::Name(which, trip, named);
        let sent = desk.link.send(LaneName::Names(trip.lane), kind, mark);
        if sent.is_ok() {
            desk.lanes.begin(trip);
        }
        sent.is_ok()
    }

    /// Lets perf maps be asked once more for what they did not name: the profile is to be written.
    pub fn retry_perf_maps(&mut self) {
        for map in self.perf_maps.values_mut() {
            map.addresses.want_unnamed_again();
        }
    }

    /// Forgets everything about other mappings and processes than these.
    pub fn retain(&mut self, mappings: &HashSet<MappingId>, lives: &HashSet<LifeId>) {
        self.mappings.retain(|mapping, _| mappings.contains(mapping));
        self.perf_maps.retain(|life, _| lives.contains(life));
        let used: HashSet<_> = self
            .mappings
            .values()
            .filter_map(|state| match state {
                MappedFile::Known(key) => Some(*key),
                MappedFile::Asked(..) | MappedFile::Failed => None,
            })
            .collect();
        self.files.retain(|key, file| file.refused || used.contains(key));
        self.strings.forget_unused();
    }
}

fn said(failure: Failure) -> &'static str {
    match failure {
        Failure::Died => "died",
        Failure::Late => "did not answer in time",
        Failure::Lost => "was lost",
    }
}
