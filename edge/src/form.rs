//! `multipart/form-data` with one file, as browsers and `curl -F` send it (RFC 7578), read while it comes.
//!
//! **Invariant:** what is kept is bounded: the fields before the file, and after that no more than the few bytes that may
//! be the beginning of the boundary. The file is the last part: a body that goes on behind it is broken off, for then what
//! was sent is not what would be stored.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use memchr::memmem;
use store_proto::{Attributes, FileType, LogicalPath};

use crate::disposition::Disposition;
use crate::limits::{BOUNDARY_BYTES, FORM_FIELDS, FORM_HEAD_BYTES};
use crate::refusal::Refusal;
use crate::stream::BodyError;

/// What the fields before the file say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Where the file goes: a whole name, or a folder that ends with `/`.
    pub path: Option<String>,
    /// What kind of data it is.
    pub file_type: Option<String>,
    /// What is said of it beside that: `NAME=VALUE`, several behind commas.
    pub attributes: Option<String>,
    /// What the client's form calls the file.
    pub filename: String,
}

impl Fields {
    /// The file's name in the cohort.
    pub fn path(&self) -> Result<LogicalPath, Refusal> {
        let text = match &self.path {
            None => self.filename.clone(),
            Some(folder) if folder.ends_with('/') => format!("{folder}{}", self.filename),
            Some(path) => path.clone(),
        };
        LogicalPath::parse(&text).map_err(|error| Refusal::Path(error.to_string()))
    }

    /// What kind of data the file is.
    pub fn file_type(&self) -> Result<Option<FileType>, Refusal> {
        let parsed = self.file_type.as_deref().map(FileType::parse).transpose();
        parsed.map_err(|error| Refusal::Body(error.to_string()))
    }

    /// What is said of the file beside that.
    pub fn attributes(&self) -> Result<Attributes, Refusal> {
        let parsed = Attributes::parse_lists(self.attributes.as_deref());
        parsed.map_err(|error| Refusal::Body(error.to_string()))
    }
}

/// The boundary that a `Content-Type` names.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let is_good = (1..=BOUNDARY_BYTES).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    is_good.then(|| value.to_owned())
}

/// A body whose fields are read and whose file is not.
#[derive(Debug)]
pub struct FormBody<B> {
    inner: B,
    /// CR LF, two dashes and the boundary.
    delimiter: Bytes,
    /// Bytes that have come and are not passed on.
    held: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    File,
    /// Behind the delimiter that ended the file.
    Behind,
    Over,
}

impl<B> FormBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads the fields, up to the first byte of the file.
    pub async fn open(inner: B, boundary: &str) -> Result<(Fields, FormBody<B>), Refusal> {
        let delimiter = Bytes::from(format!("\r\n--{boundary}"));
        // The first boundary has no line before it.
        let mut head =
            Head { inner, delimiter: delimiter.clone(), read: BytesMut::from(&b"\r\n"[..]), total: 0 };
        let mut fields = Fields::default();
        let preamble = head.until_delimiter().await?;
        if !preamble.is_empty() {
            return Err(body("it does not begin with its boundary"));
        }
        for _ in 0..=FORM_FIELDS {
            let Some(disposition) = head.part().await? else {
                return Err(body("it holds no file: a part with a filename"));
            };
            if let Some(filename) = disposition.filename {
                fields.filename = filename;
                let Head { inner, read, .. } = head;
                return Ok((fields, FormBody { inner, delimiter, held: read.freeze(), state: State::File }));
            }
            let value = head.until_delimiter().await?;
            let place = match disposition.name.as_deref() {
                Some("path") => &mut fields.path,
                Some("culvert-file-type") => &mut fields.file_type,
                Some("culvert-attribute") => &mut fields.attributes,
                // What else a page has in its form is its own matter.
                Some(_) | None => continue,
            };
            let value = String::from_utf8(value.to_vec()).map_err(|_| body("a field is not UTF-8"))?;
            if place.replace(value).is_some() {
                return Err(body("a field stands there twice"));
            }
        }
        Err(body("it has too many fields before the file"))
    }

    /// The file's next bytes; `None`: its end, and the form's.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match self.state {
                State::Over => return Poll::Ready(None),
                State::File => {
                    if let Some(passed) = self.pass() {
                        return Poll::Ready(Some(Ok(passed)));
                    }
                }
                State::Behind if self.held.starts_with(b"--") => {
                    self.held.clear();
                    self.state = State::Over;
                    continue;
                }
                State::Behind if self.held.len() >= 2 => {
                    return Poll::Ready(Some(Err(BodyError::Form("something follows the file"))));
                }
                State::Behind => {}
            }
            if self.state == State::Behind && self.held.len() >= 2 {
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                return Poll::Ready(Some(Err(BodyError::Incomplete)));
            };
            let Ok(frame) = frame else { return Poll::Ready(Some(Err(BodyError::Incomplete))) };
            let Ok(data) = frame.into_data() else { continue };
            self.held = if self.held.is_empty() {
                data
            } else {
                // Seldom: only where a frame ended like the beginning of the delimiter.
                [&self.held[..], &data[..]].concat().into()
            };
        }
    }

    /// What of the held bytes is certainly the file's.
    fn pass(&mut self) -> Option<Bytes> {
        if let Some(at) = memmem::find(&self.held, &self.delimiter) {
            let passed = self.held.split_to(at);
            self.held.advance(self.delimiter.len());
            self.state = State::Behind;
            return (!passed.is_empty()).then_some(passed);
        }
        let most = self.held.len().min(self.delimiter.len() - 1);
        let kept = (0..=most).rev().find(|kept| self.held.ends_with(&self.delimiter[..*kept])).unwrap_or(0);
        let passed = self.held.split_to(self.held.len() - kept);
        (!passed.is_empty()).then_some(passed)
    }
}

impl<B> Body for FormBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().next(cx).map(|next| next.map(|data| data.map(Frame::data)))
    }
}

/// The beginning of a form, as far as it has come.
struct Head<B> {
    inner: B,
    delimiter: Bytes,
    read: BytesMut,
    total: usize,
}

impl<B> Head<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    async fn more(&mut self) -> Result<(), Refusal> {
        loop {
            let frame = self.inner.frame().await.ok_or(Refusal::IncompleteBody)?;
            let Ok(data) = frame.map_err(|_| Refusal::IncompleteBody)?.into_data() else { continue };
            self.total += data.len();
            self.read.extend_from_slice(&data);
            return Ok(());
        }
    }

    /// Takes everything before the next `mark`, and the mark.
    async fn until(&mut self, mark: &[u8]) -> Result<Bytes, Refusal> {
        loop {
            if let Some(at) = memmem::find(&self.read, mark) {
                let found = self.read.split_to(at).freeze();
                self.read.advance(mark.len());
                return Ok(found);
            }
            // What is read ahead of the mark may be the file's: only the search is bounded.
            if self.read.len() >= FORM_HEAD_BYTES || self.total >= 4 * FORM_HEAD_BYTES {
                return Err(body("its fields are too long"));
            }
            self.more().await?;
        }
    }

    async fn until_delimiter(&mut self) -> Result<Bytes, Refusal> {
        let delimiter = self.delimiter.clone();
        self.until(&delimiter).await
    }

    /// The head of the next part; `None`: there is none.
    async fn part(&mut self) -> Result<Option<Disposition>, Refusal> {
        while self.read.len() < 2 {
            self.more().await?;
        }
        if self.read.starts_with(b"--") {
            return Ok(None);
        }
        if !self.read.starts_with(b"\r\n") {
            return Err(body("a boundary is not a line of its own"));
        }
        // The line's end stays: a part without any header has an empty line here.
        let headers = self.until(b"\r\n\r\n").await?;
        let text = std::str::from_utf8(&headers).map_err(|_| body("a part's head is not UTF-8"))?;
        let mut found = None;
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) =
                line.split_once(':').ok_or(body("a part's head has a line without a colon"))?;
            if name.eq_ignore_ascii_case("content-disposition") {
                let read = Disposition::parse(value.trim()).map_err(body)?;
                if found.replace(read).is_some() {
                    return Err(body("a part has two dispositions"));
                }
            }
            if name.eq_ignore_ascii_case("content-transfer-encoding")
                && !["binary", "8bit", "7bit"].contains(&value.trim())
            {
                return Err(body("a part is encoded for mail"));
            }
        }
        found.map(Some).ok_or(body("a part has no Content-Disposition"))
    }
}

fn body(rule: &'static str) -> Refusal {
    Refusal::Body(rule.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;

    /// A body in pieces of a given size.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    fn read(form: &[u8], piece: usize) -> Result<(Fields, Vec<u8>), String> {
        let pieces = Pieces(form.chunks(piece).map(Bytes::copy_from_slice).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let opened = FormBody::open(pieces, "B").await;
            let (fields, mut body) = opened.map_err(|refusal| refusal.to_string())?;
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                bytes.extend_from_slice(&frame.map_err(|error| error.to_string())?.into_data().unwrap());
            }
            Ok((fields, bytes))
        })
    }

    fn form(content: &[u8]) -> Vec<u8> {
        let before = b"--B\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n2026/\r\n--B\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\nContent-Type: text/csv\r\n\r\n";
        [before, content, b"\r\n--B--\r\n"].concat()
    }

    #[test]
    fn whatever_the_pieces_the_file_is_the_same() {
        let contents: [&[u8]; 6] =
            [b"", b"x", b"\r\n--", b"a\r\n--A\r\n--\r\n-", b"\r\r\n\r\n-\r\n--", &[b'\r'; 300]];
        for content in contents {
            let form = form(content);
            for piece in 1..form.len() + 1 {
                let (fields, bytes) = read(&form, piece).unwrap();
                assert_eq!(bytes, content, "{piece}");
                assert_eq!(fields.path().unwrap().as_str(), "2026/a.csv");
            }
        }
    }

    #[test]
    fn a_form_that_ends_early_is_no_file() {
        let form = form(b"content");
        for length in 0..form.len() - 4 {
            assert!(read(&form[..length], 7).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_not_one_file_at_the_end_is_refused() {
        let file = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nx\r\n";
        let field = |name: &str, value: &str| {
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let many: String = (0..40).map(|n| field(&n.to_string(), "x")).collect();
        let long = field("x", &"x".repeat(100_000));
        for (bad, expected) in [
            (format!("{file}{file}--B--\r\n"), "follows the file"),
            (format!("{file}{}--B--\r\n", field("path", "b")), "follows the file"),
            (format!("{}--B--\r\n", field("path", "b")), "no file"),
            (format!("{}{}{file}--B--\r\n", field("path", "b"), field("path", "c")), "twice"),
            (format!("{many}{file}--B--\r\n"), "too many"),
            (format!("{long}{file}--B--\r\n"), "too long"),
            (format!("preamble\r\n{file}--B--\r\n"), "begin with its boundary"),
            ("--Bx\r\n".to_owned(), "a line of its own"),
            ("--B\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--".to_owned(), "no Content-Disposition"),
        ] {
            let error = read(bad.as_bytes(), 1000).unwrap_err();
            assert!(error.contains(expected), "{error}, expected {expected}");
        }
    }

    #[test]
    fn the_boundary_is_read_as_browsers_write_it() {
        let read = |text: &str| boundary(text);
        assert_eq!(read("multipart/form-data; boundary=----WebKitX").as_deref(), Some("----WebKitX"));
        assert_eq!(read("Multipart/Form-Data; charset=x; boundary=\"a b\"").as_deref(), Some("a b"));
        for bad in [
            "multipart/form-data",
            "multipart/mixed; boundary=x",
            "multipart/form-data; boundary=",
            "text/csv",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }
}
