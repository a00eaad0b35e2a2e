//! A client of storaged's internal API: one connection, one request after the other, each of them edge's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use store_proto::{EdgeName, Proof, RequestContext, RequestId, ServerRole, Token, headers, routes};

use super::{EDGE, Store};
use crate::culvert::COHORT;
use crate::http::{self, Response};

/// Longest silence of a server: longer than its own patience with a volume.
const SILENCE_BOUND: Duration = Duration::from_secs(60);

/// What an upload is answered with; what is not needed here is not read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Receipt {
    /// The file's id.
    pub file_id: String,
    /// Its length.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// A connection to storaged.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    fixed: String,
    token: Token,
}

impl Connection {
    pub(super) fn open(store: &Store) -> Result<Connection> {
        let fixed = format!(
            "host: {}\r\n{}: {}\r\n{}: {COHORT}\r\n",
            store.address,
            headers::X_INTERNAL_KEY,
            store.key,
            headers::CULVERT_COHORT
        );
        Ok(Connection { stream: connect(store.address)?, fixed, token: store.token.clone() })
    }

    /// Waits at most `bound` for each piece that is sent or read.
    pub fn bound(&self, bound: Duration) -> Result<()> {
        self.stream.get_ref().set_write_timeout(Some(bound)).context("bound writes")?;
        self.stream.get_ref().set_read_timeout(Some(bound)).context("bound reads")
    }

    /// Uploads `bytes` and gives the answer, whatever it is.
    pub fn put(&mut self, path: &str, bytes: &[u8]) -> Result<Response> {
        self.put_repeated(path, bytes, 1)
    }

    /// Uploads the same bytes several times over, as one file.
    pub fn put_repeated(&mut self, path: &str, bytes: &[u8], times: u64) -> Result<Response> {
        self.begin_put(path, bytes.len() as u64 * times)?;
        for _ in 0..times {
            if self.stream.get_mut().write_all(bytes).is_err() {
                // It was refused before its end: the answer says why.
                break;
            }
        }
        self.answer()
    }

    /// Sends the head of an upload.
    pub fn begin_put(&mut self, path: &str, length: u64) -> Result<()> {
        let more = format!("{}: {path}\r\ncontent-length: {length}\r\n", headers::CULVERT_PATH);
        self.send_head("POST", routes::UPLOAD, &more)
    }

    /// Sends some of a body.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("send the body")
    }

    /// Reads an answer.
    pub fn answer(&mut self) -> Result<Response> {
        http::read_response(&mut self.stream, false)
    }

    /// Uploads, and gives the receipt; fails unless it is stored.
    pub fn store(&mut self, path: &str, bytes: &[u8]) -> Result<Receipt> {
        receipt(&self.put(path, bytes)?.expect(201)?)
    }

    /// Downloads a file, a part of it if `range` says first and last byte; gives the answer without its body, which
    /// `take` is called with.
    pub fn get(
        &mut self,
        file: &str,
        range: Option<(u64, u64)>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Response> {
        let more = range.map_or_else(String::new, |(first, last)| format!("range: bytes={first}-{last}\r\n"));
        self.send_head("GET", &format!("{}{file}", routes::FILES), &more)?;
        let mut answer = http::read_head(&mut self.stream)?;
        if !matches!(answer.status, 200 | 206) {
            answer.body = http::read_body(&mut self.stream, &answer)?;
            return Ok(answer);
        }
        read_sized(&mut self.stream, &answer, &mut take)?;
        Ok(answer)
    }

    /// Any other request without a body.
    pub fn request(&mut self, method: &str, target: &str) -> Result<Response> {
        self.send_head(method, target, "")?;
        http::read_response(&mut self.stream, method == "HEAD")
    }

    fn send_head(&mut self, method: &str, target: &str, more: &str) -> Result<()> {
        let context = self.context()?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\n{}{}: {context}\r\n{more}\r\n",
            self.fixed,
            headers::CULVERT_CONTEXT
        );
        self.stream.get_mut().write_all(head.as_bytes()).context("send the head")
    }

    fn context(&self) -> Result<String> {
        let context = RequestContext {
            edge: EdgeName::parse(EDGE)?,
            role: ServerRole::Web,
            process_id: std::process::id(),
            timestamp_ms: wall_ms()?,
            request_id: RequestId::parse("store-test")?,
            client_address: [192, 0, 2, 9].into(),
            certificate: None,
            proof: Proof::Token(self.token.clone()),
        };
        Ok(context.encode())
    }
}

/// Reads the receipt out of an answer.
pub fn receipt(answer: &Response) -> Result<Receipt> {
    serde_json::from_slice(&answer.body).with_context(|| format!("read the receipt {}", answer.text()))
}

/// Downloads from any server of plain files.
pub fn read_sized(
    stream: &mut BufReader<TcpStream>,
    answer: &Response,
    take: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let length = answer.header("content-length").context("an answer without a length")?;
    let mut left: usize = length.parse().context("read the length")?;
    while left > 0 {
        let bytes = stream.fill_buf().context("read the body")?;
        ensure!(!bytes.is_empty(), "the answer ended {left} bytes early");
        let part = bytes.len().min(left);
        take(&bytes[..part]);
        stream.consume(part);
        left -= part;
    }
    Ok(())
}

/// Connects as every client here does.
pub fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("send at once")?;
    stream.set_read_timeout(Some(SILENCE_BOUND)).context("bound reads")?;
    stream.set_write_timeout(Some(SILENCE_BOUND)).context("bound writes")?;
    Ok(BufReader::with_capacity(256 << 10, stream))
}

/// A request of nobody's on a connection of its own.
pub(super) fn plain_get(address: SocketAddr, target: &str) -> Result<Response> {
    let mut stream = connect(address)?;
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(5))).context("bound reads")?;
    let head = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).context("send the head")?;
    http::read_response(&mut stream, false)
}

#[expect(clippy::disallowed_methods, reason = "edge tells its own clock with each request")]
fn wall_ms() -> Result<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("a clock before 1970")?;
    Ok(u64::try_from(since.as_millis())?)
}
