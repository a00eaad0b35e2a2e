//! A small HTTP/1.1 client for scenarios that must decide themselves when to stop sending and when to read.
//!
//! One connection, one request. Not for anything but tests: it trusts the server's framing.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::host::{Host, Place};

/// Longest silence of a server.
const SILENCE_BOUND: Duration = Duration::from_secs(30);

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A request without headers besides `Host` and `Connection: close`.
    pub fn new(method: &str, target: &str) -> Request {
        let headers = vec![
            ("Host".to_owned(), "edge.example".to_owned()),
            ("Connection".to_owned(), "close".to_owned()),
        ];
        Request { method: method.to_owned(), target: target.to_owned(), headers }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// For another `Host` than the usual one.
    pub fn host(mut self, host: SocketAddr) -> Request {
        self.headers[0].1 = host.to_string();
        self
    }

    /// With a bearer token.
    pub fn token(self, token: &str) -> Request {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Sends it without a body and reads the answer.
    pub fn send(self, host: &Host, place: Place, to: SocketAddr) -> Result<Response> {
        self.begin(host, place, to)?.response()
    }

    /// Sends it with a body of `length` bytes and reads the answer; an answer that comes early is the answer.
    pub fn send_body(
        self,
        host: &Host,
        place: Place,
        to: SocketAddr,
        length: u64,
        body: &mut dyn Read,
    ) -> Result<Response> {
        let mut exchange = self.header("Content-Length", &length.to_string()).begin(host, place, to)?;
        exchange.send_from(body)?;
        exchange.response()
    }

    /// Sends the head.
    pub fn begin(self, host: &Host, place: Place, to: SocketAddr) -> Result<Exchange> {
        let stream = host.connect(place, to)?;
        stream.set_read_timeout(Some(SILENCE_BOUND)).context("bound reads")?;
        stream.set_write_timeout(Some(SILENCE_BOUND)).context("bound writes")?;
        stream.set_nodelay(true).context("send at once")?;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut exchange = Exchange { stream, head_only: self.method == "HEAD" };
        exchange.stream.write_all(head.as_bytes()).context("send the head")?;
        Ok(exchange)
    }
}

/// A request whose head has been sent.
#[derive(Debug)]
pub struct Exchange {
    stream: TcpStream,
    head_only: bool,
}

/// How far a body got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it.
    All,
    /// The server stopped taking it.
    Refused,
}

impl Exchange {
    /// Sends some bytes of the body.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends all that `body` gives. A server that closes early is no error here: its answer is to be read.
    pub fn send_from(&mut self, body: &mut dyn Read) -> Result<Sent> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = body.read(&mut buffer).context("read the body")?;
            if length == 0 {
                return Ok(Sent::All);
            }
            match self.stream.write_all(&buffer[..length]) {
                Ok(()) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                {
                    return Ok(Sent::Refused);
                }
                Err(error) => return Err(error).context("send the body"),
            }
        }
    }

    /// Waits at most `bound` for each piece that is sent or read from now on.
    pub fn bound(&self, bound: Duration) -> Result<()> {
        self.stream.set_write_timeout(Some(bound)).context("bound writes")?;
        self.stream.set_read_timeout(Some(bound)).context("bound reads")
    }

    /// The connection, for a second thread.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Leaves in the middle: the server sees the end of the stream.
    pub fn abort(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads the answer.
    pub fn response(self) -> Result<Response> {
        read_response(&mut BufReader::new(&self.stream), self.head_only)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails unless it has this status.
    pub fn expect(self, status: u16) -> Result<Response> {
        if self.status != status {
            bail!("answered {} instead of {status}: {}", self.status, self.text());
        }
        Ok(self)
    }

    /// The name of its problem: what follows `urn:culvert:problem:`.
    pub fn problem(&self) -> Result<String> {
        let kind = self.header("Content-Type").unwrap_or_default();
        if !kind.starts_with("application/problem+json") {
            bail!("answered {} with {kind:?}, not with a problem: {}", self.status, self.text());
        }
        let document: serde_json::Value = serde_json::from_slice(&self.body).context("read the problem")?;
        let name = document.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
        Ok(name.strip_prefix("urn:culvert:problem:").unwrap_or(name).to_owned())
    }
}

/// Reads an answer.
pub fn read_response(reader: &mut impl BufRead, head_only: bool) -> Result<Response> {
    let mut response = read_head(reader)?;
    if !head_only && response.status != 204 && response.status != 304 {
        response.body = read_body(reader, &response)?;
    }
    Ok(response)
}

/// Reads an answer up to its body.
pub fn read_head(reader: &mut impl BufRead) -> Result<Response> {
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).context("read the status line")? == 0 {
            bail!("the server closed the connection without an answer");
        }
        let status: u16 = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.trim().parse().ok())
            .with_context(|| format!("not a status line: {line:?}"))?;
        let headers = read_headers(reader)?;
        // 100 Continue and its kin come before the answer.
        if status >= 200 {
            return Ok(Response { status, headers, body: Vec::new() });
        }
    }
}

fn read_headers(reader: &mut impl BufRead) -> Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).context("read a header")?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').with_context(|| format!("not a header: {line:?}"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads what follows the head.
pub(crate) fn read_body(reader: &mut impl BufRead, response: &Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if response.header("Transfer-Encoding").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).context("read a chunk's length")?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let length =
                u64::from_str_radix(size, 16).with_context(|| format!("not a chunk length: {line:?}"))?;
            let got = reader.take(length).read_to_end(&mut body).context("read a chunk")?;
            if got as u64 != length {
                bail!("the answer ended in the middle of a chunk");
            }
            let mut end = String::new();
            reader.read_line(&mut end).context("read a chunk's end")?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
    if let Some(length) = response.header("Content-Length") {
        let length: u64 = length.parse().context("read Content-Length")?;
        let got = reader.take(length).read_to_end(&mut body).context("read the body")?;
        if got as u64 != length {
            bail!("the answer ended after {got} of {length} bytes");
        }
        return Ok(body);
    }
    reader.read_to_end(&mut body).context("read the body")?;
    Ok(body)
}
