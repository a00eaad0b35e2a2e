//! One file on its way down, however often the line breaks.
//!
//! Invariant: every byte that is kept was hashed here, those too that an earlier process fetched, and nothing is published
//! whose SHA-256 is not the one that the server named beforehand. A rest is asked for with `If-Range`: it belongs to the
//! content that the first part belongs to, or all of it comes again.

use std::io::{self, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use sha2::Digest as _;
use store_proto::ContentDigest;
use store_proto::headers::REPR_DIGEST;

use super::part_file::PartFile;
use super::resume::is_worth_another_try;
use super::upload_body::Before;
use crate::console::{Console, human_bytes};
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, chain, expect_success, watched};
use crate::limits::{RESUME_PAUSE, RESUME_PAUSE_AT_MOST};
use crate::target::{RemoteFile, Server};

/// What holds for every file of a command.
pub(super) struct Fetching<'a> {
    pub(super) server: &'a Server,
    pub(super) credential: &'a Credential,
    pub(super) patience: Duration,
    pub(super) retries: u32,
    pub(super) console: Console,
}

/// Where the bytes go.
pub(super) enum Sink {
    File(PartFile),
    StandardOutput,
}

/// What the server says of the content that is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    digest: ContentDigest,
    etag: String,
    length: u64,
}

impl Fetching<'_> {
    /// What is there under a name: its hash.
    pub(super) async fn digest(&self, source: &RemoteFile) -> Result<ContentDigest, Failure> {
        let answer = self.ask(Method::HEAD, source, &[]).await?;
        Ok(content(answer.headers(), announced_length(answer.headers()))?.digest)
    }

    /// Fetches it, and publishes it if it is what was announced.
    pub(super) async fn fetch(
        &self,
        source: &RemoteFile,
        mut sink: Sink,
        moved: &Moved,
        mut tick: impl FnMut(u64, Option<u64>),
    ) -> Result<(u64, ContentDigest), Failure> {
        let mut have = sink.take_over()?;
        let mut known: Option<Content> = None;
        if have.bytes > 0 {
            // The rest can only be asked for by the name of the content.
            let answer = self.ask(Method::HEAD, source, &[]).await?;
            let found = content(answer.headers(), announced_length(answer.headers()))?;
            if have.bytes > found.length {
                have = sink.empty(have)?;
            } else {
                self.console.say(&format!("going on at {}", human_bytes(have.bytes)));
            }
            known = Some(found);
        }
        let taken_over = have.bytes > 0;
        moved.store(have.bytes, Ordering::Relaxed);
        let (mut vain, mut pause, mut reached) = (0, RESUME_PAUSE, have.bytes);
        let content = loop {
            match self.stretch(source, &mut sink, &mut have, &mut known, moved, &mut tick).await {
                Ok(content) => break content,
                Err(failure) if !is_worth_another_try(&failure) => return Err(failure),
                Err(failure) => {
                    vain = if have.bytes > reached { 1 } else { vain + 1 };
                    pause = if have.bytes > reached { RESUME_PAUSE } else { pause };
                    reached = reached.max(have.bytes);
                    if vain > self.retries {
                        return Err(sink.keep(&have, failure));
                    }
                    self.console
                        .say(&format!("the connection broke: {}; going on in a moment", failure.message()));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RESUME_PAUSE_AT_MOST);
                }
            }
        };
        let (size, digest) = (have.bytes, ContentDigest::from_bytes(have.hash.finalize().into()));
        if digest != content.digest {
            sink.discard();
            let hint =
                if taken_over { "; what an earlier download left was a part of it: try again" } else { "" };
            return Err(Failure::failed(format!(
                "{source}: WRONG CONTENT: its sha256 is {digest}, the server announced {}; nothing was kept{hint}",
                content.digest
            )));
        }
        sink.publish()?;
        Ok((size, digest))
    }

    /// Asks for what is missing and takes what comes.
    async fn stretch(
        &self,
        source: &RemoteFile,
        sink: &mut Sink,
        have: &mut Before,
        known: &mut Option<Content>,
        moved: &Moved,
        tick: &mut impl FnMut(u64, Option<u64>),
    ) -> Result<Content, Failure> {
        if let Some(content) = known.as_ref().filter(|content| content.length == have.bytes) {
            return Ok(content.clone());
        }
        let mut headers = Vec::new();
        let range = format!("bytes={}-", have.bytes);
        if let Some(content) = known.as_ref().filter(|_| have.bytes > 0) {
            headers.extend([(RANGE, range.as_str()), (IF_RANGE, content.etag.as_str())]);
        }
        let (head, body) = self.ask(Method::GET, source, &headers).await?.into_parts();
        let is_rest = head.status == StatusCode::PARTIAL_CONTENT;
        let length = if is_rest {
            let (first, length) = content_range(&head.headers).ok_or_else(|| {
                Failure::failed(format!("{source}: the server does not say which part of the file it sends"))
            })?;
            if first != have.bytes {
                return Err(Failure::failed(format!(
                    "{source}: byte {} was asked for, {first} came",
                    have.bytes
                )));
            }
            Some(length)
        } else {
            announced_length(&head.headers)
        };
        let found = content(&head.headers, length)?;
        if have.bytes > 0 && (!is_rest || known.as_ref() != Some(&found)) {
            *have = sink.empty(std::mem::take(have))?;
            moved.store(0, Ordering::Relaxed);
            if is_rest {
                *known = None;
                return Err(Failure::cannot_tell("the file was replaced while it was fetched"));
            }
        }
        *known = Some(found.clone());
        let total = length;
        watched(copy(body, sink, have, moved), moved, self.patience, |bytes| tick(bytes, total)).await?;
        match have.bytes == found.length || length.is_none() {
            true => Ok(Content { length: have.bytes, ..found }),
            false => Err(Failure::cannot_tell(format!(
                "{source}: {} bytes came, {} were announced",
                have.bytes, found.length
            ))),
        }
    }

    async fn ask(
        &self,
        method: Method,
        source: &RemoteFile,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Incoming>, Failure> {
        let mut request =
            http_client::request(method, self.server, self.credential, &source.resource(self.server));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request
            .body(Empty::<Bytes>::new().map_err(|never| match never {}))
            .map_err(|error| Failure::failed(format!("make the request: {error}")))?;
        let asking = async { expect_success(http_client::send(self.server, request).await?).await };
        watched(asking, &Moved::default(), self.patience, |_| ()).await
    }
}

impl Sink {
    /// What an earlier process left, read and hashed.
    fn take_over(&mut self) -> Result<Before, Failure> {
        match self {
            Sink::StandardOutput => Ok(Before::default()),
            Sink::File(part) => {
                let mut have = Before::default();
                let bytes = part.length()?;
                have.read_to(bytes, &mut part.file()).map_err(|error| part.failed("read", &error))?;
                Ok(have)
            }
        }
    }

    /// Begins again.
    fn empty(&mut self, have: Before) -> Result<Before, Failure> {
        match self {
            Sink::File(part) => part.empty().map(|()| Before::default()),
            Sink::StandardOutput if have.bytes == 0 => Ok(have),
            Sink::StandardOutput => Err(Failure::failed(
                "the file was replaced while it was fetched, and what was written out cannot be taken back",
            )),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::File(part) => part.write(bytes),
            Sink::StandardOutput => io::stdout().write_all(bytes).map_err(|error| Failure::output(&error)),
        }
    }

    /// Gives up for now: what came stays for the next try.
    fn keep(self, have: &Before, failure: Failure) -> Failure {
        match self {
            Sink::File(part) if have.bytes > 0 => {
                let kept = part.part().display();
                failure
                    .with_hint(&format!("; what came is in {kept}, and the same command goes on from there"))
            }
            Sink::File(_) | Sink::StandardOutput => failure,
        }
    }

    fn discard(self) {
        match self {
            Sink::File(part) => part.discard(),
            Sink::StandardOutput => {}
        }
    }

    fn publish(self) -> Result<(), Failure> {
        match self {
            Sink::File(part) => part.publish(),
            Sink::StandardOutput => io::stdout().flush().map_err(|error| Failure::output(&error)),
        }
    }
}

/// Hashes and writes each piece while it is in the cache.
async fn copy(mut body: Incoming, sink: &mut Sink, have: &mut Before, moved: &Moved) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failure::cannot_tell(format!("the download broke off: {}", chain(&error))))?;
        let Ok(bytes) = frame.into_data() else { continue };
        sink.write(&bytes)?;
        have.hash.update(&bytes);
        have.bytes += bytes.len() as u64;
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// `Repr-Digest`, or the ETag, which is the content's SHA-256 with this server.
fn content(headers: &HeaderMap, length: Option<u64>) -> Result<Content, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let etag = text(ETAG.as_str()).unwrap_or_default().to_owned();
    let from_digest = text(REPR_DIGEST).and_then(|field| ContentDigest::from_repr_digest(field).ok());
    let from_etag = || ContentDigest::parse(etag.trim_matches('"')).ok();
    let digest = from_digest.or_else(from_etag).ok_or_else(|| {
        Failure::failed(
            "the server named no SHA-256 for this file, so it could not be verified; nothing was kept",
        )
    })?;
    Ok(Content { digest, etag, length: length.unwrap_or(u64::MAX) })
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `bytes FIRST-LAST/LENGTH`, up to the end.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, length) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, length): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, length.parse().ok()?);
    (first <= last && last.checked_add(1) == Some(length)).then_some((first, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rest_up_to_the_end_is_taken() {
        let of = |value: &'static str| {
            content_range(&HeaderMap::from_iter([(CONTENT_RANGE, http::HeaderValue::from_static(value))]))
        };
        assert_eq!(of("bytes 5-9/10"), Some((5, 10)));
        for bad in [
            "bytes 5-8/10",
            "bytes 9-5/10",
            "bytes */10",
            "5-9/10",
            "bytes 5-9/*",
            "bytes 5-18446744073709551615/1",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
