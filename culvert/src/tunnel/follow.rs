//! `culvert tunnel status --follow`: what happens to the tunnel, line by line, as wgd tells it.

use std::ops::ControlFlow;
use std::path::Path;

use daemon::admin::CallError;
use serde_json::{Value, json};

use super::table::{short, time};
use crate::console::{Console, printable};
use crate::failure::Failure;

const VERB: &str = "events";

/// Runs until wgd or the reader goes; Ctrl-C ends the program.
pub(crate) fn run(socket: &Path, interface: Option<&str>, console: Console) -> Result<(), Failure> {
    let mut failure = None;
    let mut said = false;
    let followed = daemon::admin::follow(socket, VERB, json!({}), |event| {
        let told = if event.is_null() {
            // Nothing happened; the first one says that we are heard.
            if !std::mem::replace(&mut said, true) {
                console.say("wgd tells what happens from now on; Ctrl-C ends this");
            }
            Ok(())
        } else if is_of(&event, interface) {
            console.report(&event, line)
        } else {
            Ok(())
        };
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    match followed {
        Ok(_) | Err(CallError::Broken(_)) => Err(Failure::cannot_tell("wgd has ended")),
        Err(error @ CallError::Refused(_)) => Err(Failure::failed(printable(&error.to_string()))),
        Err(error @ (CallError::Connect { .. } | CallError::Malformed(_))) => {
            Err(Failure::cannot_tell(printable(&error.to_string())))
        }
    }
}

fn is_of(event: &Value, interface: Option<&str>) -> bool {
    // An event of none concerns all.
    interface.is_none_or(|wanted| event["interface"].as_str().is_none_or(|its| its == wanted))
}

fn line(event: &Value) -> String {
    let at = event["at_unix_ms"]
        .as_i64()
        .map_or_else(String::new, |at| local_time(at, &jiff::tz::TimeZone::system()));
    if event["what"] == "missed" {
        return format!("({} events came faster than they were read)", event["count"]);
    }
    let text = |key: &str| event[key].as_str().map(printable).unwrap_or_default();
    let key = event["public_key"].as_str().unwrap_or_default();
    let peer = match event["peer"].as_str() {
        Some(name) if !name.is_empty() => printable(name),
        Some(_) | None => short(key),
    };
    format!("{at}  {}  {}", text("interface"), words(event, &peer))
}

fn words(event: &Value, peer: &str) -> String {
    let text = |key: &str| event[key].as_str().map(printable).unwrap_or_default();
    match event["what"].as_str().unwrap_or_default() {
        "up" => format!("{peer} is up"),
        "down" => format!("{peer} is DOWN"),
        "handshake" => match event["took_ms"].as_f64() {
            Some(milliseconds) => format!("{peer} handshake, begun here, took {}", time(milliseconds)),
            None => format!("{peer} handshake, begun there"),
        },
        "roamed" => format!("{peer} roamed from {} to {}", text("from"), text("to")),
        "key_changed" => match event["key"].as_str() {
            Some("own") => format!("our own key changed, to {}", text("public_key")),
            Some("preshared") => format!("{peer} pre-shared key changed"),
            Some(_) | None => format!("{peer} public key changed, to {}", text("public_key")),
        },
        other => format!("{peer} {}", printable(other)),
    }
}

/// `2026-11-21 03:04:05.678`, as the clock on the wall shows it.
fn local_time(unix_ms: i64, zone: &jiff::tz::TimeZone) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(at) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S.%3f").to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_words() {
        let told = |event: Value| words(&event, "web1");
        assert_eq!(told(json!({"what": "up"})), "web1 is up");
        assert_eq!(told(json!({"what": "down"})), "web1 is DOWN");
        let took = json!({"what": "handshake", "took_ms": 1.25});
        assert_eq!(told(took), "web1 handshake, begun here, took 1.25ms");
        assert_eq!(told(json!({"what": "handshake", "took_ms": null})), "web1 handshake, begun there");
        let roamed = json!({"what": "roamed", "from": "192.0.2.1:1", "to": "192.0.2.2:2"});
        assert_eq!(told(roamed), "web1 roamed from 192.0.2.1:1 to 192.0.2.2:2");
        let own = json!({"what": "key_changed", "key": "own", "public_key": "K="});
        assert_eq!(told(own), "our own key changed, to K=");
        assert_eq!(told(json!({"what": "key_changed", "key": "preshared"})), "web1 pre-shared key changed");
        assert_eq!(told(json!({"what": "a\u{1b}"})), "web1 a\u{fffd}", "of a newer wgd");
    }

    #[test]
    fn times_are_those_of_the_wall() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(local_time(1_000, &zone), "1970-01-01 02:00:01.000");
    }
}
