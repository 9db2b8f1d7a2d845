//! What the runtimes of Go programs have counted, under the names by which programs tell it
//! themselves (`client_golang`).

use std::fmt::{Display, Write as _};

use super::go_watch::GoProgram;
use crate::reader::protocol::{GoMemoryStats, GoStats};

/// OpenMetrics text, without its end.
pub(super) fn render(programs: &[GoProgram]) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&GoProgram) -> Option<Value>| {
        let known = programs.iter().filter_map(|it| Some((it, value(it)?)));
        let known: Vec<_> = known.collect();
        if known.is_empty() {
            return;
        }
        head(&mut text, name, help, "gauge");
        for (program, value) in known {
            line(&mut text, name, &labels(program), value);
        }
    };
    let of_stats = |value: fn(&GoStats) -> Option<Value>| {
        move |program: &GoProgram| value(program.stats.as_ref()?)
    };
    gauge("go_goroutines", "Number of goroutines that currently exist", &|it| {
        Some(Value::Count(it.goroutines as i64))
    });
    gauge(
        "go_gc_gogc_percent",
        "Heap size target percentage configured by the user, otherwise 100",
        &of_stats(|it| (it.percent >= 0).then_some(Value::Count(it.percent.into()))),
    );
    gauge(
        "go_gc_gomemlimit_bytes",
        "Go runtime memory limit configured by the user, otherwise the highest number",
        &of_stats(|it| Some(Value::Count(it.limit_bytes))),
    );
    gauge(
        "go_gc_heap_goal_bytes",
        "Heap size at which a collection is to end, where no memory limit is lower",
        &of_stats(|it| Some(Value::Count(i64::try_from(it.goal_bytes).ok()?))),
    );
    gauge(
        "go_gc_heap_live_bytes",
        "Heap memory occupied by live objects that were marked by the previous collection",
        &of_stats(|it| Some(Value::Count(i64::try_from(it.live_bytes).ok()?))),
    );
    gauge(
        "go_memstats_last_gc_time_seconds",
        "Number of seconds since 1970 of last garbage collection",
        &of_stats(|it| (it.cycles > 0).then_some(Value::Seconds(it.last_ns))),
    );
    summary(&mut text, programs);
    for (name, help, kind, value) in MEMORY {
        let known = programs.iter().filter_map(|it| Some((it, it.memory_stats.as_ref()?)));
        let known: Vec<_> = known.collect();
        if known.is_empty() {
            break;
        }
        // A counter's name ends in `_total` in its lines alone.
        let family = if kind == "counter" { name.trim_end_matches("_total") } else { name };
        head(&mut text, family, help, kind);
        for (program, stats) in known {
            line(&mut text, name, &labels(program), Value::Count(value(stats) as i64));
        }
    }
    text
}

/// Name, help, kind and value of a figure.
type OfMemory = (&'static str, &'static str, &'static str, fn(&GoMemoryStats) -> u64);

/// What the runtime has of memory.
const MEMORY: [OfMemory; 21] = [
    (
        "go_memstats_alloc_bytes",
        "Number of bytes allocated in heap and currently in use",
        "gauge",
        |it| it.alloc_bytes,
    ),
    // By its name it would belong to the gauge before.
    ("go_memstats_alloc_bytes_total", "Total number of bytes allocated in heap", "unknown", |it| {
        it.total_alloc_bytes
    }),
    ("go_memstats_sys_bytes", "Number of bytes obtained from system", "gauge", |it| it.sys_bytes),
    ("go_memstats_mallocs_total", "Total number of heap objects allocated", "counter", |it| {
        it.mallocs
    }),
    ("go_memstats_frees_total", "Total number of heap objects frees", "counter", |it| it.frees),
    ("go_memstats_heap_alloc_bytes", "Number of heap bytes allocated and in use", "gauge", |it| {
        it.alloc_bytes
    }),
    ("go_memstats_heap_sys_bytes", "Number of heap bytes obtained from system", "gauge", |it| {
        it.heap_in_use_bytes.wrapping_add(it.heap_idle_bytes)
    }),
    ("go_memstats_heap_idle_bytes", "Number of heap bytes waiting to be used", "gauge", |it| {
        it.heap_idle_bytes
    }),
    ("go_memstats_heap_inuse_bytes", "Number of heap bytes that are in use", "gauge", |it| {
        it.heap_in_use_bytes
    }),
    ("go_memstats_heap_released_bytes", "Number of heap bytes released to OS", "gauge", |it| {
        it.heap_released_bytes
    }),
    ("go_memstats_heap_objects", "Number of currently allocated objects", "gauge", |it| {
        it.mallocs.wrapping_sub(it.frees)
    }),
    ("go_memstats_stack_inuse_bytes", "Number of bytes of goroutines' stacks", "gauge", |it| {
        it.stack_in_use_bytes
    }),
    (
        "go_memstats_stack_sys_bytes",
        "Number of bytes obtained from system for stacks",
        "gauge",
        |it| it.stack_sys_bytes,
    ),
    (
        "go_memstats_mspan_inuse_bytes",
        "Number of bytes in use by mspan structures",
        "gauge",
        |it| it.span_in_use_bytes,
    ),
    (
        "go_memstats_mspan_sys_bytes",
        "Number of bytes obtained for mspan structures",
        "gauge",
        |it| it.span_sys_bytes,
    ),
    (
        "go_memstats_mcache_inuse_bytes",
        "Number of bytes in use by mcache structures",
        "gauge",
        |it| it.cache_in_use_bytes,
    ),
    (
        "go_memstats_mcache_sys_bytes",
        "Number of bytes obtained for mcache structures",
        "gauge",
        |it| it.cache_sys_bytes,
    ),
    (
        "go_memstats_buck_hash_sys_bytes",
        "Number of bytes used by the runtime's profiles",
        "gauge",
        |it| it.profile_sys_bytes,
    ),
    (
        "go_memstats_gc_sys_bytes",
        "Number of bytes used for the collector's metadata",
        "gauge",
        |it| it.collector_sys_bytes,
    ),
    (
        "go_memstats_other_sys_bytes",
        "Number of bytes used for other system allocations",
        "gauge",
        |it| it.other_sys_bytes,
    ),
    (
        "go_memstats_next_gc_bytes",
        "Heap size at which the next collection is to end",
        "gauge",
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
    head(text, NAME, "A summary of the pause duration of garbage collection cycles", "summary");
    for (program, stats) in all {
        let labels = labels(program);
        let quantiles = ["0", "0.25", "0.5", "0.75", "1"].iter().zip(&stats.pause_quantiles_ns);
        for (quantile, pause_ns) in quantiles {
            let labels = format!("{labels},quantile=\"{quantile}\"");
            line(text, NAME, &labels, Value::Seconds(*pause_ns));
        }
        line(text, &format!("{NAME}_sum"), &labels, Value::Seconds(stats.pauses_ns));
        line(text, &format!("{NAME}_count"), &labels, Value::Count(stats.cycles.into()));
    }
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
        let stats = GoStats {
            cycles: 3,
            pauses_ns: 1_500_000,
            pause_quantiles_ns: vec![1, 2, 3, 4, 500_000],
            percent: 100,
            limit_bytes: i64::MAX,
            ..GoStats::default()
        };
        let memory_stats = GoMemoryStats {
            mallocs: 5,
            frees: 2,
            total_alloc_bytes: 9,
            ..GoMemoryStats::default()
        };
        let known = GoProgram {
            process,
            goroutines: 12,
            suspects: Vec::new(),
            stats: Some(stats),
            memory_stats: Some(memory_stats),
        };
        let unknown = GoProgram { stats: None, memory_stats: None, ..known.clone() };
        let text = render(&[known, unknown]);
        let labels = r#"pid="7",comm="a\"b""#;
        for line in [
            format!("go_goroutines{{{labels}}} 12"),
            format!("go_gc_gogc_percent{{{labels}}} 100"),
            format!("go_gc_gomemlimit_bytes{{{labels}}} 9223372036854775807"),
            format!("go_gc_duration_seconds{{{labels},quantile=\"1\"}} 0.0005"),
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
