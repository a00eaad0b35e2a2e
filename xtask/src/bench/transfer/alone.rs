//! The proxies alone: edge and nginx in turn before a store that keeps nothing, with no tunnel and no disk.
//!
//! ```text
//!   client: curl ── web: edge  ── a null store in edge's own namespace
//!                ── web: nginx ── the same on loopback
//! ```

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_netns::culvert::{STORAGED, start_edge};
use culvert_netns::host::Place;
use culvert_netns::lab::{Lab, address, at};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Options;
use super::limits::megabytes;
use super::loads;
use super::ways::{KnownWay, OurWay, Way};
use crate::bench::figures::{Figures, Row};
use crate::bench::process_time::{cpu_seconds, peak_mebibytes, resident_mebibytes};

pub(super) const PUT: Row = row("the proxy alone: put, MB/s", 0);
pub(super) const PUT_CPU: Row = row("  its CPU, s/GB", 2);
pub(super) const GET: Row = row("the proxy alone: get, MB/s", 0);
pub(super) const GET_CPU: Row = row("  its CPU going down, s/GB", 2);
pub(super) const SMALL: Row = row("the proxy alone: 64 KiB puts, 8 at a time, files/s", 0);
pub(super) const SMALL_CPU: Row = row("  its CPU for 1000 of them, s", 2);
const MEMORY: Row = row("  its peak memory, MiB", 1);
pub(super) const OPEN_MEMORY: Row = row("the proxy alone: memory with open uploads (--open-uploads), MiB", 1);

/// What each open upload has sent: more than a proxy's buffer for one.
const HALF_BYTES: usize = 72 << 10;
/// After it nothing moves any more.
const SETTLED: Duration = Duration::from_secs(2);

const fn row(name: &'static str, digits: usize) -> Row {
    Row { name, digits }
}

/// Where nginx finds the null store, and where clients find that nginx.
pub(super) const NULL_STORE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8082);
pub(super) const NULL_PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(address::WEB_PUBLIC), 8081);

pub(super) fn measure(
    lab: &Lab,
    ours: &mut OurWay<'_>,
    known: Option<&KnownWay>,
    options: &Options,
    figures: &mut Figures,
) -> Result<()> {
    let bytes = options.mebibytes << 20;
    lab.web.run_at(Place::Tunnel, &["ip", "link", "set", "lo", "up"])?.success()?;
    let in_tunnel = at(address::WEB_TUNNEL, 8001);
    for (place, address) in [(Place::Tunnel, in_tunnel), (Place::Outer, NULL_STORE)] {
        let listener = lab.web.network(place).within(|| TcpListener::bind(address).context("bind"))?;
        std::thread::spawn(move || serve(&listener, bytes));
    }
    ours.culvert.edge.signal(Signal::SIGTERM)?;
    ours.culvert.edge.wait(START)?;
    let path = "/etc/culvert/edge.toml";
    let text = lab.web.read(path)?;
    lab.web.write(path, text.replacen(&STORAGED.to_string(), &in_tunnel.to_string(), 1))?;
    ours.culvert.edge = start_edge(lab)?;
    ours.culvert.wait_until_ready(START)?;
    for round in 1..=options.rounds() {
        let edge = ours.way(options.is_tls())?;
        let nginx = known.map(KnownWay::alone).transpose()?;
        for way in [Some(edge), nginx].into_iter().flatten() {
            println!("alone, round {round} of {}: {}", options.rounds(), way.name);
            one(lab, &way, options, round, figures)?;
        }
    }
    Ok(())
}

const START: Duration = Duration::from_secs(20);
/// The proxy among a way's processes.
const PROXY: usize = 2;

fn one(lab: &Lab, way: &Way, options: &Options, round: u32, figures: &mut Figures) -> Result<()> {
    let gigabytes = megabytes(options.mebibytes << 20) / 1000.0;
    let proxy = &way.processes[PROXY];
    let url = format!("{}/alone-{round}.csv", way.url);
    let before = cpu_seconds(proxy)?;
    let up = loads::transfer(lab, way, &["-T", "/srv/large", "-o", "/dev/null", &url])?;
    let between = cpu_seconds(proxy)?;
    let down = loads::transfer(lab, way, &["-o", "/dev/null", &url])?;
    let after = cpu_seconds(proxy)?;
    let (rate, _) = loads::small(lab, way, options.files, &format!("a{round}"))?;
    let end = cpu_seconds(proxy)?;
    figures.add(PUT, way.name, gigabytes * 1000.0 / up);
    figures.add(PUT_CPU, way.name, (between - before) / gigabytes);
    figures.add(GET, way.name, gigabytes * 1000.0 / down);
    figures.add(GET_CPU, way.name, (after - between) / gigabytes);
    figures.add(SMALL, way.name, rate);
    figures.add(SMALL_CPU, way.name, (end - after) * 1000.0 / f64::from(options.files));
    figures.add(MEMORY, way.name, peak_mebibytes(proxy)?);
    if !options.is_tls() {
        figures.add(OPEN_MEMORY, way.name, with_open_uploads(lab, way, options.open_uploads)?);
    }
    Ok(())
}

/// MiB of the proxy while so many uploads stand half-way.
fn with_open_uploads(lab: &Lab, way: &Way, uploads: u32) -> Result<f64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let place = way.url.trim_start_matches("http://");
    let (address, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
    let address: SocketAddr = address.parse()?;
    let headers: String = way.headers.iter().map(|header| format!("{header}\r\n")).collect();
    let mut open = Vec::new();
    for number in 0..uploads {
        let mut stream = lab.client.connect(Place::Outer, address)?;
        let length = 2 * HALF_BYTES;
        write!(
            stream,
            "PUT {path}/open-{number}.csv HTTP/1.1\r\nHost: web\r\n{headers}Content-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(&vec![b'x'; HALF_BYTES])?;
        open.push(stream);
    }
    std::thread::sleep(SETTLED);
    resident_mebibytes(&way.processes[PROXY])
}

/// A store that takes everything, keeps nothing and has one file of zeros under every name: to edge in the words of
/// the internal API, to nginx as a plain server.
fn serve(listener: &TcpListener, file_bytes: u64) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // It ends with its connection, whoever closes it.
            let _ = connection(stream, file_bytes);
        });
    }
}

const BUFFER: usize = 256 << 10;

fn connection(stream: TcpStream, file_bytes: u64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(BUFFER, stream);
    let zeros = vec![0; BUFFER];
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
        let is_get = method == "GET";
        let mut length = 0_u64;
        loop {
            let mut field = String::new();
            reader.read_line(&mut field)?;
            if field == "\r\n" || field.is_empty() {
                break;
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let is_question = path == "/internal/v1/permissions";
        let mut question = Vec::new();
        let mut body = reader.by_ref().take(length);
        if is_question {
            body.read_to_end(&mut question)?;
        } else {
            std::io::copy(&mut body, &mut std::io::sink())?;
        }
        let is_file = path.starts_with("/internal/storage/files/") || !path.starts_with("/internal/");
        if is_get && is_file {
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {file_bytes}\r\nETag: {ETAG}\r\n\r\n")?;
            let mut left = file_bytes;
            while left > 0 {
                let next = usize::try_from(left)?.min(BUFFER);
                writer.write_all(&zeros[..next])?;
                left -= next as u64;
            }
            continue;
        }
        let (status, told) = match path.as_str() {
            "/internal/storage/health" => ("200 OK", json!({"status": "ok", "store": "01".repeat(16)})),
            "/internal/v1/lockouts" => ("200 OK", json!({"lockouts": []})),
            "/internal/storage/upload" => ("201 Created", receipt(length)),
            _ if is_question => ("200 OK", permission(&serde_json::from_slice(&question)?, file_bytes)),
            path if path.starts_with("/internal/") => (
                "404 Not Found",
                json!({"type": "urn:culvert:problem:not-found", "title": "There is no such resource", "status": 404}),
            ),
            _ => ("201 Created", Value::Null),
        };
        let told = told.to_string();
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{told}",
            told.len()
        )?;
    }
}

const ETAG: &str = "\"abababababababababababababababababababababababababababababababab\"";

fn permission(question: &Value, file_bytes: u64) -> Value {
    if question["action"] == "upload" {
        return json!({"upload": {"max_bytes": 1_u64 << 40}});
    }
    json!({"download": {
        "file_id": "01".repeat(16), "cohort": question["cohort"], "path": question["path"], "size": file_bytes,
        "sha256": ETAG.trim_matches('"'), "etag": ETAG, "created_at": "2026-11-21T00:00:00Z", "ledger_index": 1,
    }})
}

fn receipt(size: u64) -> Value {
    json!({
        "file_id": "01".repeat(16), "cohort": "c5", "size": size, "sha256": ETAG.trim_matches('"'), "etag": ETAG,
        "ledger_index": 1, "stored_at": "2026-11-21T00:00:00Z",
    })
}

/// For nginx's configuration: the same proxy before the null store.
pub(super) fn nginx_server(listen: &str) -> String {
    format!(
        "upstream nowhere {{ server {NULL_STORE}; keepalive 64; }}\n server {{ {listen}\n location / {{ proxy_pass http://nowhere; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_max_temp_file_size 0; }} }}\n"
    )
}
