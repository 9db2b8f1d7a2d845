//! The kernel's own limit of samples per second, which it lowers by itself where samples take long
//! (`perf_sample_event_took` in `kernel/events/core.c`).

/// Where the limit is.
const PATH: &str = "/proc/sys/kernel/perf_event_max_sample_rate";

/// Whether the limit was complained of.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    said: bool,
}

impl Throttle {
    /// Warns, once, if the kernel takes fewer samples than are asked for.
    pub(super) fn look(&mut self, hertz: u64) {
        if self.said {
            return;
        }
        if let Some(text) = limit().and_then(|limit| complaint(hertz, limit)) {
            tracing::warn!("{text}");
            self.said = true;
        }
    }
}

/// Samples per second and CPU that the kernel takes at most.
pub(super) fn limit() -> Option<u64> {
    std::fs::read_to_string(PATH).ok()?.trim().parse().ok()
}

/// What to say where `hertz` samples a second are asked for, and the kernel takes `limit`.
fn complaint(hertz: u64, limit: u64) -> Option<String> {
    (hertz > limit).then(|| {
        format!(
            "the kernel takes at most {limit} samples per second and CPU, not {hertz}; what it \
             leaves out is counted as missed. Ask for fewer with -F, or raise the limit: sudo \
             sysctl kernel.perf_event_max_sample_rate={hertz}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_that_is_too_low_is_said() {
        assert_eq!(complaint(99, 100_000), None);
        assert_eq!(complaint(99, 99), None);
        assert!(complaint(9999, 4000).is_some_and(|text| text.contains("max_sample_rate=9999")));
    }
}
