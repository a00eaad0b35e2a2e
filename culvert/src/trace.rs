//! `culvert trace`: what the daemons on this machine know of one request.
//!
//! Invariant: a daemon that is not here, or does not answer, hides nothing of what the others know.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use store_proto::RequestId;

use crate::admin;
use crate::console::{Console, human_bytes, printable};
use crate::failure::{Exit, Failure};

const DAY_MS: u64 = 86_400_000;

#[derive(Debug, Args)]
pub(crate) struct TraceArguments {
    /// The request's id
    #[arg(value_name = "REQUEST_ID", value_parser = parse_request)]
    request: RequestId,
    /// edge's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/edge.sock")]
    edge_socket: PathBuf,
    /// wgd's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/wgd.sock")]
    wgd_socket: PathBuf,
    /// storaged's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/storaged.sock")]
    storaged_socket: PathBuf,
}

fn parse_request(text: &str) -> Result<RequestId, String> {
    RequestId::parse(text).map_err(|error| error.to_string())
}

/// What the daemons said.
#[derive(Debug, Default)]
struct Known {
    /// Something of the request.
    found: u64,
    /// Daemons that answered.
    answered: u64,
}

pub(crate) fn run(arguments: &TraceArguments, console: Console) -> Result<(), Failure> {
    let mut known = Known::default();
    let request = &arguments.request;
    let of_edge = heard(&arguments.edge_socket, "edge", console, &mut known, |socket| {
        admin::call(socket, "request.show", json!({ "request": request }), &[], |_| Ok(()))
    })?;
    if let Some(row) = of_edge {
        known.found += 1;
        console.report(&json!({ "edge": row }), |told| edge_line(&told["edge"]))?;
    }
    let mut peers: Vec<String> = Vec::new();
    let mut question = json!({ "request": request });
    if let Some(days) = days_since(request, daemon::Clock.unix_milliseconds()) {
        question["days"] = days.into();
    }
    let mut found = 0;
    heard(&arguments.storaged_socket, "storaged", console, &mut known, |socket| {
        admin::call(socket, "request.trace", question, &[], |item| {
            found += 1;
            if let Some(key) = item["origin"]["peer_public_key"].as_str()
                && !peers.iter().any(|known| known == key)
            {
                peers.push(key.to_owned());
            }
            console.report(&json!({ "storaged": item }), |told| storaged_line(&told["storaged"]))
        })
    })?;
    known.found += found;
    if known.found > 0 {
        let of_wgd = heard(&arguments.wgd_socket, "wgd", console, &mut known, |socket| {
            admin::call(socket, "status", json!({}), &[], |_| Ok(()))
        })?;
        for peer in of_wgd.iter().flat_map(|status| status["peers"].as_array()).flatten() {
            let delivered = |key: &str| peers.iter().any(|known| known == key);
            if peers.is_empty() || peer["public_key"].as_str().is_some_and(delivered) {
                console.report(&json!({ "tunnel_now": peer }), |told| tunnel_line(&told["tunnel_now"]))?;
            }
        }
    }
    match (known.found, known.answered) {
        (0, 0) => Err(Failure::cannot_tell("neither edge nor storaged answers here")),
        (0, _) => Err(Failure::failed(format!("nothing is known of request {}", request.as_str()))),
        (_, _) => Ok(()),
    }
}

/// Asks one daemon; what it does not know, and that it does not answer, is said and is no failure.
fn heard(
    socket: &Path,
    daemon: &str,
    console: Console,
    known: &mut Known,
    ask: impl FnOnce(&Path) -> Result<Value, Failure>,
) -> Result<Option<Value>, Failure> {
    if !socket.exists() {
        console.say(&format!("{daemon}: not on this machine ({})", socket.display()));
        return Ok(None);
    }
    match ask(socket) {
        Ok(answer) => {
            known.answered += 1;
            Ok(Some(answer))
        }
        Err(failure) if failure.is_output_closed() => Err(failure),
        Err(failure) => {
            known.answered += u64::from(failure.exit() != Exit::CannotTell);
            console.say(&format!("{daemon}: {}", failure.message()));
            Ok(None)
        }
    }
}

/// How many days back its records are: edge's ids begin with the time (RFC 9562 §5.7).
fn days_since(request: &RequestId, now_ms: u64) -> Option<u64> {
    let text = request.as_str();
    let (high, rest) = text.split_once('-')?;
    let (low, rest) = rest.split_once('-')?;
    if high.len() != 8 || low.len() != 4 || !rest.starts_with('7') {
        return None;
    }
    let began_ms = u64::from_str_radix(&format!("{high}{low}"), 16).ok()?;
    // A day more, for clocks that differ.
    Some(now_ms.checked_sub(began_ms)? / DAY_MS + 2)
}

fn edge_line(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().map(printable).unwrap_or_default();
    let mut line = format!("edge      {} {}: {}", text("method"), text("handler"), text("state"));
    if let Some(status) = row["status"].as_u64() {
        line.push_str(&format!(", {status}"));
    }
    if !row["refused"].is_null() {
        line.push_str(&format!(", refused: {}", text("refused")));
    }
    line.push_str(&format!(", {:.3} s", row["seconds"].as_f64().unwrap_or(0.0)));
    line
}

fn storaged_line(item: &Value) -> String {
    if item["under_way"].is_object() {
        return format!("storaged  {}", upload_line(&item["under_way"]));
    }
    let text = |key: &str| item[key].as_str().map(printable).unwrap_or_default();
    let ending = if item["phase"] == "intent" { "intent".to_owned() } else { text("ending") };
    let mut line =
        format!("storaged  {}  {:>9}  {:<26} {ending}", text("time"), item["index"], text("action"));
    for (what, key) in [("file ", "file_id"), ("", "detail"), ("", "error")] {
        if !item[key].is_null() {
            line.push_str(&format!("  {what}{}", text(key)));
        }
    }
    line
}

fn tunnel_line(peer: &Value) -> String {
    let text = |key: &str| peer[key].as_str().map(printable).unwrap_or_default();
    let name = if peer["name"].is_null() { text("public_key") } else { text("name") };
    let mut line = format!("tunnel    {name}, now: ");
    line.push_str(&match peer["latest_handshake_age_seconds"].as_u64() {
        Some(age) => format!("handshake {age} s ago"),
        None => "no handshake".to_owned(),
    });
    if let Some(rtt) = peer["rtt_ms"].as_f64() {
        line.push_str(&format!(", round trip {rtt:.1} ms"));
    }
    if let Some(loss) = peer["loss_ratio"].as_f64() {
        line.push_str(&format!(", {:.1} % lost", loss * 100.0));
    }
    line
}

/// An upload, of `upload list` too.
pub(crate) fn upload_line(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().map(printable).unwrap_or_default();
    let offset = item["offset"].as_u64().unwrap_or(0) + item["received"].as_u64().unwrap_or(0);
    let length = item["length"].as_u64().map_or_else(|| "?".to_owned(), human_bytes);
    let mut line = format!("{}  {}  {} of {length}", text("upload"), text("user"), human_bytes(offset));
    line.push_str(&format!("  {}, waits for {}", text("state"), text("waits_for")));
    if let Some(rate) = item["bytes_per_second"].as_u64() {
        line.push_str(&format!(", {}/s", human_bytes(rate)));
    }
    if let Some(seconds) = item["last_byte_seconds_ago"].as_f64() {
        line.push_str(&format!(", last byte {seconds:.1} s ago"));
    }
    if !item["expires_at"].is_null() {
        line.push_str(&format!("  until {}", text("expires_at")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_an_id_bounds_the_search() {
        let id = |text: &str| RequestId::parse(text).unwrap();
        let began_ms = 0x0193_8c1e_6f6c;
        let request = id("01938c1e-6f6c-7a52-9d0a-3f6c2b1d4e5f");
        assert_eq!(days_since(&request, began_ms), Some(2));
        assert_eq!(days_since(&request, began_ms + 10 * DAY_MS), Some(12));
        for other in ["r-1", "01938c1e-6f6c-4a52-9d0a-3f6c2b1d4e5f", "x1938c1e-6f6c-7a52"] {
            assert_eq!(days_since(&id(other), began_ms), None, "{other}: everything is searched");
        }
        // A clock that went back.
        assert_eq!(days_since(&request, began_ms - 1), None);
    }

    #[test]
    fn lines_say_what_is_known() {
        let row = json!({
            "method": "PUT", "handler": "upload", "state": "ended", "status": 507, "refused": "store", "seconds": 1.5
        });
        assert_eq!(edge_line(&row), "edge      PUT upload: ended, 507, refused: store, 1.500 s");
        let upload = json!({
            "upload": "00", "user": "ada", "state": "receiving", "waits_for": "volume", "offset": 1024,
            "received": 1024, "length": null, "bytes_per_second": 2048, "last_byte_seconds_ago": 0.25
        });
        let line = upload_line(&upload);
        assert!(line.contains("2.00 KiB of ?") && line.contains("waits for volume, 2.00 KiB/s"), "{line}");
        let peer =
            json!({ "name": "web1", "latest_handshake_age_seconds": 7, "rtt_ms": 1.25, "loss_ratio": null });
        assert_eq!(tunnel_line(&peer), "tunnel    web1, now: handshake 7 s ago, round trip 1.2 ms");
    }
}
