//! Processes as `/proc` shows them.
//!
//! A process's files are read below one handle of `/proc/PID`, which stays that process's: once
//! it has ended, reads fail, even if its pid is in use again.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;

use prost::Message;
use rustix::fs::{CWD, Mode, OFlags, makedev, openat, readlinkat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::name_table::clean_bytes;
use super::protocol::{MappingInfo, ProcessInfo};
use crate::profile::command_line::redacted;

/// The most bytes read of `maps`.
const MAX_MAPS_BYTES: u64 = 64 << 20;
/// The most executable mappings of one process.
const MAX_MAPPINGS: usize = 262_144;
/// The most bytes that one process's mappings take in a reply, encoded.
const MAX_MAPPINGS_BYTES: usize = 12 << 20;
/// The most bytes read of a small file (`stat`, `status`, `cgroup`).
const MAX_SMALL_BYTES: u64 = 64 << 10;
/// The most bytes of a command line, of a path and of a line of `maps`. The kernel cuts the path
/// in a line at one page, and escaping makes a byte four.
const MAX_TEXT_BYTES: usize = 4_096;
/// `TASK_COMM_LEN` is 16; kernel threads' may be longer.
const MAX_COMM_BYTES: usize = 64;
/// Bytes per read of `maps`; the kernel gives up to one page of whole lines at a time.
const MAPS_CHUNK_BYTES: usize = 16 << 10;

/// What a mapping takes beside itself in a reply: its tag and length.
const MAPPING_FRAMING_BYTES: usize = 4;

/// `PF_KTHREAD` of `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    /// It has ended, or is about to.
    #[error("process {pid} has ended")]
    Ended {
        /// The process.
        pid: u32,
    },
    /// It is a kernel thread, or a thread other than its process's first.
    #[error("{pid} is not a user process")]
    NotAProcess {
        /// The thread.
        pid: u32,
    },
    /// A file of `/proc/PID` could not be read.
    #[error("/proc/{pid}/{file}: {io_error}")]
    Read {
        /// The process.
        pid: u32,
        /// The file.
        file: &'static str,
        /// The operating system's error.
        io_error: std::io::Error,
    },
    /// A file of `/proc/PID` is not as the kernel documents it.
    #[error("/proc/{pid}/{file}: unexpected contents")]
    Malformed {
        /// The process.
        pid: u32,
        /// The file.
        file: &'static str,
    },
    /// It has more mappings than are taken.
    #[error("process {pid} has too many mappings")]
    TooManyMappings {
        /// The process.
        pid: u32,
    },
}

/// The pids of all processes that run now.
///
/// # Errors
///
/// The error of reading `/proc` itself.
pub(super) fn pids() -> std::io::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// One process.
///
/// # Errors
///
/// [`ProcessError`].
pub(super) fn read(pid: u32) -> Result<ProcessInfo, ProcessError> {
    let directory = Directory::open(pid)?;
    let mut process = directory.identity()?;
    match directory.read_mappings(&mut process) {
        // Better without mappings than not at all.
        Ok(()) | Err(ProcessError::TooManyMappings { .. } | ProcessError::Read { .. }) => {
            Ok(process)
        }
        Err(error) => Err(error),
    }
}

struct Directory {
    pid: u32,
    fd: OwnedFd,
}

impl Directory {
    fn open(pid: u32) -> Result<Self, ProcessError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(|_| ProcessError::Ended { pid })?;
        Ok(Self { pid, fd })
    }

    fn open_file(&self, file: &'static str) -> Result<File, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = openat(&self.fd, file, flags, Mode::empty())
            .map_err(|errno| self.failed(file, errno.into()))?;
        Ok(fd.into())
    }

    fn read(&self, file: &'static str, limit_bytes: u64) -> Result<Vec<u8>, ProcessError> {
        let mut bytes = Vec::new();
        self.open_file(file)?
            .take(limit_bytes)
            .read_to_end(&mut bytes)
            .map_err(|error| self.failed(file, error))?;
        Ok(bytes)
    }

    fn failed(&self, file: &'static str, io_error: std::io::Error) -> ProcessError {
        let pid = self.pid;
        match Errno::from_io_error(&io_error) {
            Some(Errno::NOENT | Errno::SRCH) => ProcessError::Ended { pid },
            _ => ProcessError::Read { pid, file, io_error },
        }
    }

    /// All but the mappings.
    fn identity(&self) -> Result<ProcessInfo, ProcessError> {
        let pid = self.pid;
        let read_from_ns = boot_time_ns();
        let stat = Stat::parse(&self.read("stat", MAX_SMALL_BYTES)?)
            .ok_or(ProcessError::Malformed { pid, file: "stat" })?;
        if stat.flags & PF_KTHREAD != 0 {
            return Err(ProcessError::NotAProcess { pid });
        }
        if matches!(stat.state, b'Z' | b'X') {
            return Err(ProcessError::Ended { pid });
        }
        let status = Status::parse(&self.read("status", MAX_SMALL_BYTES)?)
            .ok_or(ProcessError::Malformed { pid, file: "status" })?;
        if status.tgid != pid {
            return Err(ProcessError::NotAProcess { pid });
        }
        let comm = self.read("comm", MAX_SMALL_BYTES)?;
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
        let cgroup = self.read("cgroup", MAX_SMALL_BYTES).unwrap_or_default();
        let exe = readlinkat(&self.fd, "exe", Vec::new())
            .map(|path| clean_bytes(path.as_bytes(), MAX_TEXT_BYTES))
            .unwrap_or_default();
        Ok(ProcessInfo {
            pid,
            parent_pid: stat.parent_pid,
            start_ticks: stat.start_ticks,
            comm: clean_bytes(comm, MAX_COMM_BYTES),
            // The process may hold its mm's lock for ever, or map its arguments from a file that
            // never answers: that is what this reader is expendable for.
            cmdline: self.read("cmdline", MAX_TEXT_BYTES as u64).map(shown).unwrap_or_default(),
            exe,
            cgroup: cgroup_path(&cgroup),
            uid: status.effective_uid,
            viewer_uid: self.viewer_uid(&status),
            inner_pid: status.inner_pid,
            read_from_ns,
            read_to_ns: 0,
            mappings: Vec::new(),
        })
    }

    /// The user who may look at it: `ptrace` asks for the same (`__ptrace_may_access`,
    /// `kernel/ptrace.c`). Files of what must not be dumped belong to root.
    fn viewer_uid(&self, status: &Status) -> u32 {
        let owner = rustix::fs::fstat(&self.fd).map_or(0, |stat| stat.st_uid);
        let is_plain = status.has_one_user && !status.has_capabilities;
        if is_plain && owner == status.effective_uid { owner } else { 0 }
    }

    fn read_mappings(&self, process: &mut ProcessInfo) -> Result<(), ProcessError> {
        let pid = self.pid;
        let maps = self.open_file("maps")?.take(MAX_MAPS_BYTES + 1);
        let mappings = parse_maps(&mut BufReader::with_capacity(MAPS_CHUNK_BYTES, maps));
        process.read_to_ns = boot_time_ns();
        process.mappings = mappings
            .map_err(|error| self.failed("maps", error))?
            .ok_or(ProcessError::TooManyMappings { pid })?;
        Ok(())
    }
}

/// Fields of `/proc/PID/stat` (`fs/proc/array.c`, proc_pid_stat(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    state: u8,
    parent_pid: u32,
    flags: u64,
    start_ticks: u64,
}

impl Stat {
    fn parse(bytes: &[u8]) -> Option<Self> {
        // The comm may hold anything, parentheses and newlines too; no field after it can.
        let end = bytes.iter().rposition(|&byte| byte == b')')?;
        let fields = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent_pid = fields.next()?.parse().ok()?;
        // Of the fields still to come, flags is the fifth (9 of 52), starttime the 18th (22).
        let flags = fields.nth(4)?.parse().ok()?;
        let start_ticks = fields.nth(12)?.parse().ok()?;
        Some(Self { state, parent_pid, flags, start_ticks })
    }
}

/// Lines of `/proc/PID/status`, in which the comm is escaped.
#[derive(Debug, PartialEq)]
struct Status {
    tgid: u32,
    effective_uid: u32,
    /// Its real, effective, saved and file system user ids are one.
    has_one_user: bool,
    /// It may do something that not every user may.
    has_capabilities: bool,
    inner_pid: u32,
}

impl Status {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut tgid, mut users, mut inner) = (None, Vec::new(), None);
        let mut has_capabilities = false;
        for line in bytes.split(|&byte| byte == b'\n') {
            let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|l| l.split_once(':'))
            else {
                continue;
            };
            let mut numbers = value.split_ascii_whitespace().map_while(|text| text.parse().ok());
            match key {
                "Tgid" => tgid = numbers.next(),
                "Uid" => users = numbers.collect(),
                "CapPrm" => has_capabilities = value.trim().bytes().any(|digit| digit != b'0'),
                // Absent without CONFIG_PID_NS.
                "NSpid" => inner = numbers.last(),
                _ => {}
            }
        }
        let tgid = tgid?;
        let effective_uid = *users.get(1)?;
        let has_one_user = users.iter().all(|uid| *uid == effective_uid);
        Some(Self {
            tgid,
            effective_uid,
            has_one_user,
            has_capabilities,
            inner_pid: inner.unwrap_or(tgid),
        })
    }
}

/// The path in the unified hierarchy, or in the `name=systemd` one where that says nothing.
fn cgroup_path(bytes: &[u8]) -> String {
    let find = |controllers: &[u8]| {
        bytes.split(|&byte| byte == b'\n').find_map(|line| {
            let mut parts = line.splitn(3, |&byte| byte == b':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            (names == controllers).then(|| clean_bytes(path, MAX_TEXT_BYTES))
        })
    };
    match find(b"") {
        Some(path) if path != "/" => path,
        unified => find(b"name=systemd").or(unified).unwrap_or_default(),
    }
}

/// Arguments, each ended by a zero byte, as they may be shown.
fn shown(mut arguments: Vec<u8>) -> String {
    while arguments.last() == Some(&0) {
        arguments.pop();
    }
    let redacted = redacted(&arguments);
    let arguments = redacted.split(|&byte| byte == 0);
    let clean: Vec<_> = arguments.map(|it| clean_bytes(it, MAX_TEXT_BYTES)).collect();
    clean.join("\0")
}

/// The executable lines of a `maps` file; `None` if there are too many or it is too long.
fn parse_maps(maps: &mut impl BufRead) -> std::io::Result<Option<Vec<MappingInfo>>> {
    let mut mappings = Vec::new();
    let mut line = Vec::new();
    let mut bytes = 0_u64;
    let mut encoded_bytes = 0;
    loop {
        line.clear();
        let read = maps.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if bytes > MAX_MAPS_BYTES {
            return Ok(None);
        }
        if let Some(mapping) = parse_executable_line(&line) {
            encoded_bytes += mapping.encoded_len() + MAPPING_FRAMING_BYTES;
            if mappings.len() >= MAX_MAPPINGS || encoded_bytes > MAX_MAPPINGS_BYTES {
                return Ok(None);
            }
            mappings.push(mapping);
        }
    }
    // The kernel shows them in order; between two of its pages the process may change them.
    mappings.sort_by_key(|mapping: &MappingInfo| mapping.start);
    Ok(Some(mappings))
}

/// Reads `START-END PERMS OFFSET MAJOR:MINOR INODE      PATH` (proc_pid_maps(5)); `None` for what
/// is not executable.
fn parse_executable_line(line: &[u8]) -> Option<MappingInfo> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut rest = line;
    let mut field = || {
        let length = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (field, next) = rest.split_at(length);
        rest = next.strip_prefix(b" ").unwrap_or(next);
        std::str::from_utf8(field).ok()
    };
    let range = field()?;
    let permissions = field()?;
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let offset = field()?;
    let device = field()?;
    let inode = field()?.parse().ok()?;
    let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
    let path = clean_bytes(&rest[spaces..], MAX_TEXT_BYTES);

    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    let (major, minor) = device.split_once(':')?;
    let device =
        makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let file_offset = hexadecimal(offset)?;
    (start < end).then_some(MappingInfo { start, end, file_offset, device, inode, path })
}

/// Gives the same bytes to each parser of a file.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn parse_all(bytes: &[u8]) {
    let _ = Stat::parse(bytes);
    let _ = Status::parse(bytes);
    let _ = cgroup_path(bytes);
    let _ = shown(bytes.to_vec());
    let mappings = parse_maps(&mut &*bytes).expect("memory can be read").unwrap_or_default();
    assert!(mappings.is_sorted_by_key(|mapping| mapping.start));
    assert!(mappings.iter().all(|mapping| mapping.start < mapping.end));
}

/// The clock that samples carry, which counts while the machine sleeps.
pub(super) fn boot_time_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::*;

    fn stat_line(comm: &[u8]) -> Vec<u8> {
        let mut line = b"12 (".to_vec();
        line.extend_from_slice(comm);
        line.extend_from_slice(b") S 7 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n");
        line
    }

    #[test]
    fn hostile_comms_do_not_move_fields() {
        let expected = Stat { state: b'S', parent_pid: 7, flags: 4_194_560, start_ticks: 987_654 };
        for comm in
            ["a", "", ") R 1 2 3", "((", "))", "a b", "x\ny) Z 9", "\u{fffd}", ") S 7 12 12 0 -1"]
        {
            assert_eq!(Stat::parse(&stat_line(comm.as_bytes())).unwrap(), expected, "{comm:?}");
        }
        let mut random = Random::new(2);
        for _ in 0..5_000 {
            let comm = random.bytes(16);
            assert_eq!(Stat::parse(&stat_line(&comm)).unwrap(), expected, "{comm:?}");
        }
    }

    #[test]
    fn random_files_never_panic() {
        let mut random = Random::new(3);
        let alphabet = b"0123456789abcdef-: rxp()/\n\t[]Uid:NSpid\0\xff";
        for _ in 0..20_000 {
            let bytes: Vec<u8> = random
                .bytes(120)
                .into_iter()
                .map(|byte| alphabet[usize::from(byte) % alphabet.len()])
                .collect();
            let _ = Stat::parse(&bytes);
            let _ = Status::parse(&bytes);
            let _ = cgroup_path(&bytes);
            let _ = shown(bytes.clone());
            let _ = parse_maps(&mut bytes.as_slice()).unwrap();
        }
    }

    #[test]
    fn only_executable_lines_of_maps_are_taken() {
        let maps = b"55d0-55e0 r--p 00000000 fd:01 42                         /bin/a\n\
            55e0-55f0 r-xp 00001000 fd:01 42                         /bin/a b (deleted)\n\
            7f00-7f10 r-xp 00000000 00:00 0 \n\
            7f10-7f20 rwxs 00000000 00:05 7   /tmp/new\\012line\n\
            7ffe-7fff r-xp 00000000 00:00 0                          [vdso]\n\
            8000-7000 r-xp 00000000 00:00 0\n\
            nonsense\n";
        let mappings = parse_maps(&mut maps.as_slice()).unwrap().unwrap();
        let paths: Vec<&str> = mappings.iter().map(|mapping| mapping.path.as_str()).collect();
        assert_eq!(paths, ["/bin/a b (deleted)", "", "/tmp/new\\012line", "[vdso]"]);
        let expected = MappingInfo {
            start: 0x55e0,
            end: 0x55f0,
            file_offset: 0x1000,
            device: makedev(0xfd, 1),
            inode: 42,
            path: "/bin/a b (deleted)".into(),
        };
        assert_eq!(mappings[0], expected);
    }

    #[test]
    fn mappings_survive_being_written_as_maps() {
        let mut random = Random::new(4);
        for _ in 0..2_000 {
            let name: String =
                random.bytes(40).iter().map(|&byte| char::from(b' ' + byte % 95)).collect();
            let mapping = MappingInfo {
                start: random.below(1 << 40),
                end: (1 << 40) + random.below(1 << 40),
                file_offset: random.below(1 << 50),
                device: makedev(random.below(4_096) as u32, random.below(1 << 20) as u32),
                inode: random.next(),
                path: format!("/{name}"),
            };
            let line = format!(
                "{:x}-{:x} r-xp {:08x} {:02x}:{:02x} {:<26} {}\n",
                mapping.start,
                mapping.end,
                mapping.file_offset,
                rustix::fs::major(mapping.device),
                rustix::fs::minor(mapping.device),
                mapping.inode,
                mapping.path
            );
            assert_eq!(parse_executable_line(line.as_bytes()).unwrap(), mapping);
        }
    }

    #[test]
    fn too_many_mappings_are_refused() {
        let line = b"1000-2000 r-xp 00000000 00:00 0\n";
        let maps = line.repeat(MAX_MAPPINGS + 1);
        assert!(parse_maps(&mut maps.as_slice()).unwrap().is_none());
    }

    #[test]
    fn the_cgroup_is_the_unified_one_unless_that_is_empty() {
        assert_eq!(cgroup_path(b"0::/a:b\n"), "/a:b");
        assert_eq!(cgroup_path(b"3:cpu:/x\n1:name=systemd:/s\n0::/\n"), "/s");
        assert_eq!(cgroup_path(b"3:cpu:/x\n0::/\n"), "/");
        assert_eq!(cgroup_path(b""), "");
    }

    #[test]
    fn this_process_is_listed() {
        let pid = std::process::id();
        assert!(pids().unwrap().contains(&pid));
        let own = read(pid).unwrap();
        assert!(own.read_from_ns > 0 && own.read_from_ns <= own.read_to_ns);
        assert!(own.mappings.iter().any(|mapping| mapping.path == own.exe));
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
        assert_eq!(own.start_ticks, read(pid).unwrap().start_ticks);
        assert!(read(2).is_err(), "kthreadd");
        assert!(read(u32::MAX).is_err());
    }
}
