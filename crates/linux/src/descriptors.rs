//! Descriptors over Unix sockets (`SCM_RIGHTS`, `unix(7)`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors one message may carry: a configuration, its keys and certificates, and the keys of six identity
/// providers. More would be a mistake or an attack.
pub const MAX_DESCRIPTORS: usize = 16;
/// The most that the kernel lets one message carry (`SCM_MAX_FD`, include/net/scm.h).
const MOST_THERE_CAN_BE: usize = 253;

/// Sends `bytes` with `descriptors` attached to the first of them. Returns how many bytes went.
pub fn send_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives into `buffer`. Descriptors come close-on-exec; a message with more than [`MAX_DESCRIPTORS`] is an
/// error, and none of it is kept.
pub fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for all that can come: of a message that is cut short the kernel hands over what fits, and nix then
    // shows none of it, so those would stay open for ever.
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MOST_THERE_CAN_BE]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else owns them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if descriptors.len() > MAX_DESCRIPTORS || message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors in one message"));
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_and_reads_the_same_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let (left, right) = UnixStream::pair().unwrap();
        send_with_descriptors(left.as_fd(), b"x", &[file.as_fd()]).unwrap();
        let mut buffer = [0; 8];
        let (length, mut descriptors) = receive_with_descriptors(right.as_fd(), &mut buffer).unwrap();
        assert_eq!((length, descriptors.len()), (1, 1));
        let mut text = String::new();
        File::from(descriptors.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn more_descriptors_than_allowed_are_not_sent() {
        let (left, _right) = UnixStream::pair().unwrap();
        let many = vec![left.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send_with_descriptors(left.as_fd(), b"x", &many).is_err());
    }

    #[test]
    fn descriptors_that_are_refused_are_closed() {
        let (left, right) = UnixStream::pair().unwrap();
        let (file, watched) = std::io::pipe().unwrap();
        let many = vec![watched.as_raw_fd(); MAX_DESCRIPTORS + 1];
        let rights = [ControlMessage::ScmRights(&many)];
        let parts = [IoSlice::new(b"x")];
        sendmsg::<()>(left.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        drop(watched);
        assert!(receive_with_descriptors(right.as_fd(), &mut [0; 8]).is_err());
        // End-of-file comes when the last copy of the writing end is closed.
        assert_eq!((&file).read(&mut [0; 1]).unwrap(), 0);
    }
}
