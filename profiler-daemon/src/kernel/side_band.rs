//! Side-band records: what happened to processes and their mappings, and when.
//!
//! Layouts are those of `enum perf_event_type` in `include/uapi/linux/perf_event.h`.

/// A side-band record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideBand {
    /// Boot-time clock, in nanoseconds.
    pub time_ns: u64,
    /// Process it is about; for a fork, the child.
    pub pid: u32,
    /// Thread it is about; for a fork, the child.
    pub tid: u32,
    /// What happened.
    pub what: What,
}

/// What a side-band record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An executable mapping was made.
    Map(Map),
    /// The thread's name changed, or (`exec`) the process runs another program.
    Comm {
        /// The new name, lossily decoded.
        comm: String,
        /// The change came by `execve`.
        exec: bool,
    },
    /// A process or thread was started.
    Fork {
        /// Process that started it.
        parent_pid: u32,
    },
    /// The thread ended.
    Exit,
    /// Records were lost for want of room.
    Lost(u64),
}

/// An executable mapping, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// First avma.
    pub start: u64,
    /// One past the last avma.
    pub end: u64,
    /// File offset of `start`, in bytes.
    pub file_offset: u64,
    /// GNU build ID; empty if the kernel did not read one.
    pub build_id: Vec<u8>,
    /// `st_dev` of the file; 0 with a build ID.
    pub device: u64,
    /// Inode of the file; 0 with a build ID.
    pub inode: u64,
    /// Path as the kernel shows it, lossily decoded; `//anon` without a file.
    pub path: String,
}

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
const MISC_COMM_EXEC: u16 = 1 << 13;
const MISC_MMAP_BUILD_ID: u16 = 1 << 14;
/// `PROT_EXEC`.
const PROT_EXEC: u32 = 4;
/// Bytes of the `sample_id` behind each record: tid and time.
const SAMPLE_ID_BYTES: usize = 16;

/// Reads numbers from the front of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// The NUL-terminated text that is the rest.
    fn text(&self) -> String {
        let text = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

impl SideBand {
    /// Decodes a record; `None` for one that says nothing to us.
    ///
    /// Its event must have `sample_id_all`, and both `PERF_SAMPLE_TID` and `PERF_SAMPLE_TIME`, but
    /// neither of `ID`, `STREAM_ID`, `CPU` and `IDENTIFIER`.
    pub fn parse(record: &[u8]) -> Option<Self> {
        parse(record)
    }
}

fn parse(record: &[u8]) -> Option<SideBand> {
    let mut fields = Fields(record);
    let kind = fields.u32()?;
    let misc = fields.u16()?;
    let _size = fields.u16()?;
    let body = fields.0.len().checked_sub(SAMPLE_ID_BYTES)?;
    let mut id = Fields(&fields.0[body..]);
    fields.0 = &fields.0[..body];
    let _id_pid = id.u32()?;
    let _id_tid = id.u32()?;
    let time_ns = id.u64()?;
    let (pid, tid, what) = match kind {
        RECORD_MMAP2 => {
            let pid = fields.u32()?;
            let tid = fields.u32()?;
            let start = fields.u64()?;
            let end = start.checked_add(fields.u64()?)?;
            let file_offset = fields.u64()?;
            let mut file = Fields(fields.bytes(24)?);
            let (build_id, device, inode) = if misc & MISC_MMAP_BUILD_ID != 0 {
                let length = usize::from(file.bytes(4)?[0]).min(20);
                (file.bytes(length)?.to_vec(), 0, 0)
            } else {
                let major = file.u32()?;
                let minor = file.u32()?;
                (Vec::new(), rustix::fs::makedev(major, minor), file.u64()?)
            };
            let prot = fields.u32()?;
            let _flags = fields.u32()?;
            if prot & PROT_EXEC == 0 {
                return None;
            }
            let path = fields.text();
            (pid, tid, What::Map(Map { start, end, file_offset, build_id, device, inode, path }))
        }
        RECORD_COMM => {
            let pid = fields.u32()?;
            let tid = fields.u32()?;
            (pid, tid, What::Comm { comm: fields.text(), exec: misc & MISC_COMM_EXEC != 0 })
        }
        RECORD_FORK | RECORD_EXIT => {
            let pid = fields.u32()?;
            let parent_pid = fields.u32()?;
            let tid = fields.u32()?;
            let what = if kind == RECORD_FORK { What::Fork { parent_pid } } else { What::Exit };
            (pid, tid, what)
        }
        RECORD_LOST => {
            let _id = fields.u64()?;
            (0, 0, What::Lost(fields.u64()?))
        }
        _ => return None,
    };
    Some(SideBand { time_ns, pid, tid, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend(kind.to_ne_bytes());
        record.extend(misc.to_ne_bytes());
        record.extend(((8 + body.len() + 16) as u16).to_ne_bytes());
        record.extend(body);
        record.extend(7_u32.to_ne_bytes());
        record.extend(8_u32.to_ne_bytes());
        record.extend(99_u64.to_ne_bytes());
        record
    }

    #[test]
    fn an_exec_is_told_from_a_new_name() {
        let mut body = Vec::new();
        body.extend(7_u32.to_ne_bytes());
        body.extend(8_u32.to_ne_bytes());
        body.extend(b"a\nb\0\0\0\0\0");
        for exec in [false, true] {
            let misc = if exec { MISC_COMM_EXEC } else { 0 };
            let what = What::Comm { comm: "a\nb".into(), exec };
            let expected = SideBand { time_ns: 99, pid: 7, tid: 8, what };
            assert_eq!(parse(&record(RECORD_COMM, misc, &body)), Some(expected));
        }
    }

    #[test]
    fn a_mapping_carries_a_build_id_or_an_inode() {
        let mut body = Vec::new();
        body.extend(7_u32.to_ne_bytes());
        body.extend(8_u32.to_ne_bytes());
        body.extend(0x1000_u64.to_ne_bytes());
        body.extend(0x2000_u64.to_ne_bytes());
        body.extend(0x400_u64.to_ne_bytes());
        let mut with_id = body.clone();
        with_id.extend([3, 0, 0, 0, 0xaa, 0xbb, 0xcc]);
        with_id.extend([0; 17]);
        body.extend(8_u32.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        body.extend(4711_u64.to_ne_bytes());
        body.extend([0; 8]);
        for rest in [&mut with_id, &mut body] {
            rest.extend(5_u32.to_ne_bytes());
            rest.extend(2_u32.to_ne_bytes());
            rest.extend(b"/bin/x\0\0");
        }
        let map = |build_id: &[u8], device, inode| {
            Some(SideBand {
                time_ns: 99,
                pid: 7,
                tid: 8,
                what: What::Map(Map {
                    start: 0x1000,
                    end: 0x3000,
                    file_offset: 0x400,
                    build_id: build_id.to_vec(),
                    device,
                    inode,
                    path: "/bin/x".into(),
                }),
            })
        };
        let parsed = parse(&record(RECORD_MMAP2, MISC_MMAP_BUILD_ID, &with_id));
        assert_eq!(parsed, map(&[0xaa, 0xbb, 0xcc], 0, 0));
        let parsed = parse(&record(RECORD_MMAP2, 0, &body));
        assert_eq!(parsed, map(&[], 0x801, 4711));
    }

    #[test]
    fn a_cut_record_is_none() {
        let whole = record(RECORD_MMAP2, 0, &[0xff; 70]);
        for end in 0..whole.len() {
            let _ = parse(&whole[..end]);
        }
    }
}
