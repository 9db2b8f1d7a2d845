//! The profile as `go tool pprof` reads it: protocol buffers, usually gzip'd.
//!
//! The schema is `proto/profile.proto`. The same profile gives the same bytes, always.

mod decode;

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use flate2::{Compression, GzBuilder};
use prost::Message as _;

pub use decode::{DecodeError, decode};

use super::{Kind, Profile, Sample};

/// The messages of `proto/profile.proto`.
#[expect(unreachable_pub, reason = "generated code makes everything public")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/perftools.profiles.rs"));
}

/// Items of a repeated field that are turned into messages at a time: what bounds memory.
const CHUNK: usize = 1024;

/// The profile in pprof's format, gzip'd.
pub fn encode(profile: &Profile) -> Vec<u8> {
    // Level 1 is what Go's own profiles have: half again as large as level 6, for a third of the
    // time, on a machine that is being measured.
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    let written = write(profile, &mut gzip).and_then(|()| gzip.finish());
    written.expect("a Vec takes every write")
}

/// The profile in pprof's format, not compressed.
pub fn encode_plain(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(profile, &mut bytes).expect("a Vec takes every write");
    bytes
}

/// Writes the profile in pprof's format, not compressed.
///
/// A message that is written in parts is the concatenation of the parts, so a profile of a million
/// samples is never in memory as messages all at once.
///
/// # Errors
///
/// Those of `out`.
pub fn write(profile: &Profile, out: &mut impl Write) -> io::Result<()> {
    let mut part = Parts { out, buffer: Vec::new() };
    let mut strings = Strings::default();

    part.write(&header(profile, &mut strings))?;
    for mappings in numbered(&profile.mappings) {
        let mapping = mappings.map(|(id, mapping)| proto::Mapping {
            id,
            memory_start: mapping.start,
            memory_limit: mapping.end,
            file_offset: mapping.file_offset,
            filename: strings.index(&mapping.file),
            build_id: strings.index(&mapping.build_id),
            has_functions: mapping.has_functions,
            has_filenames: mapping.has_filenames,
            has_line_numbers: mapping.has_line_numbers,
            has_inline_frames: mapping.has_inline_frames,
        });
        part.write(&proto::Profile { mapping: mapping.collect(), ..Default::default() })?;
    }
    for functions in numbered(&profile.functions) {
        let function = functions.map(|(id, function)| proto::Function {
            id,
            name: strings.index(&function.name),
            system_name: strings.index(&function.name),
            filename: strings.index(&function.file),
            start_line: i64::from(function.start_line),
        });
        part.write(&proto::Profile { function: function.collect(), ..Default::default() })?;
    }
    for locations in numbered(&profile.locations) {
        let location = locations.map(|(id, location)| proto::Location {
            id,
            mapping_id: location.mapping.map_or(0, id_of),
            address: location.avma,
            line: location
                .lines
                .iter()
                .map(|line| proto::Line {
                    function_id: id_of(line.function),
                    line: i64::from(line.line),
                    column: 0,
                })
                .collect(),
            is_folded: false,
        });
        part.write(&proto::Profile { location: location.collect(), ..Default::default() })?;
    }
    let labels: Vec<_> = profile.processes.iter().map(|it| Labels::of(it, &mut strings)).collect();
    let (tid, thread) = (strings.index("tid"), strings.index("thread"));
    let types = profile.kind.sample_types().len();
    let bytes = strings.index("bytes");
    let state = strings.index(profile.kind.state_label());
    for samples in profile.samples.chunks(CHUNK) {
        let sample = samples.iter().map(|sample| {
            let process = &labels[sample.process as usize];
            let thread_label = proto::Label {
                key: thread,
                str: strings.index(&sample.thread),
                ..Default::default()
            };
            let state_label = proto::Label {
                key: state,
                str: strings.index(&sample.state),
                ..Default::default()
            };
            let tid_label =
                proto::Label { key: tid, num: i64::from(sample.tid), ..Default::default() };
            let bytes_label =
                proto::Label { key: bytes, num: sample.object_bytes, ..Default::default() };
            let own = sample.labels.iter().map(|(key, value)| proto::Label {
                key: strings.index(key),
                str: strings.index(value),
                ..Default::default()
            });
            let own: Vec<_> = own.collect();
            let all = process.0.iter();
            let all = all.chain([&tid_label, &thread_label, &state_label, &bytes_label]);
            // A label without a value is none.
            let all = all.chain(&own).filter(|label| label.str != 0 || label.num != 0);
            let mut label = Vec::with_capacity(process.0.len() + 4 + own.len());
            label.extend(all.cloned());
            proto::Sample {
                location_id: profile.stacks[sample.stack as usize]
                    .iter()
                    .map(|&location| id_of(location))
                    .collect(),
                value: values(profile.kind, sample, types),
                label,
            }
        });
        part.write(&proto::Profile { sample: sample.collect(), ..Default::default() })?;
    }
    for string_table in strings.table.chunks(CHUNK) {
        part.write(&proto::Profile { string_table: string_table.to_vec(), ..Default::default() })?;
    }
    Ok(())
}

/// A sample's values, in the order of the kind's sample types.
fn values(kind: Kind, sample: &Sample, types: usize) -> Vec<i64> {
    match kind {
        Kind::Heap => [sample.others, sample.values].concat(),
        Kind::Allocs => [sample.values, sample.others].concat(),
        _ => sample.values[2 - types..].to_vec(),
    }
}

/// Everything but the repeated fields that grow with the samples.
fn header(profile: &Profile, strings: &mut Strings) -> proto::Profile {
    let kind = profile.kind;
    let mut value_type = |(name, unit): (&str, &str)| proto::ValueType {
        r#type: strings.index(name),
        unit: strings.index(unit),
    };
    let sample_type = kind.sample_types().iter().map(|&it| value_type(it)).collect();
    let period_type = Some(value_type(kind.period_type()));
    let since_epoch = profile.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    proto::Profile {
        sample_type,
        period_type,
        period: saturate(profile.period),
        time_nanos: nanoseconds(since_epoch),
        duration_nanos: nanoseconds(profile.duration),
        default_sample_type: strings.index(kind.default_type().0),
        comment: comments(profile).iter().map(|comment| strings.index(comment)).collect(),
        ..Default::default()
    }
}

/// The profile's comments, the command line where it is of one process, and how unwinding ended.
///
/// pprof prints a comment on a line of its own, at the head of most of its reports: control
/// characters are escaped, and counts of 0 are left out.
fn comments(profile: &Profile) -> Vec<String> {
    let command_line = match &*profile.processes {
        [process] if !process.cmdline.is_empty() => {
            Some(format!("command_line={}", process.cmdline.replace('\0', " ")))
        }
        _ => None,
    };
    let outcomes = profile
        .outcomes
        .by_name()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("outcome.{name}={count}"));
    command_line
        .into_iter()
        .chain(profile.comments.iter().cloned())
        .chain(outcomes)
        .map(escape)
        .collect()
}

fn escape(comment: String) -> String {
    if !comment.contains(char::is_control) {
        return comment;
    }
    let mut escaped = String::with_capacity(comment.len() + 8);
    for character in comment.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// The labels that all samples of a process share.
struct Labels(Vec<proto::Label>);

impl Labels {
    fn of(process: &super::Process, strings: &mut Strings) -> Self {
        let mut text = |key: &str, value: &str| proto::Label {
            key: strings.index(key),
            str: strings.index(value),
            ..Default::default()
        };
        let comm = text("comm", &process.comm);
        let cgroup = text("cgroup", &process.cgroup);
        let pid = proto::Label {
            key: strings.index("pid"),
            num: i64::from(process.pid),
            ..Default::default()
        };
        Self(vec![pid, comm, cgroup])
    }
}

/// Interned strings, in the order in which they came.
struct Strings {
    table: Vec<String>,
    indices: HashMap<String, i64>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { table: vec![String::new()], indices: HashMap::from([(String::new(), 0)]) }
    }
}

impl Strings {
    fn index(&mut self, string: &str) -> i64 {
        if let Some(&index) = self.indices.get(string) {
            return index;
        }
        let index = self.table.len() as i64;
        self.table.push(string.to_owned());
        self.indices.insert(string.to_owned(), index);
        index
    }
}

/// Where parts of a message go.
struct Parts<'a, W> {
    out: &'a mut W,
    buffer: Vec<u8>,
}

impl<W: Write> Parts<'_, W> {
    fn write(&mut self, part: &proto::Profile) -> io::Result<()> {
        self.buffer.clear();
        part.encode_raw(&mut self.buffer);
        self.out.write_all(&self.buffer)
    }
}

/// `items` with their ids, in chunks.
fn numbered<T>(items: &[T]) -> impl Iterator<Item = impl Iterator<Item = (u64, &T)>> {
    items.chunks(CHUNK).zip(0_u64..).map(|(chunk, index)| {
        let first = index * CHUNK as u64 + 1;
        (first..).zip(chunk)
    })
}

/// Ids begin at 1, since 0 is "none".
fn id_of(index: u32) -> u64 {
    u64::from(index) + 1
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn saturate(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
