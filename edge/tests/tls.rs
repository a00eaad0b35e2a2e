//! TLS as its users meet it: curl in both versions and both protocols, a new certificate without a broken
//! connection, and wrong pairs that are refused by the start, the check and the reload alike.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::certificate::{self, Certificate};
use common::program::{Program, command, write};
use common::{Fake, GET, KEY, PUT, authorization, token};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

const FILE: &str = "/v1/cohorts/alpha/files/a.bin";

/// What curl says, and with which code it ended.
async fn curl(program: &Program, arguments: &[&str]) -> (Option<i32>, String) {
    let mut curl = Command::new("curl");
    curl.arg("--silent").arg("--max-time").arg("20").arg("--cacert").arg(program.file("chain.pem"));
    curl.arg("--header").arg(format!("Authorization: Bearer {}", token().expose()));
    curl.args(arguments).arg(format!("https://{}{FILE}", program.public));
    let output = curl.output().await.expect("curl is installed");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_sends_and_reads_back_in_both_protocols() {
    let fake = Fake::start().await;
    fake.state.file_size.store(3_000_000, SeqCst);
    let program = Program::start_tls(&fake, "").await;
    write(&program.file("body"), &"x".repeat(5_000_000));
    let body = program.file("body");
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let told = ["-o", "/dev/null", "-w", "%{http_code} %{http_version} %{size_download}"];
        let arguments = [&[protocol, "-T", body.to_str().unwrap()], &told[..]].concat();
        let (code, said) = curl(&program, &arguments).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with(&format!("201 {version} ")), "{said}");
        let (_, said) = curl(&program, &[&[protocol], &told[..]].concat()).await;
        assert_eq!(said, format!("200 {version} 3000000"));
    }
    assert_eq!(fake.state.received.load(SeqCst), 10_000_000);
    let metrics = program.scrape("/metrics").await;
    assert!(metrics.contains("edge_tls_handshakes_total{result=\"done\"} 4"), "{metrics}");
    let not_after = "edge_tls_certificate_not_after_timestamp_seconds ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(not_after)).unwrap();
    assert!(line.parse::<u64>().unwrap() > daemon::Clock.unix_milliseconds() / 1000);
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_is_spoken_only_where_it_is_chosen() {
    const NO_HANDSHAKE: Option<i32> = Some(35);
    let fake = Fake::start().await;
    fake.state.file_size.store(10, SeqCst);
    let program = Program::start_tls(&fake, "").await;
    let old = ["--tls-max", "1.2", "-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(curl(&program, &old).await.0, NO_HANDSHAKE);
    let text = std::fs::read_to_string(program.file("edge.toml")).unwrap();
    write(&program.file("edge.toml"), &format!("tls_min_version = \"1.2\"\n{text}"));
    program.reload().await.unwrap();
    assert_eq!(curl(&program, &old).await, (Some(0), "200".to_owned()));
    let older = ["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"];
    assert_eq!(curl(&program, &older).await.0, NO_HANDSHAKE);
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_under_tls_keep_browsers_at_tls() {
    let fake = Fake::start().await;
    let program = Program::start_tls(&fake, "").await;
    let url = format!("https://{}/", program.public);
    let (_, text) = curl(&program, &["--silent", "--include", &url]).await;
    let text = text.to_ascii_lowercase();
    for header in [
        "strict-transport-security: max-age=",
        "cross-origin-opener-policy: same-origin",
        "x-frame-options: deny",
    ] {
        assert!(text.contains(header), "{header} is missing: {text}");
    }
    assert!(!text.contains("set-cookie") && !text.contains("access-control-"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_resumed() {
    let fake = Fake::start().await;
    let program = Program::start_tls(&fake, "tls_min_version = \"1.2\"\n").await;
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = Command::new("openssl");
        client.args(["s_client", version, "-reconnect", "-connect", &program.public.to_string()]);
        let output = client.stdin(std::process::Stdio::null()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("New, TLSv1") && !said.contains("Reused, "), "{version}: {said}");
        assert!(!said.contains("TLS session ticket:"), "{said}");
    }
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_brings_the_new_certificate_and_breaks_nothing() {
    let fake = Fake::start().await;
    fake.state.file_size.store(200_000, SeqCst);
    let program = Program::start_tls(&fake, "").await;
    let folder = program.file("");
    let old = certificate::of_folder(&folder);
    let certificates: Vec<_> = (0..5).map(|_| Certificate::made()).collect();
    let trusted: Vec<_> = certificates.iter().map(Certificate::der).chain([old.clone()]).collect();
    let address = program.public;

    // An upload that began under the old certificate.
    let connector = certificate::connector(&trusted, &[b"http/1.1"]);
    let mut upload = certificate::connect(&connector, address).await.unwrap();
    upload
        .write_all(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization()).as_bytes())
        .await
        .unwrap();
    common::until("it is under way", || fake.state.received.load(SeqCst) == 5).await;

    // Clients that connect and read without a pause, for as long as certificates change.
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (connector, over) = (connector.clone(), std::sync::Arc::clone(&over));
            tokio::spawn(async move {
                let mut done = 0;
                while !over.load(SeqCst) {
                    let mut stream = certificate::connect(&connector, address).await.unwrap();
                    for _ in 0..3 {
                        stream.write_all(format!("{GET}{}\r\n", authorization()).as_bytes()).await.unwrap();
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            head.push(stream.read_u8().await.unwrap());
                        }
                        stream.read_exact(&mut vec![0; 200_000]).await.unwrap();
                        done += 1;
                    }
                }
                done
            })
        })
        .collect();
    for certificate in &certificates {
        tokio::time::sleep(Duration::from_millis(200)).await;
        certificate.put(&folder);
        assert_eq!(program.reload().await.unwrap(), json!("taken"));
        let new = certificate::connect(&connector, address).await.unwrap();
        assert_eq!(new.get_ref().1.peer_certificates().unwrap(), [certificate.der()]);
    }
    over.store(true, SeqCst);
    let mut done = 0;
    for client in load {
        done += client.await.expect("no connection broke");
    }
    assert!(done >= 12, "{done} downloads");

    let only_old = certificate::connector(&[old], &[b"http/1.1"]);
    assert!(certificate::connect(&only_old, address).await.is_err(), "the old certificate is gone");
    upload.write_all(b"world").await.unwrap();
    let mut answer = [0; 12];
    upload.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_pair_is_refused_and_the_old_one_stays() {
    let fake = Fake::start().await;
    let program = Program::start_tls(&fake, "").await;
    let folder = program.file("");
    let good = certificate::of_folder(&folder);
    Certificate::made().put_chain(&folder);
    let error = program.reload().await.unwrap_err();
    for word in ["key.pem", "chain.pem", "is not the key of"] {
        assert!(error.contains(word), "{word} in {error}");
    }
    let metrics = program.scrape("/metrics").await;
    assert!(metrics.contains("edge_config_last_reload_successful 0"));
    let trusting = certificate::connector(&[good], &[b"http/1.1"]);
    assert!(certificate::connect(&trusting, program.public).await.is_ok());

    let check = || async {
        let output = command(&program.file("edge.toml")).arg("--check-config").output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = check().await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("is not the key of"), "{said}");
    Certificate::made().put(&folder);
    assert_eq!(check().await.0, Some(0));
    std::fs::set_permissions(program.file("key.pem"), PermissionsExt::from_mode(0o604)).unwrap();
    let (code, said) = check().await;
    assert!(code == Some(78) && said.contains("key.pem") && said.contains("0604"), "{said}");
    let error = program.reload().await.unwrap_err();
    assert!(error.contains("0604"), "{error}");
    assert_eq!(program.stop().await, 0);
}

/// The secret number out of a PKCS #8 of P-256: it stands behind the version of the inner structure (RFC 5915).
fn scalar(pkcs8: &[u8]) -> &[u8] {
    const BEFORE: [u8; 5] = [2, 1, 1, 4, 32];
    let at = pkcs8.windows(BEFORE.len()).position(|window| window == BEFORE).expect("a key of P-256");
    &pkcs8[at + BEFORE.len()..][..32]
}

/// Whether root finds the bytes through `/proc/PID/mem`.
fn memory_holds(program: &Program, needle: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open(program.proc("mem")).unwrap();
    let maps = std::fs::read_to_string(program.proc("maps")).unwrap();
    let ranges = maps.lines().filter(|line| line.contains(" r") && !line.contains("[v")).filter_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
    });
    let mut read = 0;
    for (from, to) in ranges {
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // What nobody may read gives an error.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            read += bytes.len();
            if memchr::memmem::find(&bytes, needle).is_some() {
                return true;
            }
        }
    }
    assert!(read > 1 << 20, "its memory could not be read");
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tls_key_is_in_no_memory_that_root_reads() {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject as _;
    let fake = Fake::start().await;
    fake.state.file_size.store(10, SeqCst);
    let program = Program::start_tls(&fake, "").await;
    let socket = program.file("edge.sock");
    let status = tokio::task::spawn_blocking(move || {
        daemon::admin::call(&socket, "status", json!({}), &[], |_| {}).unwrap()
    });
    let kept = status.await.unwrap()["key_memory"] == "memfd_secret";
    // As it was at the start, and as a reload brought it.
    for reload in [false, true] {
        if reload {
            Certificate::made().put(&program.file(""));
            program.reload().await.unwrap();
        }
        assert_eq!(curl(&program, &["-o", "/dev/null"]).await.0, Some(0));
        let file = std::fs::read(program.file("key.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&file).unwrap();
        // A kernel without such memory: nothing is claimed.
        if kept {
            assert!(!memory_holds(&program, scalar(key.secret_der())), "after a reload: {reload}");
            assert!(memory_holds(&program, KEY.as_bytes()), "what is in ordinary memory is found");
        }
    }
    assert_eq!(program.stop().await, 0);
}
