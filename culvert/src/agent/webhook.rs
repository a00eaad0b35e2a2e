//! An alert as one POST of a small JSON object.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use super::alert::Alert;
use super::config::Webhook;
use crate::failure::Failure;
use crate::http_client;

/// The form of the object; another one has another number.
const VERSION: u8 = 1;

/// Who is told, and the token that is shown, read before the seal.
pub(super) struct Told {
    pub(super) webhook: Webhook,
    pub(super) token: Option<HeaderValue>,
}

pub(super) fn body(alert: &Alert, host: &str) -> String {
    json!({
        "version": VERSION,
        "alert": alert.matter.kind.name(),
        "state": alert.state.name(),
        "host": host,
        "subject": alert.matter.subject,
        "since": alert.since.to_string(),
        "at": alert.at.to_string(),
        "text": alert.text(),
    })
    .to_string()
}

/// Done when the server says so; anything else is tried again.
pub(super) async fn send(told: &Told, alert: &Alert, host: &str) -> Result<(), Failure> {
    let server = &told.webhook.server;
    let path = if server.base_path.is_empty() { "/" } else { &server.base_path };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, &server.authority)
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = &told.token {
        request = request.header(AUTHORIZATION, token);
    }
    let content = Full::new(Bytes::from(body(alert, host))).map_err(|never| match never {});
    let request = request.body(content).map_err(|error| Failure::usage(error.to_string()))?;
    let response = http_client::send(server, request).await?;
    if response.status().is_success() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} answers {}", server.authority, response.status())))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::Value;

    use super::super::alert::{Kind, Matter, State};
    use super::*;

    #[test]
    fn a_program_can_read_it_and_so_can_a_person() {
        let alert = Alert {
            matter: Matter { kind: Kind::TunnelDown, subject: "services".into() },
            state: State::Firing,
            since: Timestamp::from_second(1_700_000_000).unwrap(),
            at: Timestamp::from_second(1_700_000_030).unwrap(),
        };
        let told: Value = serde_json::from_str(&body(&alert, "web1")).unwrap();
        assert_eq!(
            told,
            json!({
                "version": 1, "alert": "tunnel-down", "state": "firing", "host": "web1", "subject": "services",
                "since": "2023-11-14T22:13:20Z", "at": "2023-11-14T22:13:50Z",
                "text": "services: the tunnel's peer does not answer",
            })
        );
    }
}
