//! A connection on which a failed write does not hide the answer.
//!
//! A server that refuses an upload answers, and closes while we are still sending. Its answer lies in our
//! receive buffer, but the next write fails first, and an HTTP client that stops there reports “broken
//! pipe” in place of the reason. Here a failed write waits: reading goes on, and its end decides.
//!
//! Invariant: after a failed write nothing is written any more, and reading always ends (in data, in the
//! end of the stream or in the same failure), so that waiting ends too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Wraps a stream.
#[derive(Debug)]
pub(crate) struct PatientStream<S> {
    stream: S,
    write_failed: bool,
}

impl<S> PatientStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, write_failed: false }
    }

    /// A failure becomes waiting: hyper polls both directions, and the reading one will wake it.
    fn wait_if_gone<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(&result, Poll::Ready(Err(error)) if is_gone(error)) {
            self.write_failed = true;
            return Poll::Pending;
        }
        result
    }
}

/// The other side closed or reset the connection.
fn is_gone(error: &io::Error) -> bool {
    [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind())
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wait_if_gone(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wait_if_gone(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_failed {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.wait_if_gone(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_failed {
            // Nothing can be written, so nothing is left to shut.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
