//! Where the names of a file are.

use std::fs::File;

use super::elf::Image;
use super::files::OpenFile;
use super::name_table::NameTable;

/// What a place has names in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Go's own table.
    GoTable,
    /// DWARF.
    Debug,
    /// A symbol table.
    Symbols,
}

/// One place to look names up in.
pub(super) struct Place<'a> {
    pub(super) file: &'a File,
    /// What the file is to have: it was cut if it has not.
    pub(super) size_bytes: u64,
    pub(super) kind: Kind,
    /// It is the debug file, not the file itself.
    pub(super) is_debug_file: bool,
    /// What it is, for a warning.
    pub(super) what: &'static str,
}

impl<'a> Place<'a> {
    /// Where to look for a file's names, the best first. Its debug file may prove to be another's.
    pub(super) fn all(
        file: &'a OpenFile,
        debug_file_agrees: bool,
        no_inlines: bool,
        names: &mut NameTable,
    ) -> Vec<Self> {
        let mut sources = Vec::new();
        if file.image.as_ref().is_some_and(|image| image.debug.too_many) {
            names.warn(&format!("{} has no names: it has too many sections", file.path));
            return sources;
        }
        let own = |kind, what| Self {
            file: &file.file,
            size_bytes: file.info.key.size_bytes,
            kind,
            is_debug_file: false,
            what,
        };
        if file.image.as_ref().is_some_and(Image::is_go) {
            sources.push(own(Kind::GoTable, "table of Go functions"));
        }
        if let Some(debug_file) = &file.debug_file {
            let place = |kind, what| Self {
                file: &debug_file.file,
                size_bytes: debug_file.size_bytes,
                kind,
                is_debug_file: true,
                what,
            };
            if !debug_file_agrees {
                names.warn(&format!(
                    "{} is not the debug file of {}: its checksum is another one",
                    debug_file.path.display(),
                    file.path
                ));
            } else {
                if !no_inlines && debug_file.debug_is_safe {
                    sources.push(place(Kind::Debug, "separate debug information"));
                }
                sources.push(place(Kind::Symbols, "separate symbol table"));
            }
        }
        let debug = file.image.as_ref().map(|image| &image.debug);
        if let Some(debug) = debug.filter(|debug| debug.own && !no_inlines) {
            if debug.refers_elsewhere {
                names.warn(&format!(
                    "{} has no lines: part of its debug information is in another file",
                    file.path
                ));
            } else {
                sources.push(own(Kind::Debug, "debug information"));
            }
        }
        sources.push(own(Kind::Symbols, "symbol table"));
        sources
    }
}
