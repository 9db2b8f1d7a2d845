//! What a Go program's runtime was told of memory and CPUs, beside what its cgroup allows.

use std::collections::HashMap;

use serde::Serialize;

use crate::cgroup::Limits;

/// A Go runtime's settings, and what is wrong with them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Settings {
    gomaxprocs: Option<String>,
    gomemlimit: Option<String>,
    gogc: Option<String>,
    limits: Limits,
    machine_cpus: usize,
    advice: Vec<String>,
}

impl Settings {
    /// Judges the variables of a process in view of its limits.
    pub(super) fn new(
        variables: &HashMap<String, String>,
        limits: Limits,
        machine_cpus: usize,
    ) -> Self {
        let of = |name: &str| variables.get(name).cloned();
        let mut settings = Self {
            gomaxprocs: of("GOMAXPROCS"),
            gomemlimit: of("GOMEMLIMIT"),
            gogc: of("GOGC"),
            limits,
            machine_cpus,
            advice: Vec::new(),
        };
        settings.advice = [settings.on_cpus(), settings.on_memory(), settings.on_gogc()]
            .into_iter()
            .flatten()
            .collect();
        settings
    }

    fn on_cpus(&self) -> Option<String> {
        let limit = self.limits.cpus.filter(|limit| *limit < self.machine_cpus as f64)?;
        let wanted = limit.ceil().max(1.0) as usize;
        match &self.gomaxprocs {
            None => Some(format!(
                "its cgroup allows {limit:.2} of {} CPUs, and up to Go 1.24 the runtime uses all \
                 of them and is throttled: set GOMAXPROCS={wanted}, or build with Go 1.25",
                self.machine_cpus
            )),
            Some(set) if set.parse::<usize>().is_ok_and(|set| set > wanted) => Some(format!(
                "GOMAXPROCS={set} is more than the {limit:.2} CPUs that its cgroup allows: set \
                 GOMAXPROCS={wanted}"
            )),
            Some(_) => None,
        }
    }

    fn on_memory(&self) -> Option<String> {
        let limit = self.limits.memory_bytes?;
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
        let set = |name: &str, value: &Option<String>| {
            format!("{name:10} {}", value.as_deref().unwrap_or("not set"))
        };
        let memory = self
            .limits
            .memory_bytes
            .map_or_else(|| "no limit".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        let cpus = self
            .limits
            .cpus
            .map_or_else(|| "no limit".to_owned(), |cpus| format!("{cpus:.2} CPUs"));
        let mut lines = vec![
            format!(
                "{}, of {} CPUs; cgroup: {cpus}",
                set("GOMAXPROCS", &self.gomaxprocs),
                self.machine_cpus
            ),
            format!("{}; cgroup: {memory}", set("GOMEMLIMIT", &self.gomemlimit)),
            set("GOGC", &self.gogc),
        ];
        lines.extend(self.advice.iter().map(|advice| format!("→ {advice}")));
        lines
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

    fn advice(variables: &[(&str, &str)], limits: Limits) -> Vec<String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::new(&variables, limits, 4).advice
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
