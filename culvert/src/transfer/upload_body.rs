//! A file as a request body: one thread reads and hashes, another sends.
//!
//! Invariant: what is hashed is what is sent, chunk by chunk; at most `CHUNKS_IN_FLIGHT` chunks wait. Nothing
//! is sent before the server said to go on (RFC 9110 §10.1.1), unless it does not say anything.

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use store_proto::ContentDigest;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::http_client::Moved;
use crate::limits::{CHUNK_BYTES, CHUNKS_IN_FLIGHT, CONTINUE_TIMEOUT};

/// What has been read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) size: u64,
    pub(crate) sha256: ContentDigest,
}

/// What of a source has been read before, and is not sent again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    pub(crate) bytes: u64,
    pub(crate) hash: Sha256,
}

impl Before {
    /// Reads on until `bytes` are read, all in all.
    pub(crate) fn read_to(&mut self, bytes: u64, source: &mut impl Read) -> io::Result<()> {
        while self.bytes < bytes {
            let chunk = read_chunk(&mut source.by_ref().take(bytes - self.bytes))?;
            if chunk.is_empty() {
                return Err(io::Error::other("it shrank while it was read"));
            }
            self.bytes += chunk.len() as u64;
            self.hash.update(&chunk);
        }
        Ok(())
    }
}

/// The sending half; hyper polls it.
pub(crate) struct UploadBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    remaining: Option<u64>,
    moved: Moved,
    /// Present while the server has not said to go on.
    hold: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl UploadBody {
    /// Sends nothing until `go_on` is notified, or `CONTINUE_TIMEOUT` is over.
    pub(crate) fn wait_for(&mut self, go_on: Arc<Notify>) {
        self.hold = Some(Box::pin(async move {
            // A server that does not know the question stays silent, and wants the body.
            let _ = tokio::time::timeout(CONTINUE_TIMEOUT, go_on.notified()).await;
        }));
    }
}

/// Starts reading `source`, which holds `length` bytes if that is known beforehand. The outcome comes once
/// `source` was read or could not be; it never comes if the body was dropped before.
pub(crate) fn start(
    source: impl Read + Send + 'static,
    length: Option<u64>,
    moved: Moved,
) -> io::Result<(UploadBody, oneshot::Receiver<io::Result<Sent>>)> {
    start_after(Before::default(), source, length, moved)
}

/// The same of the rest of a source that was read before: the server has what was.
pub(crate) fn start_after(
    before: Before,
    source: impl Read + Send + 'static,
    length: Option<u64>,
    moved: Moved,
) -> io::Result<(UploadBody, oneshot::Receiver<io::Result<Sent>>)> {
    let (sender, chunks) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (done, outcome) = oneshot::channel();
    let remaining = length.map(|length| length.saturating_sub(before.bytes));
    std::thread::Builder::new().name("read".to_owned()).spawn(move || {
        // None: nobody takes the chunks any more, so there is nobody left to tell.
        let Some(read) = read_all(before, source, length, &sender).transpose() else { return };
        if let Err(error) = &read {
            // Breaks the request off: the server must not take a part for the whole.
            let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        // The command may have ended for another reason.
        let _ = done.send(read);
    })?;
    Ok((UploadBody { chunks, remaining, moved, hold: None }, outcome))
}

fn read_all(
    before: Before,
    mut source: impl Read,
    length: Option<u64>,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<Option<Sent>> {
    let Before { bytes: mut size, mut hash } = before;
    loop {
        let chunk = read_chunk(&mut source)?;
        if chunk.is_empty() {
            break;
        }
        size += chunk.len() as u64;
        if length.is_some_and(|length| size > length) {
            return Err(io::Error::other("it grew while it was read"));
        }
        hash.update(&chunk);
        if chunks.blocking_send(Ok(chunk)).is_err() {
            return Ok(None);
        }
    }
    if length.is_some_and(|length| size < length) {
        return Err(io::Error::other("it shrank while it was read"));
    }
    Ok(Some(Sent { size, sha256: ContentDigest::from_bytes(hash.finalize().into()) }))
}

/// A full chunk, or what is left; empty at the end.
fn read_chunk(source: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    source.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(Bytes::from(chunk))
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(hold) = &mut self.hold {
            ready!(hold.as_mut().poll(context));
            self.hold = None;
        }
        let Some(chunk) = ready!(self.chunks.poll_recv(context)) else { return Poll::Ready(None) };
        let chunk = chunk?;
        let bytes = chunk.len() as u64;
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(bytes));
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map(SizeHint::with_exact).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn chunks_add_up_to_the_source_and_its_hash() {
        let data: Vec<u8> = (0..=250).cycle().take(CHUNK_BYTES * 6 + 17).collect();
        let (received, sent) = drain(data.clone(), Some(data.len() as u64));
        assert_eq!(received.unwrap(), data);
        let sent = sent.unwrap();
        assert_eq!(sent.size, data.len() as u64);
        assert_eq!(sent.sha256, ContentDigest::from_bytes(Sha256::digest(&data).into()));
    }

    #[test]
    fn a_file_that_shrank_breaks_the_request_off() {
        let (received, sent) = drain(vec![1; 10], Some(11));
        assert!(received.unwrap_err().to_string().contains("shrank"));
        assert!(sent.unwrap_err().to_string().contains("shrank"));
    }

    #[test]
    fn a_file_that_grew_breaks_the_request_off() {
        let (_, sent) = drain(vec![1; 10], Some(9));
        assert!(sent.unwrap_err().to_string().contains("grew"));
    }

    #[test]
    fn what_the_server_has_is_hashed_and_not_sent() {
        let data: Vec<u8> = (0..=250).cycle().take(CHUNK_BYTES * 2 + 17).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for skip in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 5, data.len()] {
            let mut source = io::Cursor::new(data.clone());
            let length = Some(data.len() as u64);
            let mut before = Before::default();
            // In two steps, as after two breaks.
            before.read_to(skip as u64 / 2, &mut source).unwrap();
            before.read_to(skip as u64, &mut source).unwrap();
            let (body, outcome) = start_after(before, source, length, Moved::default()).unwrap();
            let (sent, hashed) = runtime.block_on(async {
                (body.collect().await.unwrap().to_bytes(), outcome.await.unwrap().unwrap())
            });
            assert_eq!(sent, data[skip..], "{skip}");
            assert_eq!(hashed.sha256, ContentDigest::from_bytes(Sha256::digest(&data).into()));
        }
    }

    #[test]
    fn an_unknown_length_is_read_to_the_end() {
        let (received, sent) = drain(Vec::new(), None);
        assert_eq!((received.unwrap().len(), sent.unwrap().size), (0, 0));
    }

    fn drain(data: Vec<u8>, length: Option<u64>) -> (io::Result<Vec<u8>>, io::Result<Sent>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (body, outcome) = start(io::Cursor::new(data), length, Moved::default()).unwrap();
        runtime.block_on(async {
            let received = body.collect().await.map(|collected| collected.to_bytes().to_vec());
            (received, outcome.await.unwrap())
        })
    }
}
