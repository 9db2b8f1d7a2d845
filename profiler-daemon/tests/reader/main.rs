//! The reader as the core meets it: the real binary, asked over its lanes.

mod bombs;
mod perf_maps;
mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use profiler_daemon::reader::protocol::{
    FileInfo, HEAVY_BYTES, NameFile, NameKernel, NamePerfMap, Names, Open, reply, request,
};
use support::{Mapped, Session, compile, mapping_of, objcopy, programs, run};

const DEBUG: &[&str] = &["gcc", "-g", "-O2"];

/// The C program, compiled with debug information.
fn c_program(directory: &Path) -> PathBuf {
    compile(directory, "program.c", programs::C, DEBUG)
}

/// File offset of the first instruction of a symbol that `needle` is part of.
fn offset_of(unstripped: &Path, info: &FileInfo, needle: &str) -> u64 {
    let listing = run("nm", [unstripped.as_os_str()]);
    let line = listing.lines().find(|line| line.contains(needle)).unwrap();
    let svma = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    info.segments
        .iter()
        .find(|segment| (segment.svma..segment.svma + segment.size_bytes).contains(&svma))
        .map(|segment| svma - segment.svma + segment.file_offset)
        .unwrap()
}

fn open(session: &mut Session, mapped: &Mapped) -> FileInfo {
    let open = mapping_of(session, mapped);
    session.open(open).unwrap()
}

fn name(session: &mut Session, info: &FileInfo, offsets: Vec<u64>) -> Names {
    let request = NameFile { key: info.key, file_offsets: offsets, no_inlines: false };
    session.names(request::Kind::NameFile(request)).unwrap()
}

/// The functions at one address, and their lines: `inner_inlined:5 outer_function:9`.
fn shown(names: &Names, index: usize) -> String {
    let lines = names.frames[index].lines.iter();
    let lines =
        lines.map(|line| format!("{}:{}", names.strings[line.function as usize], line.line));
    lines.collect::<Vec<_>>().join(" ")
}

/// Names the start of `outer_function`, backwards, and looks for the inlined one.
fn assert_has_inlined_lines(session: &mut Session, info: &FileInfo, unstripped: &Path) {
    let start = offset_of(unstripped, info, "outer_function");
    let names = name(session, info, (start..start + 16).rev().collect());
    assert_eq!(names.warning, "");
    let all: Vec<String> = (0..16).map(|index| shown(&names, index)).collect();
    assert!(all.iter().any(|text| text == "inner_inlined:5 outer_function:9"), "{all:?}");
    assert!(names.strings.iter().any(|text| text.ends_with("/program.c")), "{:?}", names.strings);
}

#[test]
fn processes_and_their_mappings_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let mapped = Mapped::start(&program);
    let mut session = Session::start(&[]);
    assert!(session.pids().contains(&mapped.pid()));
    let alone = session.process(mapped.pid()).unwrap();
    assert_eq!(alone.comm, "program");
    assert_eq!(alone.cmdline, program.to_str().unwrap());
    assert_eq!(Path::new(&alone.exe), program);
    assert_eq!(alone.parent_pid, std::process::id());
    assert_eq!(alone.inner_pid, alone.pid);
    assert!(alone.mappings.iter().any(|mapping| mapping.path == "[vdso]"));
    session.process(0).unwrap_err();
}

#[test]
fn debug_information_gives_lines_and_inlined_functions() {
    for flags in [DEBUG, &["gcc", "-g", "-O2", "-gz"]] {
        let directory = tempfile::tempdir().unwrap();
        let program = compile(directory.path(), "program.c", programs::C, flags);
        let mut mapped = Mapped::start(&program);
        let mut session = Session::start(&[]);
        let info = open(&mut session, &mapped);
        assert_eq!(info.build_id.len(), 40, "{}", info.build_id);
        assert_eq!(info.symbol_bytes, fs::metadata(&program).unwrap().len());
        assert_has_inlined_lines(&mut session, &info, &program);

        // An open file is named when its process and its path are gone.
        mapped.end();
        let kept = directory.path().join("kept");
        fs::copy(&program, &kept).unwrap();
        fs::remove_file(&program).unwrap();
        let start = offset_of(&kept, &info, "outer_function");
        let names = name(&mut session, &info, vec![start]);
        assert!(shown(&names, 0).contains("outer_function:9"), "{}", shown(&names, 0));

        let request = NameFile { key: info.key, file_offsets: vec![start], no_inlines: true };
        let names = session.names(request::Kind::NameFile(request)).unwrap();
        assert_eq!(shown(&names, 0), "outer_function:0");
    }
}

#[test]
fn a_deleted_file_is_opened_by_its_mapping() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let mapped = Mapped::start(&program);
    let kept = directory.path().join("kept");
    fs::copy(&program, &kept).unwrap();
    let mut session = Session::start(&[]);
    let mut asked = mapping_of(&mut session, &mapped);
    fs::remove_file(&program).unwrap();
    asked.path.push_str(" (deleted)");
    // Its mapping waits for a lock of the process's: not for the steady reader.
    let error = session.open(asked.clone()).unwrap_err();
    assert!(error.contains("is left to the other reader"), "{error}");
    asked.anywhere = true;
    let info = session.open(asked).unwrap();
    assert_has_inlined_lines(&mut session, &info, &kept);
}

/// A stripped copy of the program at `stripped`, and its debug information at `debug`.
fn split(unstripped: &Path, debug: &Path, stripped: &Path, link: bool) {
    fs::create_dir_all(debug.parent().unwrap()).unwrap();
    objcopy(&["--only-keep-debug"], unstripped, debug);
    let link = link.then(|| format!("--add-gnu-debuglink={}", debug.display()));
    let flags: Vec<&str> = ["--strip-all"].into_iter().chain(link.as_deref()).collect();
    objcopy(&flags, unstripped, stripped);
}

#[test]
fn a_debug_link_is_followed_beside_the_binary_and_in_debug_directories() {
    for place in ["", ".debug", "DEBUG_DIR"] {
        for build_id in ["-Wl,--build-id=sha1", "-Wl,--build-id=none"] {
            let directory = tempfile::tempdir().unwrap();
            let flags = ["gcc", "-g", "-O2", build_id];
            let program = compile(directory.path(), "program.c", programs::C, &flags);
            let debug_dir = directory.path().join("debug-dir");
            let debug = if place == "DEBUG_DIR" {
                debug_dir.join(directory.path().strip_prefix("/").unwrap())
            } else {
                directory.path().join(place)
            };
            let stripped = directory.path().join("stripped");
            split(&program, &debug.join("stripped.debug"), &stripped, true);
            let mapped = Mapped::start(&stripped);
            let mut session = Session::start(std::slice::from_ref(&debug_dir));
            let info = open(&mut session, &mapped);
            assert!(info.symbol_bytes > info.key.size_bytes);
            assert_has_inlined_lines(&mut session, &info, &program);
        }
    }
}

#[test]
fn a_build_id_directory_is_searched() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let (debug, stripped) = (directory.path().join("x.debug"), directory.path().join("stripped"));
    split(&program, &debug, &stripped, false);
    let mapped = Mapped::start(&stripped);

    let mut session = Session::start(&[]);
    let info = open(&mut session, &mapped);
    let start = offset_of(&program, &info, "outer_function");
    assert_eq!(shown(&name(&mut session, &info, vec![start]), 0), "");

    let by_id = directory.path().join(".build-id").join(&info.build_id[..2]);
    fs::create_dir_all(&by_id).unwrap();
    fs::rename(&debug, by_id.join(format!("{}.debug", &info.build_id[2..]))).unwrap();
    let mut session = Session::start(&[directory.path().to_owned()]);
    let info = open(&mut session, &mapped);
    assert_has_inlined_lines(&mut session, &info, &program);
}

/// As Fedora's packages have it: the symbol table, compressed, in a section of its own.
#[test]
fn a_compressed_symbol_table_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let (table, stripped) = (directory.path().join("table"), directory.path().join("stripped"));
    objcopy(&["--strip-debug"], &program, &table);
    run("xz", [table.as_os_str()]);
    let section = format!("--add-section=.gnu_debugdata={}.xz", table.display());
    objcopy(&["--strip-all", &section], &program, &stripped);
    let mapped = Mapped::start(&stripped);
    let mut session = Session::start(&[]);
    let info = open(&mut session, &mapped);
    let start = offset_of(&program, &info, "outer_function");
    let names = name(&mut session, &info, vec![start]);
    assert_eq!((shown(&names, 0).as_str(), names.warning.as_str()), ("outer_function:0", ""));
}

#[test]
fn a_debug_file_of_another_binary_is_not_used() {
    for build_id in ["-Wl,--build-id=sha1", "-Wl,--build-id=none"] {
        let directory = tempfile::tempdir().unwrap();
        let flags = ["gcc", "-g", "-O2", build_id];
        let program = compile(directory.path(), "program.c", programs::C, &flags);
        let other = programs::C.replace("outer_function", "wrong_function");
        let other = compile(directory.path(), "other.c", &other, &flags);
        let debug = directory.path().join("stripped.debug");
        let stripped = directory.path().join("stripped");
        split(&program, &debug, &stripped, true);
        objcopy(&["--only-keep-debug"], &other, &debug);
        let mapped = Mapped::start(&stripped);
        let mut session = Session::start(&[]);
        let info = open(&mut session, &mapped);
        let start = offset_of(&program, &info, "outer_function");
        let names = name(&mut session, &info, vec![start]);
        assert_eq!(shown(&names, 0), "", "{build_id}");
        assert_eq!(names.warning.is_empty(), build_id.ends_with("sha1"), "{}", names.warning);
        assert_eq!(info.build_id.starts_with("digest-"), build_id.ends_with("none"));
    }
}

#[test]
fn cpp_and_rust_names_are_demangled() {
    let directory = tempfile::tempdir().unwrap();
    let cpp = compile(directory.path(), "shape.cpp", programs::CPP, &["g++", "-g", "-O2"]);
    let rust = compile(directory.path(), "tree.rs", programs::RUST, &["rustc", "-g", "-O"]);
    let cases = [
        (cpp, "4area", "geometry::Shape<int>::area(int)"),
        (rust, "4Tree4grow", "tree::deep::Tree::grow"),
    ];
    for (program, symbol, expected) in cases {
        let mapped = Mapped::start(&program);
        let mut session = Session::start(&[]);
        let info = open(&mut session, &mapped);
        let start = offset_of(&program, &info, symbol);
        let names = name(&mut session, &info, vec![start]);
        let outermost = names.frames[0].lines.last().unwrap();
        let found = &names.strings[outermost.function as usize];
        assert!(found.contains(expected), "{found}");
        assert!(outermost.line > 0);
    }
}

#[test]
fn the_vdso_is_named() {
    let mut session = Session::start(&[]);
    let open = Open { pid: std::process::id(), path: "[vdso]".into(), ..Open::default() };
    let info = session.open(open).unwrap();
    assert_ne!(info.build_id, "");
    let end = info.segments.iter().map(|segment| segment.size_bytes).max().unwrap();
    let names = name(&mut session, &info, (0..end).step_by(16).collect());
    let found = names.strings.iter().any(|name| name.contains("clock_gettime"));
    assert!(found, "{:?}", names.strings);
}

#[test]
fn kernel_addresses_are_named() {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let line = symbols.lines().find(|line| line.ends_with(" T vfs_read")).unwrap();
    let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    let mut session = Session::start(&[]);
    let request = NameKernel { addresses: vec![address + 1, 1] };
    let names = session.names(request::Kind::NameKernel(request)).unwrap();
    if address == 0 {
        assert!(names.warning.contains("kptr_restrict"), "{}", names.warning);
        return;
    }
    assert_eq!(shown(&names, 0), "vfs_read:0");
    assert_eq!(shown(&names, 1), "");
}

#[test]
fn a_perf_map_is_read_if_its_owner_may_speak_for_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut mapped = Mapped::start(&c_program(directory.path()));
    let pid = mapped.pid();
    let path = PathBuf::from(format!("/tmp/perf-{pid}.map"));
    let _removed = support::Removed(path.clone());
    let mut session = Session::start(&[]);
    let uid = rustix::process::geteuid().as_raw();
    let mut ask = |uid| {
        let request = NamePerfMap {
            pid,
            inner_pid: pid,
            uid,
            avmas: vec![0x1008, 0x3000],
            ..NamePerfMap::default()
        };
        session.names(request::Kind::NamePerfMap(request))
    };
    assert!(ask(uid).unwrap_err().contains(&format!("perf-{pid}.map")));

    fs::write(&path, "1000 10 LazyCompile:*first app.js:3\n").unwrap();
    assert_eq!(shown(&ask(uid).unwrap(), 0), "LazyCompile:*first app.js:3:0");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"1000 10 second\n").unwrap();
    assert_eq!(shown(&ask(uid).unwrap(), 0), "second:0");
    mapped.end();
    assert_eq!(shown(&ask(uid).unwrap(), 0), "second:0");
    assert_eq!(shown(&ask(uid).unwrap(), 1), "");

    if uid == 0 {
        std::os::unix::fs::chown(&path, Some(4_321), None).unwrap();
        assert!(ask(0).unwrap_err().contains("belongs to"));
        assert_eq!(shown(&ask(4_321).unwrap(), 0), "second:0");
    }
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    ask(uid).unwrap_err();
}

#[test]
fn a_file_is_opened_by_its_path_only_if_it_is_the_one() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let mut mapped = Mapped::start(&program);
    let mut session = Session::start(&[]);
    let asked = mapping_of(&mut session, &mapped);
    mapped.end();
    session.open(asked.clone()).unwrap();

    let wrong = Open { inode: fs::metadata(&program).unwrap().ino() + 1, ..asked.clone() };
    let error = session.open(wrong).unwrap_err();
    assert!(error.contains("program"), "{error}");
    session.open(Open { build_id: vec![1; 20], ..asked.clone() }).unwrap_err();
    session.open(Open { path: "/dev/zero".into(), ..asked.clone() }).unwrap_err();
    session.open(Open { path: "relative".into(), ..asked }).unwrap_err();
}

#[test]
fn what_is_no_elf_file_is_described_and_has_no_names() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("font");
    fs::write(&file, vec![7; 10_000]).unwrap();
    let mut session = Session::start(&[]);
    let info = session.open_path(&file).unwrap();
    assert_eq!((info.build_id.as_str(), info.segments.len()), ("", 0));
    let names = name(&mut session, &info, vec![0, 5]);
    assert_eq!(names.frames.len(), 2);
}

#[test]
fn damaged_files_cost_their_names_and_not_the_reader() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let whole = fs::read(&program).unwrap();
    let mut session = Session::start(&[]);
    let mut seed = 88_172_645_463_325_252_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..400_usize {
        let mut bytes = whole.clone();
        match round % 4 {
            0 => bytes.truncate(random() as usize % whole.len()),
            1 => bytes[64 + round..].iter_mut().for_each(|byte| *byte = random() as u8),
            2 => {
                for _ in 0..200 {
                    let at = random() as usize % whole.len();
                    bytes[at] = random() as u8;
                }
            }
            // Huge counts and offsets, in the headers at either end.
            _ => {
                for _ in 0..4 {
                    let near = random() as usize % 2_000;
                    let at = if random() % 2 == 0 { 24 + near } else { whole.len() - 8 - near };
                    bytes[at..at + 8].copy_from_slice(&random().to_le_bytes());
                }
            }
        }
        let damaged = directory.path().join(format!("damaged-{round}"));
        fs::write(&damaged, &bytes).unwrap();
        if let Ok(info) = session.open_path(&damaged) {
            let _ = name(&mut session, &info, (0..64).map(|step| step * 97).collect());
        }
    }
    // The same process still answers.
    let info = session.open_path(&program).unwrap();
    assert_has_inlined_lines(&mut session, &info, &program);
}

#[test]
fn broken_debug_information_leaves_the_symbol_table() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let sections = run("readelf", ["-SW".as_ref(), program.as_os_str()]);
    let file = fs::OpenOptions::new().write(true).open(&program).unwrap();
    for section in [".debug_info", ".debug_abbrev"] {
        let line = sections.lines().find(|line| line.contains(section)).unwrap();
        let mut fields = line.split_once(section).unwrap().1.split_whitespace().skip(2);
        let mut next = || u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
        let (offset, size) = (next(), next());
        file.write_all_at(&vec![0xa5; size as usize], offset).unwrap();
    }
    drop(file);
    let mut session = Session::start(&[]);
    let info = session.open_path(&program).unwrap();
    let start = offset_of(&program, &info, "outer_function");
    let names = name(&mut session, &info, vec![start]);
    assert_eq!(shown(&names, 0), "outer_function:0");
    assert!(names.warning.contains("debug information of"), "{}", names.warning);
}

#[test]
fn a_file_cut_short_after_it_was_opened_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let mut session = Session::start(&[]);
    let info = session.open_path(&program).unwrap();
    fs::OpenOptions::new().write(true).open(&program).unwrap().set_len(4_096).unwrap();
    let names = name(&mut session, &info, vec![0x1000]);
    assert!(names.warning.contains("was changed"), "{}", names.warning);
}

#[test]
fn a_file_that_only_its_owner_may_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mapped = Mapped::start(&program);
    let mut session = Session::start(&[]);
    let info = open(&mut session, &mapped);
    assert_has_inlined_lines(&mut session, &info, &program);
}

#[test]
fn the_reader_ends_with_any_lane_and_not_by_an_interrupt() {
    for lane in 0..3 {
        let mut session = Session::start(&[]);
        session.pids();
        let pid = rustix::process::Pid::from_child(&session.reader.child);
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            rustix::process::kill_process(pid, signal).unwrap();
        }
        session.pids();
        let reader = &session.reader;
        let lane = if lane == 0 { &reader.files } else { &reader.names[lane - 1] };
        lane.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(session.reader.child.wait().unwrap().success());
    }
}

#[test]
fn all_threads_are_in_the_sandbox() {
    let mut session = Session::start(&[]);
    session.pids();
    let tasks = PathBuf::from(format!("/proc/{}/task", session.reader.child.id()));
    let mut nicenesses = Vec::new();
    for task in fs::read_dir(tasks).unwrap() {
        let task = task.unwrap().path();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let as_root = rustix::process::geteuid().is_root();
        let user = if as_root { 65_534 } else { rustix::process::geteuid().as_raw() };
        for line in [&format!("Uid:\t{user}\t{user}"), "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line} in {status}");
        }
        let stat = fs::read_to_string(task.join("stat")).unwrap();
        let after_comm = stat.rsplit_once(')').unwrap().1;
        nicenesses.push(after_comm.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap());
    }
    nicenesses.sort_unstable();
    let (files, others) = nicenesses.split_first().unwrap();
    let nice = [5, 10, 10].map(|more| (files + more).min(19));
    assert_eq!(others, nice, "one lane of tables, two of names");
}

#[test]
fn a_heavy_file_is_named_as_a_light_one_is() {
    let directory = tempfile::tempdir().unwrap();
    let light = c_program(directory.path());
    let padding = directory.path().join("padding");
    fs::write(&padding, vec![0; HEAVY_BYTES as usize]).unwrap();
    let heavy = directory.path().join("heavy");
    objcopy(&["--add-section", &format!(".padding={}", padding.display())], &light, &heavy);
    // More than are looked up at once, the same more than once, and in no order.
    let start = offset_of(&light, &open_at(&light).1, "outer_function");
    let offsets: Vec<u64> = (0..200).map(|n| start - 60 + n * 77 % 120).collect();
    let [light, heavy] = [&light, &heavy].map(|path| {
        let (mut session, info) = open_at(path);
        let names = name(&mut session, &info, offsets.clone());
        (info.weight_bytes, Names { cpu_us: 0, ..names })
    });
    assert!(light.0 <= HEAVY_BYTES && heavy.0 > HEAVY_BYTES);
    assert!((0..offsets.len()).any(|index| shown(&light.1, index).contains("outer_function")));
    assert_eq!(light.1, heavy.1);
}

/// A reader that has a program's file open.
fn open_at(program: &Path) -> (Session, FileInfo) {
    let mapped = Mapped::start(program);
    let mut session = Session::start(&[]);
    let info = open(&mut session, &mapped);
    (session, info)
}

#[test]
fn each_names_lane_names_the_same_files() {
    let directory = tempfile::tempdir().unwrap();
    let program = c_program(directory.path());
    let mapped = Mapped::start(&program);
    let mut session = Session::start(&[]);
    let info = open(&mut session, &mapped);
    let file_offsets = vec![offset_of(&program, &info, "outer_function")];
    let request = NameFile { key: info.key, file_offsets, no_inlines: false };
    for lane in [0, 1, 0] {
        let names = session.names_on(lane, request::Kind::NameFile(request.clone())).unwrap();
        assert!(shown(&names, 0).contains("outer_function:9"), "{}", shown(&names, 0));
    }
}

#[test]
fn a_question_on_the_wrong_lane_or_about_an_unknown_file_is_an_error() {
    let mut session = Session::start(&[]);
    let unknown = NameFile { file_offsets: vec![1], ..NameFile::default() };
    let error = session.names(request::Kind::NameFile(unknown)).unwrap_err();
    assert!(error.contains("not open"), "{error}");
    let reply = session.ask_files(request::Kind::NameKernel(NameKernel::default()));
    assert!(matches!(reply, reply::Kind::Error(_)));
    let too_many = NameKernel { addresses: vec![1; 16_385] };
    session.names(request::Kind::NameKernel(too_many)).unwrap_err();
}
