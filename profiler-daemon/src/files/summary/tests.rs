use std::{sync::Arc, time::SystemTime};

use super::{
    table::{ROWS, complete},
    *,
};
use crate::profile::{Outcomes, Profile, Window, sample::program};

fn report(profiles: &[Profile]) -> Report {
    let mut top = Top::default();
    let mut rows = Vec::new();
    for profile in profiles {
        top.add(profile);
        let process = Arc::clone(&profile.processes[0]);
        rows.push(Row {
            group: Group::Process(process.pid, process.start_ns),
            file: Some(format!("p.{}.cpu.pb.gz", process.pid)),
            process,
            processes: 1,
            totals: profile.totals(),
            outcomes: profile.outcomes,
            spent: profile.spent,
        });
    }
    Report {
        window: Window {
            kind: Kind::Cpu,
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(10),
            period: 10_000_000,
            losses: Vec::new(),
            comments: Vec::new(),
        },
        rows,
        top,
        directory: Some("profiles/latest".into()),
        everything: Some("profiles/latest/all.cpu.pb.gz".into()),
        first_look: Some(FirstLook::Pprof("profiles/latest/p.1.cpu.pb.gz".into())),
        on_stdout: None,
        failures: Vec::new(),
    }
}

fn render(report: Report) -> String {
    let mut summary = Summary::default();
    summary.add(report);
    summary.render(Style::default())
}

#[test]
fn functions_then_the_table_then_what_to_type() {
    assert_eq!(
        render(report(&[program(1, "app", 0x40_0000), program(2, "sh", 0x40_0000)])),
        "   flat     cum  Hottest functions
 30.00%  30.00%  read  [kernel.kallsyms]
 25.00%  50.00%  step  app
 25.00%  50.00%  step  sh
 20.00%  20.00%  [libc.so.6+0x1010]
     0%  50.00%  main  app
     0%  50.00%  main  sh
     0%  50.00%  work  app
     0%  50.00%  work  sh

PROCESS  PID  SAMPLES  CPU TIME  COMPLETE  FILE
app        1       10    0.10 s     90.0%  p.1.cpu.pb.gz
sh         2       10    0.10 s     90.0%  p.2.cpu.pb.gz
all                20    0.20 s     90.0%  all.cpu.pb.gz

Files are in profiles/latest
Next: go tool pprof -http=: profiles/latest/p.1.cpu.pb.gz
"
    );
}

#[test]
fn how_threads_spent_the_time_is_told_where_it_is_known() {
    let mut app = program(1, "app", 0x40_0000);
    app.spent = Spent { threads: 2, running_ns: 25, runnable_ns: 5, waiting_ns: 70 };
    let text = render(report(&[app, program(2, "sh", 0x40_0000)]));
    let table = text.split("\n\n").nth(1).unwrap();
    assert_eq!(
        table,
        "PROCESS  PID  SAMPLES  CPU TIME  ON CPU  READY  WAITS  COMPLETE  FILE
app        1       10    0.10 s   25.0%   5.0%  70.0%     90.0%  p.1.cpu.pb.gz
sh         2       10    0.10 s       -      -      -     90.0%  p.2.cpu.pb.gz
all                20    0.20 s   25.0%   5.0%  70.0%     90.0%  all.cpu.pb.gz"
    );
}

#[test]
fn one_process_is_everything() {
    let table = |report| {
        let text = render(report);
        let table = text.split("\n\n").nth(1).unwrap().to_owned();
        assert!(!text.contains("no file of their own"), "{text}");
        table
    };
    let own = report(&[program(1, "app", 0x40_0000)]);
    assert_eq!(
        table(own),
        "PROCESS  PID  SAMPLES  CPU TIME  COMPLETE  FILE
app        1       10    0.10 s     90.0%  p.1.cpu.pb.gz"
    );
    // As with `-o out.svg`, or `--group-by none`.
    let mut in_all = report(&[program(1, "app", 0x40_0000)]);
    in_all.rows[0].file = None;
    assert_eq!(
        table(in_all),
        "PROCESS  PID  SAMPLES  CPU TIME  COMPLETE  FILE
app        1       10    0.10 s     90.0%  all.cpu.pb.gz"
    );
}

#[test]
fn functions_that_standard_output_has_are_not_said_again() {
    let to_stdout = |format| {
        let mut report = report(&[program(1, "app", 0x40_0000)]);
        report.on_stdout = Some(format);
        render(report)
    };
    assert!(to_stdout(Format::Text).starts_with("PROCESS "), "{}", to_stdout(Format::Text));
    assert!(to_stdout(Format::Pprof).contains("Hottest functions"));
}

#[test]
fn processes_of_one_name_are_counted() {
    let mut report = report(&[program(1, "app", 0x40_0000)]);
    report.rows[0].group = Group::Name("app".to_owned());
    report.rows[0].processes = 10;
    let text = render(report);
    assert!(text.contains("\napp      10 processes       10 "), "{text}");
}

#[test]
fn guesses_are_not_whole() {
    let mut profile = program(1, "app", 0x40_0000);
    profile.outcomes =
        Outcomes { complete: 5, guessed: 4, truncated: 1, none: 9, ..Outcomes::default() };
    let text = render(report(&[profile]));
    assert!(text.contains(" 50.0%  p.1"), "{text}");
    assert!(text.contains("Guessed: 40.0% of the stacks"), "{text}");
}

#[test]
fn whole_is_said_of_all_stacks_alone() {
    let outcomes = Outcomes { complete: 99_999, truncated: 1, ..Outcomes::default() };
    assert_eq!(complete(&outcomes), "99.9%");
    assert_eq!(complete(&Outcomes { complete: 3, ..Outcomes::default() }), "100%");
    assert_eq!(complete(&Outcomes { truncated: 3, ..Outcomes::default() }), "0%");
    let outcomes = Outcomes { complete: 1, truncated: 3, ..Outcomes::default() };
    assert_eq!(complete(&outcomes), "25.0%", "points stand below each other");
    assert_eq!(complete(&Outcomes { none: 3, ..Outcomes::default() }), "-");
}

#[test]
fn hostile_names_stay_in_their_cells() {
    let mut profile = program(1, "\x1b]0;x\x07\nroot", 0x40_0000);
    profile.functions[2].name = "f\x1b[2J\u{202e}".into();
    let text = render(report(&[profile]));
    assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text:?}");
    assert!(text.contains(r"\u{1b}]0;x\u{7}\u{a}root"), "{text}");
}

#[test]
fn lines_fit_the_terminal() {
    let mut profile = program(1, &"comm".repeat(10), 0x40_0000);
    profile.functions[2].name = "long::function::name".repeat(20).into();
    let mut report = report(&[profile]);
    report.rows[0].file = Some("a".repeat(200) + ".pb.gz");
    let mut summary = Summary::default();
    summary.add(report);
    for width in [72, 80, 120] {
        let text = summary.render(Style { width, has_colors: false });
        for line in text.lines().filter(|line| !line.starts_with("Next:")) {
            assert!(line.width() <= width, "{width}: {line}");
        }
    }
    summary.render(Style { width: 1, has_colors: true });
}

#[test]
fn colors_are_for_terminals() {
    let mut summary = Summary::default();
    summary.add(report(&[program(1, "app", 0x40_0000)]));
    assert!(!summary.render(Style::default()).contains('\x1b'));
    assert!(summary.render(Style { width: 80, has_colors: true }).contains("\x1b[1m"));
    let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(stream));
    assert_eq!(Style::of(&file), Style::default());
}

#[test]
fn windows_add_up() {
    let mut summary = Summary::default();
    summary.add(report(&[program(1, "app", 0x40_0000)]));
    summary.add(report(&[program(1, "app", 0x40_0000), program(2, "sh", 0x40_0000)]));
    let text = summary.render(Style::default());
    assert!(
        text.contains("app        1       20    0.20 s     90.0%  p.1.cpu.pb.gz +1 earlier\n"),
        "{text}"
    );
    assert!(text.contains("2 windows. FILE is the newest one"), "{text}");
    assert!(text.contains("all                30 "), "{text}");
}

#[test]
fn the_rest_is_said_to_be_in_all() {
    let mut report = report(&[program(1, "app", 0x40_0000), program(2, "sh", 0x40_0000)]);
    report.rows[1].file = None;
    let text = render(report);
    assert!(
        text.contains("1 of these (10 samples) has no file of their own: all.cpu.pb.gz has them."),
        "{text}"
    );
}

#[test]
fn long_tables_are_cut() {
    let profiles: Vec<_> = (1..=50).map(|pid| program(pid, "app", 0x40_0000)).collect();
    let text = render(report(&profiles));
    assert!(text.contains("… and 30 less busy ones."), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("app ")).count(), ROWS);
}

#[test]
fn missing_names_are_explained_where_a_right_was_missing() {
    let mut summary = Summary::new(Kind::Cpu, Asked::Machine, Some("It lacks X.".into()));
    summary.add(report(&[program(1, "app", 0x40_0000)]));
    let text = summary.render(Style::default());
    let expected = "\nWithout names: 20.00% of the time. It lacks X.\n";
    assert!(text.contains(expected), "{text}");
    assert!(!render(report(&[program(1, "app", 0x40_0000)])).contains("Without names"));
}

#[test]
fn nothing_is_explained() {
    let nothing = |asked, found| {
        let mut summary = Summary::new(Kind::Cpu, asked, None);
        summary.found(found);
        let written = Report { directory: None, first_look: None, ..report(&[]) };
        summary.add(Report { everything: None, ..written });
        let text = summary.render(Style::default());
        assert!(text.starts_with("No samples, and so no file: "), "{text}");
        assert!(!text.contains("Files are in") && !text.contains("go tool pprof"), "{text}");
        text
    };
    for (asked, found, expected) in [
        (Asked::Machine, 300, "nothing ran on a CPU in these 10.0 s"),
        (Asked::Pids, 1, "the process never ran"),
        (Asked::Pids, 2, "none of the processes asked for ran"),
        (Asked::Patterns, 1, "the one process that fits never ran"),
        (Asked::Patterns, 3, "none of the 3 processes that fit ran"),
        (Asked::Command, 1, "the command hardly ran"),
    ] {
        let text = nothing(asked, found);
        assert!(text.contains(expected) && text.contains("-F 999"), "{text}");
    }
    // More samples find no process that is not there.
    let text = nothing(Asked::Patterns, 0);
    assert!(text.contains("no process fitted") && text.contains("`ps "), "{text}");
    assert!(!text.contains("-F 999"), "{text}");
}

#[test]
fn paths_are_quoted_for_a_shell() {
    assert_eq!(quoted(Path::new("profiles/latest/a.1.cpu.pb.gz")), "profiles/latest/a.1.cpu.pb.gz");
    assert_eq!(quoted(Path::new("my files/it's")), r"'my files/it'\''s'");
}
