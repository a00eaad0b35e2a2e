//! From the first record to the last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use receipt::checkpoint::Checkpoint;
use receipt::merkle::tile::place;
use receipt::merkle::{Edge, Hash, empty_root};
use receipt::note::LogKey;
use store_proto::FileId;

use crate::ledger::deletion::{self, DeletionRow};
use crate::ledger::files;
use crate::ledger::log::{self, Content, Entry};
use crate::ledger::read::Reader;
use crate::ledger::record::{Action, Ending, Phase, Record};
use crate::ledger::tables::CorruptError;
use crate::limits::{VERIFY_FINDINGS, VERIFY_STRETCH};

use super::against::{Claim, Watched};
use super::tables::{Begun, Stretch, kept_nodes};
use super::{Event, Finding, Kind};

pub(super) struct Walk<'a, T> {
    reader: &'a Reader,
    begun: &'a Begun,
    tell: T,
    /// Somebody wanted no more.
    pub(super) ended: bool,
    pub(super) findings: u64,
    pub(super) edge: Edge,
    pub(super) destroyed: u64,
    pub(super) files: u64,
    pub(super) epoch: u64,
    /// Record and number of each restore.
    epochs: Vec<(u64, u64)>,
    last_ms: u64,
    /// Entries that name a file.
    about_files: u64,
    /// Entries of which nobody knows whether they name one.
    unknown: u64,
    /// Intents without an outcome so far, and what they are about.
    open: BTreeMap<u64, (Action, Option<FileId>)>,
    /// Files whose records do not open and of which no record has said why; the first of those records.
    unexplained: HashMap<FileId, u64>,
    /// Files of which a record says that their keys were destroyed. Others of the same group may stand behind it.
    explained: HashSet<FileId>,
    against: Vec<Watched<'a>>,
}

impl<'a, T: FnMut(Event) -> ControlFlow<()>> Walk<'a, T> {
    pub(super) fn new(reader: &'a Reader, begun: &'a Begun, against: &'a [Claim], tell: T) -> Self {
        Walk {
            reader,
            begun,
            tell,
            ended: false,
            findings: 0,
            edge: Edge::default(),
            destroyed: 0,
            files: 0,
            epoch: 0,
            epochs: Vec::new(),
            last_ms: 0,
            about_files: 0,
            unknown: 0,
            open: BTreeMap::new(),
            unexplained: HashMap::new(),
            explained: HashSet::new(),
            against: against.iter().map(Watched::new).collect(),
        }
    }

    pub(super) fn find(&mut self, kind: Kind, record: Option<u64>, what: String) {
        self.found(Finding { kind, record, file: None, what });
    }

    fn find_about(&mut self, kind: Kind, record: u64, file: FileId, what: &str) {
        self.found(Finding { kind, record: Some(record), file: Some(file), what: what.to_owned() });
    }

    fn found(&mut self, finding: Finding) {
        self.findings += 1;
        if self.findings <= VERIFY_FINDINGS {
            self.say(Event::Finding(finding));
        }
    }

    fn say(&mut self, event: Event) {
        self.ended |= (self.tell)(event).is_break();
    }

    /// All records below `size`, in stretches.
    pub(super) fn records(&mut self, size: u64) -> Result<(), CorruptError> {
        let records = size.min(self.begun.last.map_or(0, |last| last + 1));
        let mut first = 0;
        while first < records && !self.ended {
            let end = records.min(first + VERIFY_STRETCH);
            self.stretch(first, end, size)?;
            first = end;
            self.say(Event::Progress { checked: first, records });
        }
        Ok(())
    }

    fn stretch(&mut self, first: u64, end: u64, size: u64) -> Result<(), CorruptError> {
        let mut stretch = Stretch::begin(self.reader)?;
        let rows = stretch.tables.records.range(first..end)?;
        let mut next = first;
        for row in rows {
            let (index, row) = row?;
            let index = index.value();
            while next < index {
                self.absent(&mut stretch, next)?;
                next += 1;
            }
            match log::open(stretch.snapshot.seal(), index, row.value()) {
                Ok(entry) => self.entry(&mut stretch, entry, size)?,
                Err(error) => {
                    self.unknown += 1;
                    self.find(Kind::Unreadable, Some(index), error.to_string());
                    self.stored_leaf(&mut stretch, index)?;
                }
            }
            next = index + 1;
        }
        while next < end {
            self.absent(&mut stretch, next)?;
            next += 1;
        }
        Ok(())
    }

    fn absent(&mut self, stretch: &mut Stretch, index: u64) -> Result<(), CorruptError> {
        self.unknown += 1;
        self.find(Kind::Missing, Some(index), "it is not there".to_owned());
        self.stored_leaf(stretch, index)
    }

    fn entry(&mut self, stretch: &mut Stretch, entry: Entry, size: u64) -> Result<(), CorruptError> {
        let Entry { index, time_ms, content } = entry;
        if time_ms < self.last_ms {
            self.find(Kind::Time, Some(index), "it is older than the record ahead of it".to_owned());
        }
        self.last_ms = self.last_ms.max(time_ms);
        match content {
            Content::Record(open) => {
                let leaf = open.leaf();
                if stretch.node(0, index)? != Some(leaf) {
                    let what = "it is not the one that its leaf commits to".to_owned();
                    self.find(Kind::Commitment, Some(index), what);
                }
                self.grow(stretch, index, leaf)?;
                self.record(stretch, &open.record, size)
            }
            Content::Destroyed(file) => {
                self.destroyed += 1;
                self.stored_leaf(stretch, index)?;
                self.about(stretch, file, index)?;
                if !self.explained.contains(&file) {
                    self.unexplained.entry(file).or_insert(index);
                }
                let deleted = self.deletion(file)?;
                let gone_meanwhile = deleted.is_some_and(|row| row.arrival == index && row.intent >= size);
                self.files += u64::from(gone_meanwhile);
                Ok(())
            }
        }
    }

    /// The leaf of a record that does not open.
    fn stored_leaf(&mut self, stretch: &mut Stretch, index: u64) -> Result<(), CorruptError> {
        let leaf = match stretch.node(0, index)? {
            Some(leaf) => leaf,
            None => {
                self.find(Kind::Tile, Some(index), "its leaf is not there".to_owned());
                empty_root()
            }
        };
        self.grow(stretch, index, leaf)
    }

    /// Adds a leaf to the tree and compares what became complete with what is kept.
    fn grow(&mut self, stretch: &mut Stretch, index: u64, leaf: Hash) -> Result<(), CorruptError> {
        let mut complete = Vec::new();
        let grown = self.edge.append(leaf, |node| complete.push(node));
        grown.map_err(|error| CorruptError::Row(error.to_string()))?;
        for node in complete.into_iter().filter(|node| node.level > 0 && place(node).is_some()) {
            if stretch.node(node.level, node.index)? != Some(node.hash) {
                let what = format!(
                    "node {} of level {} is not the hash of what is below it",
                    node.index, node.level
                );
                self.find(Kind::Tile, Some(index), what);
            }
        }
        let size = self.edge.size();
        for watched in &mut self.against {
            watched.leaf(index, leaf);
            if watched.wants_root(size) {
                watched.root(self.edge.root());
            }
        }
        Ok(())
    }

    fn record(&mut self, stretch: &Stretch, record: &Record, size: u64) -> Result<(), CorruptError> {
        let index = record.index;
        if let Some(file) = record.file_id {
            self.about(stretch, file, index)?;
            if record.action == Action::KeyDestroyed {
                self.unexplained.remove(&file);
                self.explained.insert(file);
            }
        }
        match (record.phase, record.intent) {
            (Phase::Intent, _) => {
                self.open.insert(index, (record.action, record.file_id));
            }
            (Phase::Outcome, Some(intent)) => {
                self.open.remove(&intent);
                if self.begun.intents.contains(&intent) {
                    let what = format!("it ends operation {intent}, which is still open");
                    self.find(Kind::Intent, Some(index), what);
                }
                self.arrival(stretch, record, size)?;
            }
            (Phase::Outcome, None) => {}
        }
        if record.action == Action::AdminEpoch {
            let told = record.metadata.get("epoch").and_then(|epoch| epoch.parse().ok());
            if told != Some(self.epoch + 1) {
                let what = format!("after epoch {} it opens another one than the next", self.epoch);
                self.find(Kind::Epoch, Some(index), what);
            }
            self.epoch = told.unwrap_or(self.epoch + 1);
            self.epochs.push((index, self.epoch));
        }
        Ok(())
    }

    fn about(&mut self, stretch: &Stretch, file: FileId, index: u64) -> Result<(), CorruptError> {
        if stretch.is_about(file, index)? {
            self.about_files += 1;
        } else {
            self.find_about(Kind::Index, index, file, "the index by file does not lead to it");
        }
        Ok(())
    }

    /// A file that came is there as it was recorded, or was deleted.
    fn arrival(&mut self, stretch: &Stretch, record: &Record, size: u64) -> Result<(), CorruptError> {
        let arrives = matches!(
            record.action,
            Action::NasRawCreated | Action::NasDuckdbCreated | Action::NasReportCreated
        ) && record.ending == Some(Ending::Succeeded);
        let (true, Some(file), index) = (arrives, record.file_id, record.index) else { return Ok(()) };
        let row = match files::find(&stretch.snapshot, file) {
            Ok(row) => row,
            // Its keys went between two looks; the next one would be told by a deletion.
            Err(CorruptError::KeyGone(_)) => None,
            Err(error) => {
                self.find_about(Kind::File, index, file, &error.to_string());
                return Ok(());
            }
        };
        let Some(row) = row else {
            match self.deletion(file)? {
                Some(row) => self.files += u64::from(row.arrival == index && row.intent >= size),
                None => {
                    self.find_about(Kind::File, index, file, "it came, was not deleted, and is not there")
                }
            }
            return Ok(());
        };
        self.files += 1;
        let as_recorded = row.ledger_index == index
            && Some(row.sha256) == record.sha256
            && Some(row.size) == record.size
            && Some(&row.cohort) == record.cohort.as_ref()
            && Some(&row.path) == record.path.as_ref();
        if !as_recorded {
            self.find_about(Kind::File, index, file, "its row is not what was recorded when it came");
        }
        if !files::is_listed(&stretch.snapshot, &row)? {
            self.find_about(
                Kind::File,
                index,
                file,
                "its name or its place in the listing does not lead to it",
            );
        }
        Ok(())
    }

    /// The deletion of a file as of now: keys know no snapshot, and may have gone since the stretch began.
    fn deletion(&self, file: FileId) -> Result<Option<DeletionRow>, CorruptError> {
        deletion::find(&self.reader.snapshot()?, file)
    }

    /// What can only be said at the end.
    pub(super) fn judge(&mut self, signed: Option<&Checkpoint>, key: &LogKey) -> Result<(), CorruptError> {
        let (size, root) = (self.edge.size(), self.edge.root());
        if let Some(signed) = signed {
            if self.begun.records != signed.size {
                let what = format!("{} records, and {} were signed", self.begun.records, signed.size);
                self.find(Kind::Size, None, what);
            }
            if root != signed.root {
                let what = format!("the records make {root}, and {} was signed", signed.root);
                self.find(Kind::Root, None, what);
            }
            if self.epoch != signed.epoch {
                let what =
                    format!("the records are of epoch {}, and {} was signed", self.epoch, signed.epoch);
                self.find(Kind::Epoch, None, what);
            }
        }
        if self.begun.tiles != kept_nodes(size) {
            let what = format!(
                "{} nodes are kept, of {size} leaves there are {}",
                self.begun.tiles,
                kept_nodes(size)
            );
            self.find(Kind::Tile, None, what);
        }
        if self.unknown == 0 && self.begun.by_file > self.about_files {
            let what = format!(
                "the index by file has {} rows, {} too many",
                self.begun.by_file,
                self.begun.by_file - self.about_files
            );
            self.find(Kind::Index, None, what);
        }
        if self.unknown == 0 && self.begun.files != self.files {
            let what = format!("{} files are counted, and {} were found", self.begun.files, self.files);
            self.find(Kind::File, None, what);
        }
        self.judge_intents();
        self.judge_gone()?;
        let judged: Vec<String> =
            self.against.iter().filter_map(|watched| watched.judge(key, size, &self.epochs).err()).collect();
        for what in judged {
            self.find(Kind::Against, None, what);
        }
        Ok(())
    }

    fn judge_intents(&mut self) {
        for (intent, (action, file)) in std::mem::take(&mut self.open) {
            let goes_on = self.begun.intents.contains(&intent)
                || self.begun.cleanups.contains(&intent)
                || (action == Action::NasRawDeleted
                    && file.is_some_and(|file| self.begun.deletions.contains(&file)));
            // Of a file that was deleted meanwhile the outcome does not open.
            let is_gone = file.is_some_and(|file| self.unexplained.contains_key(&file));
            if !goes_on && !is_gone && self.unknown == 0 {
                self.find(Kind::Intent, Some(intent), "it has no outcome and is not open".to_owned());
            }
        }
    }

    /// A deletion that ended behind the checkpoint explains as well.
    fn judge_gone(&mut self) -> Result<(), CorruptError> {
        // A group that is not through the log ahead loses its keys before its records can be read.
        self.reader.between_groups(|| ());
        for (file, first) in std::mem::take(&mut self.unexplained) {
            let later = self.reader.about(file, self.edge.size(), usize::MAX)?;
            let explained = later.into_iter().any(|index| {
                let record = self.reader.record(index).ok().flatten();
                record.is_some_and(|record| record.action == Action::KeyDestroyed)
            });
            if !explained {
                self.find_about(
                    Kind::KeyGone,
                    first,
                    file,
                    "its keys are gone, and no record says that they were destroyed",
                );
            }
        }
        Ok(())
    }
}
