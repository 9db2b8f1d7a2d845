//! What rprofd may take of the machine, and what it gives up to keep within that.

use std::time::{Duration, Instant};

use super::own::Usage;

/// How long a step is given to show what it does, before the next.
const STEP: Duration = Duration::from_secs(10);

/// How long it has to be well below a limit before something is taken up again.
const CALM: Duration = Duration::from_secs(60);

/// Hundredths of a limit: below this it is well below.
const CALM_PERCENT: u64 = 70;

/// The most halvings of the rate.
const MOST_HALVINGS: u32 = 4;

/// What rprofd may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes, in bytes.
    pub memory_bytes: Option<u64>,
    /// Of one CPU, in percent.
    pub cpu_percent: Option<u64>,
}

/// What is given up, in this order: what is kept to be fast, detail, samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shed {
    /// Whatever readers keep between requests.
    pub(super) caches: bool,
    /// Lines and inlined functions.
    pub(super) detail: bool,
    /// The rate is halved so often.
    pub(super) halvings: u32,
}

impl Shed {
    /// How much it is.
    pub(super) fn steps(self) -> u32 {
        u32::from(self.caches) + u32::from(self.detail) + self.halvings
    }

    /// The rate that is left of `hertz`.
    pub(super) fn rate(self, hertz: u64) -> u64 {
        (hertz >> self.halvings).max(1)
    }

    fn and(self, other: Self) -> Self {
        Self {
            caches: self.caches || other.caches,
            detail: self.detail || other.detail,
            halvings: self.halvings.max(other.halvings),
        }
    }
}

/// How far one limit has made us go.
#[derive(Debug)]
struct Ladder {
    steps: u32,
    changed: Option<Instant>,
    calm_since: Option<Instant>,
}

impl Ladder {
    const fn new() -> Self {
        Self { steps: 0, changed: None, calm_since: None }
    }

    /// Looks at what is used of the limit. Returns whether there is a step more, or one less.
    fn look(&mut self, used: u64, limit: Option<u64>, most: u32, now: Instant) -> bool {
        let Some(limit) = limit else { return std::mem::take(&mut self.steps) > 0 };
        let rested = self.changed.is_none_or(|changed| now.duration_since(changed) >= STEP);
        let is_calm = used * 100 < limit * CALM_PERCENT;
        if !is_calm {
            self.calm_since = None;
        }
        if used > limit && rested && self.steps < most {
            self.steps += 1;
            self.changed = Some(now);
            return true;
        }
        if is_calm && self.steps > 0 {
            let since = *self.calm_since.get_or_insert(now);
            if now.duration_since(since) >= CALM {
                self.steps -= 1;
                self.changed = Some(now);
                self.calm_since = None;
                return true;
            }
        }
        false
    }
}

/// Watches over the limits.
#[derive(Debug)]
pub(super) struct Keeper {
    limits: Limits,
    memory: Ladder,
    cpu: Ladder,
    before: Option<(Instant, u64)>,
}

/// Over how long CPU time is averaged.
const AVERAGED: Duration = Duration::from_secs(10);

impl Keeper {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { limits, memory: Ladder::new(), cpu: Ladder::new(), before: None }
    }

    pub(super) fn set(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What is given up now.
    pub(super) fn shed(&self) -> Shed {
        let memory = self.memory.steps;
        // More caches take more memory and less time.
        let cpu = if self.cpu.steps > 0 { self.cpu.steps + 1 } else { 0 };
        let of = |steps: u32, caches: bool| Shed {
            caches: caches && steps > 0,
            detail: steps > 1,
            halvings: steps.saturating_sub(2),
        };
        of(memory, true).and(of(cpu, false))
    }

    /// Whether memory is above its limit, and what is kept to be fast is to be given up.
    pub(super) fn is_over(&self, usage: Usage) -> bool {
        let limit = self.limits.memory_bytes;
        self.shed().caches && limit.is_some_and(|limit| usage.memory_bytes > limit)
    }

    /// Looks at what is used. Returns whether [`Self::shed`] is another; says so.
    pub(super) fn look(&mut self, usage: Usage, bpf_ns: u64, now: Instant) -> bool {
        let busy_ns = usage.cpu_ns + bpf_ns;
        let most = 2 + MOST_HALVINGS;
        let mut changed = self.memory.look(usage.memory_bytes, self.limits.memory_bytes, most, now);
        let (begin, busy_before) = *self.before.get_or_insert((now, busy_ns));
        let elapsed = now.duration_since(begin);
        let share = busy_ns.saturating_sub(busy_before) as f64 / elapsed.as_nanos().max(1) as f64;
        if elapsed >= AVERAGED {
            self.before = Some((now, busy_ns));
            let hundredths = |percent: u64| percent.saturating_mul(100);
            let limit = self.limits.cpu_percent.map(hundredths);
            changed |= self.cpu.look((share * 10_000.0) as u64, limit, most - 1, now);
        }
        if changed {
            self.say(usage, share * 100.0);
        }
        changed
    }

    fn say(&self, usage: Usage, percent: f64) {
        let shed = self.shed();
        if shed == Shed::default() {
            tracing::warn!("within the limits again: everything is recorded in full");
            return;
        }
        let mut given_up = Vec::new();
        if shed.caches {
            given_up.push("what readers keep between requests".to_owned());
        }
        if shed.detail {
            given_up.push("lines and inlined functions".to_owned());
        }
        if shed.halvings > 0 {
            given_up.push(format!("all but one of {} samples", 1_u32 << shed.halvings));
        }
        tracing::warn!(
            "to keep the limits, given up now: {} ({} MiB in memory, {percent:.2} % of a CPU)",
            given_up.join(", "),
            usage.memory_bytes >> 20
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(start: Instant, second: u64) -> Instant {
        start + Duration::from_secs(second)
    }

    #[test]
    fn memory_costs_caches_then_detail_then_samples_and_comes_back() {
        let limits = Limits { memory_bytes: Some(100 << 20), cpu_percent: None };
        let mut keeper = Keeper::new(limits);
        let start = Instant::now();
        let with = |bytes: u64| Usage { cpu_ns: 0, memory_bytes: bytes << 20 };
        let mut seen = Vec::new();
        for at in 0..200 {
            if keeper.look(with(101), 0, second(start, at)) {
                seen.push((at, keeper.shed().steps()));
            }
        }
        assert_eq!(seen, [(0, 1), (10, 2), (20, 3), (30, 4), (40, 5), (50, 6)]);
        let shed = keeper.shed();
        assert!(shed.caches && shed.detail);
        assert_eq!((shed.rate(99), shed.rate(1)), (6, 1));
        // Just below is not enough.
        assert!(!(200..400).any(|at| keeper.look(with(90), 0, second(start, at))));
        let mut back = 0;
        for at in 400..900 {
            back += u32::from(keeper.look(with(60), 0, second(start, at)));
        }
        assert_eq!((back, keeper.shed()), (6, Shed::default()));
    }

    #[test]
    fn cpu_time_costs_detail_first() {
        let limits = Limits { memory_bytes: None, cpu_percent: Some(2) };
        let mut keeper = Keeper::new(limits);
        let start = Instant::now();
        for at in 0..35 {
            // 3 % of a CPU, a third of it in BPF.
            let usage = Usage { cpu_ns: at * 20_000_000, memory_bytes: 0 };
            keeper.look(usage, at * 10_000_000, second(start, at));
        }
        assert_eq!(keeper.shed(), Shed { caches: false, detail: true, halvings: 2 });
        // Just below the limit is not well below it.
        let mut look = |at: u64| {
            let usage = Usage { cpu_ns: 1_020_000_000 + (at - 34) * 19_000_000, memory_bytes: 0 };
            keeper.look(usage, 0, second(start, at));
            keeper.shed()
        };
        let shed: Vec<_> = (35..200).map(&mut look).collect();
        assert!(shed[10..].iter().all(|it| *it == shed[10]), "{shed:?}");
        keeper.set(Limits::default());
        assert!(keeper.look(Usage::default(), 0, second(start, 260)), "no limit any more");
        assert_eq!(keeper.shed(), Shed::default());
    }
}
