use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::profile::{
    Kind,
    sample::{mapping, process, program},
};

fn window() -> Window {
    Window {
        kind: Kind::Cpu,
        start: SystemTime::UNIX_EPOCH,
        duration: Duration::from_secs(10),
        period: 10_000_000,
        losses: Vec::new(),
        comments: vec!["kernel=6.12".to_owned()],
    }
}

/// Stacks as names and file offsets, with what a reader sees of a sample.
fn readable(profile: &Profile) -> Vec<(u32, u32, String, [i64; 2])> {
    let mut rows: Vec<_> = profile
        .samples
        .iter()
        .map(|sample| {
            let frames = profile.stacks[sample.stack as usize].iter().map(|&index| {
                let location = &profile.locations[index as usize];
                let mapping = profile.mapping_of(location);
                let names: Vec<_> = profile.names_of(location).collect();
                format!(
                    "{}@{}",
                    names.join("/"),
                    super::super::frame::unnamed(location.avma, mapping)
                )
            });
            let process = &profile.processes[sample.process as usize];
            (process.pid, sample.tid, frames.collect::<Vec<_>>().join(";"), sample.values)
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn nothing_merges_to_the_host_alone() {
    let merged = merge(&window(), &[], MergedName::Host);
    assert_eq!(merged.mappings.len(), 1);
    assert_eq!(&*merged.mappings[0].file, "[host]");
    assert!(merged.samples.is_empty());
    assert_eq!(merged.comments, ["kernel=6.12"]);
}

#[test]
fn what_processes_share_is_there_once() {
    let (one, two) = (program(1, "app", 0x40_0000), program(2, "app", 0x7_0000_0000));
    let merged = merge(&window(), &[&one, &two], MergedName::Host);
    assert_eq!(merged.mappings.len(), 1 + 3);
    assert_eq!(merged.functions.len(), 4);
    assert_eq!(merged.locations.len(), 4);
    assert_eq!(merged.stacks.len(), 3);
    assert_eq!(merged.samples.len(), 6);
    assert_eq!(merged.outcomes.complete, 18);
    assert_eq!(merged.comments, ["kernel=6.12", "host=box"]);
    let mut expected = [readable(&one), readable(&two)].concat();
    expected.sort();
    assert_eq!(readable(&merged), expected);
}

#[test]
fn a_groups_first_mapping_is_its_program() {
    let (one, two) = (program(1, "app", 0x40_0000), program(2, "app", 0x7_0000_0000));
    let merged = merge(&window(), &[&one, &two], MergedName::First);
    assert_eq!(merged.mappings[0], one.mappings[0]);
    assert_eq!(merged.processes[0].pid, 1);
}

#[test]
fn equal_samples_add_up() {
    let one = program(1, "app", 0x40_0000);
    let merged = merge(&window(), &[&one, &one], MergedName::First);
    assert_eq!(merged.samples.len(), one.samples.len());
    assert_eq!(merged.totals(), [20, 200_000_000]);
}

#[test]
fn the_last_comm_of_a_process_is_kept() {
    let (mut before, mut after) = (program(1, "sh", 0x40_0000), program(1, "app", 0x40_0000));
    before.processes = vec![process(1, "sh")];
    after.processes = vec![process(1, "app")];
    let merged = merge(&window(), &[&before, &after], MergedName::First);
    assert_eq!(merged.processes.len(), 1);
    assert_eq!(&*merged.processes[0].comm, "app");
}

#[test]
fn a_path_without_a_build_id_joins_nothing_elsewhere() {
    let mut mappings = Mappings::default();
    let anonymous =
        |start| Mapping { build_id: "".into(), ..mapping(start, start + 0x1000, 0, "/app") };
    assert_eq!(mappings.add(&anonymous(0x1000)), 0);
    assert_eq!(mappings.add(&anonymous(0x5000)), 1);
    assert_eq!(mappings.add(&anonymous(0x1000)), 0);
}

#[test]
fn a_host_of_ten_thousand_processes_takes_seconds_at_most() {
    let profiles: Vec<Profile> = (0..10_000_u32)
        .map(|pid| {
            let mut profile = program(pid, "app", 0x40_0000 + u64::from(pid) * 0x1000);
            let sample = profile.samples[0].clone();
            profile.samples = (0..100)
                .map(|tid| Sample { tid: pid + tid, stack: tid % 3, ..sample.clone() })
                .collect();
            profile
        })
        .collect();
    let started = Instant::now();
    let merged = merge(&window(), &profiles.iter().collect::<Vec<_>>(), MergedName::Host);
    assert_eq!(merged.samples.len(), 1_000_000);
    assert_eq!(merged.stacks.len(), 3);
    // Ten times what two busy cores need without optimization; what squares takes hours.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

proptest! {
    #[test]
    fn sums_are_kept(profiles in proptest::collection::vec(crate::profile::sample::any_profile(), 0..6)) {
        let merged = merge(&window(), &profiles.iter().collect::<Vec<_>>(), MergedName::Host);
        let mut outcomes = Outcomes::default();
        let mut totals = [0_i64; 2];
        for profile in &profiles {
            outcomes += profile.outcomes;
            for (sum, value) in totals.iter_mut().zip(profile.totals()) {
                *sum += value;
            }
        }
        prop_assert_eq!(merged.totals(), totals);
        prop_assert_eq!(merged.outcomes, outcomes);
        // A second merge finds nothing left to join.
        let again = merge(&window(), &[&merged], MergedName::Host);
        prop_assert_eq!(again.samples, merged.samples);
        prop_assert_eq!(again.stacks, merged.stacks);
        prop_assert_eq!(again.locations, merged.locations);
        prop_assert_eq!(again.mappings, merged.mappings);
    }

    #[test]
    fn what_a_reader_sees_of_a_sample_is_kept(profile in crate::profile::sample::any_profile()) {
        let merged = merge(&window(), &[&profile], MergedName::Host);
        let sum = |rows: Vec<(u32, u32, String, [i64; 2])>| {
            let mut sums = std::collections::BTreeMap::new();
            for (pid, tid, stack, values) in rows {
                let sum = sums.entry((pid, tid, stack)).or_insert([0; 2]);
                *sum = [sum[0] + values[0], sum[1] + values[1]];
            }
            sums
        };
        prop_assert_eq!(sum(readable(&merged)), sum(readable(&profile)));
    }
}
