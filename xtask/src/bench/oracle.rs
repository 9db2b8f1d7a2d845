//! Our stacks of programs as they are installed, beside other unwinders'.

use std::{env, ffi::OsString, time::Duration};

use anyhow::{Context as _, Result};
use rprofd_tests::{Program, machine, programs::source_path};

use super::{Bench, Bound, Figure};
use crate::{
    checkout,
    oracle::{Files, Recording, Report, compare},
};

/// Samples in a second of CPU time.
const HERTZ: u64 = 499;

/// How long each program runs.
const SECONDS: u64 = 3;

const PYTHON: &str = "
import json, re
while True:
    text = json.dumps([{'a': n, 'b': [n, str(n)]} for n in range(2000)])
    re.sub(r'\\d+', 'x', text)
    sorted(json.loads(text), key=lambda item: -item['a'])
";

const PERL: &str = "
while (1) {
    my %h;
    $h{$_ % 977} .= \"x$_\" for 1 .. 50000;
    my $text = join(q(,), sort { $h{$a} cmp $h{$b} } keys %h);
    $text =~ s/(\\d)(\\d)/$2$1/g;
}
";

const SQL: &str = "
with recursive c(x) as (select 1 union all select x + 1 from c where x < 300000)
select sum(x * x), count(distinct x % 1000), group_concat(x % 10) from c;
";

const NODE: &str = "
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
for (;;) fib(25);
";

/// A program: what must be installed, and a line for the shell.
struct Subject {
    name: &'static str,
    needs: &'static str,
    line: String,
}

impl Subject {
    fn new(name: &'static str, needs: &'static str, line: impl Into<String>) -> Self {
        Self { name, needs, line: line.into() }
    }

    /// Short-lived: started again and again.
    fn again(name: &'static str, needs: &'static str, line: &str) -> Self {
        Self::new(name, needs, format!("while :; do {line}; done >/dev/null 2>&1"))
    }
}

fn subjects(bench: &Bench) -> Result<Vec<Subject>> {
    let quoted = |path: &std::path::Path| format!("'{}'", path.display());
    let big = quoted(&env::current_exe().context("the path of xtask")?);
    let cc = quoted(&source_path("thrown.cc"));
    let rust = quoted(&source_path("work.rs"));
    let object = quoted(&bench.dir().join("object.o"));
    let (old, new) = (checkout::root().join("xtask/src"), checkout::root().join("tests"));
    let diff = format!("git diff --no-index -M --stat {} {}", quoted(&old), quoted(&new));
    let mut subjects = vec![
        Subject::new("python3", "python3", format!("exec python3 -c \"{PYTHON}\"")),
        Subject::again("sqlite3", "sqlite3", &format!("sqlite3 :memory: '{SQL}'")),
        Subject::again(
            "openssl, symmetric",
            "openssl",
            "for cipher in aes-256-gcm sha256 chacha20-poly1305; do
                openssl speed -seconds 1 -bytes 8192 -evp $cipher
            done",
        ),
        Subject::again(
            "openssl, public keys",
            "openssl",
            "openssl speed -seconds 1 rsa2048 & openssl speed -seconds 1 ecdsap256; wait",
        ),
        Subject::again("cc1plus", "g++", &format!("g++ -O2 -c -o {object} {cc}")),
        Subject::again("git", "git", &diff),
        Subject::again("gzip", "gzip", &format!("gzip -9c {big}")),
        Subject::again("xz", "xz", &format!("xz -9ec {big}")),
        Subject::new("perl", "perl", format!("exec perl -e '{PERL}'")),
        Subject::new("node", "node", format!("exec node -e '{NODE}'")),
        Subject::again(
            "rustc",
            "rustc",
            &format!("rustc -O --edition=2024 --emit=obj -o {object} {rust}"),
        ),
    ];
    if machine::has(&["go"]) {
        let program = Program::build("work.go");
        subjects.push(Subject::new("a Go program", "go", format!("exec {} 60", program.arg())));
    }
    subjects.retain(|subject| machine::has(&[subject.needs]));
    Ok(subjects)
}

/// Agreement of judged frames, of each program and of all.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut all = Report::default();
    for Subject { name, needs: _, line } in subjects(bench)? {
        let command = ["sh", "-c", &line].map(OsString::from);
        let limit = Some(Duration::from_secs(SECONDS));
        let recording = Recording { command: &command, hertz: HERTZ, limit };
        let mut report = Report::default();
        compare(&recording, &mut Files::new(&|_, _| ()), &mut report).context(name)?;
        println!("{name}\n{report}");
        figures.extend([
            Figure::new(
                format!("{name}: samples"),
                report.samples as f64,
                "",
                Bound::AtLeast(100.0),
            ),
            Figure::new(
                format!("{name}: agreement"),
                report.agreement(),
                "% of judged frames",
                Bound::AtLeast(99.9),
            ),
            Figure::new(
                format!("{name}: not judged"),
                report.unjudged_share(),
                "% of frames",
                Bound::Open,
            ),
        ]);
        all.merge(report);
    }
    println!("all\n{all}");
    let judged = all.agreed() + all.disagreed();
    figures.extend([
        Figure::new("all: samples", all.samples as f64, "", Bound::AtLeast(1_000.0)),
        Figure::new("all: judged", judged as f64, "frames", Bound::AtLeast(10_000.0)),
        Figure::new("all: agreement", all.agreement(), "% of them", Bound::AtLeast(99.9)),
        Figure::new("all: disagreements", all.disagreed() as f64, "", Bound::Open),
        Figure::new("all: not judged", all.unjudged_share(), "% of frames", Bound::Open),
    ]);
    Ok(figures)
}
