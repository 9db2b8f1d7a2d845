//! The seeds: inputs that lead the fuzzer to what a parser understands. Made from small programs
//! that are compiled here, and by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _};
use profiler_daemon::reader::{
    protocol::{
        FileInfo, FileKey, FrameNames, MappingInfo, NameFile, NameKernel, NameLine, NamePerfMap,
        Names, Open, PidList, Pids, Process, ProcessInfo, Reply, Request, Segment, Unwind,
        UnwindDigest, UnwindTable, reply, request,
    },
    unwind,
    wire::encode_message,
};

use super::go_table;
use crate::step;

/// Functions inlined in each other, a recursion, a frame with a size of its own.
const C: &str = r#"
volatile int sink;
struct pair { int a, b; };
static inline __attribute__((always_inline)) int inner(int x) { sink = x; return sink * 3; }
static inline __attribute__((always_inline)) int middle(int x) { return inner(x) + inner(x + 1); }
__attribute__((noinline)) int outer(struct pair *p) { return middle(p->a) + p->b; }
__attribute__((noinline)) int framed(int n) {
    char room[n];
    for (int i = 0; i < n; i++) room[i] = (char)sink;
    return room[n / 2] + (n > 0 ? framed(n - 1) : 0);
}
void _start(void) {
    struct pair pair = { sink, 2 };
    sink = outer(&pair) + framed(sink);
    for (;;) ;
}
"#;

const CPP: &str = r#"
volatile int sink;
namespace shapes {
template <typename T> struct Square {
    T side;
    __attribute__((noinline)) T area() const { return side * sink; }
};
enum class Kind { One, Two };
}
extern "C" void _start() {
    auto twice = [](int x) { return x * 2 + sink; };
    sink = shapes::Square<int>{twice(3)}.area() + shapes::Square<char>{1}.area();
    for (;;) ;
}
"#;

/// Call frame information of all kinds.
const ASSEMBLY: &str = r"
    .text
    .globl _start
_start:
    .cfi_startproc
    .cfi_undefined rip
    nop
    .cfi_endproc
saved:
    .cfi_startproc
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    .cfi_remember_state
    push %rbx
    .cfi_offset rbx, -24
    leave
    .cfi_restore rbp
    .cfi_def_cfa rsp, 8
    ret
    .cfi_restore_state
    .cfi_same_value rbx
    .cfi_register rip, rcx
    .cfi_adjust_cfa_offset 8
    nop
    .cfi_endproc
expressions:
    .cfi_startproc
    .cfi_escape 0x0f, 0x03, 0x77, 0x08, 0x06
    nop
    .cfi_escape 0x10, 0x06, 0x02, 0x76, 0x00
    nop
    .cfi_escape 0x0f, 0x0b, 0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22
    nop
    .cfi_escape 0x16, 0x10, 0x02, 0x77, 0x08
    .cfi_window_save
    nop
    .cfi_endproc
trampoline:
    .cfi_startproc simple
    .cfi_signal_frame
    .cfi_escape 0x0f, 0x04, 0x77, 0xa0, 0x01, 0x06
    nop
    .cfi_endproc
";

/// Compiler flags of each program, and what its source is.
const PROGRAMS: [(&str, &str, &[&str]); 7] = [
    ("c", C, &["-xc", "-O2", "-g", "-gdwarf-5"]),
    ("c4", C, &["-xc", "-O2", "-g", "-gdwarf-4", "-fno-asynchronous-unwind-tables"]),
    ("c64", C, &["-xc", "-O1", "-g", "-gdwarf64", "-gdwarf-5", "-fno-omit-frame-pointer"]),
    ("c3", C, &["-xc", "-Os", "-g", "-gdwarf-3", "-gstrict-dwarf", "-ffunction-sections"]),
    ("cpp", CPP, &["-xc++", "-O2", "-g", "-fno-exceptions"]),
    ("assembly", ASSEMBLY, &["-xassembler", "-g"]),
    ("library", C, &["-xc", "-O2", "-shared", "-fPIC", "-Wl,--hash-style=gnu"]),
];

/// A section `.go.buildinfo`.
const GO_BUILD: &[u8] = b"\xff Go buildinf:\x08\x02\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08go1.26.8\x50\
    0123456789abcdefpath\tx\nbuild\tDefaultGODEBUG=containermaxprocs=0\n0123456789abcdef";

/// Sections that an input for the target `dwarf` is of.
const DWARF: [&str; 9] = [
    ".debug_info",
    ".debug_abbrev",
    ".debug_line",
    ".debug_str",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_addr",
    ".debug_str_offsets",
];

/// Makes them all.
pub(super) fn make(folder: &Path) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let add = |target: &str, name: &str, bytes: &[u8]| {
        let directory = folder.join(target);
        let path = directory.join(name);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| path.display().to_string())
    };
    let mut table = None;
    for (name, source, flags) in PROGRAMS {
        let program = compile(temporary.path(), name, source, flags)?;
        let bytes = fs::read(&program)?;
        add("dwarf", name, &dwarf(&bytes)?)?;
        add("unwind", name, &frames(&bytes)?)?;
        let stripped = program.with_extension("stripped");
        let mut strip = Command::new("objcopy");
        step::run(strip.arg("--strip-debug").args([&program, &stripped]))?;
        add("elf", name, &fs::read(&stripped)?)?;
        if name == "c" {
            let linked = program.with_extension("linked");
            let link = format!("--add-gnu-debuglink={}", program.display());
            let mut objcopy = Command::new("objcopy");
            step::run(objcopy.args(["--strip-all", &link]).args([&program, &linked]))?;
            add("elf", "linked", &fs::read(&linked)?)?;
            table = Some(unwind::build(&bytes)?);
        }
    }
    let table = table.context("the C program has no table")?;
    add("elf", "go_build", GO_BUILD)?;
    for (name, file) in go_table::seeds() {
        add("go_table", name, &file)?;
    }
    add("perf_map", "map", PERF_MAP)?;
    add("procfs", "maps", MAPS)?;
    add("procfs", "stat", STAT)?;
    add("procfs", "status", STATUS)?;
    add("procfs", "cgroup", CGROUP)?;
    add("procfs", "cmdline", b"/bin/sh\0-c\0while :; do :; done\0")?;
    add("procfs", "kallsyms", KALLSYMS)?;
    for (name, kind) in requests() {
        add("requests", name, &encode_message(&Request { id: 1, kind: Some(kind) })?)?;
    }
    for (name, kind) in replies(&table) {
        let reply = encode_message(&Reply { id: 1, kind: Some(kind) })?;
        add("replies", name, &framed(&[&7_u16.to_le_bytes()], &reply))?;
    }
    for (name, records) in records() {
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        add("records", name, &framed(&records, &[]))?;
    }
    Ok(())
}

fn compile(directory: &Path, name: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    let input = directory.join(format!("{name}.source"));
    fs::write(&input, source)?;
    let program = directory.join(name);
    let mut gcc = Command::new("gcc");
    gcc.current_dir(directory)
        .args(["-nostdlib", "-static", "-fcf-protection=none", "-Wl,-z,noseparate-code"])
        .args(["-Wl,--build-id=sha1", "-fdebug-prefix-map=.=/src", "-ffile-prefix-map=.=/src"])
        .arg(format!("-ffile-prefix-map={}=/src", directory.display()))
        .args(flags)
        .arg(format!("{name}.source"))
        .arg("-o")
        .arg(&program);
    step::run(&mut gcc)?;
    Ok(program)
}

/// Parts, each preceded by its length, then the last.
fn framed(parts: &[&[u8]], last: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(&part[..usize::from(length)]);
    }
    bytes.extend(last);
    bytes
}

fn section<'a>(elf: &object::File<'a>, name: &str) -> (u64, &'a [u8]) {
    let section = elf.section_by_name(name);
    section.map_or((0, &[]), |section| (section.address(), section.data().unwrap_or_default()))
}

fn dwarf(program: &[u8]) -> Result<Vec<u8>> {
    let elf = object::File::parse(program)?;
    let [parts @ .., last] = DWARF.map(|name| section(&elf, name).1);
    Ok(framed(&parts, last))
}

fn frames(program: &[u8]) -> Result<Vec<u8>> {
    let elf = object::File::parse(program)?;
    let (eh_frame_svma, eh_frame) = section(&elf, ".eh_frame");
    let (_, debug_frame) = section(&elf, ".debug_frame");
    let (start, code) = section(&elf, ".text");
    let mut head = vec![0];
    for number in [eh_frame_svma, start, code.len() as u64] {
        head.extend((number as u32).to_le_bytes());
    }
    // Interrupted near the beginning; each word of the stack could be a return address.
    let mut stack = Vec::new();
    for register in [start + 4, 0x7000, 0x7040, 0x7080] {
        stack.extend(register.to_le_bytes());
    }
    for n in 0..64 {
        let word = if n % 2 == 0 { 0x7000 + n * 8 + 32 } else { start + n };
        stack.extend(word.to_le_bytes());
    }
    Ok(framed(&[&head, eh_frame, debug_frame, &stack], code))
}

const PERF_MAP: &[u8] = b"7f0000001000 40 LazyCompile:~main /app.js:1\n\
    0x7f0000001020 0x100 py::<module>:/a b.py\n7f0000001000 8 Stub\nzz 1 bad\n\
    ffffffffffffffff 10 wraps\n7f0000002000 0 empty\n7f0000003000 20 \xff\xfe name";

const MAPS: &[u8] =
    b"55d0c0000000-55d0c0010000 r--p 00000000 fd:01 42                         /bin/a\n\
    55d0c0010000-55d0c0020000 r-xp 00010000 fd:01 42                         /bin/a b (deleted)\n\
    7f0000000000-7f0000010000 rwxp 00000000 00:00 0 \n\
    7f0000010000-7f0000020000 r-xs 00000000 00:05 7   /tmp/new\\012line\n\
    7ffe00000000-7ffe00002000 r-xp 00000000 00:00 0                          [vdso]\n";

const STAT: &[u8] = b"12 (a) (b) S 7 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n";

const STATUS: &[u8] = b"Name:\ta\\nb\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t12\nPid:\t12\n\
    PPid:\t7\nUid:\t1000\t1001\t1000\t1000\nNStgid:\t12\t1\nNSpid:\t12\t1\n";

const CGROUP: &[u8] = b"13:cpu,cpuacct:/x\n1:name=systemd:/init.scope\n0::/user.slice/a:b\n";

const KALLSYMS: &[u8] = b"0000000000000000 A fixed_percpu_data\nffffffff81000000 T _stext\n\
    ffffffff81000100 t do_work\nffffffff81000200 D some_data\nffffffff81000800 T _etext\n\
    ffffffffc0000000 t nf_input\t[nf_tables]\n";

const KEY: FileKey = FileKey { device: 2, inode: 3, ctime_ns: -1, size_bytes: 1 << 40 };

fn requests() -> [(&'static str, request::Kind); 8] {
    use request::Kind;
    let open = Open {
        pid: 7,
        start: 0x1000,
        end: 0x2000,
        path: "/bin/a b".into(),
        build_id: vec![1; 20],
        device: 2,
        inode: 3,
        anywhere: false,
    };
    let name_file = NameFile { key: KEY, file_offsets: vec![1, 0x1000, 1 << 60], no_inlines: true };
    let perf_map = NamePerfMap {
        pid: 7,
        inner_pid: 1,
        uid: 1000,
        avmas: vec![0x7f00_0000_0000],
        ..NamePerfMap::default()
    };
    [
        ("pids", Kind::Pids(Pids {})),
        ("process", Kind::Process(Process { pid: 7 })),
        ("open", Kind::Open(open)),
        ("name_file", Kind::NameFile(name_file)),
        ("name_kernel", Kind::NameKernel(NameKernel { addresses: vec![u64::MAX] })),
        ("name_perf_map", Kind::NamePerfMap(perf_map)),
        ("unwind", Kind::Unwind(Unwind { key: KEY })),
        ("unwind_digest", Kind::UnwindDigest(UnwindDigest { key: KEY })),
    ]
}

fn replies(table: &unwind::UnwindTable) -> [(&'static str, reply::Kind); 7] {
    use reply::Kind;
    let mapping = |start| MappingInfo {
        start,
        end: start + 0x1000,
        file_offset: 0x1000,
        device: 2,
        inode: 3,
        path: "/bin/a".into(),
    };
    let process = ProcessInfo {
        pid: 7,
        parent_pid: 1,
        start_ticks: 5,
        comm: "a".into(),
        cmdline: "a b".into(),
        exe: "/bin/a".into(),
        cgroup: "/x".into(),
        uid: 1000,
        viewer_uid: 1000,
        inner_pid: 1,
        read_from_ns: 50,
        read_to_ns: 60,
        mappings: vec![mapping(0x1000), mapping(0x2000), mapping(0x9000)],
    };
    let file = FileInfo {
        key: KEY,
        build_id: "0123".into(),
        segments: vec![Segment { file_offset: 0x1000, svma: 0x40_1000, size_bytes: 0x1000 }],
        uid: 0,
        symbol_bytes: 1,
        weight_bytes: 2,
        ..FileInfo::default()
    };
    let line = |function, file| NameLine { function, file, line: 9, start_line: 7, module: 3 };
    let names = Names {
        strings: ["", "f", "g", "[m]"].map(String::from).to_vec(),
        frames: vec![
            FrameNames { lines: vec![line(1, 2), line(2, 0)] },
            FrameNames::default(),
            FrameNames { lines: vec![line(9, 9)] },
        ],
        warning: "w".into(),
        cpu_us: 5,
    };
    let words =
        |block: &[u32]| block.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let table = UnwindTable {
        base: table.table.base,
        pages: table.table.pages,
        shift: table.table.shift,
        rules: table.table.rules,
        blocks: table.blocks.iter().flat_map(|block| words(block)).collect(),
    };
    [
        ("error", Kind::Error("no".into())),
        ("process", Kind::Description(process)),
        ("pids", Kind::Pids(PidList { pids: vec![1, 7] })),
        ("file", Kind::File(file)),
        ("names", Kind::Names(names)),
        ("table", Kind::Table(table)),
        ("digest", Kind::Digest(vec![7; 32])),
    ]
}

/// Side-band records after a 0, records of the sampling programs after a 1.
fn records() -> [(&'static str, Vec<Vec<u8>>); 2] {
    let side_band = |kind: u32, misc: u16, body: &[u8]| {
        let mut record = vec![0];
        record.extend(kind.to_ne_bytes());
        record.extend(misc.to_ne_bytes());
        record.extend(((8 + body.len() + 16) as u16).to_ne_bytes());
        record.extend(body);
        record.extend([7_u32, 7].map(u32::to_ne_bytes).concat());
        record.extend(99_u64.to_ne_bytes());
        record
    };
    let mut map = [7_u32, 7].map(u32::to_ne_bytes).concat();
    map.extend([0x1000_u64, 0x2000, 0x400].map(u64::to_ne_bytes).concat());
    map.extend([20, 0, 0, 0]);
    map.extend([0xaa; 20]);
    map.extend([5_u32, 2].map(u32::to_ne_bytes).concat());
    map.extend(b"/bin/x\0\0");
    let comm = [&[7_u32, 7].map(u32::to_ne_bytes).concat()[..], b"name\0\0\0\0"].concat();
    let fork = [8_u32, 7, 8, 7, 0, 0].map(u32::to_ne_bytes).concat();
    let lost = [1_u64, 5].map(u64::to_ne_bytes).concat();
    let kernel = vec![
        side_band(3, 1 << 13, &comm),
        side_band(10, 1 << 14, &map),
        side_band(10, 0, &map),
        side_band(7, 0, &fork),
        side_band(4, 0, &fork),
        side_band(2, 0, &lost),
    ];
    let sample = |kind: u32| {
        let mut record = vec![1];
        record.extend([kind, 0].map(u32::to_ne_bytes).concat());
        record.extend([100_u64, 0, 0x1800, 0].map(u64::to_ne_bytes).concat());
        record.extend([7_u32, 7, 1, 0, 0, 0].map(u32::to_ne_bytes).concat());
        record.extend(b"name\0\0\0\0\0\0\0\0\0\0\0\0");
        record.extend([1_u32, 0].map(u32::to_ne_bytes).concat());
        record
    };
    let mut stack = vec![1];
    stack.extend([2_u32, 0].map(u32::to_ne_bytes).concat());
    stack.extend(55_u64.to_ne_bytes());
    stack.extend([9_u32, 2].map(u32::to_ne_bytes).concat());
    stack.extend([0x1010_u64, 0x1020].map(u64::to_ne_bytes).concat());
    let mut copy = sample(3);
    let words = (0..17).map(|n| if n == 7 { 0x7000 } else { 0x1000 + n });
    copy.extend(words.flat_map(u64::to_ne_bytes));
    copy.extend([0x7000_u64, 64].map(u64::to_ne_bytes).concat());
    copy.extend((0..8_u64).flat_map(|n| (0x7000 + n * 8 + 16).to_ne_bytes()));
    [("side_band", kernel), ("samples", vec![sample(1), stack, copy])]
}
