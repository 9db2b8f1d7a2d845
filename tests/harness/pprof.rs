//! Profiles read back by `go tool pprof`, which is not ours and names nothing by itself when told
//! not to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs `go tool pprof -symbolize=none` with `args` and returns what it prints.
pub fn pprof(args: &[&str]) -> String {
    let mut command = Command::new("go");
    command.args(["tool", "pprof", "-symbolize=none"]).args(args);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("pprof prints UTF-8")
}

/// A profile as `pprof -raw` shows it.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The file.
    pub path: PathBuf,
    /// Comments, in order.
    pub comments: Vec<String>,
    /// `Period`.
    pub period: i64,
    /// Type and unit of a period, such as `cpu nanoseconds`.
    pub period_type: String,
    /// Sample types, such as `cpu/nanoseconds`.
    pub sample_types: Vec<String>,
    /// The samples.
    pub samples: Vec<Sample>,
    /// Locations by ID.
    pub locations: BTreeMap<u64, Location>,
    /// The mappings, in order.
    pub mappings: Vec<Mapping>,
}

/// A sample.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// One per sample type.
    pub values: Vec<i64>,
    /// Location IDs, leaf first.
    pub stack: Vec<u64>,
    /// Labels, numeric ones as text.
    pub labels: BTreeMap<String, String>,
}

/// A location.
#[derive(Clone, Debug, Default)]
pub struct Location {
    /// The address.
    pub avma: u64,
    /// ID of the mapping, if any.
    pub mapping: Option<u64>,
    /// Innermost inlined function first.
    pub lines: Vec<Line>,
}

/// A line of a location.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// The function.
    pub function: String,
    /// The source file.
    pub file: String,
    /// The line number.
    pub line: u32,
}

/// A mapping.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// Its ID.
    pub id: u64,
    /// The file.
    pub file: String,
    /// The build ID.
    pub build_id: String,
    /// What of `[FN][FL][LN][IN]` is set.
    pub flags: String,
}

impl Profile {
    /// Reads `path` with `go tool pprof -raw`.
    pub fn read(path: &Path) -> Self {
        assert!(path.exists(), "no {}", path.display());
        let text = pprof(&["-raw", path.to_str().expect("a path that is UTF-8")]);
        Self { path: path.to_owned(), ..Self::parse(&text) }
    }

    fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        let mut lines = text.lines();
        for line in lines.by_ref().take_while(|line| *line != "Samples:") {
            match line.split_once(": ") {
                Some(("Comment", comment)) => profile.comments.push(comment.to_owned()),
                Some(("PeriodType", kind)) => profile.period_type = kind.to_owned(),
                Some(("Period", period)) => profile.period = period.parse().unwrap_or(0),
                _ => {}
            }
        }
        let types = lines.next().unwrap_or_default();
        profile.sample_types = types
            .split_ascii_whitespace()
            .map(|name| name.trim_end_matches("[dflt]").to_owned())
            .collect();
        for line in lines.by_ref().take_while(|line| *line != "Locations") {
            profile.parse_sample(line);
        }
        let mut location = 0;
        for line in lines.by_ref().take_while(|line| *line != "Mappings") {
            location = profile.parse_location(line, location);
        }
        profile.mappings.extend(lines.filter_map(Mapping::parse));
        profile
    }

    fn parse_sample(&mut self, line: &str) {
        if let Some((values, stack)) = parse_sample_numbers(line) {
            self.samples.push(Sample { values, stack, labels: BTreeMap::new() });
        } else if let Some(sample) = self.samples.last_mut() {
            // `key:[value] key:[value]`
            let mut rest = line.trim_start();
            while let Some((key, after)) = rest.split_once(":[") {
                let (value, after) = after
                    .split_once("] ")
                    .unwrap_or_else(|| (after.strip_suffix(']').unwrap_or(after), ""));
                sample.labels.insert(key.to_owned(), value.to_owned());
                rest = after.trim_start();
            }
        }
    }

    fn parse_location(&mut self, text: &str, previous: u64) -> u64 {
        let numbered = text.trim_start().split_once(": 0x").and_then(|(id, rest)| {
            let (avma, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            Some((id.parse::<u64>().ok()?, u64::from_str_radix(avma, 16).ok()?, rest))
        });
        let (id, rest) = match numbered {
            Some((id, avma, rest)) => {
                let (mapping, rest) = match rest.strip_prefix("M=") {
                    Some(rest) => {
                        let (mapping, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                        (mapping.parse().ok(), rest)
                    }
                    None => (None, rest),
                };
                self.locations.insert(id, Location { avma, mapping, lines: Vec::new() });
                (id, rest)
            }
            None => (previous, text.trim_start()),
        };
        if let (Some(line), Some(location)) = (Line::parse(rest), self.locations.get_mut(&id)) {
            location.lines.push(line);
        }
        id
    }

    /// Sum of the values of the sample type called `name` (`samples`, `cpu`).
    pub fn total(&self, name: &str) -> i64 {
        self.total_where(name, |_| true)
    }

    /// The same, over samples that `wanted` accepts.
    pub fn total_where(&self, name: &str, wanted: impl Fn(&Sample) -> bool) -> i64 {
        let index = self.type_index(name);
        self.samples.iter().filter(|sample| wanted(sample)).map(|sample| sample.values[index]).sum()
    }

    /// Share of `cpu` in stacks that contain a function called `function`, of all of it.
    pub fn share(&self, function: &str) -> f64 {
        let within = self.total_where("cpu", |sample| self.has_function(sample, function));
        within as f64 / (self.total("cpu") as f64).max(1.0)
    }

    /// True if a frame of `sample` is called `function`.
    pub fn has_function(&self, sample: &Sample, function: &str) -> bool {
        self.frames(sample).contains(&function)
    }

    /// True if a line of `function` is known, in a source file whose path ends with `file`.
    pub fn has_line_of(&self, function: &str, file: &str) -> bool {
        let lines = self.locations.values().flat_map(|location| &location.lines);
        lines
            .into_iter()
            .any(|line| line.function == function && line.file.ends_with(file) && line.line > 0)
    }

    /// Function names of a stack, leaf first, inlined functions included; an unnamed location is
    /// the empty string.
    pub fn frames(&self, sample: &Sample) -> Vec<&str> {
        let mut frames = Vec::new();
        for id in &sample.stack {
            let lines = &self.locations[id].lines;
            if lines.is_empty() {
                frames.push("");
            }
            frames.extend(lines.iter().map(|line| line.function.as_str()));
        }
        frames
    }

    /// Stacks with `cpu` values, most first.
    pub fn stacks(&self) -> Vec<(i64, Vec<&str>)> {
        let index = self.type_index("cpu");
        let mut stacks: Vec<_> =
            self.samples.iter().map(|sample| (sample.values[index], self.frames(sample))).collect();
        stacks.sort_by_key(|(value, _)| -value);
        stacks
    }

    /// The number in the comment `key=number`.
    pub fn count(&self, key: &str) -> Option<u64> {
        self.counts().into_iter().find(|(name, _)| *name == key).map(|(_, count)| count)
    }

    /// Comments of the form `key=number`.
    pub fn counts(&self) -> Vec<(&str, u64)> {
        self.comments
            .iter()
            .filter_map(|comment| {
                let (key, number) = comment.split_once('=')?;
                Some((key, number.parse().ok()?))
            })
            .collect()
    }

    /// The mapping a location is in.
    pub fn mapping_of(&self, location: u64) -> Option<&Mapping> {
        let id = self.locations[&location].mapping?;
        self.mappings.iter().find(|mapping| mapping.id == id)
    }

    /// Whether a location is code of the kernel.
    pub fn is_kernel(&self, location: u64) -> bool {
        self.locations[&location].avma >= 1 << 63
    }

    fn type_index(&self, name: &str) -> usize {
        let wanted = |kind: &String| kind.split('/').next() == Some(name);
        let index = self.sample_types.iter().position(wanted);
        index.unwrap_or_else(|| panic!("no sample type {name} in {:?}", self.sample_types))
    }
}

/// `  10 100000000: 1 2 3`; `None` for a line of labels.
fn parse_sample_numbers(line: &str) -> Option<(Vec<i64>, Vec<u64>)> {
    let (values, stack) = line.split_once(':')?;
    let values: Result<Vec<i64>, _> = values.split_ascii_whitespace().map(str::parse).collect();
    let stack: Result<Vec<u64>, _> = stack.split_ascii_whitespace().map(str::parse).collect();
    let values = values.ok().filter(|values| !values.is_empty())?;
    Some((values, stack.ok()?))
}

impl Line {
    /// `function file:line:column s=start`, of older versions without the column; a function's name
    /// may have blanks in it.
    fn parse(text: &str) -> Option<Self> {
        let (text, _start) = text.rsplit_once(" s=")?;
        let (text, last) = text.rsplit_once(':')?;
        let (text, line) = match text.rsplit_once(':') {
            Some((text, line)) if line.parse::<u32>().is_ok() => (text, line),
            _ => (text, last),
        };
        let (function, file) = text.rsplit_once(' ')?;
        Some(Self { function: function.into(), file: file.into(), line: line.parse().ok()? })
    }
}

impl Mapping {
    /// `1: 0x400000/0x4ca000/0x0 file build-id [FN]`
    fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.split_once(": ")?;
        let (_range, rest) = rest.split_once(' ')?;
        let mut words = rest.rsplitn(3, ' ');
        let flags = words.next()?.to_owned();
        let build_id = words.next()?.to_owned();
        let file = words.next()?.to_owned();
        Some(Self { id: id.trim().parse().ok()?, file, build_id, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &str = "\
Comment: host=example
Comment: outcome.truncated=3
PeriodType: cpu nanoseconds
Period: 10000000
Time: 2026-11-23 18:56:42.694953457 +0000 UTC
Duration: 1.00
Samples:
samples/count cpu/nanoseconds[dflt]
         10  100000000: 1 2 
                comm:[a b] thread:[x]
                pid:[12] tid:[13]
Locations
     1: 0x4c9c13 M=1 std::vector<int, A<int> >::at /src/a.cc:3:0 s=3
             main /src/a.cc:5:0 s=5
     2: 0x44a0d4 M=1 
Mappings
1: 0x400000/0x4ca000/0x0 /bin/x y (deleted) 17f2 [FN][LN]
2: 0x7ff5adbf2000/0x7ff5adbf4000/0x0 [vdso]  
";

    #[test]
    fn raw_output_is_understood() {
        let profile = Profile::parse(RAW);
        assert_eq!(profile.count("outcome.truncated"), Some(3));
        assert_eq!(profile.period, 10_000_000);
        assert_eq!(profile.total("samples"), 10);
        assert_eq!(profile.total("cpu"), 100_000_000);
        let sample = &profile.samples[0];
        assert_eq!(sample.labels["comm"], "a b");
        assert_eq!(sample.labels["tid"], "13");
        assert_eq!(profile.frames(sample), ["std::vector<int, A<int> >::at", "main", ""]);
        assert_eq!(profile.locations[&1].lines[0].line, 3);
        assert_eq!(profile.mappings[0].file, "/bin/x y (deleted)");
        assert_eq!(profile.mappings[0].flags, "[FN][LN]");
        assert_eq!(profile.mappings[1].build_id, "");
    }
}
