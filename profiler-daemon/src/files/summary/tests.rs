use std::{sync::Arc, time::SystemTime};

use super::*;
use crate::profile::{Profile, Window, sample::program};

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
        render(report(&[program(1, "app", 0x40_0000)])),
        "   flat     cum  Hottest functions
 50.00%    100%  step  app
 30.00%  30.00%  read  [kernel.kallsyms]
 20.00%  20.00%  [libc.so.6+0x1010]
     0%    100%  main  app
     0%    100%  work  app

PROCESS  PID  SAMPLES  CPU TIME  COMPLETE  FILE
app        1       10    0.10 s       90%  p.1.cpu.pb.gz
all                10    0.10 s       90%  all.cpu.pb.gz

Files are in profiles/latest
Next: go tool pprof -http=: profiles/latest/p.1.cpu.pb.gz
"
    );
}

#[test]
fn guesses_are_marked_and_explained() {
    let mut profile = program(1, "app", 0x40_0000);
    profile.outcomes =
        Outcomes { complete: 5, guessed: 4, truncated: 1, none: 9, ..Outcomes::default() };
    let text = render(report(&[profile]));
    assert!(text.contains(" ~90%  p.1"), "{text}");
    assert_eq!(text.matches("callers that keep none are missing").count(), 1, "{text}");
}

#[test]
fn whole_is_said_of_all_stacks_alone() {
    let outcomes = Outcomes { complete: 99_999, truncated: 1, ..Outcomes::default() };
    assert_eq!(complete(&outcomes), "99.9%");
    assert_eq!(complete(&Outcomes { complete: 3, ..Outcomes::default() }), "100%");
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
        text.contains("app        1       20    0.20 s       90%  p.1.cpu.pb.gz (+1)"),
        "{text}"
    );
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
fn nothing_is_explained() {
    let text = render(report(&[]));
    assert!(text.contains("No samples") && text.contains("-F 999"), "{text}");
    assert!(!text.contains("go tool pprof"), "{text}");
}

#[test]
fn paths_are_quoted_for_a_shell() {
    assert_eq!(quoted(Path::new("profiles/latest/a.1.cpu.pb.gz")), "profiles/latest/a.1.cpu.pb.gz");
    assert_eq!(quoted(Path::new("my files/it's")), r"'my files/it'\''s'");
}
