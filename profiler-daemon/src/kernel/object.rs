//! The BPF object: loaded, its programs and maps at hand.

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{PerfEvent, ProgramFd, RawTracePoint},
};
use aya_log::EbpfLogger;
use profiler_ebpf::{
    config::{Config, Control},
    counters::Counters,
    mappings::Process,
    targets::Target,
};

use super::{KernelError, error::from_aya};

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
    pub(super) ranges: MapData,
    pub(super) tables: MapData,
    pub(super) slabs: MapData,
    pub(super) records: RingBuf<MapData>,
    pub(super) log: Option<EbpfLogger<&'static dyn log::Log>>,
    pub(super) cpu: ProgramFd,
    /// Holds the programs and the tracepoints' links.
    _programs: Ebpf,
}

/// What the object is loaded with.
pub(super) struct Load {
    pub(super) config: Config,
    /// Size of the ring of records, in bytes; a power of two pages.
    pub(super) ring_bytes: u32,
    /// One more than the highest number of a CPU.
    pub(super) cpus: u32,
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
            .load(OBJECT)
            .map_err(|error| from_aya(&error))?;
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
        let aya::maps::Map::Array(ranges) = take(&mut ebpf, "RANGES")? else {
            return Err(KernelError::Bpf("RANGES is not an array".into()));
        };
        let aya::maps::Map::Array(tables) = take(&mut ebpf, "TABLES")? else {
            return Err(KernelError::Bpf("TABLES is not an array".into()));
        };
        let aya::maps::Map::ArrayOfMaps(slabs) = take(&mut ebpf, "SLABS")? else {
            return Err(KernelError::Bpf("SLABS is not an array of maps".into()));
        };
        Ok(Self {
            control: map(&mut ebpf, "CONTROL")?,
            counters: map(&mut ebpf, "COUNTERS")?,
            targets: map(&mut ebpf, "TARGETS")?,
            processes: map(&mut ebpf, "PROCESSES")?,
            ranges,
            tables,
            slabs,
            records: map(&mut ebpf, "RECORDS")?,
            log,
            cpu,
            _programs: ebpf,
        })
    }
}

fn logger(ebpf: &mut Ebpf) -> Option<EbpfLogger<&'static dyn log::Log>> {
    EbpfLogger::init_with_logger(ebpf, log::logger())
        .inspect_err(|error| tracing::warn!("the programs' own log cannot be read: {error}"))
        .ok()
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::Bpf(format!("the object has no map {name}")))
}

fn map<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, KernelError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
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
