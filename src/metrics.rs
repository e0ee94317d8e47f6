//! Every metric of the program, in one place. A metric's help text is its documentation.
//!
//! Labels come from closed sets: never a portal, a record, an event or a URL.

#![expect(
    clippy::doc_markdown,
    reason = "help texts are plain text, shown by Prometheus"
)]

use std::time::Duration;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Durations of requests and calls, from 1 ms to 30 s.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Time from a change to its delivery, from 10 ms to a day.
const LATENESS_SECONDS: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0,
    86_400.0,
];
/// How many things one call or message carries.
const SIZES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0,
];

macro_rules! metrics {
    ($(
        $(#[doc = $help:literal])+
        $field:ident: $kind:ident = $name:literal $([$($label:literal),+])? $(in $buckets:ident)?;
    )+) => {
        /// The program's metrics, registered in a registry of their own.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Metrics {
            /// A fresh set, all at zero.
            ///
            /// # Panics
            /// When two metrics share a name, which a test would have shown.
            #[must_use]
            pub fn new() -> Self {
                let registry = Registry::new();
                $(let $field = metrics!(@make $kind, $name,
                    concat!($($help),+).trim(), [$($($label),+)?] $(, $buckets)?);
                registry.register(Box::new($field.clone())).expect("metric names are unique");)+
                #[cfg(target_os = "linux")]
                registry
                    .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
                    .expect("metric names are unique");
                Self { registry, $($field,)+ }
            }
        }
    };
    (@make IntCounter, $name:literal, $help:expr, []) => {
        IntCounter::new($name, $help).expect("a valid metric")
    };
    (@make IntGauge, $name:literal, $help:expr, []) => {
        IntGauge::new($name, $help).expect("a valid metric")
    };
    (@make IntCounterVec, $name:literal, $help:expr, [$($label:literal),+]) => {
        IntCounterVec::new(Opts::new($name, $help), &[$($label),+]).expect("a valid metric")
    };
    (@make IntGaugeVec, $name:literal, $help:expr, [$($label:literal),+]) => {
        IntGaugeVec::new(Opts::new($name, $help), &[$($label),+]).expect("a valid metric")
    };
    (@make Histogram, $name:literal, $help:expr, [], $buckets:ident) => {
        Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec()))
            .expect("a valid metric")
    };
    (@make HistogramVec, $name:literal, $help:expr, [$($label:literal),+], $buckets:ident) => {
        HistogramVec::new(
            HistogramOpts::new($name, $help).buckets($buckets.to_vec()),
            &[$($label),+],
        )
        .expect("a valid metric")
    };
}

metrics! {
    /// Requests to the webhook endpoint by what came of them: accepted, unauthorized, not_an_array, too_large, incomplete, overloaded, unavailable.
    ingress_requests_total: IntCounterVec = "crm_relay_ingress_requests_total" ["outcome"];
    /// Requests whose signature was refused, by the check that failed.
    ingress_signature_failures_total: IntCounterVec = "crm_relay_ingress_signature_failures_total" ["reason"];
    /// Time from the last byte of a request to its answer.
    ingress_request_duration_seconds: Histogram = "crm_relay_ingress_request_duration_seconds" in SECONDS;
    /// Notifications in accepted requests.
    ingress_notifications_total: IntCounter = "crm_relay_ingress_notifications_total";

    /// Events made of notifications, by kind.
    normalize_events_total: IntCounterVec = "crm_relay_normalize_events_total" ["kind"];
    /// Notifications that could not be read and became dead letters.
    normalize_failures_total: IntCounter = "crm_relay_normalize_failures_total";

    /// Messages published, by target (partition, destination, dead_letters, topic) and verdict (confirmed, unroutable, rejected, too_large, unavailable, unknown).
    bus_publish_messages_total: IntCounterVec = "crm_relay_bus_publish_messages_total" ["target", "verdict"];
    /// Time from handing a batch to the bus to its last verdict.
    bus_publish_duration_seconds: Histogram = "crm_relay_bus_publish_duration_seconds" in SECONDS;
    /// 1 while the bus takes messages.
    bus_connected: IntGauge = "crm_relay_bus_connected";
    /// Sessions with the bus that were lost.
    bus_sessions_lost_total: IntCounter = "crm_relay_bus_sessions_lost_total";
    /// Deliveries taken from the bus.
    bus_deliveries_total: IntCounter = "crm_relay_bus_deliveries_total";
    /// Deliveries settled, by how.
    bus_settlements_total: IntCounterVec = "crm_relay_bus_settlements_total" ["settlement"];

    /// Calls to HubSpot's API, by endpoint and status class (2xx, 4xx, 429, 5xx, failed).
    hubspot_calls_total: IntCounterVec = "crm_relay_hubspot_calls_total" ["endpoint", "status"];
    /// Time of a call to HubSpot's API.
    hubspot_call_duration_seconds: HistogramVec = "crm_relay_hubspot_call_duration_seconds" ["endpoint"] in SECONDS;
    /// Records named in one batch read.
    hubspot_records_per_read: Histogram = "crm_relay_hubspot_records_per_read" in SIZES;

    /// Events by how they ended: delivered, unwanted, duplicate, dead, purged.
    enrich_events_total: IntCounterVec = "crm_relay_enrich_events_total" ["ending"];
    /// Events that wait for a read, an answer or a confirm.
    enrich_waiting_events: IntGauge = "crm_relay_enrich_waiting_events";
    /// Events merged into one enriched event.
    enrich_events_per_message: Histogram = "crm_relay_enrich_events_per_message" in SIZES;
    /// Enriched events made, by status.
    enrich_messages_total: IntCounterVec = "crm_relay_enrich_messages_total" ["status"];
    /// Portals with waiting events, by state: ready, waiting (for budget), backing_off, paused (token refused).
    enrich_portals: IntGaugeVec = "crm_relay_enrich_portals" ["state"];
    /// The smallest budget left of any portal seen in the last minute, by limit class (burst, daily, associations); -1 when none was learnt.
    enrich_budget_remaining: IntGaugeVec = "crm_relay_enrich_budget_remaining" ["limit"];

    /// Copies for destinations, by outcome: delivered, dead.
    fan_out_copies_total: IntCounterVec = "crm_relay_fan_out_copies_total" ["outcome"];
    /// Time from a change (`occurredAt`) to the confirmed delivery of its enriched event.
    fan_out_lateness_seconds: Histogram = "crm_relay_fan_out_lateness_seconds" in LATENESS_SECONDS;

    /// Dead letters published, by stage and reason.
    dead_letters_total: IntCounterVec = "crm_relay_dead_letters_total" ["stage", "reason"];
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("metric families encode into memory");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// A duration in Prometheus' base unit.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_named_after_the_program() {
        let metrics = Metrics::new();
        metrics
            .ingress_requests_total
            .with_label_values(&["accepted"])
            .inc();
        let text = metrics.encode();
        assert!(text.contains("crm_relay_ingress_requests_total{outcome=\"accepted\"} 1"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("crm_relay_") || line.starts_with("process_"),
                "{line}"
            );
        }
    }
}
