//! Programs of the object that run at functions' entries, and how they are attached there. From Linux
//! 6.12 on they are loaded, too, as the kind that the kernel attaches without more rights than for
//! samples: aya does not know that kind.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::UProbe,
};
use aya_obj::btf::BtfFeatures;
use rustix::fs::{AtFlags, StatxFlags, makedev, statx};

use super::{KernelError, bpf, defects::Version, error::from_aya, object::Object, perf::PerfEvent};

/// From here on a link of BPF's attaches a probe to all threads of a process: before, to its first one.
const LINKS: Version = Version(6, 12, 0);

/// What the kernel calls the kind of event that a probe in a program is.
const EVENT_SOURCE: &str = "/sys/bus/event_source/devices/uprobe/type";

/// What a function of Go's begins with: it looks whether there is room on its goroutine's stack
/// (`cmp 0x10(%r14), %rsp`; `ldr x16, [x28, #16]`).
#[cfg(target_arch = "x86_64")]
const GO_BEGIN: [u8; 4] = [0x49, 0x3b, 0x66, 0x10];
#[cfg(target_arch = "aarch64")]
const GO_BEGIN: [u8; 4] = [0x90, 0x0b, 0x40, 0xf9];

/// What runs at a function's entry.
pub(super) struct Entry {
    program: OwnedFd,
    /// The same as the kernel attaches it without further rights; `None`: it does not.
    linked: Option<OwnedFd>,
}

/// A probe in a program; drop it to have it removed.
pub(super) enum Probe {
    Link { _fd: OwnedFd },
    Event { _event: PerfEvent },
}

/// The program of a process: its file, held so that it is still this one when the kernel opens it.
pub(super) struct Target {
    pid: u32,
    file: File,
    path: CString,
}

impl Object {
    /// A program that runs at a function's entry, loaded.
    pub(super) fn entry(&mut self, name: &'static str) -> Result<Entry, KernelError> {
        let duplicate =
            |fd: &OwnedFd| fd.try_clone().map_err(|error| KernelError::of("dup", error));
        let program: &mut UProbe = self.program(name)?;
        if program.fd().is_err() {
            program.load().map_err(|error| from_aya(&error))?;
        }
        let program = program.fd().map_err(|error| from_aya(&error))?.as_fd();
        let program = program.try_clone_to_owned();
        let program = program.map_err(|error| KernelError::of("dup", error))?;
        if !self.linked.contains_key(name)
            && Version::upstream().is_none_or(|version| version >= LINKS)
        {
            match self.load_probe(name) {
                Ok(fd) => _ = self.linked.insert(name, fd),
                Err(error) => tracing::debug!("{name}: {error}"),
            }
        }
        let linked = self.linked.get(name).map(duplicate).transpose()?;
        Ok(Entry::of(program, linked))
    }
}

impl Entry {
    pub(super) const fn of(program: OwnedFd, linked: Option<OwnedFd>) -> Self {
        Self { program, linked }
    }

    /// Has it run when a process comes to an instruction, by the way that needs fewer rights, if
    /// there is one.
    pub(super) fn attach(&self, target: &Target, offset: u64) -> Result<Probe, KernelError> {
        let Target { pid, path, .. } = target;
        if let Some(linked) = &self.linked {
            match bpf::link_probe(linked.as_fd(), *pid, path, offset) {
                Ok(_fd) => return Ok(Probe::Link { _fd }),
                Err(error) => tracing::debug!("{error}"),
            }
        }
        let kind = std::fs::read_to_string(EVENT_SOURCE)
            .map_err(|io_error| KernelError::File { path: EVENT_SOURCE, io_error })?;
        let kind = kind.trim().parse().map_err(|_| KernelError::File {
            path: EVENT_SOURCE,
            io_error: std::io::ErrorKind::InvalidData.into(),
        })?;
        let event = PerfEvent::probe(*pid, kind, path, offset).map_err(|error| match error {
            KernelError::NotPermitted { io_error, .. } => KernelError::NoProbes(io_error),
            other => other,
        })?;
        event.attach(self.program.as_fd())?;
        event.enable()?;
        Ok(Probe::Event { _event: event })
    }
}

impl Target {
    /// The program of a process, if its file has this device and inode.
    pub(super) fn of_process(pid: u32, is: (u64, u64)) -> Result<Self, KernelError> {
        let failed = |error| KernelError::of("open(/proc/PID/exe)", error);
        // Neither this nor `statx` asks the file system, which may not answer.
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_PATH);
        let file = options.open(format!("/proc/{pid}/exe")).map_err(failed)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(&file, "", flags, StatxFlags::INO).map_err(|it| failed(it.into()))?;
        let device = makedev(found.stx_dev_major, found.stx_dev_minor);
        if (device, found.stx_ino) != is {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        }
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        Ok(Self { pid, file, path })
    }

    /// Where a probe at the entry of a function of Go's is to be that begins at an offset. It is looked
    /// whether one does: in the middle of an instruction a probe would change what the program does,
    /// and whoever said where it is may be wrong.
    pub(super) fn entry_of_go(&self, offset: u64) -> Result<u64, KernelError> {
        let failed = |error| KernelError::of("read(/proc/PID/exe)", error);
        let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let mut begin = [0; ENTRY_BYTES];
        file.and_then(|file| file.read_exact_at(&mut begin, offset)).map_err(failed)?;
        if begin.starts_with(&GO_BEGIN) {
            Ok(offset + behind_stack_check(&begin))
        } else {
            Err(KernelError::NotGo)
        }
    }
}

/// So much of a function's code is looked at.
const ENTRY_BYTES: usize = 12;

/// Where registers and stack are as at the entry, and the kernel does the instruction itself that a
/// probe is at: of others it has the CPU do a copy, which costs a second exception. What begins anew
/// since its stack has to grow comes by the last one only once.
#[cfg(target_arch = "x86_64")]
fn behind_stack_check(code: &[u8; ENTRY_BYTES]) -> u64 {
    // `jbe` with 32 bits, and `push %rbp`
    match code {
        [_, _, _, _, 0x0f, 0x86, _, _, _, _, 0x55, _] => 10,
        [_, _, _, _, 0x0f, 0x86, ..] => 4,
        _ => 0,
    }
}

/// The entry itself.
#[cfg(target_arch = "aarch64")]
fn behind_stack_check(_: &[u8; ENTRY_BYTES]) -> u64 {
    0
}

/// Descriptors of the maps of an object that is loaded, by name. They stay open as long as the maps.
pub(super) fn descriptors(ebpf: &Ebpf) -> HashMap<String, RawFd> {
    let data = |map: &Map| -> Option<RawFd> {
        let fd = |data: &MapData| data.fd().as_fd().as_raw_fd();
        match map {
            Map::Array(data)
            | Map::ArrayOfMaps(data)
            | Map::HashMap(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data) => Some(fd(data)),
            _ => None,
        }
    };
    ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), data(map)?))).collect()
}

/// Loads the program `name` of `object`, whose maps have these descriptors.
///
/// # Errors
///
/// [`KernelError`]. Before Linux 6.6 there are no such programs.
pub(super) fn load(
    object: &[u8],
    maps: &HashMap<String, RawFd>,
    name: &str,
) -> Result<OwnedFd, KernelError> {
    let mut object = aya_obj::Object::parse(object).map_err(|error| from_aya(&error))?;
    // All that there is: these kernels are newer than that.
    let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
    let btf = object.fixup_and_sanitize_btf(&features).map_err(|error| from_aya(&error))?;
    let btf = btf.ok_or_else(|| KernelError::Bpf("the object has no type information".into()))?;
    let btf = bpf::load_btf(&btf.to_bytes())?;
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let own = std::mem::take(&mut object.maps);
    if let Some(unknown) = own.keys().find(|name| !maps.contains_key(*name)) {
        return Err(KernelError::Bpf(format!("the map {unknown} is not loaded")));
    }
    let known = own.iter().filter_map(|(name, map)| Some((name.as_str(), *maps.get(name)?, map)));
    object.relocate_maps(known, &text).map_err(|error| from_aya(&error))?;
    object.relocate_calls(&text).map_err(|error| from_aya(&error))?;
    let program = object.programs.get(name);
    let function = program.and_then(|program| object.functions.get(&program.function_key()));
    let function =
        function.ok_or_else(|| KernelError::Bpf(format!("the object has no program {name}")))?;
    let instructions: Vec<u8> = function
        .instructions
        .iter()
        .flat_map(|it| {
            let registers = it.dst_reg() | it.src_reg() << 4;
            let [low, high] = it.off.to_ne_bytes();
            let constant = it.imm.to_ne_bytes();
            [[it.code, registers, low, high], constant].concat()
        })
        .collect();
    bpf::load_probe(&bpf::Probe {
        instructions: &instructions,
        btf: btf.as_fd(),
        functions: &function.func_info.func_info_bytes(),
        function_bytes: function.func_info_rec_size,
    })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Code as compilers of some versions begin functions with.
    #[test]
    fn probes_are_where_the_kernel_does_the_instruction() {
        let begin = [0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0xdc, 0, 0, 0];
        let with =
            |more: [u8; 2]| behind_stack_check(&[&begin[..], &more].concat().try_into().unwrap());
        assert_eq!(with([0x55, 0x48]), 10, "from 1.21 on");
        assert_eq!(with([0x48, 0x83]), 4);
        assert_eq!(
            behind_stack_check(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0, 0x55, 0, 0, 0, 0x55, 0]),
            0
        );
    }
}
