//! What the runtimes of Go programs have counted, under the names by which programs tell it
//! themselves (`client_golang`).

use std::fmt::{Display, Write as _};

use super::go_watch::GoProgram;
use crate::reader::protocol::GoStats;

/// Kinds of figures.
const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";
const SUMMARY: &str = "summary";
const UNKNOWN: &str = "unknown";

/// OpenMetrics text, without its end.
pub(super) fn render(programs: &[GoProgram]) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, kind, value: &dyn Fn(&GoProgram) -> Option<Value>| {
        let known = programs.iter().filter_map(|it| Some((it, value(it)?)));
        let mut known = known.peekable();
        if known.peek().is_some() {
            // A counter's name ends in `_total` in its lines alone.
            let family = if kind == COUNTER { name.trim_end_matches("_total") } else { name };
            head(&mut text, family, help, kind);
        }
        for (program, value) in known {
            line(&mut text, name, &labels(program), value);
        }
    };
    let of_stats = |value: fn(&GoStats) -> Option<Value>| {
        move |program: &GoProgram| value(program.stats.as_ref()?)
    };
    metric("go_goroutines", "Number of goroutines that currently exist", GAUGE, &|it| {
        Some(Value::Count(it.goroutines as i64))
    });
    metric(
        "go_gc_gogc_percent",
        "Heap size target percentage configured by the user, otherwise 100",
        GAUGE,
        &of_stats(|it| (it.percent >= 0).then_some(Value::Count(it.percent.into()))),
    );
    metric(
        "go_gc_gomemlimit_bytes",
        "Go runtime memory limit configured by the user, otherwise the highest number",
        GAUGE,
        &of_stats(|it| Some(Value::Count(it.limit_bytes))),
    );
    metric(
        "go_gc_heap_goal_bytes",
        "Heap size at which the next collection is to end",
        GAUGE,
        &of_stats(|it| Some(Value::Count(i64::try_from(it.next_bytes).ok()?))),
    );
    metric(
        "go_gc_heap_live_bytes",
        "Heap memory occupied by live objects that were marked by the previous collection",
        GAUGE,
        &of_stats(|it| Some(Value::Count(i64::try_from(it.live_bytes).ok()?))),
    );
    metric(
        "go_memstats_last_gc_time_seconds",
        "Number of seconds since 1970 of last garbage collection",
        GAUGE,
        &of_stats(|it| (it.cycles > 0).then_some(Value::Seconds(it.last_ns))),
    );
    for (name, help, kind, value) in MEMORY {
        metric(name, help, kind, &|it| Some(Value::Count(value(it.stats.as_ref()?) as i64)));
    }
    summary(&mut text, programs);
    text
}

/// Name, help, kind and value of a figure.
type OfMemory = (&'static str, &'static str, &'static str, fn(&GoStats) -> u64);

/// What the runtime has of memory.
const MEMORY: [OfMemory; 21] = [
    (
        "go_memstats_alloc_bytes",
        "Number of bytes allocated in heap and currently in use",
        GAUGE,
        |it| it.alloc_bytes,
    ),
    // By its name it would belong to the gauge before.
    ("go_memstats_alloc_bytes_total", "Total number of bytes allocated in heap", UNKNOWN, |it| {
        it.total_alloc_bytes
    }),
    ("go_memstats_sys_bytes", "Number of bytes obtained from system", GAUGE, |it| it.sys_bytes),
    ("go_memstats_mallocs_total", "Total number of heap objects allocated", COUNTER, |it| {
        it.mallocs
    }),
    ("go_memstats_frees_total", "Total number of heap objects frees", COUNTER, |it| it.frees),
    ("go_memstats_heap_alloc_bytes", "Number of heap bytes allocated and in use", GAUGE, |it| {
        it.alloc_bytes
    }),
    ("go_memstats_heap_sys_bytes", "Number of heap bytes obtained from system", GAUGE, |it| {
        it.heap_in_use_bytes.wrapping_add(it.heap_idle_bytes)
    }),
    ("go_memstats_heap_idle_bytes", "Number of heap bytes waiting to be used", GAUGE, |it| {
        it.heap_idle_bytes
    }),
    ("go_memstats_heap_inuse_bytes", "Number of heap bytes that are in use", GAUGE, |it| {
        it.heap_in_use_bytes
    }),
    ("go_memstats_heap_released_bytes", "Number of heap bytes released to OS", GAUGE, |it| {
        it.heap_released_bytes
    }),
    ("go_memstats_heap_objects", "Number of currently allocated objects", GAUGE, |it| {
        it.mallocs.wrapping_sub(it.frees)
    }),
    ("go_memstats_stack_inuse_bytes", "Number of bytes of goroutines' stacks", GAUGE, |it| {
        it.stack_in_use_bytes
    }),
    (
        "go_memstats_stack_sys_bytes",
        "Number of bytes obtained from system for stacks",
        GAUGE,
        |it| it.stack_sys_bytes,
    ),
    ("go_memstats_mspan_inuse_bytes", "Number of bytes in use by mspan structures", GAUGE, |it| {
        it.span_in_use_bytes
    }),
    ("go_memstats_mspan_sys_bytes", "Number of bytes obtained for mspan structures", GAUGE, |it| {
        it.span_sys_bytes
    }),
    (
        "go_memstats_mcache_inuse_bytes",
        "Number of bytes in use by mcache structures",
        GAUGE,
        |it| it.cache_in_use_bytes,
    ),
    (
        "go_memstats_mcache_sys_bytes",
        "Number of bytes obtained for mcache structures",
        GAUGE,
        |it| it.cache_sys_bytes,
    ),
    (
        "go_memstats_buck_hash_sys_bytes",
        "Number of bytes used by the runtime's profiles",
        GAUGE,
        |it| it.profile_sys_bytes,
    ),
    (
        "go_memstats_gc_sys_bytes",
        "Number of bytes used for the collector's metadata",
        GAUGE,
        |it| it.collector_sys_bytes,
    ),
    (
        "go_memstats_other_sys_bytes",
        "Number of bytes used for other system allocations",
        GAUGE,
        |it| it.other_sys_bytes,
    ),
    (
        "go_memstats_next_gc_bytes",
        "Heap size at which the next collection is to end",
        GAUGE,
        |it| it.next_bytes,
    ),
];

/// The collector's pauses.
fn summary(text: &mut String, programs: &[GoProgram]) {
    const NAME: &str = "go_gc_duration_seconds";
    let all = programs.iter().filter_map(|it| Some((it, it.stats.as_ref()?)));
    let all: Vec<_> = all.collect();
    if all.is_empty() {
        return;
    }
    head(text, NAME, "A summary of the pause duration of garbage collection cycles", SUMMARY);
    for (program, stats) in all {
        let labels = labels(program);
        let quantiles = ["0", "0.25", "0.5", "0.75", "1"].iter().zip(quantiles(stats));
        for (quantile, pause_ns) in quantiles {
            let labels = format!("{labels},quantile=\"{quantile}\"");
            line(text, NAME, &labels, Value::Seconds(pause_ns));
        }
        line(text, &format!("{NAME}_sum"), &labels, Value::Seconds(stats.pauses_ns));
        line(text, &format!("{NAME}_count"), &labels, Value::Count(stats.cycles.into()));
    }
}

/// Minimum, quartiles and maximum of the pauses that the runtime remembers, as `debug.ReadGCStats` has
/// them; nothing of nothing.
fn quantiles(stats: &GoStats) -> Vec<u64> {
    let count = stats.pause_ns.len().min(stats.cycles as usize);
    let mut sorted = stats.pause_ns[..count].to_vec();
    sorted.sort_unstable();
    let Some(&last) = sorted.last() else { return Vec::new() };
    let quarters = (0..4).map(|quarter| sorted[sorted.len() * quarter / 4]);
    quarters.chain([last]).collect()
}

/// A figure.
#[derive(Clone, Copy)]
enum Value {
    Count(i64),
    /// In nanoseconds.
    Seconds(u64),
}

impl Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Seconds(ns) => (*ns as f64 / 1e9).fmt(f),
        }
    }
}

// Writing to a string does not fail.

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: Value) {
    let _ = writeln!(text, "{name}{{{labels}}} {value}");
}

fn labels(program: &GoProgram) -> String {
    let comm = super::metrics::escaped(&program.process.comm);
    format!("pid=\"{}\",comm=\"{comm}\"", program.process.pid)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::profile::sample::program;

    #[test]
    fn figures_have_the_names_that_programs_give_them() {
        let process = Arc::clone(&program(7, "a\"b", 0x1000).processes[0]);
        let mut pause_ns = vec![0; 256];
        pause_ns[..3].copy_from_slice(&[500_000, 900_000, 100_000]);
        let stats = GoStats {
            cycles: 3,
            pauses_ns: 1_500_000,
            pause_ns,
            percent: 100,
            limit_bytes: i64::MAX,
            mallocs: 5,
            frees: 2,
            total_alloc_bytes: 9,
            ..GoStats::default()
        };
        let known = GoProgram { process, goroutines: 12, suspects: Vec::new(), stats: Some(stats) };
        let unknown = GoProgram { stats: None, ..known.clone() };
        let text = render(&[known, unknown]);
        let labels = r#"pid="7",comm="a\"b""#;
        for line in [
            format!("go_goroutines{{{labels}}} 12"),
            format!("go_gc_gogc_percent{{{labels}}} 100"),
            format!("go_gc_gomemlimit_bytes{{{labels}}} 9223372036854775807"),
            format!("go_gc_duration_seconds{{{labels},quantile=\"1\"}} 0.0009"),
            format!("go_gc_duration_seconds{{{labels},quantile=\"0.25\"}} 0.0001"),
            format!("go_gc_duration_seconds{{{labels},quantile=\"0.5\"}} 0.0005"),
            format!("go_gc_duration_seconds_sum{{{labels}}} 0.0015"),
            format!("go_gc_duration_seconds_count{{{labels}}} 3"),
            format!("go_memstats_heap_objects{{{labels}}} 3"),
            format!("go_memstats_alloc_bytes_total{{{labels}}} 9"),
            format!("go_memstats_mallocs_total{{{labels}}} 5"),
            "# TYPE go_memstats_mallocs counter".to_owned(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("go_goroutines{").count(), 2);
        assert_eq!(text.matches("go_gc_gogc_percent{").count(), 1);
        assert_eq!(render(&[]), "");
    }
}
