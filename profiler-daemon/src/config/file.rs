//! A configuration file as it was written.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Error, KEYS};

/// What a file says of an option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its key, such as `sampling.window`.
    pub(super) key: String,
    /// The option's long name.
    pub(super) option: &'static str,
    /// From 1 on.
    pub(super) line: usize,
    /// Its value, or the elements of an array.
    pub(super) values: Vec<String>,
}

/// Longer files are no configuration, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads a file.
///
/// # Errors
///
/// If it cannot be read, is not TOML, or has keys that there are not.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Error> {
    let failed = |io_error| Error::Unreadable { path: path.to_owned(), io_error };
    if std::fs::metadata(path).map_err(failed)?.len() > LONGEST {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|(line, text)| Error::File { path: path.to_owned(), line, text })
}

/// The entries of a file; or the line in which something is wrong, and what.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let line_of = |span: Range<usize>| 1 + text[..span.start].matches('\n').count();
    let table = DeTable::parse(text)
        .map_err(|error| (error.span().map_or(1, line_of), error.message().to_owned()))?;
    let mut entries = Vec::new();
    let mut tables = vec![(String::new(), table.get_ref())];
    while let Some((prefix, table)) = tables.pop() {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let line = line_of(name.span());
            if let DeValue::Table(table) = value.get_ref() {
                let is_section =
                    KEYS.iter().any(|(known, _)| known.starts_with(&format!("{key}.")));
                if !is_section {
                    let section =
                        |(known, _): &(&'static str, _)| known.split_once('.').map(|it| it.0);
                    return Err((line, unknown(&key, "section", KEYS.iter().filter_map(section))));
                }
                tables.push((format!("{key}."), table));
                continue;
            }
            let Some(&(_, option)) = KEYS.iter().find(|(known, _)| *known == key) else {
                return Err((line, unknown(&key, "key", KEYS.iter().map(|(known, _)| *known))));
            };
            let values = values(value).ok_or_else(|| {
                (line, format!("{key}: give a string, a number, true, false, or an array of these"))
            })?;
            entries.push(Entry { key, option, line, values });
        }
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

/// A value as the command line has it.
fn values(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(it) => Some(it.to_string()),
        _ => None,
    };
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().map(|it| one(it.get_ref())).collect(),
        value => Some(vec![one(value)?]),
    }
}

/// What to say of a name that there is not: the one that is most like it.
fn unknown<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = |known: &str| {
        // The last part counts, too: many put a key into the wrong section.
        let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
        strsim::jaro_winkler(name, known)
            .max(strsim::jaro_winkler(&last(name), &last(known)) * 0.99)
    };
    let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default();
    format!("there is no {what} `{name}`; did you mean `{nearest}`?")
}
