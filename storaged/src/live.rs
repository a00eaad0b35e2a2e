//! Requests under way, by user: so that shutting somebody out ends what they have open.
//!
//! **Invariant:** a request is here from before its rights are looked at for the last time until its answer is written or
//! its connection is gone. Whoever ends it closes the connection: a body that comes in breaks off, one that goes out
//! stops, and both are recorded by whoever moves them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store_proto::{FileId, UserName};
use tokio::sync::watch;

/// What a request does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file comes in.
    Upload,
    /// A file goes out.
    Download,
    /// Anything short.
    Other,
}

/// How many were ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Files on their way in.
    pub uploads: u64,
    /// Files on their way out.
    pub downloads: u64,
    /// Other requests.
    pub others: u64,
}

/// What opened a request, as far as it can be taken back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A token of ours.
    Token(FileId),
    /// A link.
    Link(FileId),
    /// What somebody else vouches for.
    Other,
}

/// All requests under way.
#[derive(Debug, Default)]
pub struct LiveRequests {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    running: HashMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    user: UserName,
    shown: Shown,
    kind: Kind,
    connection: ConnectionEnd,
}

/// Closes one connection.
#[derive(Debug, Clone)]
pub struct ConnectionEnd(Arc<watch::Sender<bool>>);

impl ConnectionEnd {
    /// Of a connection that was just accepted.
    pub fn new() -> ConnectionEnd {
        ConnectionEnd(Arc::new(watch::Sender::new(false)))
    }

    /// Returns when the connection is to be closed.
    pub async fn told(&self) {
        let mut told = self.0.subscribe();
        // The sender is held by ourselves, so it is not gone.
        let _ = told.wait_for(|told| *told).await;
    }
}

impl Default for ConnectionEnd {
    fn default() -> Self {
        Self::new()
    }
}

/// A request's place in the table; dropping it takes it out.
#[derive(Debug)]
pub struct Live {
    id: u64,
    requests: Arc<LiveRequests>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.requests.table().running.remove(&self.id);
    }
}

impl LiveRequests {
    /// Puts a request into the table.
    pub fn begin(
        self: &Arc<Self>,
        user: UserName,
        shown: Shown,
        kind: Kind,
        connection: ConnectionEnd,
    ) -> Live {
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.running.insert(id, Running { user, shown, kind, connection });
        Live { id, requests: Arc::clone(self) }
    }

    /// Ends all requests of a user, those through their links too.
    pub fn end_user(&self, user: &UserName) -> Ended {
        self.end(|running| running.user == *user)
    }

    /// Ends every request that brings a file, whoever sends it.
    pub fn end_uploads(&self) -> Ended {
        self.end(|running| running.kind == Kind::Upload)
    }

    /// Ends all requests through a link.
    pub fn end_link(&self, link: FileId) -> Ended {
        self.end(|running| running.shown == Shown::Link(link))
    }

    /// Ends all requests that a token opened.
    pub fn end_token(&self, token: FileId) -> Ended {
        self.end(|running| running.shown == Shown::Token(token))
    }

    fn end(&self, wanted: impl Fn(&Running) -> bool) -> Ended {
        let mut ended = Ended::default();
        for running in self.table().running.values().filter(|running| wanted(running)) {
            match running.kind {
                Kind::Upload => ended.uploads += 1,
                Kind::Download => ended.downloads += 1,
                Kind::Other => ended.others += 1,
            }
            running.connection.0.send_replace(true);
        }
        ended
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ending_a_user_ends_theirs_and_nobody_elses() {
        let requests = Arc::new(LiveRequests::default());
        let name = |name| UserName::parse(name).unwrap();
        let (ada, bob) = (ConnectionEnd::new(), ConnectionEnd::new());
        let link = FileId::from_bytes([1; 16]);
        let _upload = requests.begin(name("ada"), Shown::Other, Kind::Upload, ada.clone());
        let over = requests.begin(name("ada"), Shown::Other, Kind::Download, ada.clone());
        let _through_link = requests.begin(name("bob"), Shown::Link(link), Kind::Download, bob.clone());
        drop(over);
        assert_eq!(requests.end_uploads(), Ended { uploads: 1, ..Ended::default() });
        assert_eq!(requests.end_user(&name("ada")), Ended { uploads: 1, ..Ended::default() });
        ada.told().await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), bob.told());
        assert!(waiting.await.is_err());
        assert_eq!(requests.end_link(link), Ended { downloads: 1, ..Ended::default() });
        bob.told().await;
        let (eve, token) = (ConnectionEnd::new(), FileId::from_bytes([2; 16]));
        let _by_token = requests.begin(name("eve"), Shown::Token(token), Kind::Upload, eve.clone());
        assert_eq!(requests.end_token(FileId::from_bytes([3; 16])), Ended::default());
        assert_eq!(requests.end_token(token), Ended { uploads: 1, ..Ended::default() });
        eve.told().await;
    }
}
