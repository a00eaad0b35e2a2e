//! The PROXY protocol, version 2: a balancer's word for whose connection it passes on.
//!
//! **Invariant:** only a listed balancer is asked for it, and it must give it; nobody else is believed. Exactly
//! the header's bytes are read, so the client's first byte is where TLS or HTTP expects it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::limits::PROXY_HEADER_BYTES;

/// HAProxy's PROXY protocol, §2.2: what no other protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEAD_BYTES: usize = 16;

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It ended, or the connection broke.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Not version 2, or not the PROXY protocol.
    #[error("no PROXY header of version 2")]
    Signature,
    /// A command that is neither LOCAL nor PROXY.
    #[error("an unknown command of the PROXY protocol")]
    Command,
    /// More than any address and its extras need.
    #[error("a PROXY header of {0} bytes")]
    TooLong(usize),
    /// The addresses do not fit into the announced length.
    #[error("a PROXY header too short for its addresses")]
    TooShort,
}

/// The first sixteen bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    local: bool,
    family: u8,
    length: usize,
}

impl Head {
    /// Understands the first sixteen bytes.
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Head, ProxyError> {
        let [.., version_command, family, high, low] = *bytes;
        if !bytes.starts_with(&SIGNATURE) || version_command >> 4 != 2 {
            return Err(ProxyError::Signature);
        }
        let local = match version_command & 0xf {
            0 => true,
            1 => false,
            _ => return Err(ProxyError::Command),
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > PROXY_HEADER_BYTES {
            return Err(ProxyError::TooLong(length));
        }
        Ok(Head { local, family, length })
    }

    /// How many bytes follow.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whose connection it is; `None`: the balancer's own (a health check), or of no address we know.
    pub fn source(&self, rest: &[u8]) -> Result<Option<IpAddr>, ProxyError> {
        if self.local {
            return Ok(None);
        }
        // The high four bits are the family; the low ones say stream or datagram, and this is a stream.
        match self.family >> 4 {
            1 => {
                let addresses: &[u8; 12] = rest.first_chunk().ok_or(ProxyError::TooShort)?;
                let [a, b, c, d, ..] = *addresses;
                Ok(Some(Ipv4Addr::new(a, b, c, d).into()))
            }
            2 => {
                let addresses: &[u8; 36] = rest.first_chunk().ok_or(ProxyError::TooShort)?;
                let source: [u8; 16] = *addresses.first_chunk().ok_or(ProxyError::TooShort)?;
                Ok(Some(Ipv6Addr::from(source).to_canonical()))
            }
            _ => Ok(None),
        }
    }
}

/// Reads a header off a connection.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, ProxyError> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let head = Head::parse(&head)?;
    let mut rest = [0; PROXY_HEADER_BYTES];
    let rest = &mut rest[..head.length()];
    stream.read_exact(rest).await?;
    head.source(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    async fn of(bytes: &[u8]) -> Result<Option<IpAddr>, String> {
        let mut stream = bytes;
        let source = read(&mut stream).await.map_err(|error| error.to_string())?;
        assert_eq!(stream, b"GET", "exactly the header is read");
        Ok(source)
    }

    #[tokio::test]
    async fn the_source_is_read_and_not_a_byte_more() {
        let v4 = [header(1, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 1, 2, 3, 4, 0xee, 0, 1, 9]), b"GET".to_vec()]
            .concat();
        assert_eq!(of(&v4).await.unwrap(), Some("192.0.2.7".parse().unwrap()));
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let v6 = [header(1, 0x21, &[&source.octets()[..], &[0; 20]].concat()), b"GET".to_vec()].concat();
        assert_eq!(of(&v6).await.unwrap(), Some(source.into()));
    }

    #[tokio::test]
    async fn a_balancers_own_connection_has_no_source() {
        for bytes in [header(0, 0, &[]), header(1, 0, &[]), header(1, 0x31, &[0; 216])] {
            assert_eq!(of(&[bytes, b"GET".to_vec()].concat()).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        assert!(of(b"GET / HTTP/1.1\r\nHost: e\r\n\r\n").await.is_err());
        assert!(of(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n").await.is_err(), "version 1");
        assert!(of(&header(2, 0x11, &[0; 12])).await.unwrap_err().contains("command"));
        assert!(of(&header(1, 0x11, &[0; 11])).await.unwrap_err().contains("short"));
        assert!(of(&header(1, 0x11, &[0; 1025])).await.unwrap_err().contains("1025"));
        assert!(of(&header(1, 0x11, &[0; 12])[..20]).await.is_err(), "it ends early");
    }
}
