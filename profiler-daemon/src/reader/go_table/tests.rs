use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::reader::demangle::Demangler;
use crate::reader::dwarf::DebugInfo;
use crate::reader::file_pages::FilePages;
use crate::reader::tests::Random;

/// Methods, generic functions, closures, functions inlined in each other. Prints what the runtime
/// knows of the addresses that it is given: the function, the file and the line.
pub(in crate::reader) const PROGRAM: &str = r#"package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
)

type Number interface{ ~int | ~float64 }

type Pair struct{ a, b int }

func (p *Pair) Sum() int { return twice(p.a) + twice(p.b) }

//go:noinline
func (p Pair) Product() int {
	return twice(p.a) *
		twice(p.b)
}

func twice(x int) int { return deeper(x) * 2 }

func deeper(x int) int {
	if x > 7 {
		return x - 1
	}
	return x
}

type List[T Number] struct{ many []T }

//go:noinline
func (l *List[T]) Largest() T {
	most := l.many[0]
	for _, one := range l.many {
		most = larger(most, one)
	}
	return most
}

func larger[T Number](a, b T) T {
	if a > b {
		return a
	}
	return b
}

func main() {
	pair := &Pair{len(os.Args), 2}
	add := func(x int) int { return twice(x) + pair.Sum() }
	ints, floats := List[int]{[]int{1, 2}}, List[float64]{[]float64{1, 2}}
	fmt.Fprintln(os.Stderr, add(pair.Product()), ints.Largest(), floats.Largest())
	scanner := bufio.NewScanner(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	for scanner.Scan() {
		pc, _ := strconv.ParseUint(scanner.Text(), 0, 64)
		frame, _ := runtime.CallersFrames([]uintptr{uintptr(pc) + 1}).Next()
		fmt.Fprintf(out, "%s\t%s\t%d\n", frame.Function, frame.File, frame.Line)
	}
	out.Flush()
}
"#;

/// The same with C in it, so that another linker than Go's makes the program.
pub(in crate::reader) const C_PROGRAM: &str = r#"package main

// int half(int n) { return n / 2; }
import "C"
import "fmt"

//go:noinline
func work(n int) int { return twice(int(C.half(C.int(n)))) }
func twice(x int) int { return x * 2 }
func main()           { fmt.Println(work(7)) }
"#;

fn forever() -> Patience {
    Patience::of(Duration::MAX)
}

/// Whether there is a compiler, which CI has.
pub(in crate::reader) fn has_go() -> bool {
    Command::new("go").arg("version").output().is_ok_and(|output| output.status.success())
}

pub(in crate::reader) fn build(
    directory: &Path,
    name: &str,
    source: &str,
    flags: &[&str],
) -> PathBuf {
    let path = directory.join("main.go");
    std::fs::write(&path, source).unwrap();
    let program = directory.join(name);
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .args(flags)
        .arg(&path)
        .current_dir(directory)
        .env("GOCACHE", std::env::temp_dir().join("rprofd-go-cache"))
        .status();
    assert!(built.unwrap().success());
    program
}

fn bytes_of(path: &Path) -> FileBytes {
    let file = File::open(path).unwrap();
    Arc::new(FilePages::default()).map(&file, file.metadata().unwrap().len()).unwrap()
}

fn table_of(path: &Path) -> GoTable {
    GoTable::read(bytes_of(path), &forever(), || {}).unwrap().unwrap()
}

/// Addresses in all functions of a few packages, and in some of others.
fn addresses(table: &GoTable) -> Vec<u64> {
    let mut random = Random::new(5);
    let mut addresses = Vec::new();
    let starts: Vec<u64> = table.starts().collect();
    for functions in starts.windows(2) {
        let name = &shown(table, &functions[..1])[&functions[0]][0].0;
        let size = functions[1] - functions[0];
        if name.starts_with("main.") {
            addresses.extend(functions[0]..functions[1]);
        } else {
            addresses.extend((0..3).map(|_| functions[0] + random.below(size)));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

type Shown = Vec<(String, String, u32)>;

fn shown(table: &GoTable, svmas: &[u64]) -> HashMap<u64, Shown> {
    let mut places = HashMap::new();
    let take = |index: usize, frames: &[Frame<'_>]| {
        let shown =
            |frame: &Frame<'_>| (frame.function.to_string(), frame.file.to_string(), frame.line);
        places.insert(svmas[index], frames.iter().map(shown).collect());
    };
    assert_eq!(table.look_up(svmas, true, &forever(), take, || {}), 0);
    places
}

/// What a program prints that is given addresses, by lines.
fn asked(command: &mut Command, svmas: &[u64]) -> Vec<String> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input: String = svmas.iter().map(|svma| format!("{svma:#x}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Checks that no more than `allowed` of the differences are there.
fn check(what: &str, all: usize, allowed: usize, differ: &[String]) {
    assert!(all > 3_000, "{what}: {all} compared");
    let some = differ[..differ.len().min(10)].join("\n");
    assert!(differ.len() <= allowed, "{what}: {} of {all} differ:\n{some}", differ.len());
}

/// A function's name as `runtime.Frame` has it: without the types that a generic one was made for.
/// `None`: brackets do not match.
fn without_types(name: &str) -> Option<String> {
    let mut short = String::with_capacity(name.len());
    let mut depth = 0_u32;
    for character in name.chars() {
        match character {
            '[' => {
                if depth == 0 {
                    short.push_str("[...]");
                }
                depth += 1;
            }
            ']' => depth = depth.checked_sub(1)?,
            _ if depth == 0 => short.push(character),
            _ => {}
        }
    }
    (depth == 0).then_some(short)
}

/// Compares the innermost functions with what the runtime says of them, in a program that is where
/// its file says.
fn compare_with_runtime(program: &Path, svmas: &[u64], ours: &HashMap<u64, Shown>) {
    let theirs = asked(&mut Command::new(program), svmas);
    assert_eq!(theirs.len(), svmas.len());
    let differ: Vec<String> = svmas
        .iter()
        .zip(theirs)
        .filter_map(|(svma, theirs)| {
            let (function, file, line) = &ours[svma][0];
            // Before Go 1.27 all between the first and the last bracket is left out, not just what
            // is in brackets; and the first name of all is taken for none.
            let merged = function.split_once('[').zip(function.rsplit_once(']'));
            let merged = merged.map(|((head, _), (_, tail))| format!("{head}[...]{tail}"));
            let names = [without_types(function), merged, Some(String::new())];
            let (their_name, place) = theirs.split_once('\t')?;
            let is_same = names.iter().flatten().any(|name| name == their_name)
                // The runtime says "?" of what it knows no file of.
                && place.replace("?\t", "\t") == format!("{file}\t{line}");
            (!is_same).then(|| format!("{svma:#x} {function} {file} {line}, {theirs}"))
        })
        .collect();
    check("the runtime", svmas.len(), 0, &differ);
}

/// Compares the outermost function, and the innermost line, with `go tool addr2line`.
fn compare_with_addr2line(program: &Path, svmas: &[u64], ours: &HashMap<u64, Shown>) {
    let theirs = asked(Command::new("go").args(["tool", "addr2line"]).arg(program), svmas);
    assert_eq!(theirs.len(), 2 * svmas.len());
    // The tool of Go 1.19 finds nothing in programs that may be loaded anywhere.
    if theirs.iter().all(|line| line.starts_with('?')) {
        return;
    }
    let differ: Vec<String> = svmas
        .iter()
        .zip(theirs.chunks(2))
        .filter_map(|(svma, theirs)| {
            let ((.., file, line), (function, ..)) = (&ours[svma][0], ours[svma].last()?);
            let place = if file.is_empty() { ":-1".to_owned() } else { format!("{file}:{line}") };
            let is_known = !theirs[1].starts_with(":-") && theirs[1] != "?:0";
            let their_place = if is_known { &*theirs[1] } else { ":-1" };
            // The tool has names as symbol tables have them.
            let name = theirs[0].split_once('[').map_or(&*theirs[0], |(name, _)| name);
            let is_same = function.starts_with(name) && place == their_place;
            (!is_same).then(|| format!("{svma:#x} {function} {place} {theirs:?}"))
        })
        .collect();
    check("addr2line", svmas.len(), 0, &differ);
}

/// Compares all functions at an address with what DWARF says.
fn compare_with_dwarf(program: &Path, svmas: &[u64], ours: &HashMap<u64, Shown>) {
    let info = DebugInfo::read(bytes_of(program), &forever(), || {}).unwrap().unwrap();
    let (mut inlined, mut all, mut differ) = (0, 0, Vec::new());
    let names = |frames: &[&str]| -> Vec<String> {
        let generic = |name: &str| name.split_once('[').map_or(name, |(name, _)| name).to_owned();
        frames.iter().map(|name| generic(name)).collect()
    };
    let take = |index: usize, place: crate::reader::dwarf::Place| {
        let ours = &ours[&svmas[index]];
        // DWARF goes on with the line before where code has none, and has a path for what has none.
        if place.frames.is_empty() || matches!(&*ours[0].1, "" | "<autogenerated>") {
            return;
        }
        let theirs: Vec<&str> = place.frames.iter().map(|frame| &*frame.function).collect();
        let names_of_ours: Vec<&str> = ours.iter().map(|(name, ..)| &**name).collect();
        let line = |frame: &crate::reader::dwarf::Frame| {
            frame.line.as_ref().map_or((String::new(), 0), |it| (it.file.to_string(), it.number))
        };
        let their_lines: Vec<(String, u32)> = place.frames.iter().map(line).collect();
        let our_lines: Vec<(String, u32)> =
            ours.iter().map(|(_, file, line)| (file.clone(), *line)).collect();
        all += 1;
        inlined += usize::from(ours.len() > 1);
        if names(&names_of_ours) != names(&theirs) || our_lines != their_lines {
            let svma = svmas[index];
            differ.push(format!("{svma:#x}\n {ours:?}\n {theirs:?} {their_lines:?}"));
        }
    };
    info.look_up(svmas, &forever(), &Demangler::default(), take, || {});
    assert!(inlined > 500, "{inlined} with inlined functions");
    // Go's DWARF has its own view of single instructions at the edges of inlined code.
    check("DWARF", all, all / 20, &differ);
}

/// Without section headers, as some strip them.
fn without_sections(program: &Path) -> PathBuf {
    let mut bytes = std::fs::read(program).unwrap();
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    let path = program.with_extension("bare");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn functions_lines_and_inlined_ones_are_those_that_go_finds() {
    if !has_go() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for mode in ["-buildmode=exe", "-buildmode=pie"] {
        let program = build(directory.path(), "program", PROGRAM, &[mode]);
        let table = table_of(&program);
        assert!(table.has_inlined());
        let svmas = addresses(&table);
        let ours = shown(&table, &svmas);
        if mode == "-buildmode=exe" {
            let starts: HashSet<u64> = table.starts().collect();
            // The runtime takes what is before a function for a call that returns there.
            let is_within = |svma: &u64| !starts.contains(&(svma + 1));
            let within: Vec<u64> = svmas.iter().copied().filter(is_within).collect();
            compare_with_runtime(&program, &within, &ours);
        }
        compare_with_addr2line(&program, &svmas, &ours);
        compare_with_dwarf(&program, &svmas, &ours);
        let generic = "main.(*List[...]).Largest";
        let is_it = |frames: &Shown| {
            frames.last().and_then(|(name, ..)| without_types(name)).as_deref() == Some(generic)
        };
        assert!(ours.values().any(is_it));
        let chain = ["main.deeper", "main.twice", "main.Pair.Product"];
        let names = |frames: &Shown| -> Vec<String> {
            frames.iter().map(|(name, ..)| name.clone()).collect()
        };
        assert!(ours.values().any(|frames| names(frames) == chain));

        let stripped = build(directory.path(), "stripped", PROGRAM, &[mode, "-ldflags=-s -w"]);
        for stripped in [&stripped, &without_sections(&stripped)] {
            let table = table_of(stripped);
            assert!(table.has_inlined());
            let found = shown(&table, &svmas);
            assert!(found == ours, "{mode}: {} and {}", found.len(), ours.len());
        }
    }
}

#[test]
fn programs_that_another_linker_made_have_names() {
    let has_gcc = Command::new("gcc").arg("--version").output().is_ok();
    if !has_go() || !has_gcc {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for mode in ["-buildmode=exe", "-buildmode=pie"] {
        let flags = [mode, "-ldflags=-s -w"];
        let program = build(directory.path(), "linked", C_PROGRAM, &flags);
        let table = table_of(&program);
        assert!(table.has_inlined());
        let svmas: Vec<u64> = table.starts().flat_map(|start| start..start + 64).collect();
        let shown = shown(&table, &svmas);
        let is_twice_in_work = |frames: &&Shown| {
            frames.len() == 2 && frames[0].0 == "main.twice" && frames[1].0 == "main.work"
        };
        let frames = shown.values().find(is_twice_in_work).unwrap();
        assert_eq!((frames[0].2, frames[1].2), (9, 8), "{frames:?}");
        // What C's linker put before and behind.
        let elf = bytes_of(&program);
        let entry = crate::reader::unwind::sections::u64_at(&elf, 24).unwrap();
        let count = table.look_up(&[entry, 0, u64::MAX], true, &forever(), |_, _| panic!(), || {});
        assert_eq!(count, 0);
    }
}

/// The small files that fuzzing begins with.
const SEEDS: [(&str, &[u8]); 5] = [
    ("go118", include_bytes!("../../../../fuzz/seeds/go_table/go118")),
    ("go120", include_bytes!("../../../../fuzz/seeds/go_table/go120")),
    ("go126", include_bytes!("../../../../fuzz/seeds/go_table/go126")),
    ("go127", include_bytes!("../../../../fuzz/seeds/go_table/go127")),
    ("pie", include_bytes!("../../../../fuzz/seeds/go_table/pie")),
];

/// svma of the function in them.
const SEED_CODE: u64 = 0x40_0000;

fn seed(bytes: &[u8]) -> Result<Option<GoTable>> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let bytes = Arc::new(FilePages::default()).map(&file, bytes.len() as u64).unwrap();
    GoTable::read(bytes, &forever(), || {})
}

/// Where numbers are in a seed.
fn place_of(seed: &[u8], numbers: &[u32]) -> usize {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    seed.windows(bytes.len()).position(|window| window == bytes).unwrap()
}

#[test]
fn each_layout_is_read() {
    for (name, bytes) in SEEDS {
        let table = seed(bytes).unwrap().unwrap();
        assert!(table.has_inlined(), "{name}");
        let lines = |into: u64| -> Vec<(String, u32)> {
            let found = shown(&table, &[SEED_CODE + into]);
            let frames = found.get(&(SEED_CODE + into)).cloned().unwrap_or_default();
            assert!(frames.iter().all(|(_, file, _)| file == "/src/main.go"), "{name}");
            frames.into_iter().map(|(function, _, line)| (function, line)).collect()
        };
        let outer = |line| ("main.outer[go.shape.int]".to_owned(), line);
        let middle = |line| ("main.(*T).middle".to_owned(), line);
        assert_eq!(lines(0), [outer(10)], "{name}");
        assert_eq!(lines(5), [middle(10), outer(10)], "{name}");
        assert_eq!(lines(8), [("main.inner".to_owned(), 20), middle(10), outer(10)], "{name}");
        assert_eq!(lines(31), [outer(11)], "{name}");
        assert_eq!(lines(32), []);
        table.look_up(
            &[SEED_CODE + 8],
            false,
            &forever(),
            |_, frames| {
                let (function, file) = ("main.outer[go.shape.int]".into(), "".into());
                assert_eq!(frames, [Frame { function, file, line: 0, start_line: 0 }]);
            },
            || {},
        );
        let mut starts = Vec::new();
        let take = |_: usize, frames: &[Frame<'_>]| {
            starts = frames.iter().map(|frame| frame.start_line).collect();
        };
        table.look_up(&[SEED_CODE + 8], true, &forever(), take, || {});
        assert_eq!(starts, if name == "go118" { [0; 3] } else { [40, 30, 9] });
    }
}

#[test]
fn without_module_data_only_older_tables_are_read() {
    let (_, bytes) = SEEDS[1];
    let mut without = bytes.to_vec();
    let count = place_of(&without, &[2, 0, 0, 0]);
    without[count] = 3;
    let table = seed(&without).unwrap().unwrap();
    assert!(!table.has_inlined());
    assert_eq!(shown(&table, &[SEED_CODE + 8])[&(SEED_CODE + 8)].len(), 1);
    // Since Go 1.26 the table does not say where code begins.
    let text = place_of(&without, &[1, 0, 1, 0, SEED_CODE as u32, 0]) + 16;
    without[text..text + 8].fill(0);
    assert!(matches!(seed(&without), Err(GoTableError::NoModule)));
}

#[test]
fn functions_inlined_without_an_end_are_an_error() {
    let (_, bytes) = SEEDS[1];
    let mut endless = bytes.to_vec();
    // The call of `middle` is said to be in `middle`.
    let call = place_of(&endless, &[0, 26, 0, 30]);
    endless[call + 8] = 4;
    let table = seed(&endless).unwrap().unwrap();
    let failed =
        table.look_up(&[SEED_CODE + 8], true, &forever(), |_, _| panic!("it ended"), || {});
    assert_eq!(failed, 1);
}

#[test]
fn what_takes_too_long_is_left_out() {
    let table = seed(SEEDS[1].1).unwrap().unwrap();
    let patience = Patience::of(Duration::ZERO);
    assert!(patience.is_over());
    let svmas = [SEED_CODE, SEED_CODE + 1];
    assert_eq!(table.look_up(&svmas, true, &patience, |_, _| panic!(), || {}), 2);
}

#[test]
fn damage_gives_errors_and_never_panics() {
    let mut random = Random::new(9);
    let (mut failed, mut read) = (0, 0);
    for (_, bytes) in SEEDS {
        for _ in 0..2_000 {
            let mut bytes = bytes.to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(bytes.len() - random.below(64) as usize * random.below(2) as usize);
            let Ok(Some(table)) = seed(&bytes) else { continue };
            read += 1;
            let svmas: Vec<u64> = (0..40).map(|into| SEED_CODE + into).collect();
            failed += table.look_up(&svmas, true, &forever(), |_, _| {}, || {});
        }
    }
    assert!(read > 1_000 && failed > 100, "{read} read, {failed} failed");
}
