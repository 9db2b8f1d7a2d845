//! `rprofd doctor --pid PID`: which of a process's files can be unwound and named, and why not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use profiler_ebpf::unwind::rule::cfa;
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use super::{DoctorError, go, packages::Packages};
use crate::{
    cgroup::Limits,
    kernel,
    process::{Change, Filter, Life, Mapping, MappingId, Table},
    reader::protocol::{FileInfo, FileKey, GoBuild, NamesFrom, Surroundings, UnwindTable},
    symbolize::{FileNews, Symbolizer},
    unwind::{TableBlocks, header, is_sound},
};

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

/// What is found of a process.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) files: Vec<Row>,
    /// Only of Go programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) go: Option<go::Settings>,
}

/// What is found of one file, or of code that no file is behind.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) code_bytes: u64,
    pub(super) unwinding: Verdict,
    pub(super) names: Names,
    /// What to install for better names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) install: Option<String>,
}

/// Whether code can be unwound.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// By rules, for this many of a thousand bytes.
    ByRules(u64),
    /// It was made by the process.
    Generated,
    /// It cannot, or by luck alone; and why.
    No(String),
    /// There was no answer in time.
    Unknown,
}

/// What names come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Names {
    /// A separate debug file.
    DebugFile(String),
    /// Debug information in the file.
    DebugInformation,
    /// The table that Go's runtime has of its functions.
    GoTable,
    /// Its symbol table: functions, but no lines.
    Symbols,
    /// Functions that the file offers to others alone.
    DynamicSymbols,
    /// It has none.
    Nothing,
    /// A perf map, if the process writes one.
    PerfMap,
    /// The file could not be opened.
    Unknown,
}

impl Names {
    fn of(file: &FileInfo) -> Self {
        match file.names_from() {
            NamesFrom::DebugFile => Self::DebugFile(file.debug_path.clone()),
            NamesFrom::DebugInformation => Self::DebugInformation,
            NamesFrom::GoTable => Self::GoTable,
            NamesFrom::Symbols => Self::Symbols,
            NamesFrom::DynamicSymbols => Self::DynamicSymbols,
            NamesFrom::Nothing => Self::Nothing,
        }
    }

    /// Whether debug information would add to them.
    fn could_be_better(&self) -> bool {
        matches!(self, Self::Symbols | Self::DynamicSymbols | Self::Nothing)
    }
}

/// What is known so far.
#[derive(Default)]
struct Findings {
    mappings: BTreeMap<u64, (MappingId, String, u64)>,
    files: HashMap<MappingId, Result<FileKey, String>>,
    tables: HashMap<FileKey, Verdict>,
    names: HashMap<FileKey, Names>,
    go: HashMap<FileKey, GoBuild>,
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
                if let Some(file) = symbolizer.file(mapping) {
                    self.names.insert(key, Names::of(file));
                    if let Some(build) = &file.go {
                        self.go.insert(key, (**build).clone());
                    }
                }
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

    /// How the process's Go program was built: that of its first mapping, if it has several.
    fn go_build(&self) -> Option<&GoBuild> {
        self.mappings.values().find_map(|(id, ..)| self.go.get(self.files.get(id)?.as_ref().ok()?))
    }

    fn rows(mut self, packages: &Packages) -> Vec<Row> {
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
            let (unwinding, names) = match self.files.remove(&id) {
                Some(Ok(key)) => (
                    self.tables.remove(&key).unwrap_or(Verdict::Unknown),
                    self.names.get(&key).cloned().unwrap_or(Names::Unknown),
                ),
                Some(Err(why)) => (Verdict::No(why), Names::Unknown),
                None => (Verdict::Unknown, Names::Unknown),
            };
            by_name.insert(name.clone(), rows.len());
            let install = names.could_be_better().then(|| packages.of(&name)).flatten();
            rows.push(Row { name, code_bytes, unwinding, names, install });
        }
        if generated_bytes > 0 {
            rows.push(Row {
                name: "(made at run time)".to_owned(),
                code_bytes: generated_bytes,
                unwinding: Verdict::Generated,
                names: Names::PerfMap,
                install: None,
            });
        }
        rows
    }
}

/// Asks the reader what a recording would ask it.
pub(super) fn examine(pid: u32, debug_dirs: Vec<PathBuf>) -> Result<Report, DoctorError> {
    if !PathBuf::from(format!("/proc/{pid}")).exists() {
        return Err(DoctorError::NoProcess(pid));
    }
    let mut symbolizer = Symbolizer::start(debug_dirs, true, None)?;
    let pids = [pid].into_iter().collect();
    let mut table = Table::new(Filter { pids, ..Filter::default() });
    let mut findings = Findings::default();
    symbolizer.describe(Some(pid));
    symbolizer.look_around(pid);
    let mut comm = String::new();
    let begin = Instant::now();
    let mut asked = begin;
    while !(findings.is_complete() && symbolizer.surroundings().is_some()) && begin.elapsed() < ALL
    {
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
            comm.clone_from(&info.comm);
            table.describe(&info);
        }
        for change in table.take_changes() {
            match change {
                Change::Open(pid, mapping) => symbolizer.open(pid, &mapping),
                Change::Mappings(id) => {
                    let life = table.life(id);
                    life.into_iter().flat_map(Life::current).for_each(|it| findings.note(it));
                }
                Change::Describe(_) | Change::Forked(..) => {}
            }
        }
        for news in symbolizer.take_news() {
            findings.news(news, &mut symbolizer);
        }
    }
    let surroundings = symbolizer.surroundings();
    let surroundings = surroundings.unwrap_or(Err("the reader gave no answer"));
    let sees_our_mounts = surroundings.is_ok_and(|around| around.sees_our_mounts);
    let packages =
        if sees_our_mounts { Packages::of_this_machine() } else { Packages::elsewhere() };
    let go = findings.go_build().map(|build| go_settings(build, surroundings));
    Ok(Report { pid, comm, files: findings.rows(&packages), go })
}

fn go_settings(build: &GoBuild, surroundings: Result<&Surroundings, &str>) -> go::Settings {
    let variables = match surroundings {
        Ok(around) if around.environment_error.is_empty() => Ok(&around.go_variables),
        Ok(around) => Err(format!(
            "its environment cannot be read: {}; run rprofd as root (sudo)",
            around.environment_error
        )),
        Err(why) => Err(format!("its environment cannot be read: {why}; try it again")),
    };
    let limits = match surroundings {
        Ok(around) if !around.cgroups.is_empty() => Ok(Limits::of(&around.cgroups)),
        Ok(_) => Err("/proc does not say what cgroup it is in".to_owned()),
        Err(why) => Err(format!("{why}; try it again")),
    };
    let machine_cpus = kernel::online_cpus().unwrap_or(1);
    go::Settings::new(go::Process { build, variables, limits, machine_cpus })
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
    let blocks = TableBlocks::of(table);
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
