//! The files of the command's processes, each read once.

use std::{collections::HashMap, rc::Rc};

use profiler_daemon::reader::unwind::UnwindTable;

use super::{
    file::File,
    mappings::{FileKey, Mapping},
};

/// Changes a file's table: the path, and the table.
pub(crate) type Amend<'a> = &'a dyn Fn(&str, &mut UnwindTable);

/// The files that were met.
pub(crate) struct Files<'a> {
    by_key: HashMap<FileKey, Option<Rc<File>>>,
    amend: Amend<'a>,
}

impl<'a> Files<'a> {
    /// None yet; each table is amended once it is made.
    pub(crate) fn new(amend: Amend<'a>) -> Self {
        Self { by_key: HashMap::new(), amend }
    }

    /// The file behind a mapping, and what an avma in it is above the svma.
    pub(super) fn find(&mut self, mapping: &Mapping) -> Option<(Rc<File>, u64)> {
        if !mapping.file.is_file() {
            return None;
        }
        let amend = self.amend;
        let file = self.by_key.entry(mapping.file.clone()).or_insert_with(|| {
            let mut file = match File::open(&mapping.file.path) {
                Ok(file) => file,
                Err(error) => {
                    eprintln!("not read: {error:#}");
                    return None;
                }
            };
            if let Some(table) = &mut file.table {
                amend(&mapping.file.path, table);
            }
            Some(Rc::new(file))
        });
        let file = Rc::clone(file.as_ref()?);
        let bias = file.bias(mapping.start, mapping.file_offset)?;
        Some((file, bias))
    }
}
