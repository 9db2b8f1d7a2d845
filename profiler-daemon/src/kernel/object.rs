//! The BPF object: loaded, its programs and maps at hand.

use std::{
    io::Read as _,
    os::fd::{OwnedFd, RawFd},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        BtfTracePoint, Iter, PerfEvent, ProgramFd, RawTracePoint,
        raw_trace_point::RawTracePointLinkId, tp_btf::BtfTracePointLinkId,
    },
};
use aya_log::EbpfLogger;
use profiler_ebpf::{
    config::{self, Config, Control},
    counters::Counters,
    go_waits,
    mappings::Process,
    targets::Target,
    waits::Thread,
};

use super::{KernelError, error::from_aya, probe};

/// Compiled by `cargo xtask ebpf build`.
#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../profiler-ebpf/prebuilt/rprofd-x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../profiler-ebpf/prebuilt/rprofd-aarch64.o");

/// The loaded programs' maps. The programs stay loaded as long as this lives.
pub(super) struct Object {
    pub(super) control: Array<MapData, Control>,
    pub(super) counters: PerCpuArray<MapData, Counters>,
    pub(super) targets: HashMap<MapData, u32, Target>,
    pub(super) processes: HashMap<MapData, u32, Process>,
    pub(super) threads: HashMap<MapData, u32, Thread>,
    pub(super) go_programs: HashMap<MapData, u32, go_waits::Program>,
    pub(super) go_parked: HashMap<MapData, go_waits::Place, go_waits::Parked>,
    pub(super) go_locks: HashMap<MapData, go_waits::Place, go_waits::Waiters>,
    pub(super) ranges: MapData,
    pub(super) tables: MapData,
    pub(super) slabs: MapData,
    pub(super) records: RingBuf<MapData>,
    pub(super) log: Option<EbpfLogger<&'static dyn log::Log>>,
    pub(super) cpu: ProgramFd,
    /// Programs that run at functions' entries, as [`Self::load_probe`] loads them.
    pub(super) linked: std::collections::HashMap<&'static str, OwnedFd>,
    /// Of all maps.
    descriptors: std::collections::HashMap<String, RawFd>,
    /// Holds the programs and the tracepoints' links.
    programs: Ebpf,
    /// Those of [`Tracepoint`]s that are attached now.
    attached: std::collections::HashMap<Tracepoint, Link>,
}

/// Of a program to its tracepoint.
enum Link {
    Raw(RawTracePointLinkId),
    /// The program is told the types of its arguments.
    Typed(BtfTracePointLinkId),
}

/// What is attached while it is needed alone: programs, and their tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tracepoint {
    /// A CPU goes from one thread to another.
    Switch,
    /// A thread ends another's wait.
    Waking,
    /// A thread starts another.
    Spawn,
    /// A thread ends.
    End,
}

impl Tracepoint {
    /// The program's name, and the tracepoint's.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Switch => ("switch", "sched_switch"),
            Self::Waking => ("waking", "sched_waking"),
            Self::Spawn => ("spawn", "sched_process_fork"),
            Self::End => ("end", "sched_process_exit"),
        }
    }
}

/// What the object is loaded with.
pub(super) struct Load {
    pub(super) config: Config,
    /// Size of the ring of records, in bytes; a power of two pages.
    pub(super) ring_bytes: u32,
    /// One more than the highest number of a CPU.
    pub(super) cpus: u32,
    /// Waits may be recorded: there is to be room for threads.
    pub(super) has_threads: bool,
    /// The programs report what they do.
    pub(super) log: bool,
}

impl Object {
    pub(super) fn load(load: &Load) -> Result<Self, KernelError> {
        let log_level: u8 = if load.log { aya_log::Level::Debug as u8 } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .override_global("CONFIG", &load.config, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries("RECORDS", load.ring_bytes)
            .map_max_entries("COPIES", load.cpus)
            .map_max_entries("THREADS", if load.has_threads { config::THREADS } else { 1 })
            .map_max_entries("GO_PARKED", if load.has_threads { config::GO_PARKED } else { 1 })
            .load(OBJECT)
            .map_err(|error| from_aya(&error))?;
        let descriptors = probe::descriptors(&ebpf);
        let log = if load.log { logger(&mut ebpf) } else { None };
        let fork: &mut RawTracePoint = program(&mut ebpf, "fork")?;
        fork.load().map_err(|error| from_aya(&error))?;
        if load.config.follow != 0 {
            fork.attach("sched_process_fork").map_err(|error| from_aya(&error))?;
        }
        let exec: &mut RawTracePoint = program(&mut ebpf, "exec")?;
        exec.load().map_err(|error| from_aya(&error))?;
        exec.attach("sched_process_exec").map_err(|error| from_aya(&error))?;
        let cpu: &mut PerfEvent = program(&mut ebpf, "cpu")?;
        cpu.load().map_err(|error| from_aya(&error))?;
        let cpu = cpu.fd().map_err(|error| from_aya(&error))?.try_clone();
        let cpu = cpu.map_err(|error| KernelError::of("dup", error))?;
        let Map::Array(ranges) = take(&mut ebpf, "RANGES")? else {
            return Err(KernelError::Bpf("RANGES is not an array".into()));
        };
        let Map::Array(tables) = take(&mut ebpf, "TABLES")? else {
            return Err(KernelError::Bpf("TABLES is not an array".into()));
        };
        let Map::ArrayOfMaps(slabs) = take(&mut ebpf, "SLABS")? else {
            return Err(KernelError::Bpf("SLABS is not an array of maps".into()));
        };
        Ok(Self {
            control: map(&mut ebpf, "CONTROL")?,
            counters: map(&mut ebpf, "COUNTERS")?,
            targets: map(&mut ebpf, "TARGETS")?,
            processes: map(&mut ebpf, "PROCESSES")?,
            threads: map(&mut ebpf, "THREADS")?,
            go_programs: map(&mut ebpf, "GO_PROGRAMS")?,
            go_parked: map(&mut ebpf, "GO_PARKED")?,
            go_locks: map(&mut ebpf, "GO_LOCKS")?,
            ranges,
            tables,
            slabs,
            records: map(&mut ebpf, "RECORDS")?,
            log,
            cpu,
            linked: std::collections::HashMap::new(),
            descriptors,
            programs: ebpf,
            attached: std::collections::HashMap::new(),
        })
    }

    /// A program, by its name.
    pub(super) fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, KernelError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    {
        program(&mut self.programs, name)
    }

    /// A program that runs at functions' entries, as [`probe::load`] has it.
    pub(super) fn load_probe(&self, name: &str) -> Result<OwnedFd, KernelError> {
        probe::load(OBJECT, &self.descriptors, name)
    }

    /// The iterator over all threads, loaded.
    pub(super) fn thread_iterator(&mut self) -> Result<&mut Iter, KernelError> {
        let program: &mut Iter = program(&mut self.programs, "snapshot")?;
        if program.fd().is_err() {
            let btf = aya::Btf::from_sys_fs().map_err(|error| from_aya(&error))?;
            program.load("task", &btf).map_err(|error| from_aya(&error))?;
        }
        Ok(program)
    }

    /// Has the iterator over all threads run; what it wrote.
    pub(super) fn read_threads(&mut self) -> Result<Vec<u8>, KernelError> {
        let program = self.thread_iterator()?;
        let link = program.attach().and_then(|link| program.take_link(link));
        let link = link.map_err(|error| from_aya(&error))?;
        let mut file = link.into_file().map_err(|error| from_aya(&error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|error| KernelError::of("read(bpf iterator)", error))?;
        Ok(bytes)
    }

    /// Attaches a program to its tracepoint, or detaches it.
    pub(super) fn set_attached(
        &mut self,
        tracepoint: Tracepoint,
        wanted: bool,
    ) -> Result<(), KernelError> {
        let is_attached = self.attached.contains_key(&tracepoint);
        if wanted == is_attached {
            return Ok(());
        }
        let (name, place) = tracepoint.names();
        if let Some(link) = self.attached.remove(&tracepoint) {
            let detached = match link {
                Link::Raw(link) => self.program::<RawTracePoint>(name)?.detach(link),
                Link::Typed(link) => self.program::<BtfTracePoint>(name)?.detach(link),
            };
            return detached.map_err(|error| from_aya(&error));
        }
        let link = match tracepoint {
            Tracepoint::Switch | Tracepoint::Waking => {
                if self.program::<BtfTracePoint>(name)?.fd().is_err() {
                    self.load_typed()?;
                }
                self.program::<BtfTracePoint>(name)?.attach().map(Link::Typed)
            }
            Tracepoint::Spawn | Tracepoint::End => {
                let program = self.program::<RawTracePoint>(name)?;
                if program.fd().is_err() {
                    program.load().map_err(|error| from_aya(&error))?;
                }
                program.attach(place).map(Link::Raw)
            }
        };
        self.attached.insert(tracepoint, link.map_err(|error| from_aya(&error))?);
        Ok(())
    }

    /// Loads the programs that are told the types of their arguments: all of them, since to read the
    /// kernel's types takes longer than that.
    fn load_typed(&mut self) -> Result<(), KernelError> {
        let btf = aya::Btf::from_sys_fs().map_err(|error| from_aya(&error))?;
        for tracepoint in [Tracepoint::Switch, Tracepoint::Waking] {
            let (name, place) = tracepoint.names();
            let program = self.program::<BtfTracePoint>(name)?;
            program.load(place, &btf).map_err(|error| from_aya(&error))?;
        }
        Ok(())
    }
}

fn logger(ebpf: &mut Ebpf) -> Option<EbpfLogger<&'static dyn log::Log>> {
    EbpfLogger::init_with_logger(ebpf, log::logger())
        .inspect_err(|error| tracing::warn!("the programs' own log cannot be read: {error}"))
        .ok()
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::Bpf(format!("the object has no map {name}")))
}

fn map<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(take(ebpf, name)?).map_err(|error| from_aya(&error))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| KernelError::Bpf(format!("the object has no program {name}")))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| from_aya(&error))
}
