//! `culvert share`: a link to one file, for somebody without a token.
//!
//! Invariant: the link is printed once; what it was made for can be ended by its id.

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ipnet::IpNet;
use serde_json::{Value, json};
use store_proto::{ContentDigest, FileId};

use super::ServerArguments;
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, expect_success, unless_interrupted, watched};
use crate::limits::PAGE_BYTES_AT_MOST;
use crate::target::RemoteFile;

#[derive(Debug, Args)]
pub(crate) struct ShareArguments {
    /// What to share: COHORT/PATH
    #[arg(value_name = "COHORT/PATH", required_unless_present = "revoke")]
    source: Option<String>,
    /// The link runs out after N hours, at most 168
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=168))]
    hours: u64,
    /// How often the file may be fetched with it
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// Only from this network, such as 192.0.2.0/24
    #[arg(long, value_name = "NETWORK")]
    network: Option<IpNet>,
    /// Only for whoever proves the certificate with this SHA-256 (of its DER; 64 hexadecimal digits) in the TLS handshake
    #[arg(long, value_name = "SHA256", value_parser = ContentDigest::parse)]
    certificate: Option<ContentDigest>,
    /// Only these bytes, the first and the last
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_range)]
    range: Option<(u64, u64)>,
    /// End the link with this id instead of making one
    #[arg(long, value_name = "ID", conflicts_with = "source")]
    revoke: Option<FileId>,
    #[command(flatten)]
    server: ServerArguments,
}

pub(crate) fn run(arguments: &ShareArguments, console: Console) -> Result<(), Failure> {
    let credential = arguments.server.credential(console)?;
    let runtime = http_client::runtime()?;
    if let Some(id) = arguments.revoke {
        let resource = format!("{}/v1/presign/{id}", arguments.server.server().base_path);
        let ended = ask(arguments, &credential, Method::DELETE, &resource, Bytes::new());
        runtime.block_on(unless_interrupted(ended))?;
        return console.report(&json!({ "revoked": id }), |_| format!("link {id} has ended"));
    }
    let source = RemoteFile::parse(arguments.source.as_deref().unwrap_or_default())?;
    let made = runtime.block_on(unless_interrupted(make(arguments, &source, &credential)))?;
    let id = made["capability_id"].as_str().map(printable).unwrap_or_default();
    console.say(&format!("link {id}; to end it: culvert share --revoke {id}"));
    console.report(&made, |made| made["url"].as_str().map(printable).unwrap_or_default())
}

async fn make(
    arguments: &ShareArguments,
    source: &RemoteFile,
    credential: &Credential,
) -> Result<Value, Failure> {
    let server = &arguments.server.server();
    let head = ask(arguments, credential, Method::HEAD, &source.resource(server), Bytes::new()).await?;
    let id = head.headers().get("culvert-file-id").and_then(|id| FileId::parse(id.to_str().ok()?).ok());
    let id = id.ok_or_else(|| Failure::failed("the server does not say which file that is"))?;
    let ShareArguments { hours, uses, network, certificate, range, .. } = arguments;
    let mut body = json!({ "expires_in": hours * 3600, "max_uses": uses });
    if let Some(network) = network {
        body["bind"]["ip_prefix"] = network.to_string().into();
    }
    if let Some(certificate) = certificate {
        body["bind"]["certificate_sha256"] = json!(certificate);
    }
    if let Some(range) = range {
        body["range"] = json!(range);
    }
    let resource = format!("{}/v1/files/{id}/presign", server.base_path);
    let answer = ask(arguments, credential, Method::POST, &resource, body.to_string().into()).await?;
    if answer.status() != StatusCode::CREATED {
        return Err(Failure::failed(format!("the server answered {}", answer.status())));
    }
    let reading = http_client::json::<Value>(answer.into_body(), PAGE_BYTES_AT_MOST);
    let mut made: Value = watched(reading, &Moved::default(), arguments.server.patience(), |_| {}).await?;
    // The server knows the way from its root; how it is reached from here, we know.
    let path = made["url"].as_str().filter(|path| path.starts_with("/p/"));
    let path = path.ok_or_else(|| Failure::failed("the server's answer holds no link"))?;
    made["url"] = format!("{}{path}", server.base_url()).into();
    Ok(made)
}

async fn ask(
    arguments: &ShareArguments,
    credential: &Credential,
    method: Method,
    resource: &str,
    body: Bytes,
) -> Result<http::Response<Incoming>, Failure> {
    let server = &arguments.server.server();
    let request = http_client::request(method, server, credential, resource)
        .body(Full::new(body).map_err(|never| match never {}))
        .map_err(|error| Failure::failed(format!("make the request: {error}")))?;
    let exchange = async { expect_success(http_client::send(server, request).await?).await };
    watched(exchange, &Moved::default(), arguments.server.patience(), |_| {}).await
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed.filter(|(first, last)| first <= last).ok_or_else(|| "a range is written FIRST-LAST".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends() {
        assert_eq!(parse_range("0-99"), Ok((0, 99)));
        for bad in ["", "5", "9-5", "-5", "5-", "a-b"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
