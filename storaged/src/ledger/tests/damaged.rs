//! A row that is damaged stops whoever needs it, and nobody else.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::ledger::intents::INTENTS;

/// What the writer told: the commands of each group that was committed, and those that were lost.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<(Vec<usize>, Vec<usize>)>>);

impl Observer for Told {
    fn committed(&self, commands: usize, _seconds: f64) {
        self.0.lock().unwrap().0.push(commands);
    }

    fn failed(&self, commands: usize) {
        self.0.lock().unwrap().1.push(commands);
    }
}

#[test]
fn a_damaged_row_refuses_one_command_and_not_its_group() {
    const DAMAGED: usize = 5;
    let keys = fresh_keys();
    let database = Arc::new(open_on(InMemoryBackend::new()).unwrap());
    tables::initialize(&database, STORE, &keys, first_record()).unwrap();
    let opened = Opened::in_memory(Arc::clone(&database), STORE);
    let told = Told::default();
    let (ledger, _) =
        Ledger::start(opened, Arc::clone(&keys), None, Host::default(), TestTime::default(), told.clone())
            .unwrap();
    let ids: Vec<FileId> = (1..=9).map(|number| FileId::from_bytes([number; 16])).collect();
    let intents: Vec<u64> = ids
        .iter()
        .map(|id| {
            let begun = ledger.submit_blocking(begin_upload(&keys, "c", &format!("p{id}"), *id)).unwrap();
            let upload::Outcome::Begun { intent, .. } = begun else { panic!("an upload begins") };
            intent
        })
        .collect();
    let transaction = database.begin_write().unwrap();
    {
        let mut tables = tables::Tables::open(&transaction).unwrap();
        let place = INTENTS.place(&intents[DAMAGED].to_be_bytes());
        tables.state.insert(place.as_slice(), [0_u8; 90].as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    *told.0.lock().unwrap() = Default::default();

    let together: Vec<_> = ledger.reader().between_groups(|| {
        let threads = intents.iter().zip(&ids).map(|(&intent, &id)| {
            let ledger = ledger.clone();
            std::thread::spawn(move || ledger.submit_blocking(finish_upload(intent, id, 1)))
        });
        let threads = threads.collect();
        // They wait behind one another meanwhile.
        std::thread::sleep(Duration::from_millis(200));
        threads
    });
    let ended: Vec<_> = together.into_iter().map(|thread| thread.join().unwrap()).collect();
    for (number, ended) in ended.iter().enumerate() {
        let stored = matches!(ended, Ok(upload::Outcome::Stored(_)));
        assert_eq!(stored, number != DAMAGED, "{number}: {ended:?}");
    }
    let (committed, failed) = told.0.lock().unwrap().clone();
    assert_eq!(failed, [1], "nobody else was refused");
    assert_eq!(committed.iter().sum::<usize>(), 8, "{committed:?}");
    assert!(ledger.is_usable(), "the disk is well, and so are the other rows");
    let reader = ledger.reader();
    let totals = reader.totals().unwrap();
    assert_eq!((totals.files, totals.open_intents), (8, 1));
    assert_eq!(totals.records, reader.checkpoint().unwrap().unverified().size);
}
