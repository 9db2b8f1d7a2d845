//! Perf maps.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use profiler_daemon::reader::protocol::{NamePerfMap, request};

use super::super::support::{Removed, Session};
use super::{MEMORY_KIB, PATIENCE, Watch, scaled, timed};

/// Asks for names of a perf map that `write` makes, as this process's own.
fn explode_perf_map(name: &str, write: impl FnOnce(&mut File)) -> Result<Vec<String>, String> {
    let _one_at_a_time = PERF_MAP.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pid = std::process::id();
    let path = Path::new("/tmp").join(format!("perf-{pid}.map"));
    let removed = Removed(path.clone());
    write(&mut File::create(&path).unwrap());
    let mut session = Session::start(&[]);
    let watch = Watch::start(&session);
    let uid = rustix::process::geteuid().as_raw();
    let avmas: Vec<u64> = (0..16_384).map(|n| 0x1000 + n * 16).collect();
    let request = NamePerfMap { pid, inner_pid: pid, uid, avmas, ..NamePerfMap::default() };
    let ask = |session: &mut Session| session.names(request::Kind::NamePerfMap(request));
    let (answer, took) = timed(&mut session, ask);
    drop(removed);
    let data = watch.most_kib();
    println!("{name:<28} {took}, {:>4} MiB allocated", data >> 10);
    assert!(took.cpu <= PATIENCE, "{took}");
    assert!(data <= MEMORY_KIB, "{} MiB allocated", data >> 10);
    assert!(session.reader.child.try_wait().unwrap().is_none(), "the reader has died");
    let names = answer?;
    let first = names.frames.iter().filter_map(|frame| frame.lines.first());
    Ok(first.map(|line| names.strings[line.function as usize].clone()).collect())
}

/// All are of this process.
static PERF_MAP: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn a_line_of_a_gibibyte() {
    let refused = explode_perf_map("perf-map-line", |file| {
        file.write_all(b"1000 10 ").unwrap();
        file.write_all_at(b"\n2000 10 next\n", 1 << 30).unwrap();
    });
    assert!(refused.unwrap_err().contains("larger than"));
    // As long a line as a map may have at all.
    let named = explode_perf_map("perf-map-long-line", |file| {
        file.write_all(b"1000 10 first").unwrap();
        file.write_all_at(b"\n2000 10 next\n", 255 << 20).unwrap();
    });
    assert_eq!(named.unwrap(), ["first", "next"]);
}

#[test]
fn a_perf_map_of_millions_of_lines() {
    let named = explode_perf_map("perf-map-lines", |file| {
        // They overlap: each is cut by those behind it.
        let lines: String = (0..scaled(3_000_000))
            .map(|n| format!("{:x} {:x} f{n}\n", n * 7 % 0x40_0000, 0x1000))
            .collect();
        file.write_all(lines.as_bytes()).unwrap();
    });
    assert_eq!(named.unwrap().len(), 16_384);
}

#[test]
fn a_perf_map_of_a_quarter_gibibyte_of_names() {
    let named = explode_perf_map("perf-map-names", |file| {
        let line = [b"1000 10 ", &[0xff; 1_000][..], b"\n"].concat();
        let chunk = line.repeat(1_000);
        for _ in 0..260 {
            file.write_all(&chunk).unwrap();
        }
    });
    assert_eq!(named.unwrap().len(), 1);
}
