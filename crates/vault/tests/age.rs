//! age's own library, from PyPI, opens our files and seals files that we open. `cargo xtask test` provides it
//! below `target/tools`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod python;

use vault::age::{CHUNK_BYTES, Identity, armor, decrypt, encrypt};

const SIZES: [usize; 5] = [0, 45, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES];

#[test]
fn age_opens_what_the_vault_encrypts() {
    let people = [0; 2].map(|_| Identity::generate().unwrap());
    let recipients = [people[0].to_recipient(), people[1].to_recipient()];
    for bytes in SIZES {
        let file = encrypt(&recipients, &vec![7; bytes]).unwrap();
        for person in &people {
            assert_eq!(age("open", &person.to_text(), &file), Ok(vec![7; bytes]), "{bytes} bytes");
        }
    }
    let armored = armor::wrap(&encrypt(&recipients, b"a root key").unwrap());
    assert_eq!(age("open", &people[0].to_text(), armored.as_bytes()), Ok(b"a root key".to_vec()));
}

#[test]
fn the_vault_opens_what_age_encrypts() {
    let person = Identity::generate().unwrap();
    for bytes in SIZES {
        let file = age("seal", &person.to_recipient().to_string(), &vec![9; bytes]).unwrap();
        let plain = decrypt(std::slice::from_ref(&person), &file).unwrap();
        assert_eq!(plain.as_slice(), vec![9; bytes], "{bytes} bytes");
    }
}

fn age(what: &str, key: &str, input: &[u8]) -> Result<Vec<u8>, String> {
    python::run("age", "age_file.py", &[what, key], input)
}
