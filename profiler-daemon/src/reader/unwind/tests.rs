//! Tables of whole files: made by compilers here and now, found on this machine, and damaged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gimli::{BaseAddresses, EndianSlice, LittleEndian, RegisterRule, UnwindContext, UnwindSection};
use profiler_ebpf::unwind::rule::cfa;

use super::super::tests::Random;
use super::*;

/// What a damaged file may cost, in a debug build.
const PATIENCE: Duration = Duration::from_secs(5);

fn equation(table: &UnwindTable, svma: u64) -> String {
    Equation { rule: table.find(svma), machine: table.stats.machine }.to_string()
}

/// Whether a program that tests need is there; a failure where all must be.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("RPROFD_TEST_REQUIRE").is_none(), "{program} is missing");
        eprintln!("skipped: no {program}");
    }
    found
}

/// A shared library of this source.
fn compile(compiler: &str, source_name: &str, source: &str, options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let source_path = dir.path().join(source_name);
    let library = dir.path().join("library.so");
    std::fs::write(&source_path, source).unwrap();
    let status = Command::new(compiler)
        .args(["-shared", "-nostdlib", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source_path)
        .args(options)
        .status();
    assert!(status.unwrap().success());
    std::fs::read(library).unwrap()
}

/// The svma of a function.
fn function(elf: &[u8], name: &str) -> u64 {
    let elf = Elf::parse(elf).unwrap();
    let mut found = None;
    elf.for_each_function(|symbol| {
        if symbol.name == name.as_bytes() {
            found = Some(symbol.svma);
        }
    });
    found.unwrap_or_else(|| panic!("no function {name}"))
}

/// The rules that one-byte instructions under these directives have.
fn rules_of(directives: &[&str]) -> Vec<String> {
    let body: String = directives.iter().map(|line| format!("{line}\nnop\n")).collect();
    let source = format!(
        ".text\n.globl f\n.type f, @function\nf:\n.cfi_startproc\n{body}.cfi_endproc\n\
         .size f, . - f\n.section .note.GNU-stack\n"
    );
    let elf = compile("gcc", "f.s", &source, &["-Wl,--eh-frame-hdr"]);
    let table = build(&elf).unwrap();
    assert!(table.table.is_sound());
    let start = function(&elf, "f");
    assert_eq!(table.find(start - 1), Rule::GAP);
    assert_eq!(table.find(start + directives.len() as u64), Rule::GAP);
    (0..directives.len() as u64).map(|at| equation(&table, start + at)).collect()
}

/// The rule of one instruction under this directive.
fn rule_of(directive: &str) -> String {
    rules_of(&[directive]).remove(0)
}

#[test]
fn plain_frames() {
    if !has("gcc") {
        return;
    }
    let rules = rules_of(&[
        "",
        ".cfi_adjust_cfa_offset 8\n.cfi_rel_offset rbp, 0",
        ".cfi_remember_state\n.cfi_def_cfa_register rbp",
        ".cfi_offset rbx, -24\n.cfi_offset r12, -32",
        ".cfi_restore rbx",
        ".cfi_restore_state",
        ".cfi_def_cfa rsp, 8\n.cfi_restore rbp",
        ".cfi_undefined rip",
    ]);
    let expected = [
        "cfa = rsp + 8",
        "cfa = rsp + 16, rbp = *(cfa - 16)",
        "cfa = rbp + 16, rbp = *(cfa - 16)",
        "cfa = rbp + 16, rbp = *(cfa - 16), rbx = *(cfa - 24)",
        "cfa = rbp + 16, rbp = *(cfa - 16)",
        "cfa = rsp + 16, rbp = *(cfa - 16)",
        "cfa = rsp + 8",
        "end",
    ];
    assert_eq!(rules, expected);
}

#[test]
fn other_bases() {
    if !has("gcc") {
        return;
    }
    let cases = [
        (".cfi_def_cfa rbx, 32", "cfa = rbx + 32"),
        (".cfi_def_cfa r10, 0", "cfa = r10"),
        (".cfi_def_cfa rsp, -8", "cfa = rsp - 8"),
        // DW_CFA_def_cfa_expression, its length, and breg7 16; deref; plus_uconst 8.
        (".cfi_escape 0x0f, 5, 0x77, 16, 0x06, 0x23, 8", "cfa = *(rsp + 16) + 8"),
        // breg6 -8; deref: where gcc realigned the stack.
        (".cfi_escape 0x0f, 3, 0x76, 0x78, 0x06", "cfa = *(rbp - 8)"),
        (".cfi_escape 0x0f, 3, 0x7a, 0, 0x06", "cfa = *(r10)"),
        (".cfi_escape 0x0f, 2, 0x76, 16", "cfa = rbp + 16"),
        (
            ".cfi_escape 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22",
            "cfa = rsp + 8 + (pc % 16 >= 11 ? 8 : 0)",
        ),
        (
            ".cfi_escape 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3a, 0x2a, 0x33, 0x24, 0x22",
            "cfa = rsp + 8 + (pc % 16 >= 10 ? 8 : 0)",
        ),
    ];
    for (directive, expected) in cases {
        assert_eq!(rule_of(directive), expected, "{directive}");
    }
}

#[test]
fn saved_registers() {
    if !has("gcc") {
        return;
    }
    let cases = [
        (".cfi_offset rbp, -40000", "cfa = rsp + 8, rbp lost"),
        (".cfi_val_offset rbp, -16", "cfa = rsp + 8, rbp lost"),
        (".cfi_register rbp, r8\n.cfi_undefined rbx", "cfa = rsp + 8, rbp lost, rbx lost"),
        (".cfi_same_value rbp", "cfa = rsp + 8"),
        // DW_CFA_expression rbp: breg6 0.
        (".cfi_escape 0x10, 6, 2, 0x76, 0", "cfa = rsp + 8, rbp lost"),
    ];
    for (directive, expected) in cases {
        assert_eq!(rule_of(directive), expected, "{directive}");
    }
}

#[test]
fn what_is_not_supported_is_said_of_its_rows_alone() {
    if !has("gcc") {
        return;
    }
    let cases = [
        // breg7 0; lit1; plus
        (".cfi_escape 0x0f, 4, 0x77, 0, 0x31, 0x22", ".cfi_def_cfa rsp, 8"),
        (".cfi_def_cfa 99, 8", ".cfi_def_cfa rsp, 8"),
        (".cfi_register rip, rdx", ".cfi_offset rip, -8"),
        (".cfi_offset rip, -16", ".cfi_offset rip, -8"),
    ];
    for (directive, undone) in cases {
        let rules = rules_of(&["", directive, undone]);
        assert_eq!(rules, ["cfa = rsp + 8", "unsupported", "cfa = rsp + 8"], "{directive}");
    }
    let rules = rules_of(&["", ".cfi_escape 0x3e", ".cfi_def_cfa rsp, 8"]);
    assert_eq!(rules, ["cfa = rsp + 8", "unsupported", "unsupported"]);
}

#[test]
fn signal_trampolines() {
    if !has("gcc") {
        return;
    }
    // DW_CFA_def_cfa_expression, breg7 160; deref.
    let frame = ".cfi_signal_frame\n.cfi_escape 0x0f, 4, 0x77, 0xa0, 0x01, 0x06";
    assert_eq!(rule_of(frame), "signal frame at rsp");
    assert_eq!(rule_of(".cfi_signal_frame\n.cfi_def_cfa rsp, 16"), "unsupported");
}

#[test]
fn neighbours_without_a_gap_and_functions_without_cfi() {
    if !has("gcc") {
        return;
    }
    let source = "
        .text
        .globl first, second, _start, __restore_rt
        .type first, @function
        .type second, @function
        .type _start, @function
        first: .cfi_startproc
        .skip 16, 0x90
        .cfi_endproc
        second: .cfi_startproc
        .skip 16, 0x90
        .cfi_endproc
        _start: .skip 16, 0x90
        .skip 64, 0x90
        .skip 1, 0x90
        __restore_rt: .skip 9, 0x90
        .section .note.GNU-stack
    ";
    let elf = compile("gcc", "f.s", source, &[]);
    let table = build(&elf).unwrap();
    let first = function(&elf, "first");
    for (into, expected) in [
        (0, "cfa = rsp + 8"),
        (31, "cfa = rsp + 8"),
        (32, "end"),
        (95, "end"),
        (96, "no rule"),
        (112, "signal frame at rsp"),
        (113, "signal frame at rsp"),
    ] {
        assert_eq!(equation(&table, first + into), expected, "{into}");
    }
}

#[test]
fn a_compressed_debug_frame_is_read() {
    if !has("gcc") {
        return;
    }
    let source = "long g(long); long f(long a) { return g(a) + 1; }";
    let options = ["-g", "-O1", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let compressed = [&options[..], &["-gz=zlib", "-Wa,--compress-debug-sections=zlib"]].concat();
    let plain = compile("gcc", "f.c", source, &options);
    let zlib = compile("gcc", "f.c", source, &compressed);
    for elf in [plain, zlib] {
        let table = build(&elf).unwrap();
        let start = function(&elf, "f");
        assert_eq!(equation(&table, start), "cfa = rsp + 8");
        assert_eq!(equation(&table, start + 4), "cfa = rsp + 16");
    }
}

#[test]
fn without_section_headers_the_index_leads_to_eh_frame() {
    let mut elf = std::fs::read("/proc/self/exe").unwrap();
    let whole = build(&elf).unwrap();
    // `e_shoff`
    elf[40..48].fill(0);
    let stripped = build(&elf).unwrap();
    let rows = |table: &UnwindTable| table.rows().collect::<Vec<_>>();
    // Symbols are gone, too, and functions known by these.
    let differing = rows(&whole).into_iter().filter(|row| stripped.find(row.0) != row.1).count();
    assert!(differing < 10, "{differing}");
}

#[test]
fn aarch64() {
    if !has("aarch64-linux-gnu-gcc") {
        return;
    }
    let source = "
        .text
        .globl f
        .type f, %function
        f: .cfi_startproc
        nop
        .cfi_negate_ra_state
        .cfi_def_cfa_offset 32
        .cfi_offset x29, -32
        .cfi_offset x30, -24
        nop
        .cfi_def_cfa_register x29
        nop
        .cfi_def_cfa sp, 0
        .cfi_restore x29
        .cfi_restore x30
        nop
        .cfi_undefined x30
        nop
        .cfi_endproc
        .size f, . - f
        .section .note.GNU-stack
    ";
    let elf = compile("aarch64-linux-gnu-gcc", "f.s", source, &[]);
    let table = build(&elf).unwrap();
    let start = function(&elf, "f");
    let expected = [
        "cfa = sp",
        "cfa = sp + 32, x29 = *(cfa - 32), x30 = *(cfa - 24)",
        "cfa = x29 + 32, x29 = *(cfa - 32), x30 = *(cfa - 24)",
        "cfa = sp",
        "end",
        "no rule",
    ];
    for (index, expected) in expected.into_iter().enumerate() {
        assert_eq!(equation(&table, start + 4 * index as u64), expected, "{index}");
    }
}

#[test]
fn go() {
    if !has("go") && Command::new("go").arg("version").output().is_err() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.go"), "package main\nfunc main() { println(1) }\n")
        .unwrap();
    let built = Command::new("go")
        .args(["build", "-o", "program", "main.go"])
        .current_dir(dir.path())
        .env("GOCACHE", std::env::temp_dir().join("rprofd-go-cache"))
        .env("GOARCH", "amd64")
        .env("CGO_ENABLED", "0")
        .status();
    assert!(built.unwrap().success());
    let elf = std::fs::read(dir.path().join("program")).unwrap();
    let table = build(&elf).unwrap();
    assert!(table.table.is_sound());
    let at = |name, into| equation(&table, function(&elf, name) + into);
    assert_eq!(at("runtime.goexit.abi0", 1), "end");
    assert_eq!(at("runtime.mstart.abi0", 1), "end");
    assert_eq!(at("_rt0_amd64_linux", 0), "end");
    assert_eq!(at("runtime.systemstack.abi0", 0), "cfa = rsp + 8");
    assert_eq!(at("runtime.systemstack.abi0", 1), "cfa = rsp + 16, rbp = *(cfa - 16)");
    assert_eq!(at("runtime.systemstack.abi0", 4), "cfa = rbp + 16, rbp = *(cfa - 16)");
    assert_eq!(at("runtime.asmcgocall.abi0", 120), "cfa = rbp + 16, rbp = *(cfa - 16)");
    assert_eq!(at("runtime.mcall", 0), "cfa = rsp + 8");
    // Behind the call.
    assert_eq!(at("runtime.mcall", 85), "end");
    // Go keeps the frame pointer wherever it makes a frame.
    let framed = table.rows().filter(|(_, rule)| rule.cfa == cfa::SP && rule.offset > 16);
    let (kept, all) =
        framed.fold((0, 0), |(kept, all), (_, rule)| (kept + usize::from(rule.fp == 1), all + 1));
    assert!(kept * 100 > all * 99, "{kept} of {all}");
}

/// Files of this machine to try, the largest only in a release build.
fn files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/proc/self/exe")];
    for name in ["libc.so.6", "libcrypto.so.3", "libstdc++.so.6", "ld-linux-x86-64.so.2"] {
        files.push(Path::new("/lib/x86_64-linux-gnu").join(name));
    }
    files.extend(["/usr/bin/python3", "/usr/bin/bash", "/usr/bin/perl"].map(PathBuf::from));
    if !cfg!(debug_assertions) {
        files.push(PathBuf::from("/usr/bin/node"));
        let libraries = std::fs::read_dir("/usr/lib/x86_64-linux-gnu").into_iter().flatten();
        let libraries = libraries.flatten().map(|entry| entry.path());
        files.extend(libraries.filter(|path| path.to_string_lossy().contains("libLLVM")));
    }
    files.retain(|path| path.is_file());
    files
}

/// What gimli's row says, as far as it can be said without knowing the builder's mind: the CFA's
/// register and offset, and where the frame pointer and the third register are.
fn says_the_same(rule: Rule, row: &gimli::UnwindTableRow<usize>, machine: Machine) -> bool {
    let ra = row.register(machine.return_address());
    if ra == Some(RegisterRule::Undefined) {
        return rule == Rule::END;
    }
    if machine == Machine::X86_64 && ra != Some(RegisterRule::Offset(-8)) {
        return matches!(rule.cfa, cfa::UNSUPPORTED | cfa::SIGNAL);
    }
    let place = |register| match row.register(register) {
        None | Some(RegisterRule::SameValue) => (0, 0),
        Some(RegisterRule::Offset(offset)) => {
            i16::try_from(offset).map_or((2, 0), |offset| (1, offset))
        }
        Some(_) => (2, 0),
    };
    let registers = (rule.fp, rule.fp_offset) == place(machine.fp())
        && (rule.aux, rule.aux_offset) == place(machine.aux());
    match row.cfa() {
        gimli::CfaRule::RegisterAndOffset { register, offset } => {
            let base = match rule.cfa {
                cfa::SP => machine.sp().0,
                cfa::FP => machine.fp().0,
                cfa::AUX => machine.aux().0,
                cfa::REGISTER => u16::from(rule.register),
                _ => return false,
            };
            registers && base == register.0 && i64::from(rule.offset) == *offset
        }
        gimli::CfaRule::Expression(_) => match rule.cfa {
            cfa::UNSUPPORTED => true,
            cfa::SP_DEREF | cfa::FP_DEREF | cfa::REGISTER_DEREF | cfa::PLT => registers,
            _ => false,
        },
    }
}

/// Looks addresses up in the table of a file and by gimli, for every `step`th function.
fn compare(path: &Path, step: usize) {
    let bytes = std::fs::read(path).unwrap();
    let table = build(&bytes).unwrap();
    assert!(table.table.is_sound(), "{path:?}");
    let elf = Elf::parse(&bytes).unwrap();
    let section = elf.eh_frame().unwrap();
    let eh_frame = EhFrame::from(EndianSlice::new(section.bytes, LittleEndian));
    let bases: BaseAddresses = elf.bases(section.svma);
    let mut context = UnwindContext::new();
    let mut random = Random::new(11);
    let mut entries = eh_frame.entries(&bases);
    let (mut functions, mut differing, mut looked_up) = (0, 0, 0);
    while let Some(entry) = entries.next().unwrap() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        functions += 1;
        if functions % step != 0 {
            continue;
        }
        let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
        if fde.len() == 0 || elf.code_end(fde.initial_address()) == 0 {
            continue;
        }
        let mut rows = fde.rows(&eh_frame, &bases, &mut context).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            let (start, end) = (row.start_address(), row.end_address().min(fde.end_address()));
            if start >= end {
                continue;
            }
            let between = start + random.below(end - start);
            for svma in [start, between, end - 1] {
                looked_up += 1;
                let rule = table.find(svma);
                if !says_the_same(rule, row, table.stats.machine) {
                    differing += 1;
                    eprintln!("{path:?} {svma:#x}: {rule:?}, gimli: {row:?}");
                }
            }
        }
    }
    assert!(looked_up > 100, "{path:?}: {looked_up}");
    assert_eq!(differing, 0, "{path:?}: of {looked_up}");
}

#[test]
fn tables_say_what_gimli_says() {
    for path in files() {
        compare(&path, if cfg!(debug_assertions) { 16 } else { 1 });
    }
}

#[test]
fn rows_read_back_are_sorted_and_found() {
    let table = build(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
    let rows: Vec<_> = table.rows().collect();
    assert!(rows.len() >= table.stats.rows);
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
    for pair in rows.windows(2) {
        assert_eq!(table.find(pair[0].0), pair[0].1);
        assert_eq!(table.find(pair[1].0 - 1), pair[0].1, "{:#x}", pair[1].0 - 1);
    }
    let (last, _) = rows[rows.len() - 1];
    assert_eq!(table.find(last), Rule::GAP);
    assert_eq!(table.find(u64::MAX), Rule::GAP);
}

#[test]
fn damage_gives_no_panic_and_costs_little() {
    let Ok(whole) = std::fs::read("/lib64/ld-linux-x86-64.so.2") else { return };
    let elf = Elf::parse(&whole).unwrap();
    let section = elf.eh_frame().unwrap();
    let start = section.bytes.as_ptr() as usize - whole.as_ptr() as usize;
    let ranges = [(start, section.bytes.len()), (0, 1_024), (whole.len() - 2_600, 2_600)];
    let mut random = Random::new(3);
    let mut bytes = whole.clone();
    for round in 0..3_000 {
        bytes.copy_from_slice(&whole);
        let (start, length) = ranges[usize::from(round % 4 == 1) + 2 * usize::from(round % 4 == 3)];
        for _ in 0..=random.below(8) {
            let at = start + random.below(length as u64 - 8) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at..at + 4].copy_from_slice(&(random.next() as u32).to_le_bytes()),
                _ => bytes[at..at + 8].fill([0, 0xff, 0x7f][random.below(3) as usize]),
            }
        }
        let begun = Instant::now();
        if let Ok(table) = build(&bytes) {
            assert!(table.table.is_sound(), "{round}");
            assert!(table.rows().is_sorted_by(|a, b| a.0 < b.0), "{round}");
        }
        assert!(begun.elapsed() < PATIENCE, "{round}");
    }
    for length in (0..whole.len()).step_by(997) {
        let _ = build(&whole[..length]);
    }
}

/// A file of one executable segment around `size` bytes and an `.eh_frame` that its index names.
fn handmade(eh_frame: &[u8], code: std::ops::Range<u64>) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 3;
    let header_at = 64 + 3 * 56;
    let data_svma = 0x1000;
    let mut program = |kind: u32, flags: u32, offset: u64, svma: u64, size: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [offset, svma, svma, size, size, 1] {
            elf.extend(word.to_le_bytes());
        }
    };
    program(1, 4, header_at, data_svma, 16 + eh_frame.len() as u64);
    program(1, 1, 0, code.start, code.end - code.start);
    program(0x6474_e550, 4, header_at, data_svma, 16);
    // Version, absolute pointer of 8 bytes, no table.
    elf.extend([1, 0x04, 0xff, 0xff]);
    elf.extend((data_svma + 16).to_le_bytes());
    elf.extend([0; 4]);
    elf.extend(eh_frame);
    elf
}

/// A common entry without augmentation.
fn common_entry() -> Vec<u8> {
    // Version 1, "", factors 1 and -8, column 16; cfa = rsp + 8, rip at cfa - 8.
    let body = [1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0];
    let mut entry = 16_u32.to_le_bytes().to_vec();
    entry.extend(0_u32.to_le_bytes());
    entry.extend(body);
    entry
}

fn add_function(section: &mut Vec<u8>, start: u64, size: u64, program: &[u8]) {
    section.extend((20 + program.len() as u32).to_le_bytes());
    section.extend((section.len() as u32).to_le_bytes());
    section.extend(start.to_le_bytes());
    section.extend(size.to_le_bytes());
    section.extend(program);
}

#[test]
fn handmade_overlaps_are_settled_by_order() {
    let mut section = common_entry();
    add_function(&mut section, 0x9000, 0x100, &[0x0e, 16]);
    add_function(&mut section, 0x9010, 0x10, &[0x0e, 24]);
    add_function(&mut section, 0x9000, 0x200, &[0x0e, 32, 0x03, 0x80, 0x01, 0x0e, 40]);
    add_function(&mut section, 0, 0x10_0000, &[]);
    let table = build(&handmade(&section, 0x8000..0x1_0000)).unwrap();
    for (svma, expected) in [
        (0x8fff, "no rule"),
        (0x9000, "cfa = rsp + 16"),
        (0x9010, "cfa = rsp + 16"),
        (0x90ff, "cfa = rsp + 16"),
        (0x9100, "cfa = rsp + 32"),
        (0x917f, "cfa = rsp + 32"),
        (0x9180, "cfa = rsp + 40"),
        (0x91ff, "cfa = rsp + 40"),
        (0x9200, "no rule"),
    ] {
        assert_eq!(equation(&table, svma), expected, "{svma:#x}");
    }
}

#[test]
fn code_that_is_too_far_apart_is_refused() {
    let mut section = common_entry();
    add_function(&mut section, 0x9000, 16, &[]);
    add_function(&mut section, 0x7000_0000_0000, 16, &[]);
    let refused = build(&handmade(&section, 0x8000..u64::MAX));
    assert!(matches!(refused, Err(UnwindError::TooMuch { what: "bytes of code", .. })));
}

#[test]
fn common_entries_that_overlap_are_cut_short() {
    // Each states a length that takes the 199 after it in, and more refer to it than are kept.
    const COUNT: usize = 5_000;
    let mut entry = common_entry();
    entry[..4].copy_from_slice(&3_996_u32.to_le_bytes());
    let mut section = entry.repeat(COUNT);
    for n in 0..200_000_u32 {
        section.extend(20_u32.to_le_bytes());
        let back = section.len() - n as usize % (COUNT - 201) * entry.len();
        section.extend((back as u32).to_le_bytes());
        section.extend((0x9000 + u64::from(n) * 4).to_le_bytes());
        section.extend(4_u64.to_le_bytes());
    }
    let begun = Instant::now();
    let refused = build(&handmade(&section, 0x8000..0x1000_0000));
    assert!(matches!(refused, Err(UnwindError::TooMuch { what: "instructions", .. })));
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn what_is_no_elf_file_or_has_no_cfi_is_refused() {
    assert!(matches!(build(b""), Err(UnwindError::NotElf)));
    assert!(matches!(build(b"\x7fELF"), Err(UnwindError::NotElf)));
    assert!(matches!(build(&handmade(&[], 0x8000..0x9000)), Err(UnwindError::NoCfi)));
    assert!(matches!(build(&handmade(&common_entry(), 0..1)), Err(UnwindError::NoCfi)));
}
