//! What a Go program's runtime was told of memory and CPUs, beside what its cgroup allows.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    cgroup::Limits,
    reader::protocol::{GoBuild, go_minor},
};

/// The first Go 1.x whose runtime follows its cgroup's CPU limit by itself.
const FOLLOWS_FROM: u32 = 25;

/// The setting of `GODEBUG` that keeps it from that, where it is 0. `go build` gives it to programs
/// whose `go.mod` names an older Go.
const FOLLOW_SETTING: &str = "containermaxprocs";

/// What is known of a process in which Go runs.
#[derive(Debug)]
pub(super) struct Process<'a> {
    pub(super) build: &'a GoBuild,
    /// The variables of its environment that are asked for, or why they could not be read.
    pub(super) variables: Result<&'a HashMap<String, String>, String>,
    /// What its cgroups allow, or why that is not known.
    pub(super) limits: Result<Limits, String>,
    pub(super) machine_cpus: usize,
}

/// A Go runtime's settings, and what is wrong with them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Settings {
    version: Option<String>,
    /// Whether it follows its cgroup's CPU limit by itself; `None`: that is not known.
    follows_cpu_limit: Option<bool>,
    gomaxprocs: Option<String>,
    gomemlimit: Option<String>,
    gogc: Option<String>,
    limits: Option<Limits>,
    machine_cpus: usize,
    /// What could not be found out, and why.
    not_known: Vec<String>,
    advice: Vec<String>,
    #[serde(skip)]
    knows_variables: bool,
    /// What keeps it from following the limit.
    #[serde(skip)]
    opposed: Option<Opposed>,
}

/// Where [`FOLLOW_SETTING`] is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opposed {
    ByEnvironment,
    ByBuild,
}

impl Settings {
    /// Judges a process's variables in view of its limits and of the Go that it was built with.
    pub(super) fn new(process: Process<'_>) -> Self {
        let Process { build, variables, limits, machine_cpus } = process;
        let mut not_known = Vec::new();
        let version = Some(&build.version).filter(|version| !version.is_empty()).cloned();
        if version.is_none() {
            not_known.push(format!("its Go version: {}", build.not_known));
        }
        let knows_variables = variables.is_ok();
        if let Err(why) = &variables {
            not_known.push(format!("GOMAXPROCS, GOMEMLIMIT and GOGC: {why}"));
        }
        let limits =
            limits.map_err(|why| not_known.push(format!("its cgroup's limits: {why}"))).ok();
        let of = |name: &str| variables.as_ref().ok()?.get(name).cloned();
        let opposed = opposed(of("GODEBUG").as_deref(), &build.default_godebug);
        let minor = version.as_deref().and_then(minor);
        let follows_cpu_limit = match minor {
            Some(minor) if minor < FOLLOWS_FROM => Some(false),
            Some(_) => knows_variables.then_some(opposed.is_none()),
            None => None,
        };
        let mut settings = Self {
            follows_cpu_limit,
            gomaxprocs: of("GOMAXPROCS"),
            gomemlimit: of("GOMEMLIMIT"),
            gogc: of("GOGC"),
            version,
            limits,
            machine_cpus,
            not_known,
            advice: Vec::new(),
            knows_variables,
            opposed,
        };
        if knows_variables {
            settings.advice = [settings.on_cpus(), settings.on_memory(), settings.on_gogc()]
                .into_iter()
                .flatten()
                .collect();
        }
        settings
    }

    fn on_cpus(&self) -> Option<String> {
        let limit = self.limits?.cpus.filter(|limit| *limit < self.machine_cpus as f64)?;
        let wanted = limit.ceil().max(1.0) as usize;
        let set = match &self.gomaxprocs {
            // Anything but a number above 0 is as if it were not set: `schedinit`, runtime/proc.go.
            Some(set) => set.parse::<usize>().ok().filter(|set| *set > 0),
            None => None,
        };
        if let Some(set) = set {
            return (set > wanted).then(|| {
                format!(
                    "GOMAXPROCS={set} is more than the {limit:.2} CPUs that its cgroup allows: set \
                     GOMAXPROCS={wanted}"
                )
            });
        }
        let allows = format!("its cgroup allows {limit:.2} of {} CPUs", self.machine_cpus);
        let throttled = "all of them and is throttled";
        match (self.follows_cpu_limit, self.opposed) {
            (Some(true), _) => None,
            (Some(false), Some(Opposed::ByEnvironment)) if self.is_able() => Some(format!(
                "{allows}, and with GODEBUG={FOLLOW_SETTING}=0 the runtime uses {throttled}: take \
                 that out of GODEBUG, or set GOMAXPROCS={wanted}"
            )),
            (Some(false), Some(Opposed::ByBuild)) if self.is_able() => Some(format!(
                "{allows}, and the runtime uses {throttled}, since it was built with \
                 {FOLLOW_SETTING}=0, as go.mod asks for where it names a Go before 1.25: set \
                 GOMAXPROCS={wanted}, or build it after `go get go@1.25`"
            )),
            (Some(false), _) => Some(format!(
                "{allows}, and before Go 1.25 the runtime uses {throttled}: set GOMAXPROCS={wanted}, \
                 or build it with Go 1.25 after `go get go@1.25`"
            )),
            (None, _) => Some(format!(
                "{allows}, and if it was built with a Go before 1.25 the runtime uses {throttled}: \
                 set GOMAXPROCS={wanted}"
            )),
        }
    }

    /// Whether its Go could follow the limit.
    fn is_able(&self) -> bool {
        self.version.as_deref().and_then(minor).is_some_and(|minor| minor >= FOLLOWS_FROM)
    }

    fn on_memory(&self) -> Option<String> {
        let limit = self.limits?.memory_bytes?;
        let wanted = format!("GOMEMLIMIT={}MiB", (limit / 10 * 9) >> 20);
        let limit_mib = limit >> 20;
        let set = self.gomemlimit.as_deref().filter(|set| *set != "off");
        match set.map(memory_limit) {
            None => Some(format!(
                "its cgroup allows {limit_mib} MiB, and the runtime does not know: set {wanted}, \
                 so that it collects more often before it is killed"
            )),
            Some(Some(bytes)) if bytes > limit => Some(format!(
                "GOMEMLIMIT is above the {limit_mib} MiB that its cgroup allows: set {wanted}"
            )),
            Some(_) => None,
        }
    }

    fn on_gogc(&self) -> Option<String> {
        let is_off = self.gogc.as_deref() == Some("off");
        let has_limit = self.gomemlimit.as_deref().is_some_and(|limit| limit != "off");
        (is_off && !has_limit)
            .then(|| "GOGC=off without GOMEMLIMIT: the heap is never collected".to_owned())
    }

    /// As lines to read.
    pub(super) fn lines(&self) -> Vec<String> {
        const NOT_KNOWN: &str = "not known";
        let set = |name: &str, value: &Option<String>| {
            let unset = if self.knows_variables { "not set" } else { NOT_KNOWN };
            format!("{name:10} {}", value.as_deref().unwrap_or(unset))
        };
        let limit = |of: fn(Limits) -> Option<String>| match self.limits {
            Some(limits) => of(limits).unwrap_or_else(|| "no limit".to_owned()),
            None => NOT_KNOWN.to_owned(),
        };
        let memory =
            limit(|limits| limits.memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20)));
        let cpus = limit(|limits| limits.cpus.map(|cpus| format!("{cpus:.2} CPUs")));
        let follows = match self.follows_cpu_limit {
            Some(true) => ", which follows its cgroup's CPU limit",
            Some(false) => ", which does not follow its cgroup's CPU limit",
            None => "",
        };
        let version = self.version.as_deref().unwrap_or(NOT_KNOWN);
        let mut lines = vec![
            format!("{:10} {version}{follows}", "version"),
            format!(
                "{}, of {} CPUs; cgroup: {cpus}",
                set("GOMAXPROCS", &self.gomaxprocs),
                self.machine_cpus
            ),
            format!("{}; cgroup: {memory}", set("GOMEMLIMIT", &self.gomemlimit)),
            set("GOGC", &self.gogc),
        ];
        lines.extend(self.not_known.iter().map(|what| format!("not known: {what}")));
        lines.extend(self.advice.iter().map(|advice| format!("→ {advice}")));
        lines
    }
}

/// The 25 of `go1.25.3`, of `devel go1.25-…` and of their kin.
fn minor(version: &str) -> Option<u32> {
    go_minor(&version[version.find("go1.")?..])
}

/// What turns [`FOLLOW_SETTING`] off: the environment has the last word, and of several settings in
/// one list the last one holds (`internal/godebug`).
fn opposed(environment: Option<&str>, default: &str) -> Option<Opposed> {
    let value = |list: &str| {
        let settings = list.rsplit(',').filter_map(|setting| setting.split_once('='));
        let mut values = settings.filter(|(name, _)| *name == FOLLOW_SETTING);
        values.next().map(|(_, value)| value == "0")
    };
    match (environment.and_then(value), value(default)) {
        (Some(is_off), _) => is_off.then_some(Opposed::ByEnvironment),
        (None, Some(true)) => Some(Opposed::ByBuild),
        (None, _) => None,
    }
}

/// Reads `1GiB`, `500MiB`, `1000` (runtime package, "Environment Variables"); `None`: it is `off`,
/// or none that the runtime takes.
fn memory_limit(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(version: &str, default_godebug: &str) -> GoBuild {
        let not_known = if version.is_empty() { "it is old".to_owned() } else { String::new() };
        let default_godebug = default_godebug.into();
        GoBuild { version: version.into(), not_known, default_godebug, ..GoBuild::default() }
    }

    fn settings(build: &GoBuild, variables: &[(&str, &str)], limits: Limits) -> Settings {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let variables = Ok(&variables);
        Settings::new(Process { build, variables, limits: Ok(limits), machine_cpus: 4 })
    }

    fn advice(variables: &[(&str, &str)], limits: Limits) -> Vec<String> {
        settings(&built("go1.24.1", ""), variables, limits).advice
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let limits = Limits { memory_bytes: Some(100 << 20), cpus: Some(0.5) };
        let found = advice(&[], limits);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("set GOMAXPROCS=1, or"), "{found:?}");
        assert!(found[1].contains("set GOMEMLIMIT=90MiB"), "{found:?}");
        assert_eq!(advice(&[("GOMAXPROCS", "1"), ("GOMEMLIMIT", "90MiB")], limits), [""; 0]);
        let found = advice(&[("GOMAXPROCS", "8"), ("GOMEMLIMIT", "1GiB")], limits);
        assert!(found[0].contains("GOMAXPROCS=8 is more"), "{found:?}");
        assert!(found[1].contains("GOMEMLIMIT is above"), "{found:?}");
        assert_eq!(advice(&[("GOGC", "off")], Limits::default()).len(), 1);
        let off = [("GOGC", "off"), ("GOMEMLIMIT", "off"), ("GOMAXPROCS", "1")];
        assert_eq!(advice(&off, limits).len(), 2, "off is no limit");
        assert_eq!(advice(&[], Limits::default()), [""; 0]);
        let nonsense = advice(&[("GOMAXPROCS", "0"), ("GOMEMLIMIT", "90MiB")], limits);
        assert!(nonsense[0].contains("set GOMAXPROCS=1, or"), "{nonsense:?}");
    }

    #[test]
    fn a_runtime_that_follows_the_limit_needs_no_gomaxprocs() {
        let limits = Limits { memory_bytes: None, cpus: Some(1.5) };
        let of = |version: &str, default: &str, variables: &[(&str, &str)]| {
            let found = settings(&built(version, default), variables, limits);
            (found.follows_cpu_limit, found.advice.first().cloned().unwrap_or_default())
        };
        let off = "panicnil=1,containermaxprocs=0,updatemaxprocs=0";
        for version in ["go1.25", "go1.26.8", "go1.25rc1", "devel go1.27-abc Mon", "go1.25.1 X:foo"]
        {
            assert_eq!(of(version, "", &[]), (Some(true), String::new()), "{version}");
        }
        let (follows, advice) = of("go1.24.9", "", &[]);
        assert!(follows == Some(false) && advice.contains("before Go 1.25"), "{advice}");
        let (follows, advice) = of("go1.26.8", off, &[]);
        assert!(follows == Some(false) && advice.contains("as go.mod asks for"), "{advice}");
        assert!(advice.contains("set GOMAXPROCS=2"), "{advice}");
        let on = [("GODEBUG", "containermaxprocs=0,containermaxprocs=1")];
        assert_eq!(of("go1.26.8", off, &on), (Some(true), String::new()), "the last one holds");
        let (_, advice) = of("go1.26.8", "", &[("GODEBUG", off)]);
        assert!(advice.contains("take that out of GODEBUG"), "{advice}");
        let (_, advice) = of("go1.24.9", "", &[("GODEBUG", off)]);
        assert!(advice.contains("before Go 1.25"), "{advice}");
        for version in ["", "devel +a1b2c3"] {
            let (follows, advice) = of(version, "", &[]);
            assert!(follows.is_none() && advice.contains("if it was built"), "{advice}");
        }
        let (_, advice) = of("go1.26.8", "", &[("GOMAXPROCS", "4")]);
        assert!(advice.contains("GOMAXPROCS=4 is more"), "{advice}");
    }

    #[test]
    fn what_is_not_known_is_said_and_not_judged() {
        let process = Process {
            build: &built("", ""),
            variables: Err("/proc/7/environ: refused".to_owned()),
            limits: Err("no cgroups".to_owned()),
            machine_cpus: 4,
        };
        let found = Settings::new(process);
        let lines = found.lines();
        assert_eq!(lines[0], "version    not known");
        assert_eq!(lines[1], "GOMAXPROCS not known, of 4 CPUs; cgroup: not known");
        assert_eq!(lines[2], "GOMEMLIMIT not known; cgroup: not known");
        assert_eq!(lines[3], "GOGC       not known");
        assert_eq!(lines[4], "not known: its Go version: it is old");
        let why = "not known: GOMAXPROCS, GOMEMLIMIT and GOGC: /proc/7/environ: refused";
        assert_eq!(lines[5], why);
        assert_eq!(lines[6], "not known: its cgroup's limits: no cgroups");
        assert_eq!(found.advice, [""; 0]);
        let limits = Ok(Limits { memory_bytes: Some(1 << 20), cpus: Some(1.0) });
        let build = &built("go1.26.8", "");
        let variables = Err("refused".to_owned());
        let found = Settings::new(Process { build, variables, limits, machine_cpus: 4 });
        assert_eq!((found.follows_cpu_limit, found.advice.len()), (None, 0));
    }

    #[test]
    fn the_runtimes_sizes() {
        assert_eq!(memory_limit("2GiB"), Some(2 << 30));
        assert_eq!(memory_limit("17"), Some(17));
        for wrong in ["off", "2GB", "", "-1", "99999999999TiB"] {
            assert_eq!(memory_limit(wrong), None, "{wrong}");
        }
    }
}
