//! The configuration socket, byte by byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::host::Host;

use crate::answer::Answer;
use crate::stage::SOCKET;

/// Longest that an answer may take; 130,560 prefixes of a debug build included.
const ANSWER_BOUND: Duration = Duration::from_secs(15);

/// A connection.
pub(crate) struct Uapi {
    stream: UnixStream,
}

impl Uapi {
    /// Connects to the socket on `host`.
    pub(crate) fn connect(host: &Host) -> Result<Uapi> {
        let stream = UnixStream::connect(host.path(SOCKET)).context("connect to the configuration socket")?;
        Uapi::on(stream)
    }

    /// Speaks on a connection that is there.
    pub(crate) fn on(stream: UnixStream) -> Result<Uapi> {
        stream.set_read_timeout(Some(ANSWER_BOUND)).context("bound reads")?;
        stream.set_write_timeout(Some(ANSWER_BOUND)).context("bound writes")?;
        Ok(Uapi { stream })
    }

    /// `get=1`.
    pub(crate) fn get(&mut self) -> Result<Answer> {
        self.send("get=1\n\n")?;
        Answer::parse(&self.answer()?)
    }

    /// `set=1` with these lines, and the number of the answer.
    pub(crate) fn set(&mut self, body: &str) -> Result<i32> {
        self.send(format!("set=1\n{body}\n"))?;
        let text = self.answer()?;
        let number = text.strip_prefix("errno=").and_then(|rest| rest.strip_suffix("\n\n"));
        number.and_then(|number| number.parse().ok()).with_context(|| format!("answered {text:?}"))
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).context("write a request")
    }

    /// Waits no longer than `bound` for answers from now on.
    pub(crate) fn within(&mut self, bound: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(bound)).context("bound reads")
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("close one direction")
    }

    /// One answer, its empty line included.
    pub(crate) fn answer(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while !bytes.ends_with(b"\n\n") {
            let length = self.stream.read(&mut buffer).context("wait for an answer")?;
            ensure!(length > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8(bytes).context("an answer that is not text")
    }

    /// What one read with a buffer of `room` bytes gives.
    pub(crate) fn read_once(&mut self, room: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; room];
        let length = self.stream.read(&mut buffer).context("wait for an answer")?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Fails unless the other side closes, within `bound`, and says nothing more.
    pub(crate) fn is_closed(&mut self, bound: Duration) -> Result<()> {
        self.within(bound)?;
        let mut buffer = [0; 256];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(()),
            Ok(length) => bail!("answered {:?}", String::from_utf8_lossy(&buffer[..length])),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error).context("wait for the connection's end"),
        }
    }
}
