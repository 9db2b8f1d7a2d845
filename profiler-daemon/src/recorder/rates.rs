//! Samples are taken at one rate, the highest that anybody wants: shares of it.

use std::collections::{HashMap, VecDeque};

/// Takes an even share of the samples of each CPU.
#[derive(Debug, Default)]
pub(super) struct Thinner(HashMap<u32, u64>);

impl Thinner {
    /// Whether one that was taken at `rate` Hz is among those of `hertz`.
    pub(super) fn takes(&mut self, cpu: u32, hertz: u64, rate: u64) -> bool {
        if hertz >= rate {
            return true;
        }
        // Half a period ahead: on average neither too many nor too few.
        let credit = self.0.entry(cpu).or_insert(rate / 2);
        *credit += hertz;
        if *credit < rate {
            return false;
        }
        *credit = (*credit - rate).min(rate);
        true
    }
}

/// The mean of the rates in force from one time to another, in Hz.
pub(super) fn mean_rate(rates: &VecDeque<(u64, u64)>, from_ns: u64, until_ns: u64) -> f64 {
    let ends = rates.iter().skip(1).map(|(begin_ns, _)| *begin_ns).chain([u64::MAX]);
    let (mut taken, mut length) = (0.0, 0.0);
    for ((begin_ns, hertz), end_ns) in rates.iter().zip(ends) {
        let part_ns = until_ns.min(end_ns).saturating_sub(from_ns.max(*begin_ns));
        taken += *hertz as f64 * part_ns as f64;
        length += part_ns as f64;
    }
    let last = rates.back().map_or(1.0, |(_, hertz)| *hertz as f64);
    if length > 0.0 { taken / length } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_rates_in_its_time() {
        let rates = VecDeque::from([(0, 19), (100, 99), (200, 999)]);
        for (from_ns, until_ns, mean) in
            [(0, 100, 19.0), (50, 150, 59.0), (100, 200, 99.0), (300, 400, 999.0), (0, 0, 999.0)]
        {
            let found = mean_rate(&rates, from_ns, until_ns);
            assert!((found - mean).abs() < 1e-9, "{from_ns} to {until_ns}: {found}");
        }
    }

    #[test]
    fn each_gets_its_share_of_each_cpu() {
        let mut thinners: Vec<_> = (0..3).map(|_| Thinner::default()).collect();
        let mut taken = [[0; 2]; 3];
        for n in 0..9_990_u32 {
            for (at, hertz) in [19, 99, 999].into_iter().enumerate() {
                let cpu = n % 2;
                taken[at][cpu as usize] += u32::from(thinners[at].takes(cpu, hertz, 999));
            }
        }
        assert_eq!(taken, [[95, 95], [495, 495], [4_995, 4_995]]);
    }
}
