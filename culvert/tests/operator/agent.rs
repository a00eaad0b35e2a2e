//! The agent tells an alert to whoever shows the right certificate, and says not a word to anybody else.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::authority::{Authority, Client};

/// Longer than any start on a busy machine; nothing here is measured.
const HEARD: Duration = Duration::from_secs(120);
/// Who is refused is tried again.
const CONNECTIONS: usize = 256;

/// What a server has of one connection.
#[derive(Debug)]
enum Heard {
    Said(String),
    /// The agent broke the handshake off.
    Refused,
}

#[test]
fn an_alert_goes_to_the_right_certificate_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let here = "127.0.0.1".parse().unwrap();
    let elsewhere = "127.0.0.2".parse().unwrap();
    let (hook, told) = serve(&ours.server(here));
    let (stranger, told_stranger) = serve(&another.server(here));
    let (misnamed, told_misnamed) = serve(&ours.server(elsewhere));
    let (log, logged) = serve(&ours.server(here));
    let (misnamed_log, logged_misnamed) = serve(&ours.server(elsewhere));
    let authority = directory.path().join("ca.pem");
    std::fs::write(&authority, &ours.pem).unwrap();
    let file = directory.path().join("agent.toml");
    let text = format!(
        "profile = \"lab\"\nhost = \"web1\"\npatience_seconds = 0\nca_file = {authority:?}\n\
         [[watch]]\nname = \"edge\"\naddress = \"127.0.0.1:1\"\n\
         [[webhook]]\nurl = \"https://127.0.0.1:{hook}/hook\"\n\
         [[webhook]]\nurl = \"https://127.0.0.1:{stranger}/hook\"\n\
         [[webhook]]\nurl = \"https://127.0.0.1:{misnamed}/hook\"\n\
         [[syslog]]\nserver = \"tls://127.0.0.1:{log}\"\n\
         [[syslog]]\nserver = \"tls://127.0.0.1:{misnamed_log}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let _agent = Agent::start(&file);

    let Heard::Said(request) = told.recv_timeout(HEARD).unwrap() else { panic!("it refused the right one") };
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\"alert\":\"daemon-not-ready\""), "{request}");
    let Heard::Said(line) = logged.recv_timeout(HEARD).unwrap() else { panic!("it refused the right one") };
    assert!(line.contains(" web1 culvert-agent - daemon-not-ready "), "{line}");
    for (who, heard) in [
        ("another authority's", told_stranger),
        ("one for another name", told_misnamed),
        ("a log server's for another name", logged_misnamed),
    ] {
        let heard = heard.recv_timeout(HEARD).unwrap();
        assert!(matches!(heard, Heard::Refused), "{who}: {heard:?}");
    }
}

struct Agent(Child);

impl Agent {
    fn start(file: &std::path::Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.args(["agent", "--config"]).arg(file);
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listens with a certificate; the port, and what came of each connection.
fn serve(certificate: &Client) -> (u16, Receiver<Heard>) {
    let chain = vec![CertificateDer::from(certificate.der.clone())];
    let key = PrivatePkcs8KeyDer::from(certificate.key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, receiver) = channel();
    std::thread::spawn(move || answer(&listener, &Arc::new(config), &heard));
    (port, receiver)
}

fn answer(listener: &TcpListener, config: &Arc<ServerConfig>, heard: &Sender<Heard>) {
    for _ in 0..CONNECTIONS {
        let Ok((stream, _)) = listener.accept() else { return };
        let mut line = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
        let said = hear(&mut line);
        if heard.send(said.map_or(Heard::Refused, Heard::Said)).is_err() {
            return;
        }
    }
}

/// The request, or the line; `None` when there was no handshake.
fn hear(line: &mut StreamOwned<ServerConnection, std::net::TcpStream>) -> Option<String> {
    while line.conn.is_handshaking() {
        line.conn.complete_io(&mut line.sock).ok()?;
    }
    let mut said = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = line.read(&mut part).unwrap_or(0);
        said.extend_from_slice(&part[..length]);
        // Of a request the body is one object.
        let is_request = said.starts_with(b"POST ");
        if length == 0 || is_request && said.ends_with(b"}") {
            break;
        }
    }
    let _ = line.write_all(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n");
    Some(String::from_utf8_lossy(&said).into_owned())
}
