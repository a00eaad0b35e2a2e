//! The command line: every command, its options and its help.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::agent::AgentArguments;
use crate::audit::TrailArguments;
use crate::backup::BackupCommand;
use crate::checkpoint::CheckpointCommand;
use crate::cleanup::{CleanupCommand, EmergencyArguments, SocketArgument};
use crate::health::HealthArguments;
use crate::hold::HoldCommand;
use crate::image::ImageCommand;
use crate::init::InitCommand;
use crate::integrity::IntegrityArguments;
use crate::kek::KekCommand;
use crate::key::KeyCommand;
use crate::ledger::LedgerCommand;
use crate::people::{
    AccessCommand, CapabilityCommand, CohortCommand, EdgeCommand, TokenCommand, UserCommand,
};
use crate::receipt::ReceiptCommand;
use crate::reload::ReloadArguments;
use crate::report::ReportCommand;
use crate::restore::RestoreArguments;
use crate::server::ServerArguments;
use crate::shred::ShredCommand;
use crate::storage::{UploadCommand, VolumeCommand};
use crate::trace::TraceArguments;
use crate::transfer::get::GetArguments;
use crate::transfer::list::ListArguments;
use crate::transfer::put::PutArguments;
use crate::transfer::share::ShareArguments;
use crate::tunnel::TunnelCommand;
use crate::tunnel::status::StatusArguments;

/// Move files through Culvert, and look after it.
#[derive(Debug, Parser)]
#[command(
    name = "culvert",
    version,
    disable_help_subcommand = true,
    long_about = "\
Move files through Culvert, and look after it.\n\n\
put, get and ls talk to an edge over HTTP, with your token. Everything else talks to a daemon on this machine \
through its admin or control socket, or needs no daemon at all.",
    after_long_help = "\
Examples:\n  \
  export CULVERT_SERVER=https://web1:8443 CULVERT_TOKEN_FILE=~/.culvert-token\n  \
  culvert put visits.csv c5/2026/visits.csv    send a file; prints the receipt\n  \
  pg_dump study | culvert put - c5/study.sql   send what a program writes\n  \
  culvert ls c5/2026/                          what is there\n  \
  culvert get c5/2026/visits.csv               fetch it; refuses to overwrite\n  \
  culvert get c5/study.sql - | psql            fetch it into a program\n\n  \
  culvert tunnel status                        peers, handshakes, loss, round trips\n  \
  culvert audit trail --cohort c5 --days 7     who did what\n  \
  culvert user add ann --role user --cohort c5 somebody new\n  \
  culvert access list --cohort c5              who may use it\n  \
  culvert key gen --out wg0.key                make a WireGuard key\n\n\
With --json, standard output is JSON: one object, or one per line where there are many. An error is one JSON \
object on standard error.\n\n\
Exit codes: 0 fine; 1 it failed, or a check has findings; 2 wrong usage; 3 refused, because something would be \
overwritten; 4 cannot tell, because nobody answered."
)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send a file, or a directory
    #[command(after_help = "\
The file is hashed while it is sent, and the receipt is compared with that hash and size: success means that \
the server holds these very bytes, durably and recorded. Sending the same bytes again is no error; other bytes \
under a path that exists are refused.\n\n\
Files of 16 MiB and more get over broken connections, and over the end of this program: the same command goes on where \
the server's durable bytes end. What is kept here for that (in $XDG_STATE_HOME/culvert) is the upload's id under a hash, \
no name and no secret.\n\n\
Of a directory every regular file is sent, several at once; links are not followed. One that fails stops no other, and \
is named; the exit code is then not 0.\n\n\
Examples:\n  \
  culvert put visits.csv c5/2026/visits.csv\n  \
  culvert put visits.csv c5/2026/              keeps the file's name\n  \
  culvert put study c5/study/ --parallel 8     everything below the directory\n  \
  culvert put study c5/study/ --checksum       what the server has already is not sent again\n  \
  culvert put visits.csv c5/ --file-type raw_csv --attribute protocol-year=2026\n  \
  culvert put visits.csv c5/ --receipt visits.receipt\n  \
  tar c study | culvert put - c5/study.tar")]
    Put(PutArguments),
    /// Fetch a file, or everything below a path
    #[command(after_help = "\
The bytes go to FILE.part and become FILE only when their SHA-256 is the announced one; FILE is readable by you \
alone. A download that broke off goes on: at once by itself, later with the same command. With -, they go to standard output as they come, and a wrong hash is told by the exit code.\n\n\
Examples:\n  \
  culvert get c5/2026/visits.csv\n  \
  culvert get c5/2026/visits.csv /srv/visits.csv --force\n  \
  culvert get c5/study/ ./study --parallel 8   everything below study/\n  \
  culvert get c5/study/ ./study --checksum     what is here with the right hash is not fetched\n  \
  culvert get c5/study.tar - | tar t")]
    Get(GetArguments),
    /// List a cohort's files: size, time, path
    #[command(after_help = "\
Examples:\n  \
  culvert ls c5\n  \
  culvert ls c5 --attribute protocol-year=2026 --file-type raw_csv\n  \
  culvert ls c5/2026/ --json | jq -r .sha256")]
    Ls(ListArguments),
    /// Proof that a store took a file, with no server
    Receipt {
        #[command(subcommand)]
        command: ReceiptCommand,
    },
    /// Make a link to a file for somebody without a token, or end one
    #[command(after_help = "\
Whoever has the link can fetch the file as often as you say, until it runs out, is ended, or you may no longer read the \
file yourself. A fetch that breaks off can be resumed for 15 minutes.\n\n\
Examples:\n  \
  culvert share c5/2026/visits.csv --hours 48\n  \
  culvert share c5/2026/visits.csv --uses 5 --network 192.0.2.0/24\n  \
  culvert share c5/a.csv --certificate 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n  \
  culvert share --revoke ID")]
    Share(ShareArguments),
    /// What an edge holds of the store's log
    Checkpoint {
        #[command(subcommand)]
        command: CheckpointCommand,
    },
    /// The WireGuard tunnel on this machine
    Tunnel {
        #[command(subcommand)]
        command: TunnelCommand,
    },
    /// The audit trail
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Temporary things on the volumes, and that they are gone
    Cleanup {
        #[command(subcommand)]
        command: CleanupCommand,
    },
    /// Delete files for good, with a certificate
    Shred {
        #[command(subcommand)]
        command: ShredCommand,
    },
    /// Copies of what storaged needs beside its volumes, encrypted
    Backup {
        #[command(subcommand)]
        command: BackupCommand,
    },
    /// Check a backup, open it for a new host, and bring what came out of it forward again
    #[command(after_help = "\
A host is rebuilt from its volumes, a backup, the journal mirror (which lies on a volume) and the recovery key:\n  \
  culvert restore BACKUP --identity KEYS --into /root/restored --owner storaged\n  \
  (put storaged.toml and the keys where they belong, root.key too, and state/ where state_dir says)\n  \
  culvert restore --replay\n  \
  systemctl start storaged\n\n\
--replay does again what the journal mirror holds beyond the ledger: each change once, in its order, and kept only if \
the log then has the head that was signed at the time. It also serves the start that refuses because an older state \
directory was put back. A mirror does not reach over a shred of the keys (`culvert kek shred`): the copy must be from \
after the last one.\n\n\
--new-epoch is for a mirror that is lost: the log begins a new epoch, and edges refuse it until somebody accepts that \
(culvert checkpoint accept). Nothing is deleted; what the backup does not know is listed by culvert volume \
unclaimed.\n\n\
Run it as root while storaged is stopped; --verify can run anywhere.\n\n\
Exit codes: 0 fine; 1 damaged, or not whole; 3 something would be overwritten; 4 it cannot be told, for there is no \
root key to open it with.\n\n\
Examples:\n  \
  culvert restore culvert-1f3a.backup.age --verify --identity ~/recovery.txt\n  \
  culvert restore --new-epoch --reason \"disk of the mirror lost\"")]
    Restore(RestoreArguments),
    /// Documents for auditors
    Report {
        #[command(subcommand)]
        command: ReportCommand,
    },
    /// The log that storaged keeps
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// The places for objects
    Volume {
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// What each cohort uses, by volume
    Usage(SocketArgument),
    /// Uploads that are under way
    Upload {
        #[command(subcommand)]
        command: UploadCommand,
    },
    /// What became of one request: what edge, the tunnel and storaged know of it
    #[command(after_help = "\
The id is in every answer's Request-Id, in problems, and in the logs of edge and storaged. Daemons that do not run on \
this machine are passed over: run it on both hosts to see both halves. edge remembers its last 4096 requests, wgd tells \
how the tunnel is now, and storaged has every record that the request left.\n\n\
Exit codes: 0 something is known; 1 nothing is; 4 nobody could be asked.\n\n\
Example:\n  \
  culvert trace 01938c1e-6f6c-7a52-9d0a-3f6c2b1d4e5f")]
    Trace(TraceArguments),
    /// Legal holds: while one stands, nothing under it is deleted
    Hold {
        #[command(subcommand)]
        command: HoldCommand,
    },
    /// How the daemons of this machine are: one table of pass, warn and fail
    #[command(after_help = "\
Of each daemon that runs here: whether it answers and how it is by its own word (tunnel, certificate, ledger, volumes, \
peers), and in one line whether its lock-down is in force by the kernel's word. `culvert verify server` has that line by \
line. Without root the kernel does not tell, and the line says so.\n\n\
Exit codes: 0 nothing failed (a warning is no failure); 1 something did; 4 something could not be looked at, or no daemon \
runs here.\n\n\
Examples:\n  \
  culvert health\n  \
  culvert health --json | jq -r 'select(.state == \"fail\") | .check'")]
    Health(HealthArguments),
    /// Look that what should be so is so
    Verify {
        #[command(subcommand)]
        command: VerifyCommand,
    },
    /// The keys that wrap the store's file keys
    Kek {
        #[command(subcommand)]
        command: KekCommand,
    },
    /// WireGuard keys, as `wg` makes them
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// The people who may use the store
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// What they show to say who they are
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// The groups of files, their rules, and to whom they are open
    Cohort {
        #[command(subcommand)]
        command: CohortCommand,
    },
    /// Links that open one file for whoever holds them
    Capability {
        #[command(subcommand)]
        command: CapabilityCommand,
    },
    /// The edges that may deliver requests
    Edge {
        #[command(subcommand)]
        command: EdgeCommand,
    },
    /// Who may use what, now and in the past
    Access {
        #[command(subcommand)]
        command: AccessCommand,
    },
    /// The system that this appliance runs, where it runs as an image
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// The first start of a daemon
    Init {
        #[command(subcommand)]
        command: InitCommand,
    },
    /// Hand a running daemon its changed configuration and keys
    #[command(after_help = "\
A daemon that is locked down cannot open files. This opens its configuration and the files that the \
configuration names, and passes them over its admin socket; the daemon takes all of it or, if something is \
wrong, says so and keeps what it has.\n\n\
Example, in a unit file:\n  \
  ExecReload=/usr/bin/culvert reload edge")]
    Reload(ReloadArguments),
    /// Print a completion script
    #[command(after_help = "\
Examples:\n  \
  culvert completions bash > /usr/share/bash-completion/completions/culvert\n  \
  culvert completions zsh > \"${fpath[1]}/_culvert\"\n  \
  culvert completions fish > ~/.config/fish/completions/culvert.fish")]
    Completions {
        /// bash, zsh, fish, …
        shell: Shell,
    },
    /// Tells people that something is wrong, and fetches providers' keys: what the daemons have no network for
    #[command(after_help = "\
A daemon, for culvert-agent.service: it runs in the host's own network, with no capability, and confines itself before it \
asks anybody. It hears wgd's events, asks the daemons' status listeners every 2 s whether they are ready, and tells \
webhooks (a small JSON object by POST) and log servers (RFC 5424) of what is wrong, once, and once when it is right \
again. The keys of identity providers go into files; culvert-agent-keys.path has edge and storaged reload them.\n\n\
agent.toml:\n  \
profile = \"production\"\n  \
[[watch]]\n  \
name = \"edge\"\n  \
address = \"127.0.0.1:9587\"\n  \
[[webhook]]\n  \
url = \"https://alerts.example/culvert\"\n  \
[[syslog]]\n  \
server = \"tls://log.example\"\n\n\
Exit codes: 0 ended; 64 usage; 71 the system refused; 77 a layer of the lock-down is missing; 78 configuration.\n\n\
Examples:\n  \
culvert agent --check-config\n  \
culvert agent --config /etc/culvert/agent.toml --log-format json")]
    Agent(AgentArguments),
    /// The same as `audit trail`
    #[command(hide = true)]
    ShowPhiAuditTrail(TrailArguments),
    /// The same as `verify cleanup`
    #[command(hide = true)]
    VerifyPhiCleanup(SocketArgument),
    /// The same as `verify integrity`
    #[command(hide = true)]
    VerifyPhiIntegrity(IntegrityArguments),
    /// The same as `verify server`
    #[command(hide = true)]
    VerifyServerSecurity(ServerArguments),
    /// The same as `health`
    #[command(hide = true)]
    SecurityHealthCheck(HealthArguments),
    /// The same as `cleanup emergency`
    #[command(hide = true)]
    EmergencyCleanup(EmergencyArguments),
    /// The same as `tunnel status`
    #[command(hide = true)]
    CheckWireguardStatus(StatusArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Who did what and when, oldest first
    #[command(after_help = "\
Examples:\n  \
  culvert audit trail --cohort c5 --days 7\n  \
  culvert audit trail --user ann --limit 20\n  \
  culvert audit trail --action access.denied --json | jq .origin")]
    Trail(TrailArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum VerifyCommand {
    /// Whether each temporary thing is gone; marks those that are, exit code 1 if any is not
    Cleanup(SocketArgument),
    /// Whether the stored files are there and are what was stored
    #[command(after_help = "\
Without --check-hashes it looks that each object is there with its length; with it every byte is read and its hash \
compared, which takes as long as reading the volumes does. No key is needed for either. storaged reads everything by \
itself once in `limits.scrub_cycle_days`; what that found is shown here too, until a look finds it right again.\n\n\
A volume that is away or hangs is no missing file: what lies on it cannot be told.\n\n\
Exit codes: 0 all valid; 1 some are not; 4 some could not be looked at, or nobody answered.\n\n\
Examples:\n  \
  culvert verify integrity\n  \
  culvert verify integrity --check-hashes --cohort c5\n  \
  culvert verify integrity --file ID --check-hashes --json")]
    Integrity(IntegrityArguments),
    /// What the daemons of this machine can still do, read from the running processes; needs root
    #[command(after_help = "\
Of each daemon and helper that runs here, by the kernel's word: capabilities in all five sets and the system-call filter \
of each thread, no_new_privs, user and groups, dumps, limits, open descriptors, raw sockets, memory that is writable and \
executable, secrets in the environment, mounts, devices, routes and listeners; of the host swap and dumps; beside it the \
configuration by the daemon's own check, the modes of the files with keys, and what the daemon says of its seal.\n\n\
`network` tells how edge and storaged are kept to the tunnel: a namespace that holds nothing else, or (in the host's \
network) rules that stand in for it: a listener bound to the device, nftables, strict reverse-path filtering. Those are \
looked at then.\n\n\
Below the table stands what to do about each finding.\n\n\
Exit codes: 0 nothing failed (a warning is no failure); 1 something did; 4 something could not be looked at, or no daemon \
runs here.\n\n\
Examples:\n  \
  culvert verify server\n  \
  culvert verify server --pid 4711\n  \
  culvert verify server --json | jq 'select(.verdict or .state == \"fail\")'")]
    Server(ServerArguments),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What the help shows can be typed.
    #[test]
    fn every_example_parses() {
        let mut examples = Vec::new();
        collect(&Cli::command(), &mut examples);
        assert!(examples.len() > 50, "only {} examples were found", examples.len());
        let mut wrong = Vec::new();
        for example in &examples {
            let mut words = words(example);
            let parse = |words: &[String]| Cli::command().try_get_matches_from(words);
            let mut parsed = parse(&words);
            // It comes from the environment as a rule.
            if parsed.as_ref().is_err_and(|error| error.to_string().contains("--server <URL>")) {
                words.extend(["--server".to_owned(), "http://web1".to_owned()]);
                parsed = parse(&words);
            }
            if let Err(error) = parsed {
                wrong.push(format!("{example}\n{error}"));
            }
        }
        // Users of a system where the daemons are installed.
        wrong.retain(|wrong| !wrong.contains("does not exist on this host"));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn collect(command: &clap::Command, examples: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let help = help.replace("\\\n", "");
        let lines = help.lines().map(|line| line.trim_start().trim_start_matches("ExecReload=/usr/bin/"));
        let ours = lines.filter(|line| line.starts_with("culvert "));
        // Behind it comes another command, or a word of explanation.
        let ends = [" | ", " && ", " > ", "  "];
        examples.extend(ours.map(|line| {
            let end = ends.iter().filter_map(|end| line.find(end)).min().unwrap_or(line.len());
            line[..end].to_owned()
        }));
        command.get_subcommands().for_each(|below| collect(below, examples));
    }

    /// As a shell takes a line apart, with something in the place of each name in capitals.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for letter in line.chars() {
            match letter {
                '"' | '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut().unwrap().push(other),
            }
        }
        let id = "0".repeat(32);
        words
            .into_iter()
            .map(|word| if word == "ID" || word.contains('…') { id.clone() } else { word })
            .collect()
    }
}
