//! The book-keeping of one request: ends with the last byte of its answer.

use std::time::Instant;

use daemon::Clock;
use http::StatusCode;
use prometheus::Histogram;
use store_proto::RequestId;
use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::{Handler, Metrics};
use crate::recent::Recent;

/// Dropped with the answer's body; counts, logs, and frees the request's place.
#[derive(Debug)]
pub struct Track {
    handler: Handler,
    method: &'static str,
    started: Instant,
    status: Option<StatusCode>,
    request_id: RequestId,
    recent: Recent,
    metrics: Metrics,
    time_to_first_byte: Histogram,
    _place: Option<OwnedSemaphorePermit>,
}

impl Track {
    /// Starts counting.
    pub fn new(
        metrics: &Metrics,
        recent: &Recent,
        handler: Handler,
        method: &'static str,
        started: Instant,
        request_id: &RequestId,
        place: Option<OwnedSemaphorePermit>,
    ) -> Track {
        metrics.requests_in_flight.with_label_values(&[handler.label()]).inc();
        recent.begin(request_id, handler.label(), method, Clock.unix_milliseconds());
        Track {
            handler,
            method,
            started,
            status: None,
            request_id: request_id.clone(),
            recent: recent.clone(),
            metrics: metrics.clone(),
            time_to_first_byte: metrics.time_to_first_byte.clone(),
            _place: place,
        }
    }

    /// The answer's head is on its way.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.recent.answered(&self.request_id, status);
        self.time_to_first_byte.observe(self.elapsed_seconds());
    }

    fn elapsed_seconds(&self) -> f64 {
        Clock.now().saturating_duration_since(self.started).as_secs_f64()
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        let (handler, method) = (self.handler.label(), self.method);
        self.metrics.requests_in_flight.with_label_values(&[handler]).dec();
        // 499, as others count it: the client went away before there was an answer.
        let code = self.status.map_or(499, |status| status.as_u16());
        self.metrics.requests.with_label_values(&[handler, method, &code.to_string()]).inc();
        let seconds = self.elapsed_seconds();
        self.recent.end(&self.request_id, seconds);
        self.metrics.request_duration.with_label_values(&[handler, method]).observe(seconds);
        tracing::info!(request = %self.request_id, handler, method, code, elapsed_seconds = seconds, "request");
    }
}
