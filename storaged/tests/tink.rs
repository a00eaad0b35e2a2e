//! A file that storaged has taken in, opened from the volume by Google's Tink (PyPI) with the file's data key and
//! what `docs/formats` says: nothing of ours reads the object. `cargo xtask test` provides Tink.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "../../crates/vault/tests/python/mod.rs"]
mod python;
mod support;

use storaged::keys::KeyStore as _;
use store_proto::Cohort;
use support::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn tink_opens_an_object_from_the_volume_given_its_key() {
    let lab = Lab::start().await;
    // Three segments, the last of them short.
    let content: Vec<u8> = (0..600_000_u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
    let told = lab.upload("c1/visits.bin", content.clone()).send().await;
    assert_eq!(told.status, 201);
    let receipt = told.json();
    let file = receipt["file_id"].as_str().unwrap().parse().unwrap();
    let row = lab.store.ledger.reader().file(file).unwrap().unwrap();
    let [part] = row.parts.as_slice() else { panic!("one upload, one part") };

    let key = lab.store.keys.file_key(file, part.part).unwrap().unwrap();
    // docs/formats/objects.md: file id, number of the part, cohort, format version.
    let mut aad = file.as_bytes().to_vec();
    aad.extend(part.part.to_be_bytes());
    aad.extend(Cohort::parse("c1").unwrap().as_str().as_bytes());
    aad.push(1);
    let name = part.object.to_string();
    let path = lab.volume().join("objects").join(&name[..2]).join(&name[2..]);
    let object = std::fs::read(path).unwrap();
    assert_eq!(object.len() as u64, part.sealed_size);
    assert!(!object.windows(64).any(|window| window == &content[..64]));

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let opened = |aad: &[u8]| {
        let arguments = ["open", &hex(key.as_bytes()), &hex(aad), "262144"];
        python::run("tink", "tink_stream.py", &arguments, &object)
    };
    assert!(opened(&aad) == Ok(content), "what Tink says is not the file");
    aad[0] ^= 1;
    opened(&aad).unwrap_err();
}
