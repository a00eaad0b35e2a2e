//! An edge in somebody else's hands: it has edge's configuration, user, key, network and confinement, and does what it is
//! told on its command line instead of serving.
//!
//! `captured_edge confined|sealed ACTION …`: `confined` leaves the system-call filter out, to show what the other layers
//! refuse by themselves. It says `done`, or `refused: …`; the filter ends it without a word.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it answers the scenario that started it")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use edge::config::{Config, Environment};
use edge::sandbox;
use linux::Privileged;

/// What an edge is started with.
const CONFIGURATION: &str = "/etc/culvert/edge.toml";

fn main() -> ExitCode {
    match run() {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("captured_edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [layers, action, rest @ ..] = &arguments[..] else { bail!("confined|sealed ACTION …") };
    let environment = Environment::of_this_process();
    let text = std::fs::read_to_string(CONFIGURATION).context(CONFIGURATION)?;
    let config = Config::parse(CONFIGURATION, &text, &environment)?;
    let users = config.users(CONFIGURATION)?;
    // What an edge might hold open from its start, at the worst.
    let open = match (action.as_str(), rest) {
        ("write_open", [path, ..]) => {
            Some(OpenOptions::new().write(true).open(path).with_context(|| path.clone())?)
        }
        _ => None,
    };
    let confined = Privileged::at_startup()?.confine(&sandbox::confinement(&config, &users))?;
    match layers.as_str() {
        "confined" => {}
        "sealed" => drop(confined.seal(sandbox::SYSCALLS)?),
        other => bail!("{other} is neither confined nor sealed"),
    }
    Ok(match act(action, rest, open)? {
        Ok(said) => said,
        Err(error) => format!("refused: {error}"),
    })
}

/// The outer result is for wrong words, the inner one for what the system answered.
fn act(action: &str, rest: &[String], open: Option<File>) -> Result<io::Result<String>> {
    let done = |made: io::Result<()>| Ok(made.map(|()| "done".to_owned()));
    match (action, rest) {
        ("write_new", [path]) => done(write_new(Path::new(path))),
        ("write_open", [_]) => done(open.context("nothing is open")?.write_all(b"payload")),
        ("connect", [to]) => done(TcpStream::connect(to.parse::<SocketAddr>()?).map(drop)),
        ("connect_unix", [path]) => done(UnixStream::connect(path).map(drop)),
        ("datagram", [to]) => done(datagram(to.parse()?)),
        ("ask", [to, head @ .., body]) => Ok(ask(to.parse()?, head, body)),
        _ => bail!("there is no action {action} {rest:?}"),
    }
}

fn write_new(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(b"payload")
}

fn datagram(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"payload", to).map(drop)
}

/// One request, word for word; gives the answer's first line and its body.
fn ask(to: SocketAddr, head: &[String], body: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(to)?;
    let request = format!(
        "{}\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        head.join("\r\n"),
        body.len()
    );
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
