//! The same as text, in the forms that Go's own handlers have for `debug=1` and `debug=2`.

use std::{collections::HashMap, fmt::Write as _};

use crate::{
    files::printable,
    profile::{
        Kind,
        go::{
            GoTaken,
            frames::{Frames, is_of_runtime},
        },
    },
    reader::protocol::{GoBucket, GoLabelSet, GoStats, Goroutine, go_minor},
};

/// So long a text gets at most, in bytes: as Go cuts its own.
const MOST_BYTES: usize = 64 << 20;

/// What `debug=1` and `debug=2` give.
pub(crate) fn render(taken: &GoTaken, debug: u8) -> String {
    let text = Text { taken, frames: Frames::new(taken.kind, &taken.memory, &taken.named) };
    match taken.kind {
        Kind::Heap | Kind::Allocs => text.heap(),
        Kind::Goroutines | Kind::Goroutineleak if debug > 1 => text.each_goroutine(),
        Kind::Goroutines | Kind::Goroutineleak => text.goroutines(),
        _ => text.waits(),
    }
}

/// A text under construction. Writing to a String does not fail.
struct Text<'a> {
    taken: &'a GoTaken,
    frames: Frames<'a>,
}

/// A line of a stack.
struct Shown {
    /// The instruction's avma.
    avma: u64,
    /// How far behind its function's begin that is, or what it returns to, in bytes.
    offset: u64,
    name: String,
    file: String,
    line: u32,
    is_inlined: bool,
}

impl Text<'_> {
    fn heap(&self) -> String {
        let memory = &self.taken.memory;
        let mut buckets: Vec<_> = memory.buckets.iter().collect();
        let in_use = |allocs: u64, frees: u64| allocs.wrapping_sub(frees) as i64;
        buckets.sort_by_key(|it| in_use(it.alloc_bytes, it.free_bytes));
        let sum = |of: &dyn Fn(&&GoBucket) -> u64| {
            buckets.iter().fold(0_u64, |sum, it| sum.wrapping_add(of(it)))
        };
        let (allocs, frees) = (sum(&|it| it.allocs), sum(&|it| it.frees));
        let (alloc_bytes, free_bytes) = (sum(&|it| it.alloc_bytes), sum(&|it| it.free_bytes));
        let bytes = in_use(alloc_bytes, free_bytes);
        // Readers take equal columns for one.
        let alloc_bytes = alloc_bytes.wrapping_add(u64::from(bytes == alloc_bytes as i64));
        let mut text = format!(
            "heap profile: {}: {bytes} [{allocs}: {alloc_bytes}] @ heap/{}\n",
            in_use(allocs, frees),
            memory.rate.saturating_mul(2),
        );
        for it in buckets {
            let _ = write!(
                text,
                "{}: {} [{}: {}] @",
                in_use(it.allocs, it.frees),
                in_use(it.alloc_bytes, it.free_bytes),
                it.allocs,
                it.alloc_bytes
            );
            self.addresses(&mut text, it.stack);
            self.stack(&mut text, &self.logical(it.stack), false);
        }
        text.push_str("\n# runtime.MemStats\n");
        match &memory.stats {
            Some(stats) => memory_stats(&mut text, stats),
            None => {
                // Both are counted up at the end of each collection (`gcMarkTermination`, `mgc.go`).
                let _ = writeln!(text, "# NumGC = {}", memory.cycle);
                text.push_str(
                    "# rprofd: the others cannot be read: the program was stripped, or is busy\n",
                );
            }
        }
        self.comments(&mut text);
        text
    }

    fn waits(&self) -> String {
        let memory = &self.taken.memory;
        let name = if self.taken.kind == Kind::Mutex { "mutex" } else { "contention" };
        let mut text = format!("--- {name}:\ncycles/second={}\n", memory.ticks_per_second);
        if self.taken.kind == Kind::Mutex {
            let _ = writeln!(text, "sampling period={}", memory.rate);
        }
        let factor = self.taken.factor();
        let mut buckets: Vec<_> = memory.buckets.iter().collect();
        buckets.sort_by_key(|it| std::cmp::Reverse(it.cycles));
        for it in buckets {
            let (cycles, count) =
                (it.cycles.saturating_mul(factor), it.count.saturating_mul(factor));
            let Some(places) = self.frames.wait_places(it.stack) else { continue };
            let _ = write!(text, "{cycles} {count} @");
            if memory.is_whole {
                self.addresses_of(&mut text, places.iter().map(|(place, _)| place));
            } else {
                self.addresses(&mut text, it.stack);
            }
            let shown = self.frames.logical(&places);
            let shown = shown.iter().flat_map(|&(place, location)| self.shown(place, location));
            self.stack(&mut text, &shown.collect::<Vec<_>>(), true);
        }
        if memory.is_whole {
            self.comments(&mut text);
        }
        text
    }

    fn goroutines(&self) -> String {
        let memory = &self.taken.memory;
        let mut counts: HashMap<(u32, u32), usize> = HashMap::new();
        for it in &memory.goroutines {
            *counts.entry((it.stack, it.labels)).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|&(of, count)| (std::cmp::Reverse(count), of));
        let mut text = format!("goroutine profile: total {}\n", memory.goroutines.len());
        for ((stack, labels), count) in counts {
            let _ = write!(text, "{count} @");
            self.addresses(&mut text, stack);
            if let Some(labels) = self.labels(labels) {
                let _ = writeln!(text, "# labels: {{{}}}", groups_labels(labels));
            }
            self.stack(&mut text, &self.expanded(stack), false);
        }
        text
    }

    /// The labels with this number.
    fn labels(&self, number: u32) -> Option<&GoLabelSet> {
        self.taken.memory.label_sets.get(number.checked_sub(1)? as usize)
    }

    /// Whether a dump has labels, as from Go 1.27 on.
    fn tells_labels(&self) -> bool {
        go_minor(&self.taken.memory.version).is_some_and(|minor| minor >= 27)
    }

    fn each_goroutine(&self) -> String {
        let mut text = String::new();
        for (number, it) in self.taken.memory.goroutines.iter().enumerate() {
            if text.len() > MOST_BYTES {
                let more = self.taken.memory.goroutines.len() - number;
                let _ = writeln!(text, "...{more} goroutines elided...");
                break;
            }
            self.goroutine(&mut text, it);
        }
        text
    }

    fn goroutine(&self, text: &mut String, it: &Goroutine) {
        let state = self.taken.memory.states.get(it.state as usize).map_or("???", |it| it);
        let _ = write!(text, "goroutine {} [{}", it.goid, printable::escape(state));
        let minutes = it.wait_ns / 60_000_000_000;
        if minutes >= 1 {
            let _ = write!(text, ", {minutes} minutes");
        }
        if it.is_locked {
            text.push_str(", locked to thread");
        }
        text.push(']');
        if let Some(labels) = self.labels(it.labels).filter(|_| self.tells_labels()) {
            let _ = write!(text, " {{{}}}", dumps_labels(labels));
        }
        text.push_str(":\n");
        if it.is_moving {
            text.push_str("\tgoroutine running on other thread; stack unavailable\n");
        } else {
            let all = self.expanded(it.stack);
            let is_any_shown = all.iter().any(|it| is_shown(&it.name));
            for shown in all.iter().filter(|it| !is_any_shown || is_shown(&it.name)) {
                self.call(text, shown, "(...)");
            }
        }
        let creator = it.creator.checked_sub(1).and_then(|place| self.creator(place));
        if let Some(creator) = creator.filter(|it| is_shown(&it.name))
            && it.goid != 1
        {
            let from = match it.parent {
                0 => String::new(),
                parent => format!(" in goroutine {parent}"),
            };
            text.push_str("created by ");
            self.call(text, &creator, &from);
        }
        text.push('\n');
    }

    fn call(&self, text: &mut String, shown: &Shown, behind: &str) {
        let _ = write!(text, "{}{behind}\n\t{}:{}", shown.name, shown.file, shown.line);
        if !shown.is_inlined && shown.offset > 0 {
            let _ = write!(text, " +{:#x}", shown.offset);
        }
        text.push('\n');
    }

    /// The addresses of a stack, as the runtime has them.
    fn addresses(&self, text: &mut String, stack: u32) {
        let stack = self.taken.memory.stacks.get(stack as usize);
        self.addresses_of(text, stack.iter().flat_map(|it| &it.places));
    }

    fn addresses_of<'a>(&self, text: &mut String, places: impl Iterator<Item = &'a u32>) {
        for place in places {
            if let Some(avma) = self.taken.memory.places.get(*place as usize) {
                let _ = write!(text, " {avma:#x}");
            }
        }
        text.push('\n');
    }

    /// A line each; the runtime's at the begin left out, unless there are no others or `all` are
    /// wanted.
    fn stack(&self, text: &mut String, stack: &[Shown], all: bool) {
        let first = stack.iter().position(|it| !is_of_runtime(&it.name));
        let first = if all { 0 } else { first.unwrap_or(0) };
        for Shown { avma, offset, name, file, line, .. } in &stack[first..] {
            if name.is_empty() {
                let _ = writeln!(text, "#\t{avma:#x}");
            } else {
                // Of an instruction, not of what is behind it.
                let offset = offset.saturating_sub(1);
                let _ = writeln!(text, "#\t{avma:#x}\t{name}+{offset:#x}\t{file}:{line}");
            }
        }
        text.push('\n');
    }

    /// The stack of what was counted.
    fn logical(&self, stack: u32) -> Vec<Shown> {
        let places = self.frames.logical(&self.frames.places(stack));
        places.iter().flat_map(|&(place, location)| self.shown(place, location)).collect()
    }

    /// A stack of calls, with the functions that are inlined.
    fn expanded(&self, stack: u32) -> Vec<Shown> {
        let places = self.frames.places(stack);
        places.iter().flat_map(|&(place, location)| self.shown(place, location)).collect()
    }

    fn creator(&self, place: u32) -> Option<Shown> {
        let location = self.frames.of_place(place)?;
        self.shown(place, location).into_iter().next()
    }

    /// The functions at a place, innermost first.
    fn shown(&self, place: u32, location: u32) -> Vec<Shown> {
        let memory = &self.taken.memory;
        let place = place as usize;
        let (avma, entry) = (memory.places.get(place), memory.entries.get(place));
        let offset = match (avma, entry) {
            (Some(avma), Some(&entry)) if entry > 0 => avma.saturating_sub(entry),
            _ => 0,
        };
        let location = self.frames.location(location);
        let shown = location.lines.iter().enumerate().map(|(depth, line)| {
            let function = self.frames.function(line.function);
            Shown {
                avma: location.avma,
                offset,
                name: printable::escape(&function.name).into_owned(),
                file: printable::escape(&function.file).into_owned(),
                line: line.line,
                is_inlined: depth + 1 < location.lines.len(),
            }
        });
        let mut shown: Vec<_> = shown.collect();
        if shown.is_empty() {
            let (name, file) = (String::new(), String::new());
            shown.push(Shown {
                avma: location.avma,
                offset,
                name,
                file,
                line: 0,
                is_inlined: false,
            });
        }
        shown
    }

    fn comments(&self, text: &mut String) {
        for comment in self.taken.facts() {
            let _ = writeln!(text, "# rprofd: {}", printable::escape(&comment));
        }
    }
}

/// Labels as Go writes them in groups.
fn groups_labels(set: &GoLabelSet) -> String {
    let labels = set.keys.iter().zip(&set.values);
    let quoted = |text: &str| quoted(text, is_printable, &ESCAPES, '\x7f');
    let mut labels: Vec<_> =
        labels.map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    labels.sort_unstable();
    labels.join(", ")
}

/// Labels as its runtime writes them in dumps: quoted where that is needed, in the order of their keys.
fn dumps_labels(set: &GoLabelSet) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '/' | '_');
    let shown = |text: &str| {
        if text.chars().all(is_plain) {
            text.to_owned()
        } else {
            quoted(text, |it| (' '..='~').contains(&it), &ESCAPES[..3], ' ')
        }
    };
    let labels = set.keys.iter().zip(&set.values);
    let labels: Vec<_> =
        labels.map(|(key, value)| format!("{}: {}", shown(key), shown(value))).collect();
    labels.join(", ")
}

/// What has an escape of its own in groups (`strconv.Quote`); in dumps (`printquoted` of the runtime)
/// the first three.
const ESCAPES: [(char, char); 7] = [
    ('\n', 'n'),
    ('\r', 'r'),
    ('\t', 't'),
    ('\x07', 'a'),
    ('\x08', 'b'),
    ('\x0b', 'v'),
    ('\x0c', 'f'),
];

/// Whether Go takes a character for one that can be shown.
fn is_printable(it: char) -> bool {
    // Behind another one, what belongs to that is not escaped.
    it.is_ascii() && !it.is_ascii_control() || format!("a{it}").escape_debug().nth(1) == Some(it)
}

/// A string as Go quotes it. What is not kept is escaped; `short`: with two digits, as those below the
/// space.
fn quoted(
    text: &str,
    is_kept: impl Fn(char) -> bool,
    escapes: &[(char, char)],
    short: char,
) -> String {
    let mut quoted = String::from('"');
    for it in text.chars() {
        let number = u32::from(it);
        if matches!(it, '"' | '\\') {
            quoted.extend(['\\', it]);
        } else if is_kept(it) {
            quoted.push(it);
        } else if let Some((_, escape)) = escapes.iter().find(|(of, _)| *of == it) {
            quoted.extend(['\\', *escape]);
        } else if it < ' ' || it == short {
            let _ = write!(quoted, "\\x{number:02x}");
        } else if number < 0x1_0000 {
            let _ = write!(quoted, "\\u{number:04x}");
        } else {
            let _ = write!(quoted, "\\U{number:08x}");
        }
    }
    quoted.push('"');
    quoted
}

/// The lines that Go has of it.
fn memory_stats(text: &mut String, stats: &GoStats) {
    let GoStats { alloc_bytes, total_alloc_bytes, mallocs, frees, .. } = *stats;
    let of = |in_use: u64, sys: u64| format!("{in_use} / {sys}");
    let list = |values: &[u64]| {
        let values: Vec<_> = values.iter().map(u64::to_string).collect();
        format!("[{}]", values.join(" "))
    };
    for (name, value) in [
        ("Alloc", alloc_bytes.to_string()),
        ("TotalAlloc", total_alloc_bytes.to_string()),
        ("Sys", stats.sys_bytes.to_string()),
        ("Lookups", "0".to_owned()),
        ("Mallocs", mallocs.to_string()),
        ("Frees", frees.to_string()),
        ("HeapAlloc", alloc_bytes.to_string()),
        ("HeapSys", stats.heap_in_use_bytes.wrapping_add(stats.heap_idle_bytes).to_string()),
        ("HeapIdle", stats.heap_idle_bytes.to_string()),
        ("HeapInuse", stats.heap_in_use_bytes.to_string()),
        ("HeapReleased", stats.heap_released_bytes.to_string()),
        ("HeapObjects", mallocs.wrapping_sub(frees).to_string()),
        ("Stack", of(stats.stack_in_use_bytes, stats.stack_sys_bytes)),
        ("MSpan", of(stats.span_in_use_bytes, stats.span_sys_bytes)),
        ("MCache", of(stats.cache_in_use_bytes, stats.cache_sys_bytes)),
        ("BuckHashSys", stats.profile_sys_bytes.to_string()),
        ("GCSys", stats.collector_sys_bytes.to_string()),
        ("OtherSys", stats.other_sys_bytes.to_string()),
        ("NextGC", stats.next_bytes.to_string()),
        ("LastGC", stats.last_ns.to_string()),
        ("PauseNs", list(&stats.pause_ns)),
        ("PauseEnd", list(&stats.pause_ends_ns)),
        ("NumGC", stats.cycles.to_string()),
        ("NumForcedGC", stats.forced_cycles.to_string()),
        ("GCCPUFraction", fraction(stats.cpu_fraction)),
        ("DebugGC", "false".to_owned()),
        ("MaxRSS", stats.most_resident_bytes.to_string()),
    ] {
        let _ = writeln!(text, "# {name} = {value}");
    }
}

/// As Go writes a number: small ones with an exponent of two digits.
fn fraction(value: f64) -> String {
    if value == 0.0 || !value.is_finite() || value.abs() >= 1e-4 {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once("e-").unwrap_or((&text, "0"));
    format!("{digits}e-{exponent:0>2}")
}

/// Whether a dump shows a function: the runtime's own are, if a program can call them.
fn is_shown(name: &str) -> bool {
    let Some(own) = name.strip_prefix("runtime.") else { return name.contains('.') };
    let (receiver, method) = own.rsplit_once('.').unwrap_or(("", own));
    let receiver = receiver.trim_start_matches("(*").trim_end_matches(')');
    let is_exported = |name: &str| name.starts_with(|first: char| first.is_ascii_uppercase());
    is_exported(method) && (receiver.is_empty() || is_exported(receiver))
}
