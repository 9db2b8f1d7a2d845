//! Unwind tables: asked of the cache on disk, and of the reader, for the files that names are asked
//! for, too.

use std::os::fd::BorrowedFd;

use super::{Mark, Symbolizer, said};
use crate::{
    process::MappingId,
    reader::{
        link::{Failure, LaneName, Outcome},
        protocol::{FileKey, Unwind, UnwindDigest, UnwindTable, VDSO, reply, request},
    },
    unwind::cache::{Cache, Digest},
};

/// What the reader said of a file.
#[derive(Debug)]
pub enum FileNews {
    /// The file behind a mapping is known.
    Opened(MappingId, FileKey),
    /// The file behind a mapping cannot be known; and why.
    Refused(MappingId, String),
    /// A file's unwind table, or why there is none.
    Table(FileKey, Result<UnwindTable, String>),
}

impl Symbolizer {
    /// Asks for a file's unwind table; [`Self::take_news`] has the answer.
    pub fn want_table(&mut self, key: FileKey) {
        self.tables_wanted.push(key);
    }

    /// What was said of files since the last call.
    pub fn take_news(&mut self) -> Vec<FileNews> {
        std::mem::take(&mut self.news)
    }

    /// Whether a mapping of the file is known.
    pub fn knows(&self, key: &FileKey) -> bool {
        self.files.contains_key(key)
    }

    /// Becomes readable when [`Self::poll`] has something to do, beside [`Self::fds`].
    pub fn cache_fd(&self) -> Option<BorrowedFd<'_>> {
        self.cache.as_ref().map(Cache::wake_fd)
    }

    pub(super) fn ask_tables(&mut self) {
        for key in std::mem::take(&mut self.tables_wanted) {
            // The reader's copy of the vDSO is another file each time.
            let is_vdso = self.files.get(&key).is_some_and(|file| file.open.path == VDSO);
            let (kind, mark) = if self.cache.is_some() && !is_vdso {
                (request::Kind::UnwindDigest(UnwindDigest { key }), Mark::TableDigest(key))
            } else {
                (request::Kind::Unwind(Unwind { key }), Mark::Table(key, None))
            };
            self.ask_of_tables(key, kind, mark);
        }
    }

    /// Asks something of the tables lane, once the file is open there.
    fn ask_of_tables(&mut self, key: FileKey, kind: request::Kind, mark: Mark) {
        let Some(file) = self.files.get_mut(&key).filter(|file| !file.refused) else {
            let why = "it cannot be opened any more".to_owned();
            self.news.push(FileNews::Table(key, Err(why)));
            return;
        };
        let is_sent = file.is_open_or_asked(key, &mut self.desks)
            && self.desks.of(file.reader).link.send(LaneName::Tables, kind, mark).is_ok();
        if !is_sent {
            self.tables_wanted.push(key);
        }
    }

    pub(super) fn digest_answered(&mut self, key: FileKey, outcome: Outcome) {
        if let Outcome::Answer(reply::Kind::Digest(digest)) = &outcome
            && let Ok(digest) = Digest::try_from(&digest[..])
        {
            if !self.cache.as_ref().is_some_and(|cache| cache.get(key, digest)) {
                self.ask_for_table(key, None);
            }
            return;
        }
        // What has no digest has no table, either.
        self.table_answered(key, None, outcome);
    }

    /// Takes what the cache has answered.
    pub(super) fn take_from_cache(&mut self) {
        let answers: Vec<_> = self.cache.iter().flat_map(Cache::answers).collect();
        for (key, digest, table) in answers {
            match table {
                Some(table) => {
                    self.figures.tables_cached += 1;
                    self.news.push(FileNews::Table(key, Ok(table)));
                }
                None => self.ask_for_table(key, Some(digest)),
            }
        }
    }

    fn ask_for_table(&mut self, key: FileKey, digest: Option<Digest>) {
        let kind = request::Kind::Unwind(Unwind { key });
        self.ask_of_tables(key, kind, Mark::Table(key, digest));
    }

    pub(super) fn table_answered(
        &mut self,
        key: FileKey,
        digest: Option<Digest>,
        outcome: Outcome,
    ) {
        let table = match outcome {
            Outcome::Answer(reply::Kind::Table(table)) => {
                if let Some((cache, digest)) = self.cache.as_ref().zip(digest) {
                    cache.put(key, digest, table.clone());
                }
                self.figures.tables_made += 1;
                Ok(table)
            }
            Outcome::Answer(reply::Kind::Error(error)) => {
                tracing::debug!("{error}");
                Err(error)
            }
            Outcome::Answer(_) => Err("the reader gave no sensible answer".to_owned()),
            Outcome::Failed(Failure::Lost) => return self.want_table(key),
            Outcome::Failed(failure) => {
                let said = said(failure);
                if let Some(file) = self.files.get(&key) {
                    let path = &file.open.path;
                    let text = format!("{path} has no unwind table: the reader {said} over it");
                    self.warn(&text);
                }
                Err(format!("the reader {said} over it"))
            }
        };
        self.news.push(FileNews::Table(key, table));
    }
}
