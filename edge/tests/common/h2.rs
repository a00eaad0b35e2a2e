//! A client that writes HTTP/2 frames by hand, for what no honest client sends.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::certificate;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub struct Frames {
    stream: TlsStream<TcpStream>,
}

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that no table knows (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match u8::try_from(text.len()).unwrap() {
            length @ 0..127 => bytes.push(length),
            length => bytes.extend_from_slice(&[127, length - 127]),
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The head of a request with our token.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    let token = format!("Bearer {}", super::token().expose());
    let fields = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "edge"),
        (":path", path),
        ("authorization", &token),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

impl Frames {
    /// Connects and exchanges settings; `settings` is the payload of ours.
    pub async fn connect(address: SocketAddr, folder: &Path, settings: &[u8]) -> Frames {
        let connector = certificate::connector(&[certificate::of_folder(folder)], &[b"h2"]);
        let mut stream = certificate::connect(&connector, address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap();
        Frames { stream }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next frame; `None`: the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("a frame, or the end, within 10 s")
    }

    /// Skips to a frame of this kind.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind != kind => {}
                other => return other,
            }
        }
    }

    /// Sends the same again and again; whether the other side ends the connection before `most` of them.
    pub async fn ends_before(&mut self, bytes: &[u8], most: usize) -> bool {
        for _ in 0..most {
            if self.send(bytes).await.is_err() {
                return true;
            }
            // What is answered must be read, or our own side stalls.
            let mut scrap = [0; 4096];
            let read = tokio::time::timeout(Duration::from_micros(50), self.stream.read(&mut scrap)).await;
            if let Ok(Ok(0) | Err(_)) = read {
                return true;
            }
        }
        false
    }
}
