use std::{fs, path::Path};

use clap::CommandFactory as _;

use super::*;
use crate::cli::{Options, serve};

/// Options that are of the command line alone.
const WITHOUT_KEY: [&str; 4] = ["config", "check", "help", "version"];

fn serve_with(text: &str, arguments: &[&str]) -> Result<Resolved<serve::Options>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let words = [&["rprofd serve", "-c", path.to_str().unwrap()], arguments].concat();
    resolve(&words.iter().map(Into::into).collect::<Vec<_>>(), None)
}

fn refused(text: &str) -> String {
    match serve_with(text, &[]) {
        Err(Error::File { line, text, .. }) => format!("{line}: {text}"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_option_has_a_key_and_an_environment_variable() {
    let all = [Options::command(), serve::Options::command()];
    let all = all.iter().flat_map(Command::get_arguments);
    let options: Vec<_> = all
        .filter_map(|it| Some((it.get_long()?, it.get_env().is_some())))
        .filter(|(name, _)| !WITHOUT_KEY.contains(name))
        .collect();
    for (name, has_variable) in &options {
        assert!(KEYS.iter().any(|(_, option)| option == name), "--{name} has no key");
        assert!(*has_variable || ["verbose", "quiet"].contains(name), "--{name}: no variable");
    }
    for (key, option) in KEYS {
        assert!(options.iter().any(|(name, _)| name == option), "{key} is of no option");
        assert_eq!(KEYS.iter().filter(|(_, it)| it == option).count(), 1, "{key}");
    }
}

#[test]
fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
    let text = "listen = [\"unix:/run/a\", \"127.0.0.1:1\"]\n[sampling]\nfrequency = 49\n\
                window = \"5s\"\n[names]\nno_inlines = true\n[messages]\nverbose = 2\n\
                [output]\ngroup_by = \"exe\"\n";
    let resolved = serve_with(text, &["-F", "29", "-q"]).unwrap();
    let options = &resolved.options;
    assert_eq!((options.frequency, options.window.as_secs()), (29, 5));
    assert_eq!(options.listen.len(), 2);
    assert!(options.recording.no_inlines);
    assert_eq!((options.messages.quiet, options.messages.verbose), (true, 0), "the contrary");
    let shown = resolved.to_toml();
    for line in [
        "frequency = 29                           # command line",
        "window = \"5s\"                            # line 4",
        "listen = [\"unix:/run/a\", \"127.0.0.1:1\"]  # line 1",
        "event = \"cpu-clock\"                      # default",
    ] {
        assert!(shown.lines().any(|it| it == line), "{line} in {shown}");
    }
    // What is shown is a configuration, and comes to the same.
    let again = serve_with(&shown, &[]).unwrap();
    let without = |text: String| {
        text.lines()
            .map(|it| it.split(" #").next().unwrap_or_default().trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(without(again.to_toml())[1..], without(shown)[1..]);
}

#[test]
fn the_other_commands_read_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, "listen = \"unix:/run/a\"\n[sampling]\nfrequency = 49\n").unwrap();
    let words = ["rprofd", "-c", path.to_str().unwrap(), "--", "true", "-c"];
    let resolved = resolve::<Options>(&words.map(OsString::from), None).unwrap();
    assert_eq!((resolved.options.frequency, resolved.options.command.len()), (49, 2));
    let none = resolve::<Options>(&["rprofd".into()], Some(Path::new("/no/such"))).unwrap();
    assert_eq!(none.file, None);
    let words = ["rprofd", "-c", "/no/such"].map(OsString::from);
    assert!(matches!(resolve::<Options>(&words, None), Err(Error::Unreadable { .. })));
}

#[test]
fn what_is_wrong_is_said_with_what_would_be_right() {
    for (text, said) in [
        (
            "[sampling]\nfreqency = 9",
            "2: there is no key `sampling.freqency`; did you mean `sampling.frequency`?",
        ),
        ("frequency = 9", "1: there is no key `frequency`; did you mean `sampling.frequency`?"),
        (
            "\n[smapling]\nfrequency = 9",
            "2: there is no section `smapling`; did you mean `sampling`?",
        ),
        (
            "[sampling]\nfrequency = 0",
            "2: sampling.frequency: invalid value '0' for '--frequency <HZ>': 0 is not in 1..=10000",
        ),
        (
            "[sampling]\nwindow = \"x\"",
            "2: sampling.window: invalid value 'x' for '--window <TIME>': give a time such as 30 (seconds), 500ms, 30s, 5m or 2h",
        ),
        ("[sampling]\nwindow = [\"1s\", \"2s\"]", "2: sampling.window: give one value"),
        ("[names]\nno_inlines = 1", "2: names.no_inlines: give true or false"),
        ("[messages]\nverbose = 9", "2: messages.verbose: give 0, 1 or 2"),
        (
            "[sampling]\nwindow = 2026-01-01",
            "2: sampling.window: give a string, a number, true, false, or an array of these",
        ),
    ] {
        assert_eq!(refused(text), said);
    }
    assert!(refused("[sampling\n").starts_with("1: "));
    assert!(refused("[sampling]\nwindow = 1\nwindow = 2").starts_with("3: "), "twice");
}

#[test]
fn the_example_in_the_manual_is_a_configuration() {
    let manual = include_str!("../../../docs/serve.md");
    let example =
        manual.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let options = serve_with(example, &[]).unwrap().options;
    assert_eq!(options.cpu_limit, Some(2));
    assert!(options.tls_cert.is_some() && options.tls_key.is_some());
}
