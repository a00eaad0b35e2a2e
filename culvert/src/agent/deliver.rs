//! Bringing alerts to those who are told, each by a task of its own.
//!
//! Invariant: one that does not answer delays nobody else; alerts reach each in their order, and one that was taken
//! leaves only when it was delivered. What does not fit any more is lost, and said to be.

use std::sync::Arc;
use std::time::Duration;

use daemon::secret::read_reference;
use http::HeaderValue;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::alert::Alert;
use super::config::{Config, Syslog};
use super::{syslog, webhook};
use crate::failure::Failure;

/// Alerts that wait for one who does not answer: what happens in days.
const WAITING_AT_MOST: usize = 256;
/// The pause after a try that was in vain doubles, up to a minute.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_AT_MOST: Duration = Duration::from_secs(60);
/// One try, the name's look-up and a slow answer included.
const TRY_AT_MOST: Duration = Duration::from_secs(30);

/// Somebody who is told.
pub(super) enum Sink {
    Webhook(webhook::Told),
    Syslog(Syslog),
}

/// All of them, with their tokens.
pub(super) fn sinks(config: &Config) -> anyhow::Result<Vec<Sink>> {
    let mut sinks = Vec::new();
    for (at, webhook) in config.webhooks.iter().enumerate() {
        let token = match &webhook.token_file {
            None => None,
            Some(reference) => {
                let wrong =
                    |error: &dyn std::fmt::Display| anyhow::anyhow!("webhook[{at}].token_file: {error}");
                let secret = read_reference(reference).map_err(|error| wrong(&error))?;
                let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
                    .map_err(|_| wrong(&"holds what no header can"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        sinks.push(Sink::Webhook(webhook::Told { webhook: webhook.clone(), token }));
    }
    sinks.extend(config.syslogs.iter().cloned().map(Sink::Syslog));
    Ok(sinks)
}

impl Sink {
    async fn send(&self, alert: &Alert, host: &str) -> Result<(), Failure> {
        match self {
            Sink::Webhook(told) => webhook::send(told, alert, host).await,
            Sink::Syslog(to) => syslog::send(to, alert, host).await,
        }
    }

    fn name(&self) -> &str {
        match self {
            Sink::Webhook(told) => &told.webhook.server.authority,
            Sink::Syslog(to) => &to.server.authority,
        }
    }
}

/// The way to all of them.
pub(super) struct Delivery {
    to: Vec<(String, Sender<Arc<Alert>>)>,
}

impl Delivery {
    /// Inside a runtime.
    pub(super) fn start(sinks: Vec<Sink>, host: &str) -> Delivery {
        let host: Arc<str> = host.into();
        let start = |sink: Sink| {
            let (sender, receiver) = mpsc::channel(WAITING_AT_MOST);
            let name = sink.name().to_owned();
            tokio::spawn(serve(sink, receiver, Arc::clone(&host)));
            (name, sender)
        };
        Delivery { to: sinks.into_iter().map(start).collect() }
    }

    /// Says it in the log, and has it brought to everybody.
    pub(super) fn tell(&self, alert: Alert) {
        let (kind, state) = (alert.matter.kind.name(), alert.state.name());
        tracing::warn!(alert = kind, state, subject = alert.matter.subject, "alert");
        let alert = Arc::new(alert);
        for (name, sender) in &self.to {
            if sender.try_send(Arc::clone(&alert)).is_err() {
                tracing::error!(alert = kind, state, to = name, "too many alerts wait; this one is not sent");
            }
        }
    }
}

async fn serve(sink: Sink, mut alerts: Receiver<Arc<Alert>>, host: Arc<str>) {
    while let Some(alert) = alerts.recv().await {
        let mut pause = PAUSE;
        loop {
            let failed = match tokio::time::timeout(TRY_AT_MOST, sink.send(&alert, &host)).await {
                Ok(Ok(())) => break,
                Ok(Err(failure)) => failure.message().to_owned(),
                Err(_) => format!("no answer within {} s", TRY_AT_MOST.as_secs()),
            };
            tracing::warn!(
                to = sink.name(),
                error = failed,
                again_s = pause.as_secs(),
                "alert not delivered"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_AT_MOST);
        }
    }
}
