//! A flame graph: an SVG that a browser zooms and searches.

use std::io;

use inferno::flamegraph::{
    Options,
    color::{MultiPalette, Palette},
};

use super::folded;
use crate::{
    files::{printable, utc},
    profile::Profile,
};

/// The flame graph of all samples; a sentence instead where there are none.
///
/// # Errors
///
/// If the flame graph can't be drawn, which takes a defect of the library that does.
pub(crate) fn render(profile: &Profile) -> io::Result<Vec<u8>> {
    let title = title(profile);
    let folded = folded::render(profile);
    if folded.is_empty() {
        return Ok(nothing(&title));
    }
    let mut options = Options::default();
    // Colours by what a name looks like, and orange for frames that end in "_[k]".
    options.colors = Palette::Multi(MultiPalette::Java);
    options.deterministic = true;
    // Narrower than this, in percent, nobody sees a frame, and deep recursion makes a tall picture.
    options.min_width = 0.1;
    options.title = title;
    options.subtitle = Some(subtitle(profile));
    let mut svg = Vec::new();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut svg)?;
    Ok(svg)
}

fn title(profile: &Profile) -> String {
    let name = match &*profile.processes {
        _ if profile.is_host() => "host".to_owned(),
        [] => "nothing".to_owned(),
        [process] => format!("{} ({})", process.comm, process.pid),
        [first, others @ ..] => format!("{} ({} processes)", first.comm, others.len() + 1),
    };
    for_xml(&format!("{name}: {}", profile.kind.name()))
}

fn subtitle(profile: &Profile) -> String {
    format!("{}, {:.1?}", utc::readable(profile.start), profile.duration)
}

/// `text` without characters that XML can't hold in any form.
fn for_xml(text: &str) -> String {
    printable::escape(text).replace(['\u{fffe}', '\u{ffff}'], "?")
}

fn nothing(title: &str) -> Vec<u8> {
    let title = title.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"600\" height=\"80\" xmlns=\"http://www.w3.org/2000/svg\">\n\
         <text x=\"20\" y=\"30\" font-family=\"monospace\" font-size=\"16\">{title}</text>\n\
         <text x=\"20\" y=\"60\" font-family=\"monospace\" font-size=\"12\">No samples.</text>\n\
         </svg>\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        process::{Command, Stdio},
    };

    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::profile::{
        Kind,
        sample::{any_profile, empty, program},
    };

    /// Checks with Python's expat, which is not ours, that each is XML.
    fn assert_xml(documents: &[Vec<u8>]) {
        let directory = tempfile::tempdir().unwrap();
        for (number, document) in documents.iter().enumerate() {
            std::fs::write(directory.path().join(format!("{number}.svg")), document).unwrap();
        }
        let check = "import glob, sys, xml.dom.minidom\n\
                     for name in glob.glob(sys.argv[1] + '/*'): xml.dom.minidom.parse(name)";
        let mut python = Command::new("python3");
        python.args(["-c", check]).arg(directory.path()).stderr(Stdio::piped());
        match python.output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            Err(error) => {
                let is_required =
                    std::env::var_os("RPROFD_TEST_REQUIRE").is_some_and(|it| it == "1");
                assert!(!is_required, "python3: {error}");
                println!("skipped: python3 cannot be run: {error}");
            }
        }
    }

    #[test]
    fn says_what_it_shows() {
        let svg = render(&program(7, "app", 0x40_0000)).unwrap();
        let text = String::from_utf8(svg.clone()).unwrap();
        for part in ["app (7): cpu", "2026-11-23 16:00:00 UTC, 10.0s", "read (3 samples, 30.00%)"] {
            assert!(text.contains(part), "{part}");
        }
        assert_eq!(svg, render(&program(7, "app", 0x40_0000)).unwrap());
    }

    #[test]
    fn is_xml_whatever_the_names() {
        let documents = RefCell::new(vec![
            render(&empty(7, "<&\"\x1b\u{ffff}>")).unwrap(),
            render(&program(7, "# <&\"\x1b\u{ffff}>", 0x40_0000)).unwrap(),
        ]);
        let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
        let drawn = TestRunner::new(config).run(&any_profile(), |profile| {
            let svg = render(&profile).unwrap();
            let total = profile.totals()[Kind::COUNT];
            let drawn = format!("total_samples=\"{total}\"");
            assert!(total == 0 || String::from_utf8_lossy(&svg).contains(&drawn), "{profile:?}");
            documents.borrow_mut().push(svg);
            Ok(())
        });
        drawn.unwrap();
        assert_xml(&documents.into_inner());
    }
}
