//! edge's metrics. Labels come only from closed enums: no path, name, user, cohort or address.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::gate::By;
use crate::refusal::Reason;
use crate::tls::Tls;

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// `PUT` of a file.
    Upload,
    /// `GET` or `HEAD` of a file.
    Download,
    /// A listing.
    List,
    /// Nothing that exists.
    Other,
}

impl Handler {
    const ALL: [Handler; 4] = [Handler::Upload, Handler::Download, Handler::List, Handler::Other];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Handler::Upload => "upload",
            Handler::Download => "download",
            Handler::List => "list",
            Handler::Other => "other",
        }
    }
}

/// Which side ended a transfer early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client went away, paused too long or sent too much.
    Client,
    /// storaged or the tunnel.
    Upstream,
}

impl Side {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Upstream => "upstream",
        }
    }
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The connection is encrypted.
    Done,
    /// No version, cipher or protocol in common, or no TLS at all.
    Failed,
    /// The client took longer than a head may take.
    TimedOut,
}

impl Handshake {
    const ALL: [Handshake; 3] = [Handshake::Done, Handshake::Failed, Handshake::TimedOut];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Handshake::Done => "done",
            Handshake::Failed => "failed",
            Handshake::TimedOut => "timeout",
        }
    }
}

/// Why a client's connection was closed, not its request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its address has as many as it may have.
    Address,
    /// A balancer that did not say whose connection it is.
    Proxy,
    /// HTTP/2 frames that carry nothing, too many of them.
    Flood,
}

impl Closed {
    const ALL: [Closed; 3] = [Closed::Address, Closed::Proxy, Closed::Flood];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Closed::Address => "address",
            Closed::Proxy => "proxy",
            Closed::Flood => "flood",
        }
    }
}

/// Why a connection to storaged, or a request on it, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// It could not be opened.
    Connect,
    /// It broke.
    Broken,
    /// An answer took too long.
    Timeout,
    /// An answer could not be understood.
    Answer,
    /// It was another store's to answer.
    Misdirected,
}

impl UpstreamFailure {
    const ALL: [UpstreamFailure; 5] = [
        UpstreamFailure::Connect,
        UpstreamFailure::Broken,
        UpstreamFailure::Timeout,
        UpstreamFailure::Answer,
        UpstreamFailure::Misdirected,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            UpstreamFailure::Connect => "connect",
            UpstreamFailure::Broken => "broken",
            UpstreamFailure::Timeout => "timeout",
            UpstreamFailure::Answer => "answer",
            UpstreamFailure::Misdirected => "misdirected",
        }
    }
}

/// The methods that are labels; all others are `other`.
pub fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Everything that is counted.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each metric's help text, below, says what it is")]
pub struct Metrics {
    pub requests: IntCounterVec,
    pub request_duration: HistogramVec,
    pub time_to_first_byte: Histogram,
    pub requests_in_flight: IntGaugeVec,
    pub request_body_bytes: IntCounter,
    pub response_body_bytes: IntCounter,
    pub rejected: IntCounterVec,
    pub connections_active: IntGauge,
    pub connections_accepted: IntCounter,
    pub connections_closed: IntCounterVec,
    pub lockouts: IntCounterVec,
    pub rate_limited: IntCounterVec,
    pub tls_handshakes: IntCounterVec,
    pub tls_not_after: IntGauge,
    pub upstream_up: IntGaugeVec,
    pub upstream_request_duration: HistogramVec,
    pub upstream_connections: IntGaugeVec,
    pub upstream_failures: IntCounterVec,
    pub upload_aborted: IntCounterVec,
    pub buffered_bytes: IntGauge,
    pub draining: IntGauge,
    pub log_records: IntGaugeVec,
    pub log_refused: IntGaugeVec,
    pub log_faults: IntCounterVec,
    pub reload_successful: IntGauge,
    pub reload_success_timestamp: IntGauge,
}

const DURATIONS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

impl Metrics {
    /// Makes all metrics and registers them.
    pub fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let buckets = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(DURATIONS.to_vec());
        let metrics = Metrics {
            requests: IntCounterVec::new(
                Opts::new("edge_http_requests_total", "Requests answered."),
                &["handler", "method", "code"],
            )?,
            request_duration: HistogramVec::new(
                buckets(
                    "edge_http_request_duration_seconds",
                    "From a request's head to its answer's last byte.",
                ),
                &["handler", "method"],
            )?,
            time_to_first_byte: Histogram::with_opts(buckets(
                "edge_http_time_to_first_byte_seconds",
                "From a request's head to its answer's head.",
            ))?,
            requests_in_flight: IntGaugeVec::new(
                Opts::new("edge_http_requests_in_flight", "Requests under way."),
                &["handler"],
            )?,
            request_body_bytes: IntCounter::new(
                "edge_http_request_body_bytes_total",
                "Body bytes passed on to storaged.",
            )?,
            response_body_bytes: IntCounter::new(
                "edge_http_response_body_bytes_total",
                "Body bytes passed on to clients.",
            )?,
            rejected: IntCounterVec::new(
                Opts::new("edge_http_requests_rejected_total", "Requests refused, by reason."),
                &["reason"],
            )?,
            connections_active: IntGauge::new("edge_connections_active", "Client connections open.")?,
            connections_accepted: IntCounter::new(
                "edge_connections_accepted_total",
                "Client connections accepted.",
            )?,
            connections_closed: IntCounterVec::new(
                Opts::new("edge_connections_closed_total", "Client connections closed for what they did."),
                &["reason"],
            )?,
            lockouts: IntCounterVec::new(
                Opts::new("edge_lockouts_total", "Lock-outs after failed attempts."),
                &["by"],
            )?,
            rate_limited: IntCounterVec::new(
                Opts::new("edge_rate_limited_total", "Requests refused for coming too fast."),
                &["by"],
            )?,
            tls_handshakes: IntCounterVec::new(
                Opts::new("edge_tls_handshakes_total", "TLS handshakes, by how they ended."),
                &["result"],
            )?,
            tls_not_after: IntGauge::new(
                "edge_tls_certificate_not_after_timestamp_seconds",
                "When the certificate in use, or one of its chain, runs out; 0 on a plain listener.",
            )?,
            upstream_up: IntGaugeVec::new(
                Opts::new("edge_upstream_up", "Whether a storaged is reachable (its circuit is closed)."),
                &["upstream"],
            )?,
            upstream_request_duration: HistogramVec::new(
                buckets(
                    "edge_upstream_request_duration_seconds",
                    "From a request to storaged to its answer's head; an upload's body in between counts.",
                ),
                &["upstream"],
            )?,
            upstream_connections: IntGaugeVec::new(
                Opts::new("edge_upstream_connections", "Connections to storaged."),
                &["upstream", "state"],
            )?,
            upstream_failures: IntCounterVec::new(
                Opts::new("edge_upstream_failures_total", "Requests to storaged that came to nothing."),
                &["upstream", "reason"],
            )?,
            upload_aborted: IntCounterVec::new(
                Opts::new(
                    "edge_upload_aborted_total",
                    "Uploads that ended early, by the side that ended them.",
                ),
                &["side"],
            )?,
            buffered_bytes: IntGauge::new(
                "edge_buffered_bytes",
                "Body bytes taken from one side and not yet released by the other; without read buffers and the kernel's.",
            )?,
            draining: IntGauge::new("edge_draining", "Whether edge is stopping.")?,
            log_records: IntGaugeVec::new(
                Opts::new(
                    "edge_log_records",
                    "Records in the highest checkpoint of storaged's log that was seen.",
                ),
                &["upstream"],
            )?,
            log_refused: IntGaugeVec::new(
                Opts::new(
                    "edge_log_refused",
                    "Whether uploads are refused because storaged's log is not the continuation of what was seen.",
                ),
                &["upstream"],
            )?,
            log_faults: IntCounterVec::new(
                Opts::new("edge_log_faults_total", "Looks at storaged's log that found another history."),
                &["reason"],
            )?,
            reload_successful: IntGauge::new(
                "edge_config_last_reload_successful",
                "Whether the last reload (or the start) took the configuration.",
            )?,
            reload_success_timestamp: IntGauge::new(
                "edge_config_last_reload_success_timestamp_seconds",
                "When a configuration was last taken.",
            )?,
        };
        metrics.register(registry)?;
        metrics.initialise();
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let local_payload = IntGauge::new(
            "edge_local_payload_bytes",
            "Payload on this machine's file systems: 0, for the process can write to no file.",
        )?;
        let all: [Box<dyn Collector>; 27] = [
            Box::new(self.requests.clone()),
            Box::new(self.request_duration.clone()),
            Box::new(self.time_to_first_byte.clone()),
            Box::new(self.requests_in_flight.clone()),
            Box::new(self.request_body_bytes.clone()),
            Box::new(self.response_body_bytes.clone()),
            Box::new(self.rejected.clone()),
            Box::new(self.connections_active.clone()),
            Box::new(self.connections_accepted.clone()),
            Box::new(self.connections_closed.clone()),
            Box::new(self.lockouts.clone()),
            Box::new(self.rate_limited.clone()),
            Box::new(self.tls_handshakes.clone()),
            Box::new(self.tls_not_after.clone()),
            Box::new(self.upstream_up.clone()),
            Box::new(self.upstream_request_duration.clone()),
            Box::new(self.upstream_connections.clone()),
            Box::new(self.upstream_failures.clone()),
            Box::new(self.upload_aborted.clone()),
            Box::new(self.buffered_bytes.clone()),
            Box::new(self.draining.clone()),
            Box::new(self.log_records.clone()),
            Box::new(self.log_refused.clone()),
            Box::new(self.log_faults.clone()),
            Box::new(self.reload_successful.clone()),
            Box::new(self.reload_success_timestamp.clone()),
            Box::new(local_payload),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// Label sets exist from the start, so that a rate over the first event is seen.
    fn initialise(&self) {
        for reason in Reason::ALL {
            self.rejected.with_label_values(&[reason.label()]);
        }
        for handshake in Handshake::ALL {
            self.tls_handshakes.with_label_values(&[handshake.label()]);
        }
        for by in By::ALL {
            self.lockouts.with_label_values(&[by.label()]);
            self.rate_limited.with_label_values(&[by.label()]);
        }
        for closed in Closed::ALL {
            self.connections_closed.with_label_values(&[closed.label()]);
        }
        for handler in Handler::ALL {
            self.requests_in_flight.with_label_values(&[handler.label()]);
        }
        for label in crate::witness::Fault::LABELS {
            self.log_faults.with_label_values(&[label]);
        }
        for side in [Side::Client, Side::Upstream] {
            self.upload_aborted.with_label_values(&[side.label()]);
        }
    }

    /// A client's connection was closed for what it did.
    pub fn closed(&self, why: Closed) {
        self.connections_closed.with_label_values(&[why.label()]).inc();
    }

    /// A handshake ended.
    pub fn handshake(&self, how: Handshake) {
        self.tls_handshakes.with_label_values(&[how.label()]).inc();
    }

    /// From now on connections get this certificate.
    pub fn certificate_in_use(&self, tls: Option<&Tls>) {
        self.tls_not_after.set(tls.map_or(0, |tls| i64::try_from(tls.not_after_s).unwrap_or(i64::MAX)));
    }

    /// Those of one storaged.
    pub fn of_upstream(&self, name: &str) -> UpstreamMetrics {
        let failures = UpstreamFailure::ALL
            .map(|failure| self.upstream_failures.with_label_values(&[name, failure.label()]));
        UpstreamMetrics {
            up: self.upstream_up.with_label_values(&[name]),
            request_duration: self.upstream_request_duration.with_label_values(&[name]),
            idle: self.upstream_connections.with_label_values(&[name, "idle"]),
            busy: self.upstream_connections.with_label_values(&[name, "busy"]),
            failures,
        }
    }
}

/// What is counted of one storaged; it exists from the start, so that a rate over the first event is seen.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// Whether its circuit is closed.
    pub up: IntGauge,
    /// From a request to the head of its answer.
    pub request_duration: Histogram,
    /// Connections in the pool.
    pub idle: IntGauge,
    /// Connections in use.
    pub busy: IntGauge,
    failures: [IntCounter; UpstreamFailure::ALL.len()],
}

impl UpstreamMetrics {
    /// Counts a failure.
    pub fn failed(&self, failure: UpstreamFailure) {
        let counted = UpstreamFailure::ALL.iter().zip(&self.failures).find(|(known, _)| **known == failure);
        if let Some((_, counter)) = counted {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_once_and_is_named_after_the_daemon() {
        let registry = Registry::new();
        Metrics::new(&registry).unwrap();
        let families = registry.gather();
        assert!(families.len() >= 12);
        assert!(families.iter().all(|family| family.name().starts_with("edge_")));
    }

    #[test]
    fn every_metric_is_documented() {
        use crate::documented;
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        // These two have no series before the first request.
        metrics.requests.with_label_values(&["upload", "PUT", "201"]).inc();
        metrics.request_duration.with_label_values(&["upload", "PUT"]).observe(1.0);
        metrics.of_upstream("services");
        metrics.log_records.with_label_values(&["services"]);
        metrics.log_refused.with_label_values(&["services"]);
        let names = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        documented::compare(documented::table(documented::section("edge"), "metric"), names);
    }
}
