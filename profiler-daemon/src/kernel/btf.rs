//! Offsets of kernel structure members, from the running kernel's BTF.
//!
//! The format is that of `include/uapi/linux/btf.h`: a header, then type records that follow each
//! other, then strings.

use profiler_ebpf::config::Config;

use super::KernelError;

/// Where the kernel shows its own BTF.
const PATH: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Fills in the offsets that the programs need.
pub(super) fn offsets() -> Result<Config, KernelError> {
    let bytes =
        std::fs::read(PATH).map_err(|error| KernelError::NoBtf(format!("{PATH}: {error}")))?;
    let btf = Btf::parse(&bytes).ok_or_else(|| KernelError::NoBtf(format!("{PATH} is broken")))?;
    let member_of = |structure: &str, member: &str| {
        btf.structure(structure)
            .and_then(|at| btf.member(at, member, 0))
            .ok_or_else(|| KernelError::NoBtf(format!("no {structure}.{member} in it")))
    };
    let offset = |member: &str| member_of("task_struct", member);
    // Where they are not, nothing is throttled.
    let queue = || Some(offset("se").ok()? + member_of("sched_entity", "cfs_rq").ok()?);
    let of_info =
        |member: &str| Some(offset("sched_info").ok()? + member_of("sched_info", member).ok()?);
    // All or none.
    let arrival = || {
        queue()?;
        let clock = member_of("rq", "clock").ok()?;
        Some([of_info("last_arrival")?, member_of("cfs_rq", "rq").ok()?, clock])
    };
    let [task_arrived, cfs_rq_rq, rq_clock] = arrival().unwrap_or_default();
    // Of x86_64 alone.
    let thread_pointer =
        || Some(offset("thread").ok()? + member_of("thread_struct", "fsbase").ok()?);
    Ok(Config {
        task_flags: offset("flags")?,
        task_tgid: offset("tgid")?,
        task_group_leader: offset("group_leader")?,
        task_start_boottime: offset("start_boottime")?,
        task_self_exec_id: offset("self_exec_id")?,
        task_mm: offset("mm")?,
        mm_end_code: member_of("mm_struct", "end_code")?,
        task_pid: offset("pid")?,
        task_cfs_rq: queue().unwrap_or_default(),
        cfs_rq_throttle_count: member_of("cfs_rq", "throttle_count").unwrap_or_default(),
        // Since 6.6.
        cfs_rq_throttled_ns: member_of("cfs_rq", "throttled_clock_self_time").unwrap_or_default(),
        task_state: offset("__state")?,
        // A kernel for one CPU has none.
        task_on_cpu: offset("on_cpu").unwrap_or_default(),
        task_nvcsw: offset("nvcsw")?,
        task_nivcsw: offset("nivcsw")?,
        task_comm: offset("comm")?,
        task_ran: offset("se")? + member_of("sched_entity", "sum_exec_runtime")?,
        task_delayed: of_info("run_delay").unwrap_or_default(),
        task_arrived,
        cfs_rq_rq,
        rq_clock,
        task_thread_pointer: thread_pointer().unwrap_or_default(),
        ..Config::default()
    })
}

/// BTF, with the place of each type known.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offsets of the types in `types`; the type with ID n is at n - 1.
    places: Vec<u32>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The number of entries behind a type record, and its kind.
fn info(bytes: &[u8], at: usize) -> Option<(u32, u32)> {
    let info = word(bytes, at + 4)?;
    Some((info & 0xffff, (info >> 24) & 0x1f))
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let part = |field: usize| {
            let start = header.checked_add(word(bytes, field)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, field + 4)? as usize)?)
        };
        let types = part(8)?;
        let strings = part(16)?;
        let mut places = Vec::with_capacity(types.len() / 24);
        let mut at = 0;
        while at < types.len() {
            places.push(u32::try_from(at).ok()?);
            let (entries, kind) = info(types, at)?;
            let entry_bytes = match kind {
                4 | 5 | 15 | 19 => 12,
                6 | 13 => 8,
                2 | 7..=12 | 16 | 18 => 0,
                1 | 14 | 17 => {
                    at += 4;
                    0
                }
                3 => {
                    at += 12;
                    0
                }
                _ => return None,
            };
            at += 12 + entries as usize * entry_bytes;
        }
        Some(Self { types, strings, places })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The place of the structure called `name`.
    fn structure(&self, name: &str) -> Option<usize> {
        self.places.iter().map(|&at| at as usize).find(|&at| {
            info(self.types, at).is_some_and(|(entries, kind)| kind == KIND_STRUCT && entries > 0)
                && word(self.types, at).is_some_and(|offset| self.name(offset) == name.as_bytes())
        })
    }

    /// The offset in bytes of `member` in the structure at `at`, also if it is in an unnamed
    /// structure or union inside (`depth` of them around it so far).
    fn member(&self, at: usize, member: &str, depth: u32) -> Option<u32> {
        let (entries, kind) = info(self.types, at)?;
        if (kind != KIND_STRUCT && kind != KIND_UNION) || depth > 8 {
            return None;
        }
        let bitfields = word(self.types, at + 4)? >> 31 != 0;
        for entry in 0..entries as usize {
            let entry = at + 12 + entry * 12;
            let name = word(self.types, entry)?;
            let bits = word(self.types, entry + 8)?;
            let bits = if bitfields { bits & 0xff_ffff } else { bits };
            if name == 0 {
                let inner = word(self.types, entry + 4)?.checked_sub(1)? as usize;
                if let Some(&inner) = self.places.get(inner)
                    && let Some(offset) = self.member(inner as usize, member, depth + 1)
                {
                    return Some(bits / 8 + offset);
                }
            } else if self.name(name) == member.as_bytes() {
                return Some(bits / 8);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF of `struct outer { int a; struct { int b; int c; }; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0";
        let mut types = Vec::new();
        let mut push = |words: &[u32]| {
            for word in words {
                types.extend(word.to_le_bytes());
            }
        };
        push(&[1, 1 << 24, 4, 32]);
        push(&[0, 4 << 24 | 2, 8, 13, 1, 0, 15, 1, 32]);
        push(&[5, 4 << 24 | 2, 12, 11, 1, 0, 0, 2, 32]);
        let mut bytes = Vec::new();
        bytes.extend(0xeb9f_u16.to_le_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_unnamed_structures() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("well-formed");
        let outer = btf.structure("outer").expect("it is there");
        assert_eq!(btf.member(outer, "a", 0), Some(0));
        assert_eq!(btf.member(outer, "c", 0), Some(8));
        assert_eq!(btf.member(outer, "d", 0), None);
    }

    #[test]
    fn no_cut_or_changed_byte_panics() {
        let bytes = sample();
        for end in 0..bytes.len() {
            if let Some(btf) = Btf::parse(&bytes[..end]) {
                let _ = btf.structure("outer");
            }
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Some(btf) = Btf::parse(&changed)
                    && let Some(outer) = btf.structure("outer")
                {
                    let _ = btf.member(outer, "c", 0);
                }
            }
        }
    }
}
