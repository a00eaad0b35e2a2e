//! Keys are interchangeable with those of the stock `wg`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn wg_and_culvert_derive_the_same_public_key() {
    for _ in 0..8 {
        let ours = culvert(&["key", "gen"], "");
        let theirs = run("wg", &["genkey"], "");
        for private in [&ours, &theirs] {
            assert_eq!(culvert(&["key", "pub"], private), run("wg", &["pubkey"], private));
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

#[test]
fn a_preshared_key_has_the_form_of_wg_s() {
    let psk = culvert(&["key", "psk"], "");
    assert_eq!(psk.len(), run("wg", &["genpsk"], "").len());
    assert_ne!(psk, culvert(&["key", "psk"], ""));
}

#[test]
fn a_key_goes_into_a_new_file_and_its_public_key_to_the_screen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wg0.key");
    let file = path.to_str().unwrap();
    let public = culvert(&["key", "gen", "--out", file], "");
    let private = std::fs::read_to_string(&path).unwrap();
    assert_eq!(run("wg", &["pubkey"], &private), public);
    assert_eq!(culvert(&["key", "pub", file], ""), public);
    let again =
        Command::new(env!("CARGO_BIN_EXE_culvert")).args(["key", "gen", "--out", file]).output().unwrap();
    assert_eq!(again.status.code(), Some(3));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), private);
}

#[test]
fn what_is_no_key_is_refused_without_being_quoted() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["key", "pub"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"almost-a-key").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8(output.stderr).unwrap().contains("almost"));
}

fn culvert(arguments: &[&str], input: &str) -> String {
    run(env!("CARGO_BIN_EXE_culvert"), arguments, input)
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask test` installs what tests need"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}
