//! The files behind mappings: opened in the reader while that is possible, and again in the next
//! reader.

use super::{Addresses, FileNews, Mark, Symbolizer, said};
use crate::{
    process::{Mapping, MappingId},
    reader::{
        link::{Failure, LaneName, Link, Outcome},
        protocol::{FileInfo, FileKey, Open, reply, request},
    },
};

/// What is known of the file behind a mapping.
#[derive(Debug)]
pub(super) enum MappedFile {
    /// The reader was asked; the offsets are wanted once it has answered.
    Asked(Box<Open>, Vec<u64>),
    Known(FileKey),
    Failed,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) info: FileInfo,
    /// How to open it again, in another reader.
    pub(super) open: Open,
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
    pub(super) fn is_open_or_asked(&mut self, key: FileKey, link: &mut Link<Mark>) -> bool {
        if !self.is_open && !self.reopening {
            self.reopening = true;
            let kind = request::Kind::Open(self.open.clone());
            let _ = link.send(LaneName::Files, kind, Mark::Reopen(key));
        }
        self.is_open
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
        };
        self.mappings.insert(mapping.id, MappedFile::Asked(Box::new(open.clone()), Vec::new()));
        let kind = request::Kind::Open(open);
        // If no reader runs, the next one is asked when it starts.
        let _ = self.link.send(LaneName::Files, kind, Mark::Open(mapping.id));
    }

    pub(super) fn opened(&mut self, mapping: MappingId, outcome: Outcome) {
        let Some(state) = self.mappings.get_mut(&mapping) else { return };
        let MappedFile::Asked(open, offsets) = state else { return };
        match outcome {
            Outcome::Answer(reply::Kind::File(info)) => {
                let key = info.key;
                let (open, offsets) = (std::mem::take(&mut **open), std::mem::take(offsets));
                *state = MappedFile::Known(key);
                self.news.push(FileNews::Opened(mapping, key));
                let file = self.files.entry(key).or_insert_with(|| File {
                    info,
                    open: Open::default(),
                    is_open: true,
                    reopening: false,
                    lane: None,
                    strikes: 0,
                    refused: false,
                    named: false,
                    addresses: Addresses::default(),
                });
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
            Outcome::Answer(_) | Outcome::Failed(_) => {
                tracing::debug!("{} cannot be opened again", file.open.path.escape_debug());
                file.refused = true;
                file.addresses.give_up();
            }
        }
    }

    /// A new reader has nothing open.
    pub(super) fn reader_is_new(&mut self) {
        for file in self.files.values_mut() {
            file.is_open = false;
            file.reopening = false;
            file.lane = None;
        }
        for (&mapping, state) in &self.mappings {
            if let MappedFile::Asked(open, _) = state {
                let kind = request::Kind::Open(open.as_ref().clone());
                let _ = self.link.send(LaneName::Files, kind, Mark::Open(mapping));
            }
        }
    }
}
