//! Whether a system that was just installed is one to stay with, and the way back if it is not.
//!
//! Invariant: a system is confirmed only after all that is configured on this machine has answered; a failure asks for a
//! restart only while there is something that a restart could bring.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use appliance::{Entry, Slot, Tries};

use crate::failure::Failure;
use crate::health;
use crate::server::Role;

/// What has to run where its configuration is.
const CONFIGURED: [(&str, Role); 3] = [
    ("/etc/wireguard/wg0.conf", Role::Wgd),
    ("/etc/culvert/edge.toml", Role::Edge),
    ("/etc/culvert/storaged.toml", Role::Storaged),
];

/// Units that have to be up: all that starts by itself, and the way in where there is one.
const UNITS: [&str; 2] = ["multi-user.target", "ssh.service"];

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// What is wrong with this machine now, whatever others do.
pub(super) fn troubles() -> Vec<String> {
    let mut troubles: Vec<String> = UNITS
        .into_iter()
        .filter(|unit| *unit == UNITS[0] || systemctl("is-enabled", unit))
        .filter(|unit| !systemctl("is-active", unit))
        .map(|unit| format!("{unit} is not up"))
        .collect();
    let roles: Vec<Role> =
        CONFIGURED.into_iter().filter(|(path, _)| Path::new(path).exists()).map(|(_, role)| role).collect();
    troubles.extend(health::own_troubles(&roles));
    troubles
}

fn systemctl(verb: &str, unit: &str) -> bool {
    let mut command = Command::new("systemctl");
    command.args(["--quiet", verb, unit]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Looks up to `looks` times, with a pause in between; the troubles of the last look.
pub(super) fn wait(
    looks: u64,
    mut look: impl FnMut() -> Vec<String>,
    mut pause: impl FnMut(),
) -> Result<(), Vec<String>> {
    let mut troubles = look();
    for _ in 1..looks {
        if troubles.is_empty() {
            break;
        }
        pause();
        troubles = look();
    }
    if troubles.is_empty() { Ok(()) } else { Err(troubles) }
}

/// How it ends for a system that is not well.
pub(super) fn verdict(running: &Entry, entries: &[Entry], troubles: &[String]) -> Failure {
    let again = running.tries.is_some_and(|tries| tries.left > 0);
    let other = entries.iter().any(|entry| entry.slot != running.slot && !entry.is_given_up());
    let what = troubles.join("; ");
    if again || other {
        return Failure::failed(format!("not confirmed: {what}"));
    }
    Failure::refused(format!("not confirmed, and there is no other system to go back to: {what}"))
}

/// The name that the running system gets when it is given up.
pub(super) fn given_up(running: &Entry, entries: &[Entry]) -> Result<Entry, Failure> {
    if running.is_given_up() {
        return Err(Failure::refused("what runs is given up already: restart"));
    }
    if !entries.iter().any(|entry| entry.slot != running.slot && !entry.is_given_up()) {
        return Err(Failure::refused("there is no other system to go back to"));
    }
    let done = running.tries.map_or(0, |tries| tries.done).max(1);
    Ok(Entry { tries: Some(Tries { left: 0, done }), ..*running })
}

/// How a slot stands, in a word.
pub(super) fn state(slot: Slot, running: Slot, entry: Option<&Entry>) -> String {
    let state = match entry {
        None => "empty".to_owned(),
        Some(Entry { tries: None, .. }) => "confirmed".to_owned(),
        Some(Entry { tries: Some(tries), .. }) if tries.left == 0 && slot != running => "given up".to_owned(),
        Some(Entry { tries: Some(tries), .. }) => format!("not confirmed, tries left: {}", tries.left),
    };
    if slot == running { format!("runs, {state}") } else { state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn entry(name: &str) -> Entry {
        name.parse().unwrap()
    }

    #[test]
    fn a_look_without_trouble_ends_the_waiting() {
        let mut answers = vec![vec![], vec!["edge".to_owned()], vec!["all".to_owned()]];
        let mut pauses = 0;
        assert_eq!(wait(9, || answers.pop().unwrap(), || pauses += 1), Ok(()));
        assert_eq!(pauses, 2);
        let (mut looks, mut pauses) = (0, 0);
        let look = || {
            looks += 1;
            vec![format!("look {looks}")]
        };
        assert_eq!(wait(3, look, || pauses += 1), Err(vec!["look 3".to_owned()]));
        assert_eq!((looks, pauses), (3, 2));
    }

    #[test]
    fn a_restart_is_asked_for_while_it_can_help() {
        let troubles = ["edge does not answer".to_owned()];
        let exit = |running: &str, other: &str| {
            let (running, other) = (entry(running), entry(other));
            verdict(&running, &[running, other], &troubles).exit()
        };
        assert_eq!(exit("culvert-2-b-0.1.0-2+2-1.efi", "culvert-1-a-0.1.0-1+0-3.efi"), Exit::Failed);
        assert_eq!(exit("culvert-2-b-0.1.0-2+0-3.efi", "culvert-1-a-0.1.0-1.efi"), Exit::Failed);
        assert_eq!(exit("culvert-2-b-0.1.0-2+0-3.efi", "culvert-1-a-0.1.0-1+0-3.efi"), Exit::Refused);
        let alone = entry("culvert-2-b-0.1.0-2+0-3.efi");
        assert_eq!(verdict(&alone, &[alone], &troubles).exit(), Exit::Refused);
    }

    #[test]
    fn who_goes_back_has_somewhere_to_go() {
        let running = entry("culvert-2-b-0.1.0-2.efi");
        let good = entry("culvert-1-a-0.1.0-1.efi");
        let bad = entry("culvert-1-a-0.1.0-1+0-3.efi");
        assert_eq!(given_up(&running, &[running, good]).unwrap().to_string(), "culvert-2-b-0.1.0-2+0-1.efi");
        assert_eq!(given_up(&running, &[running, bad]).unwrap_err().exit(), Exit::Refused);
        assert_eq!(given_up(&running, &[running]).unwrap_err().exit(), Exit::Refused);
        assert_eq!(given_up(&bad, &[bad, running]).unwrap_err().exit(), Exit::Refused);
    }

    #[test]
    fn a_slots_state_is_one_word() {
        let [confirmed, tried, given_up] =
            ["culvert-2-b-0.1.0-2.efi", "culvert-2-b-0.1.0-2+2-1.efi", "culvert-2-b-0.1.0-2+0-3.efi"]
                .map(entry);
        assert_eq!(state(Slot::B, Slot::B, Some(&confirmed)), "runs, confirmed");
        assert_eq!(state(Slot::B, Slot::B, Some(&tried)), "runs, not confirmed, tries left: 2");
        assert_eq!(state(Slot::B, Slot::A, Some(&given_up)), "given up");
        assert_eq!(state(Slot::B, Slot::A, None), "empty");
    }
}
