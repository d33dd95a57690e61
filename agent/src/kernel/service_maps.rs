//! Reads what became of connections, by service: a map, and on each CPU the places in which it counts
//! the services that it meets most (agent-ebpf/src/service.rs). Counts move from the places to the
//! map, and what is at a place stays there when its namespace is gone.

use std::collections::HashMap;

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray};
use floodmark_common::{RecentService, RecentServices, SERVICE_CLASSES, ServiceKey, ServiceTally};

use super::{counters::add, sample::NetnsId};

/// Counts of one service, by class.
pub type ServiceCounts = [u64; SERVICE_CLASSES];

/// How often everything is read, at most, until nothing moved from a place to the map meanwhile.
const READINGS: u32 = 8;

/// The two maps.
pub struct ServiceMaps {
    services: BpfHashMap<MapData, ServiceKey, ServiceTally>,
    recent: PerCpuArray<MapData, RecentServices>,
    /// What of the counts is not to be told: counted before the baseline, or for a namespace that was
    /// forgotten, whose number another may get.
    before: HashMap<ServiceKey, ServiceCounts>,
}

impl ServiceMaps {
    /// Takes the maps over.
    pub fn new(
        services: BpfHashMap<MapData, ServiceKey, ServiceTally>,
        recent: PerCpuArray<MapData, RecentServices>,
    ) -> Self {
        Self { services, recent, before: HashMap::new() }
    }

    /// What became of connections since the baseline, by service.
    pub fn counts(&self) -> Result<Vec<(ServiceKey, ServiceCounts)>> {
        let mut counts = self.all()?;
        for (key, before) in &self.before {
            if let Some(counts) = counts.get_mut(key) {
                counts
                    .iter_mut()
                    .zip(before)
                    .for_each(|(now, before)| *now = now.saturating_sub(*before));
            }
        }
        Ok(counts.into_iter().collect())
    }

    /// Tells from now on what is counted from now on.
    pub fn take_baseline(&mut self) -> Result<()> {
        self.before = self.all()?;
        Ok(())
    }

    /// Forgets the services of namespaces that are no longer `known`.
    pub fn forget(&mut self, known: impl Fn(NetnsId) -> bool) -> Result<()> {
        let is_gone = |key: &ServiceKey| !known(NetnsId(key.netns));
        let keys: Vec<ServiceKey> =
            self.services.keys().collect::<Result<_, _>>().context("reading the SERVICES map")?;
        for key in keys.iter().filter(|key| is_gone(key)) {
            self.services.remove(key).context("removing from the SERVICES map")?;
        }
        self.before.retain(|key, _| !is_gone(key));
        let left = self.all()?;
        self.before.extend(left.into_iter().filter(|(key, _)| is_gone(key)));
        Ok(())
    }

    /// Everything counted, in either map.
    fn all(&self) -> Result<HashMap<ServiceKey, ServiceCounts>> {
        let mut places = self.places()?;
        let mut counts = self.in_the_map()?;
        for _ in 1..READINGS {
            let later = self.places()?;
            if places.iter().zip(&later).all(|(before, after)| only_grew(before, after)) {
                break;
            }
            places = later;
            counts = self.in_the_map()?;
        }
        for place in places.iter().filter(|place| place.key != ServiceKey::default()) {
            add(counts.entry(place.key).or_default(), &place.tally.counts);
        }
        Ok(counts)
    }

    fn in_the_map(&self) -> Result<HashMap<ServiceKey, ServiceCounts>> {
        let read = |entry: Result<(ServiceKey, ServiceTally), _>| {
            let (key, tally) = entry.context("reading the SERVICES map")?;
            Ok((key, tally.counts))
        };
        self.services.iter().map(read).collect()
    }

    /// The places of all CPUs, one after another.
    fn places(&self) -> Result<Vec<RecentService>> {
        let per_cpu = self.recent.get(&0, 0).context("reading the RECENT_SERVICES map")?;
        Ok(per_cpu.iter().flat_map(|cpu| cpu.places).collect())
    }
}

/// Whether nothing left the place: its owner is the same, and did not go and come back.
fn only_grew(before: &RecentService, after: &RecentService) -> bool {
    let mut counts = before.tally.counts.iter().zip(&after.tally.counts);
    before.key == after.key && counts.all(|(before, after)| before <= after)
}

#[cfg(test)]
mod tests {
    use floodmark_common::ServiceClass;

    use super::*;

    #[test]
    fn tells_a_place_that_was_given_away() {
        let place = |port, count| {
            let mut place = RecentService::default();
            place.key.port = port;
            place.tally.counts[ServiceClass::TimeWait as usize] = count;
            place
        };
        assert!(only_grew(&place(80, 1), &place(80, 3)));
        assert!(!only_grew(&place(80, 1), &place(443, 1)));
        assert!(!only_grew(&place(80, 3), &place(80, 1)));
    }
}
