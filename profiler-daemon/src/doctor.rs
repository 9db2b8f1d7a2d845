//! `rprofd doctor --pid PID`: which of a process's files can be unwound, and why not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, builder::RangedU64ValueParser};
use profiler_ebpf::unwind::{
    rule::cfa,
    table::{BLOCK_BYTES, Block, Blocks, block_of},
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    files::printable::escape,
    process::{Change, Filter, Life, Mapping, MappingId, Table},
    reader::{
        client::ReaderError,
        protocol::{FileInfo, FileKey, UnwindTable},
    },
    symbolize::{FileNews, Symbolizer},
    unwind::{header, is_sound},
};

/// The first argument that asks for it.
pub const ARGUMENT: &str = "doctor";

/// How long is waited for what `/proc` says of the process.
const DESCRIPTION: Duration = Duration::from_secs(3);

/// How long until it is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// The kernel's own addresses, where x86_64's vsyscall page is.
const KERNEL_AVMA: u64 = 1 << 63;

/// How long is waited for everything.
const ALL: Duration = Duration::from_secs(60);

/// Code is looked up at each multiple of this, in bytes: functions begin at such addresses.
const STEP_BYTES: usize = 16;

/// Which of a process's files can be unwound, and why not.
#[derive(Debug, Parser)]
#[command(name = "rprofd doctor", bin_name = "rprofd doctor", max_term_width = 100)]
struct Options {
    /// The process
    #[arg(short, long, value_name = "PID",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=4_194_304))]
    pid: u32,

    /// Where separate debug files are
    #[arg(long, value_name = "DIR", env = "RPROFD_DEBUG_DIR", default_value = "/usr/lib/debug")]
    debug_dir: Vec<PathBuf>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    /// There is no such process.
    #[error("there is no process {0}; `ps -e` lists them")]
    NoProcess(u32),
    /// It has not been described.
    #[error(
        "process {0} cannot be read: it has just ended, is a kernel thread, or belongs to somebody \
         else (run rprofd with sudo)"
    )]
    NotRead(u32),
    /// There is no reader.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// We cannot wait for it.
    #[error("poll: {0}")]
    Poll(io::Error),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Runs `rprofd doctor` with these arguments, the word itself left out.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = Options::parse_from([ARGUMENT.into()].into_iter().chain(arguments));
    let result = examine(options.pid, options.debug_dir).and_then(|rows| {
        io::stdout().write_all(text(options.pid, &rows).as_bytes()).map_err(DoctorError::Output)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rprofd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is found of one file, or of code that no file is behind.
#[derive(Debug)]
struct Row {
    name: String,
    code_bytes: u64,
    verdict: Verdict,
}

/// Whether code can be unwound.
#[derive(Debug)]
enum Verdict {
    /// By rules, for this many of a thousand bytes.
    ByRules(u64),
    /// It was made by the process.
    Generated,
    /// It cannot, or by luck alone; and why.
    No(String),
    /// There was no answer in time.
    Unknown,
}

/// What is known so far.
#[derive(Default)]
struct Findings {
    mappings: BTreeMap<u64, (MappingId, String, u64)>,
    files: HashMap<MappingId, Result<FileKey, String>>,
    tables: HashMap<FileKey, Verdict>,
    asked: HashSet<FileKey>,
}

impl Findings {
    fn is_complete(&self) -> bool {
        let has_verdict = |id: &MappingId| match self.files.get(id) {
            Some(Ok(key)) => self.tables.contains_key(key),
            Some(Err(_)) => true,
            None => false,
        };
        !self.mappings.is_empty()
            && self.mappings.values().all(|(id, name, _)| name.is_empty() || has_verdict(id))
    }

    fn note(&mut self, mapping: &Mapping) {
        if mapping.start >= KERNEL_AVMA {
            return;
        }
        let bytes = mapping.end - mapping.start;
        self.mappings.insert(mapping.start, (mapping.id, mapping.path.to_string(), bytes));
    }

    fn news(&mut self, news: FileNews, symbolizer: &mut Symbolizer) {
        match news {
            FileNews::Opened(mapping, key) => {
                self.files.insert(mapping, Ok(key));
                if self.asked.insert(key) {
                    symbolizer.want_table(key);
                }
            }
            FileNews::Refused(mapping, why) => drop(self.files.insert(mapping, Err(why))),
            FileNews::Table(key, table) => {
                let verdict = match table {
                    Ok(table) if is_sound(&table) => {
                        let mapping = self.files.iter().find(|(_, known)| **known == Ok(key));
                        let file = mapping.and_then(|(mapping, _)| symbolizer.file(*mapping));
                        Verdict::ByRules(file.map_or(0, |file| covered(&table, file)))
                    }
                    Ok(_) => Verdict::No("the reader gave no sensible table".to_owned()),
                    // The path is in the line already.
                    Err(why) => Verdict::No(match why.rsplit_once(" has no unwind table: ") {
                        Some((_, reason)) => reason.to_owned(),
                        None => why,
                    }),
                };
                self.tables.insert(key, verdict);
            }
        }
    }

    fn rows(mut self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut generated_bytes = 0;
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for (id, name, code_bytes) in self.mappings.into_values() {
            if name.is_empty() {
                generated_bytes += code_bytes;
                continue;
            }
            if let Some(&row) = by_name.get(&name) {
                rows[row].code_bytes += code_bytes;
                continue;
            }
            let verdict = match self.files.remove(&id) {
                Some(Ok(key)) => self.tables.remove(&key).unwrap_or(Verdict::Unknown),
                Some(Err(why)) => Verdict::No(why),
                None => Verdict::Unknown,
            };
            by_name.insert(name.clone(), rows.len());
            rows.push(Row { name, code_bytes, verdict });
        }
        if generated_bytes > 0 {
            let name = "(made at run time)".to_owned();
            rows.push(Row { name, code_bytes: generated_bytes, verdict: Verdict::Generated });
        }
        rows
    }
}

/// Asks the reader what a recording would ask it.
fn examine(pid: u32, debug_dirs: Vec<PathBuf>) -> Result<Vec<Row>, DoctorError> {
    if !PathBuf::from(format!("/proc/{pid}")).exists() {
        return Err(DoctorError::NoProcess(pid));
    }
    let mut symbolizer = Symbolizer::start(debug_dirs, true, None)?;
    let pids = [pid].into_iter().collect();
    let mut table = Table::new(Filter { pids, ..Filter::default() });
    let mut findings = Findings::default();
    symbolizer.describe(Some(pid));
    let begin = Instant::now();
    let mut asked = begin;
    while !findings.is_complete() && begin.elapsed() < ALL {
        if findings.mappings.is_empty() && begin.elapsed() >= DESCRIPTION {
            return Err(DoctorError::NotRead(pid));
        }
        if findings.mappings.is_empty() && asked.elapsed() >= AGAIN {
            // In the middle of an `exec` there are no mappings.
            asked = Instant::now();
            symbolizer.describe(Some(pid));
        }
        wait(&symbolizer)?;
        for info in symbolizer.poll(true) {
            table.describe(&info);
        }
        for change in table.take_changes() {
            match change {
                Change::Open(pid, mapping) => symbolizer.open(pid, &mapping),
                Change::Mappings(id) => {
                    let life = table.life(id);
                    life.into_iter().flat_map(Life::current).for_each(|it| findings.note(it));
                }
                Change::Describe(_) => {}
            }
        }
        for news in symbolizer.take_news() {
            findings.news(news, &mut symbolizer);
        }
    }
    Ok(findings.rows())
}

fn wait(symbolizer: &Symbolizer) -> Result<(), DoctorError> {
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let fds: Vec<_> = symbolizer.fds().collect();
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(DoctorError::Poll(errno.into())),
    }
}

/// How many of a thousand bytes of a file's code have a rule.
fn covered(table: &UnwindTable, file: &FileInfo) -> u64 {
    let header = header(table);
    let blocks = TableBlocks(table.blocks.chunks_exact(BLOCK_BYTES).map(block_of).collect());
    let (mut all, mut with_rule) = (0_u64, 0_u64);
    for segment in &file.segments {
        for svma in
            (segment.svma..segment.svma.saturating_add(segment.size_bytes)).step_by(STEP_BYTES)
        {
            let rule = header.find(&blocks, svma);
            all += 1;
            with_rule += u64::from(!matches!(rule.cfa, cfa::GAP | cfa::UNSUPPORTED));
        }
    }
    with_rule * 1000 / all.max(1)
}

struct TableBlocks(Vec<Block>);

impl Blocks for TableBlocks {
    fn block(&self, number: u32) -> Option<&Block> {
        self.0.get(number as usize)
    }
}

fn text(pid: u32, rows: &[Row]) -> String {
    let mut text = format!("Executable code of process {pid}:\n\n");
    let names: Vec<_> = rows.iter().map(|row| escape(&row.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(4);
    // Writing to a String does not fail.
    let _ = writeln!(text, "{:<width$}  {:>9}  {:>6}  UNWINDING", "FILE", "CODE", "RULES");
    for (row, name) in rows.iter().zip(names) {
        let (rules, said) = said(&row.verdict, row.code_bytes);
        let size = format!("{} KiB", row.code_bytes.div_ceil(1024));
        let _ = writeln!(text, "{name:<width$}  {size:>9}  {rules:>6}  {}", escape(&said));
    }
    text
}

/// The share of code that has rules, and what that means for stacks.
fn said(verdict: &Verdict, code_bytes: u64) -> (String, String) {
    /// What padding and tables between functions leave of most files, in thousandths.
    const MOST: u64 = 800;
    /// What they take in small ones, in bytes.
    const PADDING_BYTES: u64 = 4096;
    let share = |thousandths: u64| format!("{:.1}%", thousandths as f64 / 10.0);
    match verdict {
        Verdict::ByRules(covered)
            if *covered >= MOST || code_bytes * (1000 - covered) / 1000 <= PADDING_BYTES =>
        {
            (share(*covered), "yes, by rules".to_owned())
        }
        Verdict::ByRules(covered) => (
            share(*covered),
            "where there are rules; elsewhere along frame pointers, and then stacks are guessed"
                .to_owned(),
        ),
        Verdict::Generated => (
            "-".to_owned(),
            "along frame pointers, which the compiler of it has to keep (Java: \
             -XX:+PreserveFramePointer)"
                .to_owned(),
        ),
        Verdict::No(why) => (
            "-".to_owned(),
            format!(
                "along frame pointers alone: {why}; compile it with \
                 -fasynchronous-unwind-tables or -fno-omit-frame-pointer"
            ),
        ),
        Verdict::Unknown => ("-".to_owned(), "not known: the reader gave no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn each_verdict_is_said() {
        let row = |name: &str, verdict| Row { name: name.into(), code_bytes: 9000, verdict };
        let text = text(
            7,
            &[
                row("/lib/libc.so.6", Verdict::ByRules(987)),
                row("/usr/bin/node", Verdict::ByRules(301)),
                row("/opt/\u{1b}[31mx", Verdict::No("no rules".into())),
                row("(made at run time)", Verdict::Generated),
            ],
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "FILE                     CODE   RULES  UNWINDING");
        assert_eq!(lines[3], "/lib/libc.so.6          9 KiB   98.7%  yes, by rules");
        assert!(lines[4].contains("30.1%  where there are rules"), "{text}");
        assert!(lines[5].starts_with(r"/opt/\u{1b}[31mx"), "{text}");
        assert!(lines[5].contains("along frame pointers alone: no rules; compile it"), "{text}");
        assert!(lines[6].contains("-  along frame pointers, which"), "{text}");
    }
}
