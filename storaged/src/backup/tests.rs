use std::io::Read as _;

use proptest::prelude::*;
use store_proto::FileId;

use super::Part;
use super::pieces::{Head, Manifest, Piece, PieceReader, PieceWriter, read_through};

fn head() -> Head {
    Head {
        backup_id: FileId::from_bytes([1; 16]),
        checkpoint: "a note".into(),
        group: 3,
        keys_epoch: 2,
        log_key: "a key".into(),
        made_ms: 5,
        made_by: "a test".into(),
        records: 4,
        store_id: FileId::from_bytes([2; 16]),
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn written(config: &[u8], tables: &[(Part, Rows)]) -> Vec<u8> {
    let mut writer = PieceWriter::new(Vec::new(), &head()).unwrap();
    writer.file(Part::Config, config).unwrap();
    for (part, rows) in tables {
        writer.begin(*part).unwrap();
        for (key, value) in rows {
            writer.row(key, value).unwrap();
        }
    }
    writer.finish().unwrap().0
}

fn read(bytes: &[u8]) -> (Vec<u8>, Vec<(Part, Rows)>, Manifest) {
    let (said, mut reader) = PieceReader::new(bytes).unwrap();
    assert_eq!(said, head());
    let (mut config, mut tables) = (Vec::new(), Vec::<(Part, Rows)>::new());
    loop {
        match reader.next_piece().unwrap() {
            Some(Piece::Begin(Part::Config)) => {}
            Some(Piece::Begin(part)) => tables.push((part, Vec::new())),
            Some(Piece::Bytes(bytes)) => config.extend_from_slice(&bytes),
            Some(Piece::Rows(rows)) => tables.last_mut().unwrap().1.extend(rows),
            Some(Piece::End(manifest)) => {
                assert!(reader.next_piece().unwrap().is_none());
                return (config, tables, manifest);
            }
            None => panic!("an end comes before nothing comes"),
        }
    }
}

fn rows() -> impl Strategy<Value = Rows> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop::collection::vec((bytes(40), bytes(3000)), 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_was_written_is_read(config in prop::collection::vec(any::<u8>(), 0..200), keks in rows(), records in rows()) {
        let tables = vec![(Part::Keks, keks), (Part::Records, records)];
        let (read_config, read_tables, manifest) = read(&written(&config, &tables));
        prop_assert_eq!(read_config, config);
        prop_assert_eq!(&read_tables, &tables);
        let counted: Vec<u64> = manifest.parts.iter().map(|part| part.rows).collect();
        prop_assert_eq!(counted, vec![0, tables[0].1.len() as u64, tables[1].1.len() as u64]);
    }

}

#[test]
fn no_changed_and_no_cut_backup_is_whole() {
    let rows = vec![(vec![1], vec![2; 100]), (vec![3], vec![4; 100])];
    let whole = written(b"role", &[(Part::State, rows)]);
    read_through(whole.as_slice()).unwrap();
    let mut head_alone = Vec::new();
    PieceWriter::new(&mut head_alone, &head()).unwrap();
    for at in 0..whole.len() {
        assert!(read_through(&whole[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let read = read_through(changed.as_slice());
            // What the head says is checked against the ledger in it, not here.
            let another_head = at < head_alone.len() && matches!(&read, Ok((said, _)) if *said != head());
            assert!(read.is_err() || another_head, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn parts_come_in_their_order_and_once() {
    for order in [[Part::State, Part::Keks], [Part::Keks, Part::Keks]] {
        let tables: Vec<(Part, Rows)> = order.iter().map(|part| (*part, Vec::new())).collect();
        let error = read_through(written(b"x", &tables).as_slice()).unwrap_err().to_string();
        assert!(error.contains("in the wrong place"), "{error}");
    }
}

#[test]
fn nothing_may_stand_behind_the_end() {
    let mut bytes = written(b"x", &[]);
    bytes.push(0);
    let error = read_through(bytes.as_slice()).unwrap_err().to_string();
    assert!(error.contains("behind the end"), "{error}");
}

#[test]
fn a_length_that_is_a_lie_takes_no_memory() {
    let begin = written(b"x", &[]);
    // A piece of rows that says 16 MiB, and nothing follows.
    let mut bytes = begin[..begin.len() - 40].to_vec();
    bytes.extend_from_slice(&[3, 1, 0, 0, 0]);
    assert!(read_through(bytes.as_slice().take(1 << 20)).is_err());
}
