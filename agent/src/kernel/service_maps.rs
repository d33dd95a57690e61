//! Reads what became of connections, by service: a map, and on each CPU the places in which it counts
//! the services that it meets most (agent-ebpf/src/service.rs). Counts move from the places to the
//! map, and what is at a place stays there when its namespace is gone.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray};
use floodmark_common::{
    NetnsKey, RecentService, RecentServices, SERVICE_CLASSES, ServiceKey, ServiceTally,
};

use super::counters::add;

/// Counts of one service, by class.
pub type ServiceCounts = [u64; SERVICE_CLASSES];

/// How often everything is read, at most, until nothing moved from a place to the map meanwhile.
const READINGS: u32 = 8;

/// The two maps.
pub struct ServiceMaps {
    services: BpfHashMap<MapData, ServiceKey, ServiceTally>,
    recent: PerCpuArray<MapData, RecentServices>,
    /// What was counted before the baseline.
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

    /// Takes what was `counted` by now, since the object was loaded, for nothing.
    pub fn set_baseline(&mut self, counted: HashMap<ServiceKey, ServiceCounts>) {
        self.before = counted;
    }

    /// Forgets the services of namespaces that have `gone`. What is at a place stays there until
    /// another service takes it over.
    pub fn forget(&mut self, gone: &BTreeSet<NetnsKey>) -> Result<()> {
        let keys: Vec<ServiceKey> = self.keys()?;
        for key in keys.iter().filter(|key| gone.contains(&key.netns)) {
            self.services.remove(key).context("removing from the SERVICES map")?;
        }
        self.before.retain(|key, _| !gone.contains(&key.netns));
        Ok(())
    }

    /// The services that have a place in the map.
    pub fn keys(&self) -> Result<Vec<ServiceKey>> {
        self.services.keys().collect::<Result<_, _>>().context("reading the SERVICES map")
    }

    /// Everything counted since the object was loaded, in either map.
    pub fn all(&self) -> Result<HashMap<ServiceKey, ServiceCounts>> {
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
