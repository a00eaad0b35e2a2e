//! Keys for WireGuard: the same bytes as `wg genkey`, `wg pubkey` and `wg genpsk` deal in.
//!
//! Invariant: a private key is clamped when it is made, is written to a file of mode 0600 that did not
//! exist before, and is wiped from memory afterwards.

mod rotate;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use wg_proto::{PresharedKey, SecretKey};
use zeroize::Zeroizing;

use crate::console::Console;
use crate::failure::Failure;

/// The longest input that can be a key with some white space around it.
const INPUT_BYTES_AT_MOST: u64 = 128;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a private key, as `wg genkey` does
    #[command(after_help = "Examples:\n  \
        culvert key gen | tee private | culvert key pub\n  \
        culvert key gen --out /etc/wireguard/wg0.key     # mode 0600; prints the public key")]
    Gen(KeyOut),
    /// Read a private key from standard input (or a file) and print its public key, as `wg pubkey` does
    Pub {
        /// File that holds the private key [default: standard input]
        file: Option<PathBuf>,
    },
    /// Make a pre-shared key, as `wg genpsk` does
    Psk(KeyOut),
    /// Replace the keys of the running tunnel without losing a packet
    #[command(after_help = "\
Between two wgds the new key is announced inside the tunnel, taken beside the old one, written to both \
configurations, switched to and confirmed; then the old one goes. With any other WireGuard the verdict says what \
is left to do by hand.\n\n\
Examples:\n  \
        culvert key rotate                          this host's static key\n  \
        culvert key rotate --psk --peer web1        the pre-shared key with web1\n  \
        culvert key rotate --compromised            somebody else has the key")]
    Rotate(rotate::RotateArguments),
}

#[derive(Debug, Args)]
pub(crate) struct KeyOut {
    /// Write the key to this new file with mode 0600 instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(command: &KeyCommand, console: Console) -> Result<(), Failure> {
    match command {
        KeyCommand::Gen(to) => {
            let private = SecretKey::generate().map_err(no_randomness)?;
            let public = private.public_key().to_base64();
            deliver(&private.reveal_base64(), "private_key", Some(&public), to.out.as_deref(), console)
        }
        KeyCommand::Pub { file } => {
            let public = read_key(file.as_deref())?.public_key().to_base64();
            console.report(&json!({ "public_key": public }), |_| public.clone())
        }
        KeyCommand::Rotate(arguments) => rotate::run(arguments, console),
        KeyCommand::Psk(to) => {
            let key = PresharedKey::generate().map_err(no_randomness)?;
            deliver(&key.reveal_base64(), "preshared_key", None, to.out.as_deref(), console)
        }
    }
}

fn no_randomness(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("no random numbers from the kernel: {error}"))
}

fn deliver(
    secret: &str,
    name: &str,
    public: Option<&str>,
    out: Option<&Path>,
    console: Console,
) -> Result<(), Failure> {
    let Some(path) = out else {
        if !console.is_json() {
            return console.line(secret);
        }
        return console.json_line(&match public {
            Some(public) => json!({ name: secret, "public_key": public }),
            None => json!({ name: secret }),
        });
    };
    write_new_file(path, secret)?;
    if console.is_json() {
        console.json_line(&json!({ "file": path, "public_key": public }))
    } else if let Some(public) = public {
        console.line(public)
    } else {
        Ok(())
    }
}

/// Durable before it is reported: a public key may be handed out the moment it is printed.
fn write_new_file(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                Failure::refused(format!("{} exists; a key file is never overwritten", path.display()))
            } else {
                Failure::failed(format!("make {}: {error}", path.display()))
            }
        })?;
    let line = Zeroizing::new(format!("{text}\n"));
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| Failure::failed(format!("write {}: {error}", path.display())))
}

fn read_key(file: Option<&Path>) -> Result<SecretKey, Failure> {
    let name = file.map_or("standard input".to_owned(), |path| path.display().to_string());
    let mut text = Zeroizing::new(String::new());
    let read = match file {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(INPUT_BYTES_AT_MOST).read_to_string(&mut text)),
        None => std::io::stdin().lock().take(INPUT_BYTES_AT_MOST).read_to_string(&mut text),
    };
    read.map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    SecretKey::from_base64(text.trim()).map_err(|error| Failure::usage(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_new_file(&path, "first").unwrap();
        let refusal = write_new_file(&path, "second").unwrap_err();
        assert_eq!(refusal.exit(), crate::failure::Exit::Refused);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
