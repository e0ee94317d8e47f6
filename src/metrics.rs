//! Every metric of the program, in one place. A metric's help text is its documentation.
//!
//! Labels come from closed sets: never a portal, a record, an event or a URL.

use std::time::Duration;

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
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
        $field:ident: $kind:ident = $name:literal
            $([$($label:literal $(: $($value:literal)|+)?),+])? $(in $buckets:ident)?;
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
                registry.register(Box::new($field.clone())).expect("metric names are unique");
                $(let values: &[&[&str]] = &[$(&[$($($value),+)?]),+];
                for labels in combinations(values) {
                    $field.with_label_values(&labels);
                })?)+
                #[cfg(target_os = "linux")]
                registry
                    .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
                    .expect("metric names are unique");
                let metrics = Self { registry, $($field,)+ };
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                metrics.enrich_daily_budget_lasts_seconds.set(f64::INFINITY);
                metrics
            }
        }
    };
    (@make IntCounter, $name:literal, $help:expr, []) => {
        IntCounter::new($name, $help).expect("a valid metric")
    };
    (@make IntGauge, $name:literal, $help:expr, []) => {
        IntGauge::new($name, $help).expect("a valid metric")
    };
    (@make GaugeVec, $name:literal, $help:expr, [$($label:literal),+]) => {
        GaugeVec::new(Opts::new($name, $help), &[$($label),+]).expect("a valid metric")
    };
    (@make Gauge, $name:literal, $help:expr, []) => {
        Gauge::new($name, $help).expect("a valid metric")
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
    /// 1, by the version that runs.
    build_info: IntGaugeVec = "crm_relay_build_info" ["version"];

    /// Requests to the webhook endpoint by what came of them; `unknown_path` are those that bear a signature, and strangers' do not
    /// count.
    ingress_requests_total: IntCounterVec = "crm_relay_ingress_requests_total" ["outcome":
        "accepted" | "not_an_array" | "unknown_path" | "unauthorized" | "too_large" | "incomplete" | "overloaded"
        | "unavailable"];
    /// Requests whose signature was refused, by the check that failed.
    ingress_signature_failures_total: IntCounterVec = "crm_relay_ingress_signature_failures_total" ["reason":
        "missing" | "duplicated" | "malformed" | "unknown_version" | "timestamp_missing" | "timestamp_not_a_number"
        | "stale" | "from_the_future" | "not_enabled" | "unknown_url" | "mismatch"];
    /// Time from the last byte of a request to its answer.
    ingress_request_duration_seconds: Histogram = "crm_relay_ingress_request_duration_seconds" in SECONDS;
    /// Notifications in accepted requests.
    ingress_notifications_total: IntCounter = "crm_relay_ingress_notifications_total";

    /// Events made of notifications, by kind.
    normalize_events_total: IntCounterVec = "crm_relay_normalize_events_total" ["kind":
        "created" | "deleted" | "privacy_deleted" | "merged" | "restored" | "property_changed"
        | "association_added" | "association_removed" | "new_message" | "unknown"];
    /// Notifications that could not be read and became dead letters.
    normalize_failures_total: IntCounter = "crm_relay_normalize_failures_total";

    /// Messages published, by target and verdict.
    bus_publish_messages_total: IntCounterVec = "crm_relay_bus_publish_messages_total" [
        "target": "partition" | "backlog" | "changelog" | "destination" | "dead_letters" | "erasures" | "topic",
        "verdict": "confirmed" | "unroutable" | "rejected" | "too_large" | "unavailable" | "unknown"];
    /// Time from handing a batch to the bus to its last verdict.
    bus_publish_duration_seconds: Histogram = "crm_relay_bus_publish_duration_seconds" in SECONDS;
    /// 1 while the bus takes messages.
    bus_connected: IntGauge = "crm_relay_bus_connected";
    /// Sessions with the bus that were lost.
    bus_sessions_lost_total: IntCounter = "crm_relay_bus_sessions_lost_total";
    /// Deliveries taken from the bus.
    bus_deliveries_total: IntCounter = "crm_relay_bus_deliveries_total";
    /// Deliveries settled, by how.
    bus_settlements_total: IntCounterVec = "crm_relay_bus_settlements_total" ["settlement": "ack" | "hand_back" | "fail"];
    /// Messages in our queues that no consumer has taken yet (the embedded bus: has not settled yet): intake and backlog (of all partitions), dead.letters, destination.NAME. Every process on the bus tells the same, every 15 s.
    bus_queue_messages: IntGaugeVec = "crm_relay_bus_queue_messages" ["queue"];

    /// Messages that wait in the receiver's spool for the broker.
    spool_messages: IntGauge = "crm_relay_spool_messages";
    /// The size of the spool's files, damaged ones that are kept included.
    spool_bytes: IntGauge = "crm_relay_spool_bytes";
    /// `spool.bytes_max`; 0 without a spool.
    spool_bytes_max: IntGauge = "crm_relay_spool_bytes_max";
    /// How long the oldest message in the spool has waited; 0 when there is none.
    spool_oldest_seconds: Gauge = "crm_relay_spool_oldest_seconds";
    /// Messages stored in the spool.
    spool_stored_total: IntCounter = "crm_relay_spool_stored_total";
    /// Messages from the spool that the broker confirmed.
    spool_drained_total: IntCounter = "crm_relay_spool_drained_total";
    /// What could not be read in the spool: messages that are lost, and ends of files that a crash cut off.
    spool_damaged_total: IntCounterVec = "crm_relay_spool_damaged_total" ["what": "message" | "end"];

    /// Partitions that this worker consumes. The sum over all workers is `bus.partitions`.
    worker_partitions: IntGauge = "crm_relay_worker_partitions";

    /// Calls to HubSpot's API, by endpoint and status class; 4xx without 429, failed without a whole answer.
    hubspot_calls_total: IntCounterVec = "crm_relay_hubspot_calls_total" [
        "endpoint": "objects_batch_read" | "object" | "associations_batch_read" | "owners" | "owner" | "properties" | "pipelines" | "association_labels" | "schemas" |
            "file" | "file_signed_url" | "conversation_thread" | "conversation_message" | "conversation_actors",
        "status": "2xx" | "4xx" | "429" | "5xx" | "failed"];
    /// Time of a call to HubSpot's API.
    hubspot_call_duration_seconds: HistogramVec = "crm_relay_hubspot_call_duration_seconds" ["endpoint":
        "objects_batch_read" | "object" | "associations_batch_read" | "owners" | "owner" | "properties" | "pipelines" | "association_labels" | "schemas" |
            "file" | "file_signed_url" | "conversation_thread" | "conversation_message" | "conversation_actors"] in SECONDS;
    /// Requests for an access token by a refresh token, by outcome; failed means that trying again may help.
    hubspot_token_refreshes_total: IntCounterVec = "crm_relay_hubspot_token_refreshes_total" ["outcome":
        "renewed" | "bad_refresh_token" | "wrong_client" | "foreign_portal" | "refused" | "failed"];
    /// Portals that are configured, by state as this process knows it: ready, paused by its own setting, refused (HubSpot refuses the access token), parked (HubSpot gives none until somebody acts), unreadable (its file cannot be used, and never could since the start).
    portals: IntGaugeVec = "crm_relay_portals" ["state": "ready" | "paused" | "refused" | "parked" | "unreadable"];
    /// Files of portals.folder that cannot be read, parsed or unsealed; the portal's last good state stays.
    portals_unreadable_files: IntGauge = "crm_relay_portals_unreadable_files";
    /// Records named in one batch read.
    hubspot_records_per_read: Histogram = "crm_relay_hubspot_records_per_read" in SIZES;

    /// Events by how they ended.
    enrich_events_total: IntCounterVec = "crm_relay_enrich_events_total" ["ending":
        "delivered" | "unwanted" | "duplicate" | "dead" | "purged"];
    /// Events that wait for a read, an answer or a confirm.
    enrich_waiting_events: IntGauge = "crm_relay_enrich_waiting_events";
    /// Time since the receiver had the oldest event that the worker has taken and that has not ended, but for what waits until its portal can be asked; 0 when there is none.
    enrich_oldest_waiting_seconds: Gauge = "crm_relay_enrich_oldest_waiting_seconds";
    /// What is remembered of the past, by which a repeat is recognised and versions rise: of events, and of records.
    enrich_remembered: IntGaugeVec = "crm_relay_enrich_remembered" ["of": "events" | "records"];
    /// Events merged into one enriched event.
    enrich_events_per_message: Histogram = "crm_relay_enrich_events_per_message" in SIZES;
    /// Enriched events made, by status.
    enrich_messages_total: IntCounterVec = "crm_relay_enrich_messages_total" ["status":
        "complete" | "partial" | "stale" | "missing" | "forbidden" | "not_read"];
    /// Batches moved to the backlog of their partition, where their portal holds up no other.
    enrich_set_aside_batches_total: IntCounter = "crm_relay_enrich_set_aside_batches_total";
    /// Portals with waiting events, by state; waiting means for budget, and paused ones without: its token is refused, there is none, or its own setting says so.
    enrich_portals: IntGaugeVec = "crm_relay_enrich_portals" ["state": "ready" | "waiting" | "backing_off" | "paused"];
    /// The fewest calls left to any portal, by limit (burst, associations, daily); -1 when none was learnt.
    enrich_budget_remaining: IntGaugeVec = "crm_relay_enrich_budget_remaining" ["limit"];
    /// The smallest share of a limit left to any portal, from 0 to 1, by limit (burst, associations, daily); -1 when none was learnt.
    enrich_budget_remaining_ratio: GaugeVec = "crm_relay_enrich_budget_remaining_ratio" ["limit"];
    /// How long today's calls of the portal that runs out first last at the pace of the last hour; +Inf when every
    /// portal's last until HubSpot resets them.
    enrich_daily_budget_lasts_seconds: Gauge = "crm_relay_enrich_daily_budget_lasts_seconds";

    /// Copies for destinations, by outcome.
    fan_out_copies_total: IntCounterVec = "crm_relay_fan_out_copies_total" ["outcome": "delivered" | "dead"];
    /// Time from a change (`occurredAt`) to the confirmed delivery of its enriched event.
    fan_out_lateness_seconds: Histogram = "crm_relay_fan_out_lateness_seconds" in LATENESS_SECONDS;

    /// How long the oldest erased record that this worker was told of has waited for the dead letters to be searched for it, as of the last search's beginning or end; 0 when none waits.
    erasures_oldest_seconds: Gauge = "crm_relay_erasures_oldest_seconds";
    /// Dead letters that an erased record was taken out of: gone as a whole, or cut, which leaves the other events.
    dead_letters_purged_total: IntCounterVec = "crm_relay_dead_letters_purged_total" ["outcome": "gone" | "cut"];
    /// Dead letters that were replayed, by an operator or because a destination had room again.
    dead_letters_replayed_total: IntCounterVec = "crm_relay_dead_letters_replayed_total" ["reason":
        "not_an_array" | "unreadable" | "refused_by_hubspot" | "killed_worker" | "unknown_portal" | "destination_full"
            | "destination_unavailable" | "too_large" | "delivery_limit" | "foreign"];
    /// Dead letters that an operator discarded.
    dead_letters_discarded_total: IntCounterVec = "crm_relay_dead_letters_discarded_total" ["reason":
        "not_an_array" | "unreadable" | "refused_by_hubspot" | "killed_worker" | "unknown_portal" | "destination_full"
            | "destination_unavailable" | "too_large" | "delivery_limit" | "foreign"];
    /// Dead letters published, by stage and reason.
    dead_letters_total: IntCounterVec = "crm_relay_dead_letters_total" [
        "stage": "ingress" | "normalize" | "consume" | "enrich" | "fan_out",
        "reason": "not_an_array" | "unreadable" | "refused_by_hubspot" | "killed_worker" | "unknown_portal"
            | "destination_full" | "destination_unavailable" | "too_large" | "delivery_limit"];
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

/// Every combination of one value per label; none where a label's values are not known beforehand.
///
/// A counter that is born with its first event hides it: `increase()` sees no step. So what can be counted is
/// there from the start, at 0.
fn combinations(values: &[&[&'static str]]) -> Vec<Vec<&'static str>> {
    let begin = vec![Vec::new()];
    values.iter().fold(begin, |known, values| {
        let longer = |labels: &Vec<_>| {
            let labels = labels.clone();
            values
                .iter()
                .map(move |value| [&labels[..], &[*value]].concat())
        };
        known.iter().flat_map(longer).collect()
    })
}

/// A duration in Prometheus' base unit.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use crate::bus::PublishError;
    use crate::enrich::Ending;
    use crate::event::{DeadLetterReason, EnrichmentStatus, Stage};

    use super::*;

    #[test]
    fn every_metric_is_named_after_the_program() {
        let text = Metrics::new().encode();
        assert!(text.contains("crm_relay_build_info{version="));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("crm_relay_") || line.starts_with("process_"),
                "{line}"
            );
        }
    }

    #[test]
    fn whatever_can_be_counted_is_there_from_the_start() {
        let text = Metrics::new().encode();
        let there = |series: String| assert!(text.contains(&format!("\n{series} 0\n")), "{series}");
        for stage in [
            Stage::Ingress,
            Stage::Normalize,
            Stage::Consume,
            Stage::Enrich,
            Stage::FanOut,
        ] {
            for reason in [
                DeadLetterReason::NotAnArray,
                DeadLetterReason::Unreadable,
                DeadLetterReason::RefusedByHubspot,
                DeadLetterReason::KilledWorker,
                DeadLetterReason::UnknownPortal,
                DeadLetterReason::DestinationFull,
                DeadLetterReason::DestinationUnavailable,
                DeadLetterReason::TooLarge,
            ] {
                let (stage, reason) = (stage.as_str(), reason.as_str());
                there(format!(
                    "crm_relay_dead_letters_total{{reason=\"{reason}\",stage=\"{stage}\"}}"
                ));
            }
        }
        for ending in [
            Ending::Delivered,
            Ending::Unwanted,
            Ending::Duplicate,
            Ending::Dead,
            Ending::Purged,
        ] {
            let ending = ending.as_str();
            there(format!(
                "crm_relay_enrich_events_total{{ending=\"{ending}\"}}"
            ));
        }
        for status in [
            EnrichmentStatus::Complete,
            EnrichmentStatus::Partial,
            EnrichmentStatus::Stale,
            EnrichmentStatus::Missing,
            EnrichmentStatus::Forbidden,
            EnrichmentStatus::NotRead,
        ] {
            let status = status.as_str();
            there(format!(
                "crm_relay_enrich_messages_total{{status=\"{status}\"}}"
            ));
        }
        for error in [
            PublishError::Unroutable,
            PublishError::Rejected,
            PublishError::TooLarge,
            PublishError::Unavailable,
            PublishError::Unknown,
        ] {
            let verdict = error.as_str();
            there(format!(
                "crm_relay_bus_publish_messages_total{{target=\"partition\",verdict=\"{verdict}\"}}"
            ));
        }
    }

    #[test]
    fn labels_without_known_values_make_no_series() {
        assert_eq!(
            combinations(&[&["a", "b"], &["c"]]),
            [["a", "c"], ["b", "c"]]
        );
        assert!(combinations(&[&["a"], &[]]).is_empty());
    }
}
