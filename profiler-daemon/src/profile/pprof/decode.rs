//! A profile out of pprof's format, as [`encode`](super::encode) made it.

use std::{
    io::{self, Read as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use prost::Message as _;

use super::{
    super::{Function, Kind, Line, Location, Mapping, Outcomes, Process, Profile, Sample, Spent},
    proto,
};

/// The most bytes that a profile may have when it is inflated.
const MOST_BYTES: u64 = 1 << 30;

/// Why bytes are no profile of rprofd's.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They cannot be inflated.
    #[error("it is no gzip: {0}")]
    Gzip(io::Error),
    /// They are too many.
    #[error("it has more than {MOST_BYTES} bytes")]
    TooLong,
    /// They are no protocol buffer.
    #[error("it is no pprof profile: {0}")]
    Format(#[from] prost::DecodeError),
    /// Something refers to what is not there.
    #[error("it is damaged: {0} refers to what is not in it")]
    Dangling(&'static str),
    /// It is not of rprofd's.
    #[error("it is of another kind: sample types {0:?}")]
    Kind(Vec<String>),
}

/// Reads a gzip'd profile. Of processes it has what labels, comments and mappings say: pid, comm and
/// cgroup; the executable and the command line where it is of one alone.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Profile, DecodeError> {
    let mut plain = Vec::new();
    let mut inflated = MultiGzDecoder::new(bytes).take(MOST_BYTES + 1);
    inflated.read_to_end(&mut plain).map_err(DecodeError::Gzip)?;
    if plain.len() as u64 > MOST_BYTES {
        return Err(DecodeError::TooLong);
    }
    let message = proto::Profile::decode(&*plain)?;
    let strings: Vec<Arc<str>> = message.string_table.iter().map(|it| it.as_str().into()).collect();
    Decoder { message, strings }.profile()
}

struct Decoder {
    message: proto::Profile,
    strings: Vec<Arc<str>>,
}

/// An index from an id, which begins at 1.
fn index(id: u64, length: usize, what: &'static str) -> Result<u32, DecodeError> {
    let index = id.checked_sub(1).filter(|index| *index < length as u64);
    index.and_then(|index| u32::try_from(index).ok()).ok_or(DecodeError::Dangling(what))
}

impl Decoder {
    fn string(&self, index: i64) -> Result<Arc<str>, DecodeError> {
        let string = usize::try_from(index).ok().and_then(|index| self.strings.get(index));
        string.cloned().ok_or(DecodeError::Dangling("a string"))
    }

    fn profile(&self) -> Result<Profile, DecodeError> {
        let message = &self.message;
        let types = message.sample_type.iter().map(|it| Ok(self.string(it.r#type)?.to_string()));
        let types = types.collect::<Result<Vec<String>, DecodeError>>()?;
        // Block and mutex have the same types; whoever asked knows which it is.
        let is_it = |kind: &Kind| {
            kind.sample_types().iter().map(|it| it.0).eq(types.iter().map(String::as_str))
        };
        let Some(kind) = Kind::ALL.into_iter().find(is_it) else {
            return Err(DecodeError::Kind(types));
        };
        let mappings = self.mappings()?;
        let mut processes = Processes::default();
        let (mut stacks, mut samples) = (Vec::new(), Vec::new());
        for sample in &message.sample {
            let Labelled { process, tid, thread, state, own } =
                self.labels(kind, sample, &mut processes)?;
            let stack = sample.location_id.iter();
            let stack = stack.map(|id| index(*id, message.location.len(), "a stack"));
            stacks.push(stack.collect::<Result<Box<[u32]>, _>>()?);
            let values = match *sample.value {
                [only] if kind.sample_types().len() == 1 => Ok([only; 2]),
                _ => <[i64; 2]>::try_from(&*sample.value),
            };
            samples.push(Sample {
                stack: stacks.len() as u32 - 1,
                process,
                tid,
                thread,
                state,
                labels: own.into(),
                values: values.map_err(|_| DecodeError::Dangling("a sample's values"))?,
                others: [0; 2],
                object_bytes: 0,
            });
        }
        let mut outcomes = Outcomes::default();
        let (mut comments, mut command_line) = (Vec::new(), None);
        for comment in &message.comment {
            let comment = self.string(*comment)?;
            if let Some(line) = comment.strip_prefix("command_line=") {
                command_line = Some(line.to_owned());
            } else if !outcomes.take_comment(&comment) {
                comments.push(comment.to_string());
            }
        }
        if let ([process], Some(line)) = (&mut *processes.0, command_line) {
            process.cmdline = line.into();
            process.exe = mappings.first().map_or_else(|| "".into(), |it| Arc::clone(&it.file));
        }
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(Profile {
            kind,
            start: SystemTime::UNIX_EPOCH + Duration::from_nanos(unsigned(message.time_nanos)),
            duration: Duration::from_nanos(unsigned(message.duration_nanos)),
            period: unsigned(message.period),
            processes: processes.0.into_iter().map(Arc::new).collect(),
            mappings,
            locations: self.locations()?,
            functions: self.functions()?,
            stacks,
            samples,
            outcomes,
            spent: Spent::default(),
            comments,
        })
    }

    fn mappings(&self) -> Result<Vec<Mapping>, DecodeError> {
        let mapping = |it: &proto::Mapping| {
            Ok(Mapping {
                start: it.memory_start,
                end: it.memory_limit,
                file_offset: it.file_offset,
                file: self.string(it.filename)?,
                build_id: self.string(it.build_id)?,
                has_functions: it.has_functions,
                has_filenames: it.has_filenames,
                has_line_numbers: it.has_line_numbers,
                has_inline_frames: it.has_inline_frames,
            })
        };
        self.message.mapping.iter().map(mapping).collect()
    }

    fn functions(&self) -> Result<Vec<Function>, DecodeError> {
        let function = |it: &proto::Function| {
            Ok(Function {
                name: self.string(it.name)?,
                file: self.string(it.filename)?,
                start_line: u32::try_from(it.start_line).unwrap_or_default(),
            })
        };
        self.message.function.iter().map(function).collect()
    }

    fn locations(&self) -> Result<Vec<Location>, DecodeError> {
        let proto::Profile { mapping: mappings, function: functions, location, .. } = &self.message;
        let line = |it: &proto::Line| {
            Ok(Line {
                function: index(it.function_id, functions.len(), "a line")?,
                line: u32::try_from(it.line).unwrap_or_default(),
            })
        };
        let location = location.iter().map(|it| {
            let mapping = match it.mapping_id {
                0 => None,
                id => Some(index(id, mappings.len(), "a location")?),
            };
            let lines = it.line.iter().map(line).collect::<Result<_, DecodeError>>()?;
            Ok(Location { mapping, avma: it.address, lines })
        });
        location.collect()
    }

    /// What the labels of a sample say.
    fn labels(
        &self,
        kind: Kind,
        sample: &proto::Sample,
        processes: &mut Processes,
    ) -> Result<Labelled, DecodeError> {
        let empty: Arc<str> = "".into();
        let (mut pid, mut tid) = (0, 0);
        let (mut comm, mut cgroup) = (Arc::clone(&empty), Arc::clone(&empty));
        let (mut thread, mut state) = (Arc::clone(&empty), empty);
        let mut own = Vec::new();
        for label in &sample.label {
            let number = || u32::try_from(label.num).unwrap_or_default();
            match &*self.string(label.key)? {
                "pid" => pid = number(),
                "tid" => tid = number(),
                "comm" => comm = self.string(label.str)?,
                "cgroup" => cgroup = self.string(label.str)?,
                "thread" => thread = self.string(label.str)?,
                key if key == kind.state_label() => state = self.string(label.str)?,
                _ if label.str != 0 => {
                    own.push((self.string(label.key)?, self.string(label.str)?));
                }
                _ => {}
            }
        }
        Ok(Labelled { process: processes.index(pid, comm, cgroup), tid, thread, state, own })
    }
}

/// What a sample is of.
struct Labelled {
    process: u32,
    tid: u32,
    thread: Arc<str>,
    state: Arc<str>,
    /// The program's own labels.
    own: Vec<(Arc<str>, Arc<str>)>,
}

/// The processes that samples are of, in the order in which they come.
#[derive(Default)]
struct Processes(Vec<Process>);

impl Processes {
    fn index(&mut self, pid: u32, comm: Arc<str>, cgroup: Arc<str>) -> u32 {
        let is_it = |it: &Process| it.pid == pid && it.comm == comm && it.cgroup == cgroup;
        let index = self.0.iter().rposition(is_it).unwrap_or_else(|| {
            self.0.push(Process {
                pid,
                start_ns: 0,
                comm,
                exe: "".into(),
                cmdline: "".into(),
                cgroup,
                viewer_uid: 0,
            });
            self.0.len() - 1
        });
        index as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::proptest;

    use super::*;
    use crate::profile::{
        Profile,
        pprof::{encode, encode_plain},
        sample,
    };

    #[test]
    fn what_was_written_is_read() {
        let profile = sample::program(7, "app", 0x1000);
        let decoded = decode(&encode(&profile)).unwrap();
        assert_eq!(decoded.outcomes, profile.outcomes);
        assert_eq!(decoded.comments, profile.comments);
        let (process, before) = (&decoded.processes[0], &profile.processes[0]);
        assert_eq!(
            (process.pid, &process.comm, &process.cgroup),
            (7, &before.comm, &before.cgroup)
        );
        assert_eq!(*process.cmdline, *before.cmdline.replace('\0', " "));
        assert_eq!(encode_plain(&decoded), encode_plain(&profile));
    }

    proptest! {
        #[test]
        fn any_profile_comes_back_as_it_was(profile in sample::any_profile()) {
            let decoded = decode(&encode(&profile)).unwrap();
            proptest::prop_assert_eq!(&decoded.mappings, &profile.mappings);
            proptest::prop_assert_eq!(&decoded.functions, &profile.functions);
            proptest::prop_assert_eq!(&decoded.locations, &profile.locations);
            proptest::prop_assert_eq!(decoded.outcomes, profile.outcomes);
            let seen = |profile: &Profile| {
                let sample = |it: &Sample| {
                    let process = &profile.processes[it.process as usize];
                    let stack = profile.stacks[it.stack as usize].clone();
                    let (comm, cgroup) = (process.comm.clone(), process.cgroup.clone());
                    (stack, process.pid, comm, cgroup, it.tid, it.thread.clone(), it.values)
                };
                profile.samples.iter().map(sample).collect::<Vec<_>>()
            };
            proptest::prop_assert_eq!(seen(&decoded), seen(&profile));
        }

        #[test]
        fn damage_is_an_error_and_no_panic(at: proptest::sample::Index, byte: u8) {
            let mut bytes = encode_plain(&sample::program(7, "app", 0x1000));
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut gzip, &bytes).unwrap();
            let _ = decode(&gzip.finish().unwrap());
        }
    }

    #[test]
    fn what_is_no_profile_is_said() {
        assert!(matches!(decode(b"x"), Err(DecodeError::Gzip(_))));
        let heap = proto::Profile {
            string_table: vec!["".into(), "alloc_space".into()],
            sample_type: vec![proto::ValueType { r#type: 1, unit: 0 }],
            ..Default::default()
        };
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &heap.encode_to_vec()).unwrap();
        let error = decode(&gzip.finish().unwrap()).unwrap_err();
        assert!(error.to_string().contains("alloc_space"), "{error}");
    }
}
