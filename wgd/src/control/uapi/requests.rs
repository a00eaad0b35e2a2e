//! Reading requests, line by line.
//!
//! Invariant: bytes of a client, which may be keys, lie in buffers that are wiped, and nowhere else in this
//! process; a line and a request have bounds.
use crate::{limits, wiped};
use std::io;
use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroizing;

/// The reading half of a connection.
pub(super) struct Requests<R> {
    reader: R,
    buffer: Zeroizing<Box<[u8]>>,
    /// What was read and not yet taken.
    unread: Range<usize>,
}

impl<R: AsyncRead + Unpin> Requests<R> {
    pub(super) fn new(reader: R) -> Self {
        let buffer = Zeroizing::new(vec![0; limits::UAPI_LINE_BYTES].into_boxed_slice());
        Self { reader, buffer, unread: 0..0 }
    }

    /// One line without its end; `None` at the end of the stream.
    pub(super) async fn line(&mut self) -> io::Result<Option<&[u8]>> {
        let mut searched = 0;
        let length = loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(at) = unread[searched..].iter().position(|byte| *byte == b'\n') {
                break searched + at;
            }
            searched = unread.len();
            if self.unread.start > 0 {
                self.buffer.copy_within(self.unread.clone(), 0);
                self.unread = 0..searched;
            }
            let room = &mut self.buffer[searched..];
            let more = if room.is_empty() { 0 } else { self.reader.read(room).await? };
            if more == 0 && searched == 0 {
                return Ok(None);
            }
            if more == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long or cut off"));
            }
            self.unread.end += more;
        };
        let line = self.unread.start..self.unread.start + length;
        self.unread.start = line.end + 1;
        Ok(Some(&self.buffer[line]))
    }

    /// The lines up to the empty one.
    pub(super) async fn body(&mut self) -> io::Result<Zeroizing<String>> {
        let mut body = Zeroizing::new(Vec::new());
        loop {
            let line = self.line().await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            if line.is_empty() {
                let not_text = || io::Error::new(io::ErrorKind::InvalidData, "the request is no text");
                return wiped::into_text(body).ok_or_else(not_text);
            }
            if body.len() + line.len() >= limits::UAPI_REQUEST_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
            }
            wiped::extend(&mut body, line);
            wiped::extend(&mut body, b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body_of(text: &[u8]) -> io::Result<String> {
        Requests::new(text).body().await.map(|body| body.as_str().to_owned())
    }

    #[tokio::test]
    async fn a_body_ends_with_an_empty_line() {
        assert_eq!(body_of(b"a=1\nb=2\n\nrest").await.expect("whole"), "a=1\nb=2\n");
        assert_eq!(body_of(b"\n").await.expect("empty"), "");
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_is_an_error() {
        assert_eq!(body_of(b"a=1\n").await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(body_of(b"a=1").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(body_of(b"a=\xff\n\n").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_collected() {
        let line = vec![b'x'; limits::UAPI_LINE_BYTES + 1];
        assert_eq!(body_of(&line).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn requests_follow_each_other_whatever_the_size_of_reads() {
        let text = "set=1\nkey=value\n\nget=1\n\n".repeat(5_000);
        let mut requests = Requests::new(text.as_bytes());
        for _ in 0..5_000 {
            assert_eq!(requests.line().await.expect("line"), Some(&b"set=1"[..]));
            assert_eq!(requests.body().await.expect("body").as_str(), "key=value\n");
            assert_eq!(requests.line().await.expect("line"), Some(&b"get=1"[..]));
            assert_eq!(requests.body().await.expect("body").as_str(), "");
        }
        assert_eq!(requests.line().await.expect("end"), None);
    }
}
