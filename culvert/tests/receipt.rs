//! `culvert receipt verify` and `culvert put --receipt`: what they accept, what they refuse, and that no socket is
//! opened for it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use receipt::{Checkpoint, LogSigner, Parts, Receipt, merkle};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ORIGIN: &str = "culvert/0123456789abcdef0123456789abcdef";
const CONTENT: &[u8] = b"id,weight\n1,70\n";

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    /// A file, its receipt, and the vkey of its log.
    fn new() -> Scene {
        let scene = Scene { directory: tempfile::tempdir().unwrap() };
        std::fs::write(scene.path("visits.csv"), CONTENT).unwrap();
        std::fs::write(scene.path("visits.receipt"), receipt(&signer(7)).to_json()).unwrap();
        std::fs::write(scene.path("store.vkey"), format!("{}\n", signer(7).log_key())).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.current_dir(self.directory.path()).env("CULVERT_KNOWN_LOGS", self.path("known_logs"));
        command.env("CULVERT_TOKEN", store_proto::Token::from_bytes([7; 32]).expose()).args(arguments);
        command
    }

    fn put(&self, server: SocketAddr, arguments: &[&str]) -> Output {
        let mut command = self.command(&[&["put", "visits.csv", "c5/visits.csv"], arguments].concat());
        command.env("CULVERT_SERVER", format!("http://{server}")).output().unwrap()
    }

    fn verify(&self, arguments: &[&str]) -> Output {
        self.command(&[&["receipt", "verify", "visits.receipt", "visits.csv"], arguments].concat())
            .output()
            .unwrap()
    }
}

fn signer(seed: u8) -> LogSigner {
    LogSigner::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

/// The receipt of [`CONTENT`] as record 3 of 5.
fn receipt(signer: &LogSigner) -> Receipt {
    let sha256 = hex(CONTENT);
    let record = format!(
        r#"{{"action":"nas_raw_created","cohort":"c5","ending":"succeeded","file_id":"00112233445566778899aabbccddeeff","index":3,"path":"visits.csv","phase":"outcome","sha256":"{sha256}","size":{},"time_ms":1700000000000,"v":1}}"#,
        CONTENT.len()
    );
    let mut edge = merkle::Edge::default();
    let mut nodes = BTreeMap::new();
    for index in 0..5_u8 {
        let leaf = match index {
            3 => receipt::commitment_leaf(&receipt::commitment(&[9; 32], record.as_bytes())),
            _ => merkle::leaf_hash(&[index]),
        };
        let keep = |node: merkle::Node| _ = nodes.insert((node.level, node.index), node.hash);
        edge.append(leaf, keep).unwrap();
    }
    let read = |level, index| Ok::<_, std::convert::Infallible>(nodes[&(level, index)]);
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 5, root: edge.root(), epoch: 0 };
    Receipt::new(Parts {
        record,
        salt: [9; 32],
        leaf_index: 3,
        inclusion: merkle::inclusion(3, 5, read).unwrap(),
        checkpoint: checkpoint.sign(signer).unwrap(),
        log_key: signer.log_key(),
    })
    .unwrap()
}

#[test]
fn a_file_and_its_receipt_are_right_under_the_logs_key() {
    let scene = Scene::new();
    for key in [signer(7).log_key().to_string(), "store.vkey".to_owned()] {
        let output = scene.verify(&["--log-key", &key]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        for expected in
            ["c5/visits.csv stored 2023-11-14T22:13:20Z", "15 bytes", "the store took this very file"]
        {
            assert!(text.contains(expected), "{text}");
        }
    }
    let output = scene.verify(&["--log-key", "store.vkey", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["right"], true);
    assert_eq!(report["proves_who_signed"], true);
    assert_eq!(report["file"]["path"], "visits.csv");
    assert_eq!(report["checkpoint"]["size"], 5);
    assert_eq!(report["steps"].as_array().unwrap().len(), 5);
}

#[test]
fn without_a_key_it_says_that_nobody_vouches() {
    let scene = Scene::new();
    let output = scene.verify(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("WHO SIGNED IS NOT PROVEN"), "{}", stdout(&output));
    let output = scene.verify(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["right"], &report["proves_who_signed"]), (&true.into(), &false.into()));
}

#[test]
fn a_remembered_key_is_used_and_another_one_is_refused() {
    let scene = Scene::new();
    std::fs::write(scene.path("known_logs"), format!("{}\n", signer(7).log_key())).unwrap();
    let output = scene.verify(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("remembered"), "{}", stdout(&output));
    std::fs::write(scene.path("known_logs"), format!("{}\n", signer(8).log_key())).unwrap();
    let output = scene.verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("wrong in key, signature"), "{}", stderr(&output));
}

#[test]
fn what_is_wrong_is_a_finding_that_names_its_step() {
    let scene = Scene::new();
    let refused = |what: &str, step: &str| {
        let output = scene.verify(&["--log-key", "store.vkey"]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", stdout(&output));
        assert!(stderr(&output).contains(step), "{what}: {}", stderr(&output));
        stdout(&output)
    };
    std::fs::write(scene.path("visits.csv"), b"id,weight\n1,71\n").unwrap();
    assert!(refused("another byte", "wrong in content").contains("SHA-256"));
    std::fs::write(scene.path("visits.csv"), b"id,weight\n").unwrap();
    assert!(refused("cut", "wrong in content").contains("10 bytes, and 15"));
    std::fs::write(scene.path("visits.csv"), [CONTENT, b"2,80\n"].concat()).unwrap();
    assert!(refused("grown", "wrong in content").contains("more than the 15 bytes"));
    std::fs::write(scene.path("visits.csv"), CONTENT).unwrap();

    std::fs::write(scene.path("visits.receipt"), receipt(&signer(8)).to_json()).unwrap();
    refused("another log's", "wrong in key, signature");
    let good = receipt(&signer(7)).to_json();
    std::fs::write(scene.path("visits.receipt"), good.replacen("c5", "c6", 1)).unwrap();
    refused("another cohort in the record", "wrong in inclusion");
    std::fs::write(scene.path("visits.receipt"), good.replacen("receipt/1", "receipt/9", 1)).unwrap();
    refused("another format", "only \"culvert-receipt/1\" is known");
    std::fs::write(scene.path("visits.receipt"), "\u{1b}[2J").unwrap();
    refused("no receipt at all", "not a receipt");
}

#[test]
fn what_cannot_be_opened_is_wrong_usage() {
    let scene = Scene::new();
    for (arguments, expected) in [
        (&["receipt", "verify", "none", "visits.csv"][..], "none: "),
        (&["receipt", "verify", "visits.receipt", "none"], "none: "),
        (&["receipt", "verify", "visits.receipt", "."], "is a directory"),
        (&["receipt", "verify", "visits.receipt", "visits.csv", "--log-key", "none"], "no such file"),
        (
            &["receipt", "verify", "visits.receipt", "visits.csv", "--log-key", "visits.csv"],
            "NAME+KEYID+BASE64",
        ),
    ] {
        let output = scene.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_is_no_finding() {
    let scene = Scene::new();
    // Reading a process's memory from its beginning fails with EIO.
    let output = scene.command(&["receipt", "verify", "visits.receipt", "/proc/self/mem"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn no_socket_is_opened_for_it() {
    let scene = Scene::new();
    let (verified, listed) = std::thread::spawn(move || {
        forbid_sockets();
        let listed =
            scene.command(&["ls", "c5"]).env("CULVERT_SERVER", "http://127.0.0.1:9").output().unwrap();
        (scene.verify(&["--log-key", "store.vkey"]), listed)
    })
    .join()
    .unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    assert_eq!(
        listed.status.signal(),
        Some(nix::sys::signal::Signal::SIGSYS as i32),
        "the filter does what it says"
    );
}

/// Whoever of this thread and its children asks for a socket dies.
fn forbid_sockets() {
    // `socket` and `socketpair` of the kernel's table for each architecture.
    let (arch, calls) = if cfg!(target_arch = "x86_64") {
        (TargetArch::x86_64, [41, 53])
    } else {
        (TargetArch::aarch64, [198, 199])
    };
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn put_saves_a_receipt_that_verifies_and_remembers_the_log() {
    let scene = Scene::new();
    std::fs::remove_file(scene.path("visits.receipt")).unwrap();
    let server = store_with(Some(receipt(&signer(7))));
    let output = scene.put(server, &["--receipt", "visits.receipt"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = format!(
        "to prove it without the server: culvert receipt verify visits.receipt visits.csv --log-key {}",
        signer(7).log_key()
    );
    assert!(stdout(&output).contains(&expected), "{}", stdout(&output));
    let known = std::fs::read_to_string(scene.path("known_logs")).unwrap();
    assert_eq!(known, format!("{}\n", signer(7).log_key()));
    let verified = scene.verify(&[]);
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    assert!(stdout(&verified).contains("remembered"));

    let again = scene.put(server, &["--receipt", "visits.receipt"]);
    assert_eq!(again.status.code(), Some(3), "a receipt is not replaced: {}", stderr(&again));
    std::fs::write(scene.path("known_logs"), format!("{}\n", signer(8).log_key())).unwrap();
    let other = scene.put(server, &["--receipt", "second.receipt"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("ANOTHER KEY"), "{}", stderr(&other));
}

#[test]
fn put_refuses_a_receipt_that_proves_nothing() {
    let scene = Scene::new();
    std::fs::write(scene.path("visits.csv"), b"other bytes").unwrap();
    let output = scene.put(store_with(Some(receipt(&signer(7)))), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains("PROVES NOTHING: content"), "{}", stderr(&output));
}

#[test]
fn put_says_where_a_server_sends_no_receipt() {
    let scene = Scene::new();
    let output = scene.put(store_with(None), &["--receipt", "new.receipt"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("c5/visits.csv: stored"), "it is stored all the same");
    assert!(stderr(&output).contains("the server sent no receipt"), "{}", stderr(&output));
    assert!(!scene.path("new.receipt").exists());
}

/// An edge that takes every file and sends this receipt with it.
fn store_with(receipt: Option<Receipt>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            take_one(stream.unwrap(), receipt.as_ref());
        }
    });
    address
}

fn take_one(stream: TcpStream, receipt: Option<&Receipt>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut stream, mut length) = (stream, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    let mut content = vec![0; length];
    reader.read_exact(&mut content).unwrap();
    let sha256 = hex(&content);
    let answer = json!({
        "file_id": "00112233445566778899aabbccddeeff", "cohort": "c5", "size": length, "sha256": sha256,
        "etag": format!("\"{sha256}\""), "ledger_index": 3, "stored_at": "2026-01-01T00:00:00Z",
        "receipt": receipt,
    })
    .to_string();
    let head =
        format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
    stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
