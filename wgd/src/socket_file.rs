//! Whose the files of the sockets are that other users may use.
//!
//! Invariant: credentials decide who is heard; the file keeps everybody else from filling the socket's queue.
use linux::User;
use std::io;

/// Binds a socket, by `bind(mode, owner)`, for root and these users. A file has one owner: of several users, or
/// where it cannot be given away, it is everybody's.
pub(crate) fn bind_for<T>(uids: &[u32], bind: impl Fn(u32, Option<User>) -> io::Result<T>) -> io::Result<T> {
    let others: Vec<u32> = uids.iter().copied().filter(|uid| *uid != 0).collect();
    match others.as_slice() {
        [] => bind(0o600, None),
        [uid] => {
            let owner = User { uid: *uid, gid: User::current().gid };
            match bind(0o600, Some(owner)) {
                // No CAP_CHOWN, or a user namespace that does not know this user.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)) => {
                    bind(0o666, None)
                }
                bound => bound,
            }
        }
        [_, ..] => bind(0o666, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_one_user_is_that_users_alone() {
        let bind = |mode, owner: Option<User>| Ok((mode, owner.map(|owner| owner.uid)));
        let how = |uids: &[u32]| bind_for(uids, bind).expect("bound");
        assert_eq!(how(&[]), (0o600, None));
        assert_eq!(how(&[0]), (0o600, None));
        assert_eq!(how(&[7]), (0o600, Some(7)));
        assert_eq!(how(&[7, 8]), (0o666, None));
    }

    #[test]
    fn a_socket_that_cannot_be_given_away_is_everybodys() {
        let not_ours = |mode, owner: Option<User>| match owner {
            Some(_) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            None => Ok(mode),
        };
        assert_eq!(bind_for(&[7], not_ours).expect("bound"), 0o666);
    }
}
