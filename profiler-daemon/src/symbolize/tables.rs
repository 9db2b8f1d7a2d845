//! Unwind tables: asked of the reader for the files that names are asked for, too.

use super::{Mark, Symbolizer, said};
use crate::{
    process::MappingId,
    reader::{
        link::{Failure, LaneName, Outcome},
        protocol::{FileKey, Unwind, UnwindTable, reply, request},
    },
};

/// What the reader said of a file.
#[derive(Debug)]
pub enum FileNews {
    /// The file behind a mapping is known.
    Opened(MappingId, FileKey),
    /// The file behind a mapping cannot be known.
    Refused(MappingId),
    /// A file's unwind table; `None`: there is none.
    Table(FileKey, Option<UnwindTable>),
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

    pub(super) fn ask_tables(&mut self) {
        for key in std::mem::take(&mut self.tables_wanted) {
            let Some(file) = self.files.get_mut(&key).filter(|file| !file.refused) else {
                self.news.push(FileNews::Table(key, None));
                continue;
            };
            let kind = request::Kind::Unwind(Unwind { key });
            let is_sent = file.is_open_or_asked(key, &mut self.link)
                && self.link.send(LaneName::Tables, kind, Mark::Table(key)).is_ok();
            if !is_sent {
                self.tables_wanted.push(key);
            }
        }
    }

    pub(super) fn table_answered(&mut self, key: FileKey, outcome: Outcome) {
        let table = match outcome {
            Outcome::Answer(reply::Kind::Table(table)) => Some(table),
            Outcome::Answer(kind) => {
                if let reply::Kind::Error(error) = kind {
                    tracing::debug!("{error}");
                }
                None
            }
            Outcome::Failed(Failure::Lost) => return self.want_table(key),
            Outcome::Failed(failure) => {
                if let Some(file) = self.files.get(&key) {
                    let path = &file.open.path;
                    let said = said(failure);
                    let text = format!("{path} has no unwind table: the reader {said} over it");
                    self.warn(&text);
                }
                None
            }
        };
        self.news.push(FileNews::Table(key, table));
    }
}
