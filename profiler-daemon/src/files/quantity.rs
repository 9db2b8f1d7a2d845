//! Measured values as people read them.

/// `value` with its unit: `1.50s`, `250ms`, `3.20MB`, or bare for counts.
pub(crate) fn with_unit(value: i64, unit: &str) -> String {
    let steps: &[(f64, &str)] = match unit {
        "nanoseconds" => {
            &[(3600e9, "h"), (60e9, "min"), (1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")]
        }
        "bytes" => &[(1_073_741_824.0, "GB"), (1_048_576.0, "MB"), (1024.0, "kB"), (1.0, "B")],
        _ => return value.to_string(),
    };
    if value == 0 {
        return "0".to_owned();
    }
    let value = value as f64;
    let (size, suffix) =
        steps.iter().find(|(size, _)| value.abs() >= *size).unwrap_or(&steps[steps.len() - 1]);
    let scaled = format!("{:.2}", value / size);
    format!("{}{suffix}", scaled.strip_suffix(".00").unwrap_or(&scaled))
}

/// Nanoseconds in seconds, as a column in which magnitudes can be compared: `12.34 s`.
pub(crate) fn seconds(nanoseconds: i64) -> String {
    format!("{:.2} s", nanoseconds as f64 / 1e9)
}

/// `part` of `whole`: `12.34%`; `100%` and `0%` of all and nothing alone, so that it has six
/// columns at most.
pub(crate) fn percent(part: i64, whole: i64) -> String {
    if part == 0 || whole == 0 {
        return "0%".to_owned();
    }
    if part == whole {
        return "100%".to_owned();
    }
    format!("{:.2}%", (100.0 * part as f64 / whole as f64).min(99.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_fit_the_value() {
        assert_eq!(with_unit(1_500_000_000, "nanoseconds"), "1.50s");
        assert_eq!(with_unit(250_000_000, "nanoseconds"), "250ms");
        assert_eq!(with_unit(90_000_000_000, "nanoseconds"), "1.50min");
        assert_eq!(with_unit(1536, "bytes"), "1.50kB");
        assert_eq!(with_unit(0, "bytes"), "0");
        assert_eq!(with_unit(12, "count"), "12");
    }

    #[test]
    fn percentages() {
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(3, 3), "100%");
        assert_eq!(percent(99_999, 100_000), "99.99%", "columns are as wide as this");
        assert_eq!(percent(0, 0), "0%");
    }
}
