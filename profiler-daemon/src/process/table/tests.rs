use super::{proc::EARLY_NS, *};
use crate::{
    kernel::{Map, SideBand, What},
    reader::protocol::{MappingInfo, ProcessInfo},
};

fn event(time_ns: u64, pid: u32, what: What) -> SideBand {
    SideBand { time_ns, pid, tid: pid, what }
}

fn map(start: u64, path: &str) -> What {
    What::Map(Map {
        start,
        end: start + 0x1000,
        file_offset: 0,
        build_id: vec![1],
        device: 0,
        inode: 0,
        path: path.into(),
    })
}

fn exec(comm: &str) -> What {
    What::Comm { comm: comm.into(), exec: true }
}

fn path_at(table: &Table, image: ImageRef, avma: u64, time_ns: u64) -> String {
    let mappings = table.life(image.life).unwrap().mappings(image.image).unwrap();
    mappings.find(avma, time_ns).map(|mapping| mapping.path.to_string()).unwrap_or_default()
}

fn all() -> Table {
    Table::new(Filter { follow: true, ..Filter::default() })
}

#[test]
fn an_exec_in_between_mixes_nothing() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("old")));
    table.side_band(&event(110, 7, map(0x1000, "/bin/old")));
    let before = table.image_of(7, 50, 1, 120);
    table.side_band(&event(200, 7, exec("new")));
    table.side_band(&event(210, 7, map(0x1000, "/bin/new")));
    let after = table.image_of(7, 50, 2, 220);
    assert_eq!(before.life, after.life);
    assert_ne!(before.image, after.image);
    assert_eq!(path_at(&table, before, 0x1000, 120), "/bin/old");
    assert_eq!(path_at(&table, after, 0x1000, 220), "/bin/new");
    assert_eq!(table.image_of(7, 50, 1, 120), before, "a late sample");
    assert_eq!(&*table.life(after.life).unwrap().process.comm, "new");
}

#[test]
fn an_exec_whose_record_a_sample_overtook() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("old")));
    table.image_of(7, 50, 1, 120);
    let early = table.image_of(7, 50, 2, 220);
    table.side_band(&event(200, 7, exec("new")));
    table.side_band(&event(300, 7, map(0x1000, "/bin/new")));
    let after = table.image_of(7, 50, 2, 320);
    assert_ne!(early.image, after.image);
    assert_eq!(path_at(&table, after, 0x1000, 320), "/bin/new");
}

#[test]
fn what_becomes_the_command_is_ours_until_then() {
    let ours =
        |table: &Table, image: ImageRef| table.life(image.life).unwrap().is_ours(image.image);
    let mut table = all();
    table.becomes_command(7);
    let other = table.image_of(8, 50, 1, 110);
    let before = table.image_of(7, 50, 1, 110);
    table.side_band(&event(200, 7, exec("command")));
    let command = table.image_of(7, 50, 2, 210);
    assert!(!ours(&table, other) && ours(&table, before) && !ours(&table, command));
    table.side_band(&event(220, 7, What::Exit));
    table.side_band(&event(300, 7, What::Fork { parent_pid: 1 }));
    let reused = table.image_of(7, 299, 1, 310);
    assert!(reused.life != before.life && !ours(&table, reused));

    // Nor are its files opened before, and their unwind tables made: the command's wait behind.
    let mut table = all();
    table.becomes_command(7);
    table.image_of(7, 50, 1, 110);
    let shown = |path: &str, read_from_ns| ProcessInfo {
        pid: 7,
        mappings: vec![MappingInfo {
            start: 0x1000,
            end: 0x2000,
            path: path.into(),
            ..MappingInfo::default()
        }],
        read_from_ns,
        ..ProcessInfo::default()
    };
    let opens = |table: &mut Table| {
        let changes = table.take_changes();
        changes.iter().filter(|change| matches!(change, Change::Open(..))).count()
    };
    table.describe(&shown("/bin/rprofd", 150));
    assert_eq!(opens(&mut table), 0);
    table.side_band(&event(200, 7, exec("command")));
    table.describe(&shown("/bin/command", 250));
    assert_eq!(opens(&mut table), 1);

    // Where its `exec` may have gone unheard, nothing is.
    let mut table = all();
    table.becomes_command(7);
    let before = table.image_of(7, 50, 1, 110);
    table.side_band(&event(200, 7, What::Lost(1)));
    assert!(!ours(&table, before));
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("one")));
    let one = table.image_of(7, 90, 1, 110);
    table.side_band(&event(200, 7, What::Exit));
    table.side_band(&event(300, 7, What::Fork { parent_pid: 1 }));
    let two = table.image_of(7, 299, 1, 310);
    assert_ne!(one.life, two.life);
    assert_eq!(table.image_of(7, 90, 1, 150), one);
    table.forget(5_000_000_000, &HashSet::from([one.life]));
    assert!(table.life(one.life).is_some());
    table.forget(5_000_000_000, &HashSet::new());
    assert!(table.life(one.life).is_none());
    assert_eq!(table.image_of(7, 299, 1, 310), two);
}

#[test]
fn a_child_has_its_parents_mappings() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("parent")));
    table.side_band(&event(110, 7, map(0x1000, "/bin/parent")));
    table.side_band(&event(200, 8, What::Fork { parent_pid: 7 }));
    let child = table.image_of(8, 199, 1, 210);
    assert_eq!(path_at(&table, child, 0x1800, 210), "/bin/parent");
}

#[test]
fn children_of_a_target_are_targets() {
    let filter = Filter { pids: HashSet::from([7]), follow: true, ..Filter::default() };
    let mut table = Table::new(filter);
    table.side_band(&event(100, 7, exec("target")));
    table.side_band(&event(100, 9, exec("other")));
    table.side_band(&event(200, 8, What::Fork { parent_pid: 7 }));
    table.side_band(&event(200, 10, What::Fork { parent_pid: 9 }));
    let profiled =
        |table: &Table, pid| table.lives().find(|life| life.process.pid == pid).unwrap().profiled;
    assert_eq!(profiled(&table, 7), Some(true));
    assert_eq!(profiled(&table, 8), Some(true));
    assert_eq!(profiled(&table, 9), Some(false));
    assert_eq!(profiled(&table, 10), Some(false));
}

#[test]
fn a_target_that_forks_before_it_is_described_is_followed() {
    let filter = Filter { pids: HashSet::from([7]), follow: true, ..Filter::default() };
    let mut table = Table::new(filter);
    table.side_band(&event(200, 8, What::Fork { parent_pid: 7 }));
    assert!(table.take_changes().contains(&Change::Describe(8)));
    let child = table.image_of(8, 199, 1, 210);
    assert_eq!(table.life(child.life).unwrap().profiled, Some(true));
}

#[test]
fn the_child_of_a_target_whose_fork_was_missed_is_a_target() {
    let filter = Filter { pids: HashSet::from([7]), follow: true, ..Filter::default() };
    let mut table = Table::new(filter);
    table.side_band(&event(200, 9, What::Fork { parent_pid: 8 }));
    let grandchild = table.image_of(9, 199, 1, 210);
    let life = table.life(grandchild.life).unwrap();
    assert!(life.profiled == Some(true) && life.inherited);
}

#[test]
fn a_name_that_comes_with_an_exec_decides() {
    let comms = vec![super::super::Glob::new("ng*").unwrap()];
    let mut table = Table::new(Filter { comms, follow: false, ..Filter::default() });
    table.side_band(&event(100, 7, exec("sh")));
    let image = table.image_of(7, 90, 1, 110);
    assert_eq!(table.life(image.life).unwrap().profiled, Some(false));
    table.side_band(&event(200, 7, exec("nginx")));
    assert_eq!(table.life(image.life).unwrap().profiled, Some(true));
}

#[test]
fn a_name_that_was_read_before_a_process_took_another_is_an_old_one() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("exe")));
    table.side_band(&event(300, 7, What::Comm { comm: "worker".into(), exec: false }));
    let comm = |table: &Table| table.lives().next().unwrap().process.comm.to_string();
    let mut info =
        ProcessInfo { pid: 7, comm: "exe".into(), read_from_ns: 200, ..Default::default() };
    table.describe(&info);
    assert_eq!(comm(&table), "worker");
    info = ProcessInfo { comm: "new".into(), read_from_ns: 400, ..info };
    table.describe(&info);
    assert_eq!(comm(&table), "new");
}

#[test]
fn arguments_that_are_not_in_place_yet_are_asked_for_again() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("app")));
    table.take_changes();
    let early = ProcessInfo { pid: 7, exe: "/app".into(), read_from_ns: 200, ..Default::default() };
    table.describe(&early);
    assert!(table.take_changes().contains(&Change::Describe(7)));
    let whole = ProcessInfo { cmdline: "app\0-x".into(), read_from_ns: 300, ..early.clone() };
    table.describe(&whole);
    assert!(!table.take_changes().contains(&Change::Describe(7)));
    assert_eq!(&*table.lives().next().unwrap().process.cmdline, "app\0-x");
    // One that has cleared them is left alone.
    table.describe(&ProcessInfo { read_from_ns: 200 + EARLY_NS, ..early });
    assert!(!table.take_changes().contains(&Change::Describe(7)));
}

#[test]
fn an_end_is_told_once_and_may_be_taken_back() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("a")));
    let life = table.image_of(7, 50, 1, 150).life;
    table.side_band(&event(200, 7, What::Exit));
    assert!(table.take_ended(200 + LATE_NS).is_empty(), "samples may be under way");
    assert_eq!(table.take_ended(201 + LATE_NS), [7]);
    assert!(table.life(life).unwrap().is_withdrawn());
    assert!(table.take_ended(300 + LATE_NS).is_empty());
    table.take_changes();
    assert_eq!(table.image_of(7, 50, 1, 400 + LATE_NS).life, life, "another thread goes on");
    assert_eq!(table.take_changes(), [Change::Mappings(life)]);
    assert!(!table.life(life).unwrap().is_withdrawn());
}

#[test]
fn the_end_of_a_process_does_not_end_the_next_of_its_pid() {
    let mut table = all();
    table.side_band(&event(100, 7, exec("a")));
    table.side_band(&event(200, 7, What::Exit));
    table.side_band(&event(300, 7, What::Fork { parent_pid: 1 }));
    assert!(table.take_ended(400 + LATE_NS).is_empty());
}

#[test]
fn an_end_that_is_heard_of_before_the_start() {
    let mut table = all();
    table.side_band(&event(90, 7, exec("parent")));
    table.side_band(&event(120, 9, What::Exit));
    table.side_band(&event(100, 9, What::Fork { parent_pid: 7 }));
    assert_eq!(table.take_ended(120 + LATE_NS + 1), [9]);
    // The pid again: this one runs on.
    table.side_band(&event(200, 9, What::Fork { parent_pid: 7 }));
    assert_eq!(table.take_ended(u64::MAX), [0; 0]);
}

#[test]
fn what_is_gone_when_it_is_described_has_ended() {
    let mut table = all();
    table.side_band(&event(100, 7, map(0x1000, "/bin/x")));
    table.gone(7, 150);
    table.gone(8, 150);
    assert_eq!(table.take_ended(150 + LATE_NS + 1), [7]);
    // It was another one that had: this one is sampled.
    table.image_of(7, 50, 1, 150 + 2 * LATE_NS);
    assert_eq!(table.take_ended(150 + 3 * LATE_NS), [0; 0]);
}

#[test]
fn a_start_is_known_to_a_tick_until_a_sample_tells() {
    let mut table = all();
    table.describe(&ProcessInfo {
        pid: 7,
        start_ticks: 412_732,
        read_from_ns: 4_130_000_000_000,
        ..Default::default()
    });
    let exact = 4_127_321_339_493;
    let others = [exact + 3 * TICK_NS, exact - 3 * TICK_NS];
    let id = table.lives().next().unwrap().id;
    let is_it = |table: &Table, start_ns| table.life(id).unwrap().started_at(start_ns);
    assert!(is_it(&table, exact) && others.iter().all(|&it| !is_it(&table, it)));
    assert_eq!(table.image_of(7, exact, 1, exact + 100).life, id);
    assert!(is_it(&table, exact) && !is_it(&table, 4_127_320_000_000));
}

#[test]
fn times_at_the_clocks_end_are_no_overflow() {
    let mut table = all();
    let late = u64::MAX - 1;
    table.side_band(&event(late, 7, exec("late")));
    table.side_band(&event(late, 7, What::Exit));
    let image = table.image_of(7, 0, 1, late);
    table.uncovered(image.life, late);
    table.describe(&ProcessInfo { pid: 7, start_ticks: u64::MAX, ..Default::default() });
    assert!(table.take_ended(u64::MAX).is_empty());
    assert!(table.forget(u64::MAX, &HashSet::new()).is_empty());
}

#[test]
fn mappings_that_end_before_they_begin_are_left_out() {
    let mut table = all();
    let mapping = |start, end| MappingInfo { start, end, ..Default::default() };
    let mappings = vec![mapping(2, 1), mapping(3, 3), mapping(4, 5)];
    let (pid, read_from_ns) = (7, 10);
    table.describe(&ProcessInfo { pid, read_from_ns, mappings, ..Default::default() });
    let life = table.lives().next().unwrap();
    let ranges: Vec<_> = life.current().map(|mapping| (mapping.start, mapping.end)).collect();
    assert_eq!(ranges, [(4, 5)]);
}
