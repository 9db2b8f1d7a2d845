//! What the doctor found, and what mends it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::files::printable::escape;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    /// As it should be.
    Ok,
    /// Something is lost, or may be.
    Note,
    /// Recording does not work with it.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    /// What was looked at.
    pub(super) what: &'static str,
    /// What was found.
    pub(super) found: String,
    /// What mends it: a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, what, found: found.into(), mend: None }
    }

    pub(super) fn note(
        what: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { mark: Mark::Note, what, found: found.into(), mend: Some(mend.into()) }
    }

    pub(super) fn bad(
        what: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { mark: Mark::Bad, what, found: found.into(), mend: Some(mend.into()) }
    }
}

/// Findings as lines: mark, what, what was found, and below it what mends it.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { mark, what, found, mend } in findings {
        let mark = match mark {
            Mark::Ok => "ok  ",
            Mark::Note => "note",
            Mark::Bad => "BAD ",
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{mark}  {what:width$}  {}", escape(found));
        if let Some(mend) = mend {
            let _ = writeln!(text, "      {:width$}  → {}", "", escape(mend));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_made_safe() {
        let findings =
            [Finding::ok("kernel", "6.18"), Finding::bad("a longer one", "\u{1b}[31m", "do x")];
        let text = text(&findings);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ok    kernel        6.18");
        assert_eq!(lines[1], "BAD   a longer one  \\u{1b}[31m");
        assert_eq!(lines[2], "                    → do x");
    }
}
