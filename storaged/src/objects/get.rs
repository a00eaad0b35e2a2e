//! Reading a file, or a stretch of it, from its sealed parts.
//!
//! **Invariant:** no byte leaves that was not authenticated: each segment is opened as a whole before any of
//! it is handed on, and it opens only in its place, in its part, of its file and cohort. An object whose
//! length is not the recorded one is not served at all, and one that ends early or does not open is an error
//! in the middle of the body, never a short answer that looks whole. Only the segments that hold the range
//! are read.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vault::stream::{Extent, HEADER_BYTES, Layout, Opener};

use crate::objects::{Backend, Buffer, Part, Reading};

/// A part as the ledger records it, and what opens it.
#[derive(Debug)]
pub struct Recorded {
    /// Where it is.
    pub backend: Arc<dyn Backend>,
    /// Its object, key and associated data.
    pub part: Part,
    /// Its plain bytes.
    pub size: u64,
    /// Its bytes on the volume.
    pub sealed_size: u64,
}

/// A file being read.
#[derive(Debug)]
pub struct Get {
    current: Option<Current>,
    /// The parts behind it, each with its range.
    rest: VecDeque<(Recorded, Range<u64>)>,
}

/// An opened part.
#[derive(Debug)]
struct Current {
    object: Box<dyn Reading>,
    opener: Opener,
    extent: Extent,
    /// What is still to be read of it.
    range: Range<u64>,
    /// Of a part without bytes, whose one segment is to be opened all the same.
    empty: bool,
}

/// What is wrong with an object that is not what the ledger says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Another length.
    #[error("the object has {found} bytes, the ledger says {recorded}")]
    Length {
        /// What the volume says.
        found: u64,
        /// What the ledger says.
        recorded: u64,
    },
    /// Shorter than when it was opened.
    #[error("the object ended early")]
    Short,
    /// Other bytes than were sealed.
    #[error("the object was changed: a segment does not open")]
    Content,
}

impl Damage {
    fn into_error(self) -> io::Error {
        let kind = match self {
            Damage::Length { .. } | Damage::Content => io::ErrorKind::InvalidData,
            Damage::Short => io::ErrorKind::UnexpectedEof,
        };
        io::Error::new(kind, self)
    }
}

impl Get {
    /// Opens the first of these stretches of parts. The others follow when they are reached.
    pub fn open(stretches: impl IntoIterator<Item = (Recorded, Range<u64>)>) -> io::Result<Get> {
        let mut get = Get { current: None, rest: stretches.into_iter().collect() };
        get.advance()?;
        Ok(get)
    }

    /// The next stretch, at most a segment; an empty buffer when all of the range was read.
    pub fn read(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        loop {
            let Some(current) = &mut self.current else {
                buffer.clear();
                return Ok(());
            };
            if current.range.is_empty() && !current.empty {
                self.advance()?;
                continue;
            }
            current.read(buffer)?;
            if !buffer.is_empty() {
                return Ok(());
            }
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        self.current = None;
        if let Some((recorded, range)) = self.rest.pop_front() {
            self.current = Some(Current::open(&recorded, range)?);
        }
        Ok(())
    }
}

/// Which stretches of parts of these sizes hold `range` of the file. A file without bytes has one part without
/// any, which is read all the same: its tag says that there are none.
pub fn stretches(sizes: impl IntoIterator<Item = u64>, range: &Range<u64>) -> Vec<(usize, Range<u64>)> {
    let mut found = Vec::new();
    let mut begin = 0;
    for (number, size) in sizes.into_iter().enumerate() {
        let end = begin + size;
        let (from, to) = (range.start.clamp(begin, end), range.end.clamp(begin, end));
        if from < to || (range.is_empty() && size == 0) {
            found.push((number, from - begin..to - begin));
        }
        begin = end;
    }
    found
}

impl Current {
    fn open(recorded: &Recorded, range: Range<u64>) -> io::Result<Current> {
        let object = recorded.backend.open(recorded.part.object)?;
        let found = object.length();
        let extent = Layout::STORE
            .of_plain(recorded.size)
            .filter(|extent| found == recorded.sealed_size && extent.sealed_bytes() == recorded.sealed_size);
        let Some(extent) = extent else {
            return Err(Damage::Length { found, recorded: recorded.sealed_size }.into_error());
        };
        let mut header = [0; HEADER_BYTES];
        read_exact(object.as_ref(), &mut header, 0)?;
        let opener = Opener::new(&recorded.part.key, &recorded.part.aad, &header, Layout::STORE)
            .map_err(|_| Damage::Content.into_error())?;
        let empty = recorded.size == 0;
        Ok(Current { object, opener, extent, range, empty })
    }

    /// Opens the segment that holds the first byte that is wanted.
    fn read(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let number = self.extent.segments_of(self.range.start..self.range.start + 1).start;
        let number = u32::try_from(number).map_err(|_| Damage::Content.into_error())?;
        let (sealed, plain) = (self.extent.sealed_range(number), self.extent.plain_range(number));
        let length = usize::try_from(sealed.end - sealed.start).map_err(io::Error::other)?;
        let (object, opener) = (self.object.as_ref(), &self.opener);
        let end = self.range.end.min(plain.end);
        let wanted = position(&(self.range.start - plain.start..end - plain.start))?;
        buffer.refill(length, |segment| {
            read_exact(object, segment, sealed.start)?;
            opener
                .open_segment(number, self.extent.is_last(number), segment)
                .map_err(|_| Damage::Content.into_error())?;
            Ok::<_, io::Error>(wanted)
        })?;
        self.empty = false;
        self.range.start = end;
        Ok(())
    }
}

fn position(range: &Range<u64>) -> io::Result<Range<usize>> {
    let at = |place| usize::try_from(place).map_err(io::Error::other);
    Ok(at(range.start)?..at(range.end)?)
}

fn read_exact(object: &dyn Reading, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match object.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Err(Damage::Short.into_error()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
