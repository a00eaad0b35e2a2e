//! An alert as a message of RFC 5424, in a datagram (RFC 5426) or counted in a stream (RFC 6587, RFC 5425).
//!
//! Invariant: one alert is one message; what stands in it cannot end it or begin another.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;

use super::alert::{Alert, State};
use super::config::{Syslog, Transport};
use crate::failure::Failure;
use crate::http_client;

/// Facility 3, system daemons (RFC 5424, table 1).
const DAEMONS: u8 = 3 << 3;
/// Severities of table 2.
const CRITICAL: u8 = 2;
const NOTICE: u8 = 5;
/// Of RFC 5612: for those who have no number of their own.
const ENTERPRISE: &str = "32473";

pub(super) fn message(alert: &Alert, host: &str) -> String {
    let severity = match alert.state {
        State::Firing => CRITICAL,
        State::Resolved => NOTICE,
    };
    let kind = alert.matter.kind.name();
    let text: String =
        alert.text().chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    format!(
        "<{}>1 {} {host} culvert-agent - {kind} [culvert@{ENTERPRISE} state=\"{}\" subject=\"{}\" since=\"{}\"] {text}",
        DAEMONS | severity,
        rfc3339(alert.at),
        alert.state.name(),
        escaped(&alert.matter.subject),
        rfc3339(alert.since),
    )
}

/// At most six digits of a second (RFC 5424, 6.2.3).
fn rfc3339(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// A parameter's value (6.3.3), without what a reader of lines would stumble on.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '"' | '\\' | ']' => text.extend(['\\', letter]),
            letter if letter.is_control() => text.push(' '),
            letter => text.push(letter),
        }
    }
    text
}

/// Done when it was sent: this protocol has no answer.
pub(super) async fn send(syslog: &Syslog, alert: &Alert, host: &str) -> Result<(), Failure> {
    let message = message(alert, host);
    let server = &syslog.server;
    let failed = |error: io::Error| Failure::failed(format!("{}: {error}", server.authority));
    match syslog.transport {
        Transport::Udp => {
            let mut found =
                tokio::net::lookup_host((server.host.as_str(), server.port)).await.map_err(failed)?;
            let to = found.next().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await.map_err(failed)?;
            socket.send_to(message.as_bytes(), to).await.map(drop).map_err(failed)
        }
        Transport::Tcp | Transport::Tls => {
            let mut line = http_client::open(server).await?;
            let counted = format!("{} {message}", message.len());
            line.write_all(counted.as_bytes()).await.map_err(failed)?;
            line.shutdown().await.map_err(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::alert::{Kind, Matter};
    use super::*;

    fn alert(subject: &str, state: State) -> Alert {
        Alert {
            matter: Matter { kind: Kind::TunnelDown, subject: subject.into() },
            state,
            since: Timestamp::from_second(1_700_000_000).unwrap(),
            at: Timestamp::from_millisecond(1_700_000_030_250).unwrap(),
        }
    }

    #[test]
    fn the_form_is_that_of_the_document() {
        assert_eq!(
            message(&alert("services", State::Firing), "web1"),
            "<26>1 2023-11-14T22:13:50.250Z web1 culvert-agent - tunnel-down [culvert@32473 state=\"firing\" \
             subject=\"services\" since=\"2023-11-14T22:13:20.000Z\"] services: the tunnel's peer does not answer"
        );
        assert!(message(&alert("services", State::Resolved), "web1").starts_with("<29>1 "));
    }

    #[test]
    fn a_name_cannot_end_the_message_or_forge_a_part_of_it() {
        let said = message(&alert("a\"] x=\"\\\n<0>1 forged", State::Firing), "web1");
        assert!(!said.contains('\n'), "{said}");
        assert!(said.contains("subject=\"a\\\"\\] x=\\\"\\\\ <0>1 forged\""), "{said}");
    }
}
