//! Points in time, for file names and for people.

use std::time::SystemTime;

/// Year, month, day, hour, minute, second and millisecond in UTC; times before 1970 are 1970.
fn civil(time: SystemTime) -> [u64; 7] {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs();
    // Years that begin in March end in the leap day; an era is 400 of them, 146,097 days. Day 0 is
    // March 1 of the year 0, which is 719,468 days before 1970.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March on are 153 days, and so are the next five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let in_day = seconds % 86_400;
    let millisecond = u64::from(since_epoch.subsec_millis());
    [year, month, day, in_day / 3600, in_day / 60 % 60, in_day % 60, millisecond]
}

/// `20261123T160000Z`, to the second.
pub(crate) fn stamp(time: SystemTime) -> String {
    let [year, month, day, hour, minute, second, _] = civil(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `20261123T160000.250Z`, to the millisecond.
pub(crate) fn fine_stamp(time: SystemTime) -> String {
    let [year, month, day, hour, minute, second, millisecond] = civil(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{millisecond:03}Z")
}

/// `2026-11-23 16:00:00 UTC`.
pub(crate) fn readable(time: SystemTime) -> String {
    let [year, month, day, hour, minute, second, _] = civil(time);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_calendar_has_leap_years() {
        // Checked with `date -u -d @SECONDS +%Y%m%dT%H%M%SZ`.
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_735_689_599, "20241231T235959Z"),
            (1_795_449_600, "20261123T160000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(at(seconds)), expected);
        }
        assert_eq!(fine_stamp(at(0) + Duration::from_millis(250)), "19700101T000000.250Z");
        assert_eq!(readable(at(1_795_449_600)), "2026-11-23 16:00:00 UTC");
    }
}
