//! Tables of files that are compiled here and now; below, of those found and those damaged.

use std::process::Command;

use profiler_ebpf::unwind::rule::{cfa, saved};

use super::*;

mod hostile;
mod real_files;

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
        // breg7 8; breg9 0; lit8; mul; plus; deref; plus_uconst 8: libcrypto's `bn_mul_mont`.
        (
            ".cfi_escape 0x0f, 10, 0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8",
            "cfa = *(rsp + 8 * r9 + 8) + 8",
        ),
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
        (".cfi_register rip, rdx", "cfa = rsp + 8, return address in rdx"),
        (".cfi_register rip, rdx\n.cfi_offset rbp, -16", "unsupported"),
        // DW_CFA_expression rbp: breg6 0.
        (".cfi_escape 0x10, 6, 2, 0x76, 0", "cfa = rsp + 8, rbp = *(rbp)"),
        // rbx: breg6 -16.
        (".cfi_escape 0x10, 3, 2, 0x76, 0x70", "cfa = rsp + 8, rbx = *(rbp - 16)"),
        // rbp: breg7 0.
        (".cfi_escape 0x10, 6, 2, 0x77, 0", "cfa = rsp + 8, rbp lost"),
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
        (".cfi_register rip, 50", ".cfi_offset rip, -8"),
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
fn the_dynamic_linkers_entry_is_outermost_without_a_symbol() {
    if !has("gcc") {
        return;
    }
    for (instruction, rule) in [("mov %rsp, %rdi", "end"), ("mov %rsp, %rsi", "no rule")] {
        let source = format!(
            ".text\n.globl f\n.type f, @function\n\
             f: .cfi_startproc\n.skip 16, 0x90\n.cfi_endproc\n.size f, . - f\n\
             .L0: {instruction}\n.skip 13, 0x90\n.globl g\n.type g, @function\n\
             g: .cfi_startproc\n.skip 16, 0x90\n.cfi_endproc\n.size g, . - g\n\
             .section .note.GNU-stack\n"
        );
        let mut elf = compile("gcc", "f.s", &source, &["-Wl,--eh-frame-hdr"]);
        let entry = function(&elf, "f") + 16;
        elf[24..32].copy_from_slice(&entry.to_le_bytes());
        let table = build(&elf).unwrap();
        assert_eq!(equation(&table, entry - 1), "cfa = rsp + 8");
        assert_eq!(equation(&table, entry), rule);
        assert_eq!(equation(&table, entry + 15), rule);
        assert_eq!(equation(&table, entry + 16), "cfa = rsp + 8", "CFI comes first");
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

    // Without `.debug_frame` the runtime's table says the same.
    let built = Command::new("go")
        .args(["build", "-ldflags=-s -w", "-o", "stripped", "main.go"])
        .current_dir(dir.path())
        .env("GOCACHE", std::env::temp_dir().join("rprofd-go-cache"))
        .env("GOARCH", "amd64")
        .env("CGO_ENABLED", "0")
        .status();
    assert!(built.unwrap().success());
    let stripped = std::fs::read(dir.path().join("stripped")).unwrap();
    let stripped = build(&stripped).unwrap();
    let (mut same, mut all) = (0, 0);
    for (svma, rule) in table.rows().filter(|(_, rule)| *rule != Rule::GAP) {
        all += 1;
        same += usize::from(stripped.find(svma) == rule);
    }
    assert!(all > 5_000 && same * 1_000 >= all * 999, "{same} of {all} rows");
}
