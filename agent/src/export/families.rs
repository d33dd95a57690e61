//! Metric families built for one scrape.

use std::collections::HashMap;

use anyhow::{Context, Result};
use floodmark_common::queue::{WAIT_BUCKETS, WAIT_FIRST};
use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::protobuf::{self, Native};

/// Families in the making, in order of their first metric.
#[derive(Default)]
pub(super) struct Families {
    all: Vec<MetricFamily>,
    by_name: HashMap<String, usize>,
    /// Native buckets of histograms, by the places of their family and metric.
    native: HashMap<(usize, usize), Native>,
}

/// Classic buckets of a time end at every fourth power of two, from 2^-16 s (15 µs) to 2^8 s: each
/// is a series of its own at every listener, and the native form has all of them.
const CLASSIC_STEP: usize = 2;
const CLASSIC_FIRST: usize = 4;
const CLASSIC_LAST: usize = 28;

impl Families {
    /// Adds a counter.
    pub(super) fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.fractional_counter(name, help, labels, value as f64);
    }

    /// Adds a counter of a quantity that has fractions, as seconds do.
    pub(super) fn fractional_counter(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// Adds a gauge.
    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    /// Adds a histogram of times in the buckets of [`floodmark_common::queue::wait_bucket`], with
    /// their sum in seconds.
    pub(super) fn waits(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        waits: &[u64; WAIT_BUCKETS],
        sum: f64,
    ) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(waits.iter().sum());
        histogram.set_sample_sum(sum);
        let classic = (CLASSIC_FIRST..=CLASSIC_LAST).step_by(CLASSIC_STEP).map(|last| {
            let mut bucket = Bucket::default();
            bucket.set_cumulative_count(waits[..=last].iter().sum());
            bucket.set_upper_bound((f64::from(WAIT_FIRST) + last as f64).exp2());
            bucket
        });
        histogram.set_bucket(classic.collect());
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        let place = self.add(name, help, MetricType::HISTOGRAM, metric);
        let [zero, buckets @ ..] = waits;
        let native = Native { first: WAIT_FIRST + 1, zero: *zero, buckets: buckets.to_vec() };
        self.native.insert(place, native);
    }

    /// Adds a metric and tells the places of its family and itself.
    fn add(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) -> (usize, usize) {
        if let Some(family) = self.by_name.get(name) {
            let metrics = self.all[*family].mut_metric();
            metrics.push(metric);
            return (*family, metrics.len() - 1);
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        self.by_name.insert(name.to_owned(), self.all.len());
        self.all.push(family);
        (self.all.len() - 1, 0)
    }

    /// Adds families made elsewhere; each name once.
    pub(super) fn extend(&mut self, families: Vec<MetricFamily>) {
        for family in families {
            self.by_name.insert(family.name().to_owned(), self.all.len());
            self.all.push(family);
        }
    }

    /// The text of all that was added.
    pub(super) fn encode(self) -> Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.all, &mut text).context("rendering the metrics")?;
        String::from_utf8(text).context("rendering the metrics")
    }

    /// The same as protobuf messages, each preceded by its length, with native histograms.
    pub(super) fn encode_protobuf(mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (place, family) in self.all.iter().enumerate() {
            let native = &mut self.native;
            let natives: HashMap<usize, Native> = native
                .extract_if(|at, _| at.0 == place)
                .map(|(at, native)| (at.1, native))
                .collect();
            protobuf::append(&mut bytes, family, |metric| natives.get(&metric).cloned())
                .context("rendering the metrics")?;
        }
        Ok(bytes)
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
