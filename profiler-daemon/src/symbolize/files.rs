//! The files behind mappings: opened in the reader while that is possible, and again in the next
//! reader.

use std::collections::HashMap;

use super::{Addresses, Desks, FileNews, Mark, Symbolizer, Which, said};
use crate::{
    process::{Mapping, MappingId},
    reader::{
        link::{Failure, Outcome},
        protocol::{FileInfo, FileKey, Open, reply, request},
    },
};

/// What is known of the file behind a mapping.
#[derive(Debug)]
pub(super) enum MappedFile {
    /// A reader was asked; the offsets are wanted once it has answered.
    Asked(Which, Box<Open>, Vec<u64>),
    Known(FileKey),
    Failed,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) info: FileInfo,
    /// How to open it again, in the next reader.
    pub(super) open: Open,
    pub(super) reader: Which,
    /// The reader that runs has it open.
    pub(super) is_open: bool,
    reopening: bool,
    /// Where the reader that runs has it parsed.
    pub(super) lane: Option<usize>,
    pub(super) strikes: u32,
    pub(super) refused: bool,
    pub(super) named: bool,
    pub(super) addresses: Addresses,
}

impl File {
    /// Whether the reader that runs has it open; if not, it is asked to.
    pub(super) fn is_open_or_asked(&mut self, key: FileKey, desks: &mut Desks) -> bool {
        if !self.is_open && !self.reopening {
            self.reopening = true;
            desks.open(self.reader, request::Kind::Open(self.open.clone()), Mark::Reopen(key));
        }
        self.is_open
    }
}

/// The most files that are remembered as refused.
const MAX_REFUSALS: usize = 4096;

/// Files over which a reader was lost when it opened them, as the kernel reports them, and what was
/// said: other processes may map them, too.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<(String, Vec<u8>, u64, u64), String>);

impl Refusals {
    fn key(open: &Open) -> (String, Vec<u8>, u64, u64) {
        (open.path.clone(), open.build_id.clone(), open.device, open.inode)
    }

    fn get(&self, open: &Open) -> Option<&String> {
        if self.0.is_empty() { None } else { self.0.get(&Self::key(open)) }
    }

    fn insert(&mut self, open: &Open, why: String) {
        if self.0.len() >= MAX_REFUSALS {
            self.0.clear();
        }
        self.0.insert(Self::key(open), why);
    }
}

impl Symbolizer {
    /// Has the file behind a mapping opened, while it can be.
    pub fn open(&mut self, pid: u32, mapping: &Mapping) {
        if self.mappings.contains_key(&mapping.id) {
            return;
        }
        let open = Open {
            pid,
            start: mapping.start,
            end: mapping.end,
            path: mapping.path.to_string(),
            build_id: mapping.build_id.clone(),
            device: mapping.device,
            inode: mapping.inode,
            anywhere: false,
        };
        self.ask_to_open(Which::Steady, mapping.id, open, Vec::new());
    }

    fn ask_to_open(&mut self, which: Which, mapping: MappingId, open: Open, offsets: Vec<u64>) {
        if let Some(why) = self.refusals.get(&open) {
            self.news.push(FileNews::Refused(mapping, why.clone()));
            self.mappings.insert(mapping, MappedFile::Failed);
            return;
        }
        let kind = request::Kind::Open(open.clone());
        self.mappings.insert(mapping, MappedFile::Asked(which, Box::new(open), offsets));
        self.desks.open(which, kind, Mark::Open(mapping));
    }

    pub(super) fn opened(&mut self, mapping: MappingId, outcome: Outcome) {
        let Some(state) = self.mappings.get_mut(&mapping) else { return };
        let MappedFile::Asked(which, open, offsets) = state else { return };
        match outcome {
            Outcome::Answer(reply::Kind::Elsewhere(why)) if *which == Which::Steady => {
                tracing::debug!("{why}");
                let (mut open, offsets) = (std::mem::take(&mut **open), std::mem::take(offsets));
                open.anywhere = true;
                self.ask_to_open(Which::Expendable, mapping, open, offsets);
            }
            Outcome::Answer(reply::Kind::File(info)) => {
                let key = info.key;
                let which = *which;
                let (open, offsets) = (std::mem::take(&mut **open), std::mem::take(offsets));
                *state = MappedFile::Known(key);
                self.news.push(FileNews::Opened(mapping, key));
                let file = self.files.entry(key).or_insert_with(|| File {
                    info,
                    open: Open::default(),
                    reader: which,
                    is_open: true,
                    reopening: false,
                    lane: None,
                    strikes: 0,
                    refused: false,
                    named: false,
                    addresses: Addresses::default(),
                });
                if file.reader != which {
                    // Known in one reader, and found by another way in the other: the steady one
                    // keeps it, or takes it over.
                    if which == Which::Expendable {
                        for offset in offsets {
                            file.addresses.want(offset);
                        }
                        return;
                    }
                    file.reader = which;
                    file.lane = None;
                }
                file.is_open = true;
                file.open = open;
                if file.open.build_id.is_empty() && file.open.inode == 0 {
                    file.open.device = key.device;
                    file.open.inode = key.inode;
                }
                for offset in offsets {
                    file.addresses.want(offset);
                }
            }
            Outcome::Answer(kind) => {
                let why = match kind {
                    reply::Kind::Error(error) => error,
                    _ => "the reader gave no sensible answer".to_owned(),
                };
                tracing::debug!("{why}");
                *state = MappedFile::Failed;
                self.news.push(FileNews::Refused(mapping, why));
            }
            // The next reader is asked.
            Outcome::Failed(Failure::Lost) => {}
            Outcome::Failed(failure) => {
                let text = format!(
                    "{} is left unnamed: the reader {} when it opened it",
                    open.path,
                    said(failure)
                );
                self.refusals.insert(open, text.clone());
                *state = MappedFile::Failed;
                self.warn(&text);
                self.news.push(FileNews::Refused(mapping, text));
            }
        }
    }

    pub(super) fn reopened(&mut self, key: FileKey, outcome: Outcome) {
        let Some(file) = self.files.get_mut(&key) else { return };
        file.reopening = false;
        match outcome {
            Outcome::Answer(reply::Kind::File(info)) if info.key == key => file.is_open = true,
            Outcome::Failed(Failure::Lost) => {}
            Outcome::Answer(reply::Kind::Elsewhere(_)) if file.reader == Which::Steady => {
                // Its path leads to another file by now.
                file.reader = Which::Expendable;
                file.lane = None;
                file.open.anywhere = true;
                file.is_open_or_asked(key, &mut self.desks);
            }
            Outcome::Answer(_) | Outcome::Failed(_) => {
                tracing::debug!("{} cannot be opened again", file.open.path.escape_debug());
                file.refused = true;
                file.addresses.give_up();
            }
        }
    }

    /// A new reader has nothing open.
    pub(super) fn reader_is_new(&mut self, which: Which) {
        for file in self.files.values_mut().filter(|file| file.reader == which) {
            file.is_open = false;
            file.reopening = false;
            file.lane = None;
        }
        let asked_again: Vec<_> = self
            .mappings
            .iter_mut()
            .filter_map(|(&mapping, state)| match state {
                MappedFile::Asked(asked, open, offsets) if *asked == which => {
                    Some((mapping, std::mem::take(&mut **open), std::mem::take(offsets)))
                }
                _ => None,
            })
            .collect();
        for (mapping, open, offsets) in asked_again {
            self.ask_to_open(which, mapping, open, offsets);
        }
    }
}
