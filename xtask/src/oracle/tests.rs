//! Recordings of a program without frame pointers, judged.

use std::{sync::mpsc, time::Duration};

use object::{Object as _, ObjectSymbol as _};
use profiler_daemon::reader::unwind::UnwindTable;
use profiler_ebpf::unwind::rule::{Rule, cfa};
use rprofd_tests::{Program, machine};

use super::{
    files::{Amend, Files},
    recording::{Record, Recording},
    report::Report,
};

/// The samples of a shape of `shapes.c`, for a second; none: this machine takes none.
fn recorded(shape: &str) -> Option<(Program, Vec<Record>)> {
    if !machine::can_profile()
        || !machine::require(cfg!(target_arch = "x86_64"), "x86_64")
        || !machine::has(&["gcc"])
    {
        return None;
    }
    let program = Program::build_with("shapes.c", &["-O2", "-fomit-frame-pointer", "-pthread"]);
    let command = [program.path().into(), shape.into()];
    let recording =
        Recording { command: &command, hertz: 997, limit: Some(Duration::from_millis(1_200)) };
    let (sender, records) = mpsc::channel();
    recording.run(&sender).expect("record");
    drop(sender);
    Some((program, records.into_iter().collect()))
}

fn judged(records: &[Record], amend: Amend<'_>) -> Report {
    let mut report = Report::default();
    report.add(records, &mut Files::new(amend));
    eprintln!("{report}");
    assert!(report.samples > 100, "{} samples", report.samples);
    report
}

/// The rule that holds in the body of a function: the one with the biggest frame.
fn body_rule(table: &UnwindTable, function: std::ops::Range<u64>) -> Rule {
    let rules = function.map(|svma| table.find(svma)).filter(|rule| rule.cfa == cfa::SP);
    rules.max_by_key(|rule| rule.offset).expect("a rule by the stack pointer")
}

/// Writes `wrong` over `rule` among the table's rules.
fn plant(table: &mut UnwindTable, rule: Rule, wrong: Rule) {
    let first = table.table.rules as usize;
    let rules = table.blocks[first..].iter_mut().flat_map(|block| block.as_chunks_mut::<4>().0);
    let found = rules.take(table.stats.rules).find(|words| **words == rule.to_words());
    *found.expect("the rule in the table") = wrong.to_words();
}

#[test]
fn a_wrong_rule_is_seen() {
    let Some((program, records)) = recorded("callback") else { return };
    let path = program.arg();
    let elf = std::fs::read(path).expect("read the program");
    let elf = object::File::parse(&*elf).expect("an ELF file");
    let function = elf.symbol_by_name("sorted").expect("its function");
    let function = function.address()..function.address() + function.size();

    let right = judged(&records, &|_, _| ());
    assert_eq!(right.disagreed(), 0);
    assert!(right.complete * 100 >= right.samples * 98);
    assert!(right.whole * 100 >= right.samples * 98);

    let wrong = judged(&records, &|of, table| {
        if of == path {
            let rule = body_rule(table, function.clone());
            plant(table, rule, Rule { offset: rule.offset + 8, ..rule });
        }
    });
    assert_eq!(wrong.samples, right.samples);
    assert!(wrong.complete * 10 < right.complete, "{} of {}", wrong.complete, right.complete);
    assert!(wrong.disagreed() * 10 > wrong.samples * 9, "a wrong caller in most of the stacks");
    let is_there =
        |place: &&super::report::Disagreement| place.path == path && function.contains(&place.svma);
    assert!(wrong.disagreements.keys().any(|place| is_there(&place)), "it is named");
}

#[test]
fn shapes_agree() {
    for shape in ["signal", "alloca", "recursion"] {
        let Some((_, records)) = recorded(shape) else { return };
        let report = judged(&records, &|_, _| ());
        assert_eq!(report.disagreed(), 0, "{shape}");
        assert!(report.whole * 100 >= report.samples * 98, "{shape}");
    }
}
