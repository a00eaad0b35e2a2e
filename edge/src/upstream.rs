//! The storageds behind this edge, and which of them a request belongs to.
//!
//! **Invariant:** a cohort belongs to one of them by the configuration, and an id to the one that made it, which its
//! first bytes say. What belongs to one is asked of no other: a question that was put to the wrong store is a refusal in
//! its ledger, and one that was put to two could be done twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::readiness::Condition;
use store_proto::{Cohort, FileId};

use crate::lockouts::Untold;
use crate::store::Store;
use crate::target::Target;
use crate::witness::Witness;

/// One storaged.
#[derive(Debug)]
pub struct Upstream {
    /// As logs and metrics call it.
    pub name: String,
    /// Whose files it has.
    pub cohorts: BTreeSet<Cohort>,
    /// The way to it.
    pub store: Store,
    /// Its log, as far as it was seen.
    pub witness: Witness,
    /// Lock-outs that it is still to be told of.
    pub untold: Untold,
    up: AtomicBool,
    well: AtomicBool,
}

impl Upstream {
    /// One that has not answered yet.
    pub fn new(name: String, cohorts: BTreeSet<Cohort>, store: Store, witness: Witness) -> Upstream {
        let (up, well) = (AtomicBool::new(false), AtomicBool::new(false));
        Upstream { name, cohorts, store, witness, untold: Untold::default(), up, well }
    }

    /// Whether its circuit is closed.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Whether its last answer to a health request was that it is well.
    pub fn is_well(&self) -> bool {
        self.well.load(Ordering::Acquire)
    }
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// This one's.
    One(&'a Arc<Upstream>),
    /// It is about what each of them has.
    Each,
    /// It cannot be said: one of them has not answered since edge started, and it may be that one's.
    Unknown,
}

/// All of them, in the order of the configuration: at least one.
#[derive(Debug)]
pub struct Upstreams {
    first: Arc<Upstream>,
    others: Vec<Arc<Upstream>>,
    /// Holds while one of them is up.
    tunnel: Condition,
    /// Holds while one of them is well.
    store: Condition,
}

impl Upstreams {
    /// The conditions are edge's: it is ready as long as it can serve somebody.
    pub fn new(first: Upstream, others: Vec<Upstream>, tunnel: Condition, store: Condition) -> Upstreams {
        let others = others.into_iter().map(Arc::new).collect();
        Upstreams { first: Arc::new(first), others, tunnel, store }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The one that is called so.
    pub fn named(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.iter().find(|upstream| upstream.name == name)
    }

    /// Asked for what no other is asked for.
    pub fn first(&self) -> &Arc<Upstream> {
        &self.first
    }

    /// Whether one of them is up.
    pub fn any_up(&self) -> bool {
        self.tunnel.holds()
    }

    /// The circuit of one opened or closed.
    pub fn set_up(&self, upstream: &Upstream, up: bool) {
        upstream.up.store(up, Ordering::Release);
        self.tunnel.set(self.iter().any(|upstream| upstream.is_up()));
        if !up {
            self.set_well(upstream, false);
        }
    }

    /// One of them said that it is well, or not.
    pub fn set_well(&self, upstream: &Upstream, well: bool) {
        upstream.well.store(well, Ordering::Release);
        self.store.set(self.iter().any(|upstream| upstream.is_well()));
    }

    /// Whom a request for this is for.
    pub fn whose(&self, target: &Target) -> Whose<'_> {
        if self.others.is_empty() {
            return Whose::One(&self.first);
        }
        match target {
            Target::Page => Whose::One(&self.first),
            Target::Files(cohort)
            | Target::File(cohort, _)
            | Target::Versions(cohort, _)
            | Target::Uploads(cohort) => {
                let of_cohort = self.iter().find(|upstream| upstream.cohorts.contains(cohort));
                Whose::One(of_cohort.unwrap_or(&self.first))
            }
            Target::Upload(id)
            | Target::Stored(id)
            | Target::Receipt(id)
            | Target::Presign(id)
            | Target::Presigned(id) => self.maker(*id),
            Target::Link(link) => self.maker(link.unverified_file_id()),
            Target::Policy | Target::MyUploads => Whose::Each,
        }
    }

    /// An id from before stores said in it who made it is the first one's: the site had one store then.
    fn maker(&self, id: FileId) -> Whose<'_> {
        let mut all_known = true;
        for upstream in self.iter() {
            match upstream.store.mark() {
                Some(mark) if mark == id.mark() => return Whose::One(upstream),
                Some(_) => {}
                None => all_known = false,
            }
        }
        if all_known { Whose::One(&self.first) } else { Whose::Unknown }
    }
}
