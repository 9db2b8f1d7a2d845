//! A file with code: our unwind table of it, and its call frame information.

use std::{
    cell::RefCell,
    fs::{self, File as OsFile},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use object::{
    Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, SegmentFlags,
};
use profiler_daemon::reader::unwind::{Equation, UnwindTable, build};
use profiler_ebpf::unwind::rule::Rule;

use super::cfi::{Cfi, Section};

const PAGE_BYTES: u64 = 4096;

/// A loaded segment.
struct Load {
    svma: u64,
    file_offset: u64,
    size: u64,
    is_executable: bool,
}

/// A file with code.
pub(crate) struct File {
    pub(crate) path: Arc<str>,
    /// The table that the kernel side would have; none: the file has no CFI at all.
    pub(crate) table: Option<UnwindTable>,
    /// `.eh_frame` and `.debug_frame`, in the order in which they are asked.
    pub(super) cfi: RefCell<Vec<Cfi>>,
    loads: Vec<Load>,
    /// Code that Go's linker has described, and its first svma.
    go_code: Option<(u64, Vec<u8>)>,
    /// First svmas of Go's outermost functions.
    go_roots: Vec<u64>,
}

/// The functions of Go's runtime that are outermost, without what follows them in a name.
const GO_ROOTS: [&str; 3] = ["runtime.goexit", "runtime.mstart", "runtime.rt0_go"];

/// What comes before the offset of `sched.sp` in `mov rsp, [register + 0x38]`.
const LOAD_RSP: [[u8; 2]; 2] = [[0x48, 0x8b], [0x49, 0x8b]];

/// Offset of `sched.sp` in the runtime's `g`.
const SCHED_SP: u8 = 0x38;

impl File {
    /// Reads a file, or this process's vDSO, which is everybody's.
    pub(super) fn open(path: &Arc<str>) -> Result<Self> {
        let bytes =
            if &**path == "[vdso]" { vdso() } else { fs::read(&**path).map_err(Into::into) };
        let bytes = bytes.with_context(|| path.to_string())?;
        let object = object::File::parse(&*bytes).with_context(|| path.to_string())?;
        let loads = object.segments().map(|segment| {
            let (file_offset, size) = segment.file_range();
            let is_executable = matches!(
                segment.flags(),
                SegmentFlags::Elf { p_flags, .. } if p_flags & object::elf::PF_X != 0
            );
            Load { svma: segment.address(), file_offset, size, is_executable }
        });
        let loads = loads.collect();
        Ok(Self {
            path: Arc::clone(path),
            table: build(&bytes).ok(),
            cfi: RefCell::new(frames(&object)),
            loads,
            go_code: go_code(&object),
            go_roots: go_roots(&object),
        })
    }

    /// Whether a function is an outermost one of Go's, of which its CFI says that it has a caller
    /// (`cmd/link/internal/ld/dwarf.go`, `writeframes`: no return address is undefined).
    ///
    /// A thread begins with `runtime.clone`'s `call *%r12` to `runtime.mstart`, which never returns;
    /// we end at `mstart`, and CFI goes on to `clone`, and from there beyond the stack.
    pub(super) fn is_go_root(&self, function: u64) -> bool {
        self.go_roots.contains(&function)
    }

    /// Whether Go's code between two svmas of a function goes over to another stack, by
    /// `mov rsp, [g + 0x38]`.
    ///
    /// Go's linker makes CFI from what its assembler knows of the stack pointer, and of such a
    /// `mov` it knows nothing (`cmd/link/internal/ld/dwarf.go`, `writeframes`). Go 1.26's
    /// `runtime.mcall` loads `rsp` at 0x47f6c3, pushes and calls; `readelf
    /// --debug-dump=frames-interp` has `rsp+8`, `rsp+16` there as if it was the goroutine's. Its
    /// `time.now` also aligns: `and $-16, rsp` at 0x482f31, and `rsp+32` from 0x482ee8 to 0x482f9e.
    pub(super) fn leaves_go_stack(&self, from: u64, to: u64) -> bool {
        let Some((start, code)) = &self.go_code else { return false };
        let index = |svma: u64| svma.checked_sub(*start).and_then(|at| usize::try_from(at).ok());
        let (Some(from), Some(to)) = (index(from), index(to)) else { return false };
        code.get(from..to).is_some_and(loads_stack_pointer)
    }

    /// What an avma is above its svma, where `file_offset` is mapped at `start`.
    pub(super) fn bias(&self, start: u64, file_offset: u64) -> Option<u64> {
        let covers = |load: &&Load| {
            let first = load.file_offset & !(PAGE_BYTES - 1);
            load.is_executable
                && first <= file_offset
                && file_offset < load.file_offset.saturating_add(load.size)
        };
        let load = self.loads.iter().find(covers)?;
        let svma = file_offset.wrapping_sub(load.file_offset).wrapping_add(load.svma);
        Some(start.wrapping_sub(svma))
    }

    /// A rule of the table, as `cargo xtask unwind show` prints it.
    pub(super) fn equation(&self, rule: Rule) -> String {
        let machine = self.table.as_ref().map(|table| table.stats.machine).unwrap_or_default();
        Equation { rule, machine }.to_string()
    }
}

fn frames(object: &object::File<'_>) -> Vec<Cfi> {
    let section = |name: &str| {
        let section = object.section_by_name(name)?;
        let bytes = section.uncompressed_data().ok()?;
        (!bytes.is_empty()).then(|| Section { bytes: bytes.into(), svma: section.address() })
    };
    let text_svma = object.section_by_name(".text").map_or(0, |section| section.address());
    let eh_frame =
        section(".eh_frame").map(|frame| Cfi::eh_frame(frame, section(".eh_frame_hdr"), text_svma));
    let debug_frame = section(".debug_frame").map(|section| Cfi::debug_frame(section.bytes));
    eh_frame.into_iter().chain(debug_frame).collect()
}

/// Whether there is a `mov rsp, [register + 0x38]` in the code.
fn loads_stack_pointer(code: &[u8]) -> bool {
    code.array_windows().any(|&[rex, opcode, modrm, offset]| {
        LOAD_RSP.contains(&[rex, opcode])
            && modrm & 0xf8 == 0x60
            && modrm & 7 != 4
            && offset == SCHED_SP
    })
}

fn go_roots(object: &object::File<'_>) -> Vec<u64> {
    let is_root = |name: &str| GO_ROOTS.contains(&name.strip_suffix(".abi0").unwrap_or(name));
    let roots = object.symbols().filter(|symbol| symbol.name().is_ok_and(is_root));
    roots.map(|symbol| symbol.address()).collect()
}

fn go_code(object: &object::File<'_>) -> Option<(u64, Vec<u8>)> {
    let is_go = object.sections().any(|section| section.name() == Ok(".gopclntab"));
    let text = object.section_by_name(".text").filter(|_| is_go)?;
    Some((text.address(), text.data().ok()?.to_vec()))
}

/// The vDSO as the kernel maps it into every process.
fn vdso() -> Result<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).context("no vDSO")?;
    let range = line.split(' ').next().and_then(|range| range.split_once('-'));
    let (start, end) = range.context("no range")?;
    let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
    let mut bytes = vec![0; usize::try_from(end - start)?];
    OsFile::open("/proc/self/mem")?.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loads_the_stack_pointer() {
        // mov rsp, [rdx + 0x38]; mov rsp, [r14 + 0x38]; mov rbx, [rdx + 0x38]; mov rsp, [rdx + 0x40]
        assert!(loads_stack_pointer(&[0x90, 0x48, 0x8b, 0x62, 0x38]));
        assert!(loads_stack_pointer(&[0x49, 0x8b, 0x66, 0x38, 0x90]));
        assert!(!loads_stack_pointer(&[0x48, 0x8b, 0x5a, 0x38]));
        assert!(!loads_stack_pointer(&[0x48, 0x8b, 0x62, 0x40]));
        assert!(!loads_stack_pointer(&[0x48, 0x8b, 0x62]));
    }

    #[test]
    fn the_vdso_is_read() {
        let file = File::open(&"[vdso]".into()).expect("this process's vDSO");
        assert!(file.table.is_some());
        assert!(!file.cfi.borrow().is_empty());
        assert_eq!(file.bias(0x7fff_0000_0000, 0), Some(0x7fff_0000_0000));
    }
}
