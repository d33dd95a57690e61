//! The protobuf form of the exposition, which is the one that carries native histograms. The
//! `prometheus` crate has no model for those, so the few messages that are wanted stand here.
//! prometheus/client_model `io/prometheus/client/metrics.proto`.

use prometheus::proto as plain;
use prost::Message;

/// The media type, as Prometheus asks for it.
pub(super) const MEDIA_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// The buckets of a native histogram of schema 0, where bucket `i` ends at 2^i.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Native {
    /// Ends of the zero bucket: 2^`first - 1`.
    pub first: i32,
    /// Observations in the zero bucket.
    pub zero: u64,
    /// Observations in the buckets from `first` on.
    pub buckets: Vec<u64>,
}

/// A family as it goes over the wire; `native` gives a metric's native buckets by its place.
pub(super) fn append(
    to: &mut Vec<u8>,
    family: &plain::MetricFamily,
    native: impl Fn(usize) -> Option<Native>,
) -> Result<(), prost::EncodeError> {
    let metrics = family.get_metric().iter().enumerate();
    let family = MetricFamily {
        name: Some(family.name().to_owned()),
        help: Some(family.help().to_owned()),
        kind: Some(match family.get_field_type() {
            plain::MetricType::COUNTER => 0,
            plain::MetricType::GAUGE => 1,
            plain::MetricType::HISTOGRAM => 4,
            _ => 3,
        }),
        metric: metrics.map(|(place, m)| metric(family, m, native(place))).collect(),
    };
    family.encode_length_delimited(to)
}

fn metric(family: &plain::MetricFamily, metric: &plain::Metric, native: Option<Native>) -> Metric {
    let label = |pair: &plain::LabelPair| LabelPair {
        name: Some(pair.name().to_owned()),
        value: Some(pair.value().to_owned()),
    };
    let mut wire =
        Metric { label: metric.get_label().iter().map(label).collect(), ..Metric::default() };
    match family.get_field_type() {
        plain::MetricType::COUNTER => {
            wire.counter = Some(Value { value: Some(metric.get_counter().get_value()) });
        }
        plain::MetricType::HISTOGRAM => wire.histogram = Some(histogram(metric, native)),
        _ => wire.gauge = Some(Value { value: Some(metric.get_gauge().get_value()) }),
    }
    wire
}

fn histogram(metric: &plain::Metric, native: Option<Native>) -> Histogram {
    let classic = metric.get_histogram();
    let bucket = |bucket: &plain::Bucket| Bucket {
        cumulative_count: Some(bucket.cumulative_count()),
        upper_bound: Some(bucket.upper_bound()),
    };
    let mut wire = Histogram {
        sample_count: Some(classic.get_sample_count()),
        sample_sum: Some(classic.get_sample_sum()),
        bucket: classic.get_bucket().iter().map(bucket).collect(),
        ..Histogram::default()
    };
    let Some(Native { first, zero, buckets }) = native else { return wire };
    wire.schema = Some(0);
    wire.zero_threshold = Some(f64::from(first - 1).exp2());
    wire.zero_count = Some(zero);
    let begin = buckets.iter().position(|count| *count > 0);
    let end = buckets.iter().rposition(|count| *count > 0);
    if let (Some(begin), Some(end)) = (begin, end) {
        let span = &buckets[begin..=end];
        let (offset, length) = (first + begin as i32, span.len() as u32);
        wire.positive_span = vec![BucketSpan { offset: Some(offset), length: Some(length) }];
        let before = std::iter::once(&0).chain(span);
        wire.positive_delta =
            span.iter().zip(before).map(|(now, before)| *now as i64 - *before as i64).collect();
    }
    wire
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Value>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// A Gauge or a Counter, which are alike.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::families::Families;

    #[test]
    fn a_histogram_goes_over_the_wire_with_its_native_buckets() {
        let mut waits = [0; 32];
        (waits[0], waits[5], waits[7]) = (4, 10, 3);
        let mut families = Families::default();
        families.gauge("depth", "help", &[("a", "b")], 2.5);
        families.waits("waits", "help", &[], &waits, 3.0);
        let bytes = families.encode_protobuf().unwrap();
        let mut rest = bytes.as_slice();
        let gauge = MetricFamily::decode_length_delimited(&mut rest).unwrap();
        let waits = MetricFamily::decode_length_delimited(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(gauge.metric[0].gauge.as_ref().unwrap().value, Some(2.5));
        assert_eq!(gauge.metric[0].label[0].value.as_deref(), Some("b"));
        let histogram = waits.metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.sample_count, histogram.schema), (Some(17), Some(0)));
        // The first bucket ends at 2^-20 s, so the sixth is the one that ends at 2^-15.
        assert_eq!(histogram.zero_threshold, Some(2_f64.powi(-20)));
        assert_eq!(histogram.zero_count, Some(4));
        let span = BucketSpan { offset: Some(-15), length: Some(3) };
        assert_eq!(histogram.positive_span, [span]);
        assert_eq!(histogram.positive_delta, [10, -10, 3]);
    }
}
