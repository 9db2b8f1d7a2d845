//! Tables of this machine's files, beside what gimli says of them.

use std::path::{Path, PathBuf};

use gimli::{BaseAddresses, EndianSlice, LittleEndian, RegisterRule, UnwindContext, UnwindSection};

use super::super::super::tests::Random;
use super::*;

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
    if machine == Machine::X86_64
        && let Some(RegisterRule::Register(register)) = ra
    {
        let base = gimli::CfaRule::RegisterAndOffset {
            register: machine.sp(),
            offset: i64::from(rule.offset),
        };
        let is_the_same = u16::from(rule.register) == register.0 && *row.cfa() == base;
        return rule.cfa == cfa::RETURN_REGISTER && is_the_same;
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
    let agrees = |kind, offset, register| match row.register(register) {
        Some(RegisterRule::Expression(_)) => matches!(kind, saved::AT_FP | saved::LOST),
        _ => (kind, offset) == place(register),
    };
    let registers = agrees(rule.fp, rule.fp_offset, machine.fp())
        && agrees(rule.aux, rule.aux_offset, machine.aux());
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
            cfa::SP_DEREF
            | cfa::FP_DEREF
            | cfa::REGISTER_DEREF
            | cfa::SP_INDEXED_DEREF
            | cfa::PLT => registers,
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

/// `clone` and `clone3` return in the thread that they make, too, and `vfork` has its return address
/// in a register.
#[test]
fn the_c_library_makes_threads_and_processes() {
    let path = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
    if !path.is_file() {
        return;
    }
    let table = build(&std::fs::read(path).unwrap()).unwrap();
    let rows = |kind: u8| table.rows().filter(|(_, rule)| rule.cfa == kind).count();
    assert_eq!(rows(cfa::CLONE), 2);
    assert!(rows(cfa::RETURN_REGISTER) >= 2);
}
