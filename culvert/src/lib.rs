//! `culvert`: the operator's and the user's command beside the three daemons.
//!
//! It talks to an edge over HTTP for files, to a daemon over its Unix admin socket for everything else.
//!
//! Invariant: a command says plainly whether it succeeded, failed, refused or could not find out, and its
//! exit code says the same.
#![forbid(unsafe_code)]

mod admin;
pub mod agent;
mod audit;
mod backup;
mod checkpoint;
mod cleanup;
mod cli;
mod completions;
mod console;
mod failure;
mod health;
mod hold;
mod http_client;
mod image;
mod init;
mod integrity;
mod kek;
mod key;
mod ledger;
mod limits;
mod people;
mod problem;
mod receipt;
mod reload;
mod report;
mod restore;
mod server;
mod shred;
mod storage;
mod target;
mod trace;
mod transfer;
mod tunnel;

use std::process::ExitCode;

pub use cli::Cli;

use cli::{AuditCommand, Command, VerifyCommand};
use console::Console;
use failure::Failure;

/// Does what the command line says; returns the exit code after having said what went wrong.
pub fn run(cli: Cli) -> ExitCode {
    // A daemon, with a daemon's way to begin and to end.
    if let Command::Agent(arguments) = &cli.command {
        return agent::main(arguments);
    }
    let console = Console::new(cli.json, cli.quiet);
    match dispatch(&cli.command, console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_output_closed() => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure, console);
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn dispatch(command: &Command, console: Console) -> Result<(), Failure> {
    match command {
        Command::Put(arguments) => transfer::put::run(arguments, console),
        Command::Get(arguments) => transfer::get::run(arguments, console),
        Command::Ls(arguments) => transfer::list::run(arguments, console),
        Command::Share(arguments) => transfer::share::run(arguments, console),
        Command::Tunnel { command } => tunnel::run(command, console),
        Command::CheckWireguardStatus(arguments) => tunnel::status::run(arguments, console),
        Command::Audit { command: AuditCommand::Trail(arguments) } => audit::run(arguments, console),
        Command::ShowPhiAuditTrail(arguments) => audit::run(arguments, console),
        Command::Cleanup { command } => cleanup::run(command, console),
        Command::EmergencyCleanup(arguments) => cleanup::emergency(arguments, console),
        Command::Verify { command: VerifyCommand::Cleanup(at) } => cleanup::verify(at, console),
        Command::Verify { command: VerifyCommand::Integrity(arguments) } => {
            integrity::run(arguments, console)
        }
        Command::Verify { command: VerifyCommand::Server(arguments) } => server::run(arguments, console),
        Command::VerifyServerSecurity(arguments) => server::run(arguments, console),
        Command::Health(arguments) | Command::SecurityHealthCheck(arguments) => {
            health::run(arguments, console)
        }
        Command::VerifyPhiIntegrity(arguments) => integrity::run(arguments, console),
        Command::VerifyPhiCleanup(at) => cleanup::verify(at, console),
        Command::Shred { command } => shred::run(command, console),
        Command::Backup { command } => backup::run(command, console),
        Command::Restore(arguments) => restore::run(arguments, console),
        Command::Report { command } => report::run(command, console),
        Command::Ledger { command } => ledger::run(command, console),
        Command::Volume { command } => storage::volume(command, console),
        Command::Usage(at) => storage::usage(at, console),
        Command::Trace(arguments) => trace::run(arguments, console),
        Command::Upload { command } => storage::upload(command, console),
        Command::Hold { command } => hold::run(command, console),
        Command::Kek { command } => kek::run(command, console),
        Command::Key { command } => key::run(command, console),
        Command::User { command } => people::user(command, console),
        Command::Token { command } => people::token(command, console),
        Command::Cohort { command } => people::cohort(command, console),
        Command::Capability { command } => people::capability(command, console),
        Command::Edge { command } => people::edge(command, console),
        Command::Access { command } => people::access(command, console),
        Command::Image { command } => image::run(command, console),
        Command::Init { command } => init::run(command, console),
        Command::Agent(_) => Err(Failure::usage("the agent is no command with an answer")),
        Command::Reload(arguments) => reload::run(arguments, console),
        Command::Receipt { command } => receipt::run(command, console),
        Command::Checkpoint { command } => checkpoint::run(command, console),
        Command::Completions { shell } => completions::run(*shell),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a failure is told")]
fn complain(failure: &Failure, console: Console) {
    if console.is_json() {
        eprintln!("{}", failure.to_json());
    } else {
        eprintln!("culvert: {}", failure.message());
    }
}
