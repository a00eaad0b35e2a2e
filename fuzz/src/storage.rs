//! What a store keeps and may find changed: sealed objects, rows, recovery files, backups, the log ahead.

use redb::StorageBackend as _;
use redb::backends::InMemoryBackend;
use storaged::ledger::StoreId;
use storaged::ledger::ahead::frame::{BLOCK_BYTES, CHAIN_START, Envelope, HEAD_BYTES, Walk};
use store_proto::FileId;
use vault::Key256;
use vault::stream::{HEADER_BYTES, Layout, Opener};

/// A sealed object as it comes off a volume, in segments of 80 bytes: what opens as a whole is a seed, because
/// nobody else has the key, and what is refused is left without content.
pub fn sealed_stream(data: &[u8]) {
    let layout = Layout::new(80).expect("larger than a header and a tag");
    let dek = Key256::from_bytes(std::array::from_fn(|i| 0x40 + i.to_le_bytes()[0]));
    let Some(extent) = layout.of_sealed(data.len() as u64) else { return };
    let Ok(opener) = Opener::new(&dek, b"example", &data[..HEADER_BYTES], layout) else { return };
    let mut plain_bytes = 0;
    for number in 0..u32::try_from(extent.segments()).expect("an input has fewer bytes") {
        let range = extent.sealed_range(number);
        let at = |offset| usize::try_from(offset).expect("inside the input");
        let mut segment = data[at(range.start)..at(range.end)].to_vec();
        match opener.open_segment(number, extent.is_last(number), &mut segment) {
            Ok(bytes) => plain_bytes += bytes as u64,
            Err(_) => {
                assert!(segment.iter().all(|byte| *byte == 0), "refused, and still there");
                return;
            }
        }
    }
    assert_eq!(plain_bytes, extent.plain_bytes());
}

/// A sealed row and a wrapped key: what opens is as long as it must be, and opens in no other place.
pub fn sealed_row(data: &[u8]) {
    let key = Key256::from_bytes([0x11; 32]);
    if let Ok(plain) = vault::row::open(&key, b"table\0key", data) {
        assert_eq!(plain.len() + vault::row::OVERHEAD_BYTES, data.len());
        assert!(vault::row::open(&key, b"table\0other", data).is_err());
    }
    if let Ok(wrapped) = vault::wrap::WrappedKey::try_from(data)
        && vault::wrap::unwrap(&key, b"use", &wrapped).is_ok()
    {
        assert!(vault::wrap::unwrap(&key, b"another use", &wrapped).is_err());
    }
}

/// A recovery file: armored or not, whole or not.
pub fn age_file(data: &[u8]) {
    let identity: vault::age::Identity =
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33"
            .parse()
            .expect("the identity of age's own tests");
    let armored = std::str::from_utf8(data).ok().and_then(vault::age::armor::unwrap);
    let file = armored.as_deref().unwrap_or(data);
    let whole = vault::age::decrypt(std::slice::from_ref(&identity), file);
    let mut streamed = Vec::new();
    let opened = vault::age::stream::Reader::new(&[identity], file)
        .is_ok_and(|mut reader| std::io::Read::read_to_end(&mut reader, &mut streamed).is_ok());
    assert_eq!(whole.is_ok(), opened, "as a whole and as a stream it is the same file");
    if let Ok(plain) = whole {
        assert!(plain.len() < data.len(), "a file is longer than what is in it");
        assert_eq!(*plain, streamed);
    }
}

/// The log ahead of a ledger: what nobody sealed is no frame; of frames that were damaged anywhere, each that was not is
/// found, and those behind the first damage are told from those before it.
pub fn log_ahead(data: &[u8]) {
    const FRAMES: u16 = 5;
    let key = Key256::from_bytes([0x22; 32]);
    let envelope = Envelope { store: StoreId(FileId::from_bytes([0x33; 16])), key: &key };
    let first = usize::try_from(BLOCK_BYTES).expect("a block is small");
    let mut junk = vec![0; first];
    junk.extend_from_slice(data);
    assert_eq!(frames_of(&junk, envelope), vec![]);

    let mut whole = vec![0; first];
    let mut places = Vec::new();
    let mut before = CHAIN_START;
    for group in 1..=FRAMES {
        let mut plain = [u64::from(group).to_be_bytes(); 2].concat();
        plain.resize(usize::from(group) * 1000, 0);
        let sealed =
            envelope.seal(u64::from(group) * 2, &before, &plain).expect("the system has random bytes");
        places.push(whole.len()..whole.len() + HEAD_BYTES + plain.len() + vault::row::OVERHEAD_BYTES);
        whole.extend_from_slice(&sealed.0);
        before = sealed.1;
    }
    let mut damaged = whole.clone();
    for (edit, _) in data.as_chunks::<3>().0.iter().zip(0..64) {
        let place = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % damaged.len();
        damaged[place] ^= edit[2];
    }
    let is_whole: Vec<bool> =
        places.iter().map(|place| damaged[place.clone()] == whole[place.clone()]).collect();
    let follows = is_whole.iter().take_while(|is_whole| **is_whole).count();
    let expected: Vec<(u64, bool)> = (0..usize::from(FRAMES))
        .filter(|number| is_whole[*number])
        .map(|number| (number as u64 + 1, number < follows))
        .collect();
    assert_eq!(frames_of(&damaged, envelope), expected);
}

/// Each frame's group, and whether it follows what is before it.
fn frames_of(file: &[u8], envelope: Envelope<'_>) -> Vec<(u64, bool)> {
    let storage = InMemoryBackend::new();
    storage.set_len(file.len() as u64).expect("memory has room");
    storage.write(0, file).expect("memory has room");
    let mut walk = Walk::new(&storage, envelope).expect("memory can be read");
    let mut found = Vec::new();
    while let Some(frame) = walk.next_frame().expect("memory can be read") {
        let (group, _) = frame.groups().expect("it was sealed with its groups");
        found.push((group, walk.broken_at().is_none()));
    }
    found
}

/// What is inside a backup: what is taken for whole has as many bytes as its manifest counts.
pub fn backup_pieces(data: &[u8]) {
    if let Ok((_, manifest)) = storaged::backup::pieces::read_through(data) {
        let counted: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
        assert!(counted < data.len() as u64, "a manifest counts bytes that are not there");
    }
}
