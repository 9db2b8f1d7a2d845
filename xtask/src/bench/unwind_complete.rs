//! Shares of complete stacks of everyday programs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use rprofd_tests::{Program, machine, programs::source_path};

use super::{Bench, Bound, Figure, outcomes::Outcomes};
use crate::step;

/// How long each runs, in seconds.
const SECONDS: &str = "12";

/// A program under load.
struct Load {
    name: &'static str,
    /// Commands without which it is left out.
    needs: &'static [&'static str],
    /// Shell commands, ended from outside; they run in a directory beside the inputs.
    script: &'static str,
}

const LOADS: [Load; 12] = [
    Load {
        name: "python3",
        needs: &["python3"],
        script: r#"exec python3 -c '
import json, re
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
class Node:
    def __init__(self, value): self.value = value
while True:
    fib(18)
    text = json.dumps([{"key": i, "text": str(i) * 3} for i in range(300)])
    sorted(json.loads(text), key=lambda item: item["text"])
    re.findall(r"(\d+)(?=1)", text)
    [Node(i).value for i in range(2000)]
'"#,
    },
    Load {
        name: "sqlite3",
        needs: &["sqlite3"],
        script: r#"while :; do sqlite3 :memory: '
create table t as with recursive c(x) as (select 1 union all select x + 1 from c where x < 300000)
select x, x * 7919 % 100003 as y, hex(x) as z from c;
create index i on t(y);
select count(*), sum(a.x) from t a join t b on a.y = b.x where b.z like "%3%";
select y % 100, group_concat(z) from t group by 1 order by 2;' > /dev/null; done"#,
    },
    Load {
        name: "openssl speed",
        needs: &["openssl"],
        script: "speed() { openssl speed -seconds 1 $@ > /dev/null 2>&1; }
while :; do
    speed -bytes 8192 sha256 sha512 aes-256-cbc
    speed -bytes 8192 -evp aes-256-gcm
    speed -bytes 8192 -evp chacha20-poly1305
    speed rsa2048 ecdsap256 ecdhx25519
done",
    },
    Load {
        name: "redis-server",
        needs: &["redis-server", "redis-benchmark"],
        script: "redis-server --port 0 --unixsocket redis.sock --save '' > /dev/null &
while [ ! -S redis.sock ]; do sleep 0.05; done
exec redis-benchmark -s redis.sock -q -l -t set,get,incr,lpush,lrange_100,mset > /dev/null",
    },
    Load {
        name: "gcc (cc1plus)",
        needs: &["g++"],
        script: "while :; do g++ -O2 -c -o unit.o ../unit.cc; done",
    },
    Load {
        name: "git",
        needs: &["git"],
        script: "cd ../repository
while :; do git log -p --stat > /dev/null; git blame file > /dev/null; git repack -adfq; done",
    },
    Load {
        name: "gzip and xz",
        needs: &["gzip", "xz"],
        script: "while :; do gzip -9 < ../data > out.gz; gzip -d < out.gz > /dev/null
xz -3 < ../data > out.xz; xz -d < out.xz > /dev/null; done",
    },
    Load {
        name: "perl",
        needs: &["perl"],
        script: r#"exec perl -e '
sub fib { my $n = shift; $n < 2 ? $n : fib($n - 1) + fib($n - 2) }
while (1) {
    fib(18);
    my %count;
    my $text = join " ", map { $_ * 7919 % 1009 } 1 .. 20000;
    $count{$1}++ while $text =~ /(\d+)/g;
    my @sorted = sort { $count{$a} <=> $count{$b} || $a cmp $b } keys %count;
}'"#,
    },
    Load {
        name: "rustc",
        needs: &["rustc"],
        script: "while :; do rustc --edition=2024 -O -o crate ../crate.rs; done",
    },
    Load { name: "Go", needs: &["go"], script: "exec ../work 60" },
    Load {
        name: "Node",
        needs: &["node"],
        script: "exec node -e '
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
for (;;) fib(30);'",
    },
    Load {
        name: "bzip2",
        needs: &["bzip2"],
        script: "while :; do bzip2 < ../data > out.bz2; done",
    },
];

/// Each program, with all that it starts.
pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    write_inputs(bench.dir())?;
    let mut all = Outcomes::default();
    let mut figures = Vec::new();
    for Load { name, needs, script } in LOADS {
        if !machine::has(needs) {
            println!("unwind-complete: {name} is left out: {} not found", needs.join(" or "));
            continue;
        }
        let dir = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let command = ["--", "timeout", SECONDS, "sh", "-c", script];
        // The distribution's own programs, where there are others, too.
        let rprofd = bench.rprofd_in(&dir)?.with(|command| {
            command.env("PATH", format!("/usr/bin:/bin:{}", env_path()));
        });
        /// What `timeout` exits with when it ends its command.
        const TIMED_OUT: i32 = 124;
        let run = rprofd.args(["-F", "499"]).args(command).run().expect_code(TIMED_OUT);
        let outcomes = Outcomes::of(&run.all());
        let what = format!("{name}, of {} stacks", outcomes.total());
        figures.push(Figure::new(what, outcomes.complete_percent(), "%", Bound::AtLeast(98.5)));
        all += outcomes;
    }
    let what = format!("all, of {} stacks", all.total());
    figures.push(Figure::new(what, all.complete_percent(), "%", Bound::AtLeast(99.5)));
    figures.extend(all.others());
    Ok(figures)
}

fn env_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}

/// What the programs work on.
fn write_inputs(dir: &Path) -> Result<()> {
    let unit = "#include <algorithm>\n#include <iostream>\n#include <map>\n#include <regex>
int main() {
    std::map<std::string, std::vector<int>> numbers;
    for (std::string line; std::getline(std::cin, line);) {
        std::smatch match;
        if (std::regex_search(line, match, std::regex(\"([a-z]+)=([0-9]+)\")))
            numbers[match[1]].push_back(std::stoi(match[2]));
    }
    for (auto &[name, values] : numbers) {
        std::sort(values.begin(), values.end());
        std::cout << name << ' ' << values.front() << '\\n';
    }
}\n";
    fs::write(dir.join("unit.cc"), unit)?;
    fs::copy(source_path("work.rs"), dir.join("crate.rs"))?;
    if machine::has(&["go"]) {
        let work = Program::build("work.go");
        work.copy_to(&dir.join("work"));
    }
    fs::copy(std::env::current_exe()?, dir.join("data")).context("copy this program")?;
    if machine::has(&["git"]) {
        let script = "git init -q repository && cd repository &&
git config user.name a && git config user.email a@example.com &&
for i in $(seq 300); do
    seq $i 3 $((i * 20 + 3000)) > file && git add file && git commit -q -m $i || exit
done";
        step::run(Command::new("sh").current_dir(dir).args(["-c", script]))?;
    }
    Ok(())
}
