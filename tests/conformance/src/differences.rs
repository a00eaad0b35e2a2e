//! Where other programs may differ from the contract, and why.
//!
//! Invariant: each entry names a check, and nothing here counts for wgd.

/// What Debian 12's wireguard-go (0.0.20220316) does otherwise.
const TABLE: &[(&str, &str)] = &[
    ("version_is_printed_by_short_flag", "boringtun's spelling; wireguard-go knows `--version` alone"),
    ("wg_log_level_is_understood", "boringtun's variable"),
    ("rust_log_wins_over_log_level", "the variable of programs in Rust"),
    ("log_level_has_a_flag", "wireguard-go has no flag for it"),
    ("a_number_of_threads_is_accepted", "boringtun's flags and variable; wireguard-go has `GOMAXPROCS`"),
    (
        "keeping_root_is_accepted_and_without_effect",
        "boringtun's flag and variable; wireguard-go never gives up a privilege",
    ),
    ("no_interface_is_a_usage_error", "wireguard-go prints its usage and exits with 0"),
    (
        "connected_uapi_descriptor_is_served",
        "boringtun's meaning of `WG_UAPI_FD`; wireguard-go wants a listening socket",
    ),
    ("uapi_listener_of_a_service_manager_is_served", "wireguard-go does not know `LISTEN_FDS`"),
    ("port_in_use_leaves_the_old_socket", "wireguard-go closes the old socket before it tries the new port"),
    ("port_in_use_applies_nothing_of_the_request", "a `set` is not atomic in wireguard-go"),
    ("nothing_is_sent_without_a_private_key", "wireguard-go begins handshakes with a key of zeros"),
    ("leading_minus_removes_a_prefix", "an addition of 2025; Debian's wireguard-go is of 2022"),
    (
        "leading_minus_takes_nothing_from_another_peer",
        "an addition of 2025; Debian's wireguard-go is of 2022",
    ),
    (
        "refused_request_applies_nothing",
        "a `set` is not atomic in wireguard-go: lines before the bad one are applied",
    ),
    (
        "operations_may_come_in_one_write",
        "wireguard-go's reader of a `set` swallows what comes behind it in the same write",
    ),
    (
        "client_that_does_not_read_its_answer_blocks_nobody",
        "wireguard-go holds its lock while it writes the answer",
    ),
    ("half_a_request_blocks_nobody", "wireguard-go holds its lock while it reads a `set`"),
    (
        "half_a_request_that_ends_applies_nothing",
        "a `set` is not atomic in wireguard-go: it takes the end of the stream for the end of the request",
    ),
    ("failed_get_is_answered_with_a_positive_number", "wireguard-go closes without an answer"),
    (
        "lines_in_a_get_are_refused_with_a_positive_number",
        "wireguard-go answers −22, which defguard takes for success",
    ),
    ("interface_file_is_read_at_the_start", "wireguard-go reads no configuration file"),
    ("file_keys_are_case_insensitive_and_comments_are_skipped", "wireguard-go reads no configuration file"),
    ("allowed_ips_become_routes", "wireguard-go reads no configuration file"),
    ("table_by_number_takes_the_routes", "wireguard-go reads no configuration file"),
    ("hooks_are_refused_by_name", "wireguard-go reads no configuration file"),
    ("mistakes_in_the_file_name_line_and_key", "wireguard-go reads no configuration file"),
    ("refusals_never_quote_a_secret", "wireguard-go reads no configuration file"),
    ("private_key_may_stand_in_a_file_of_its_own", "wireguard-go reads no configuration file"),
    ("file_that_everybody_can_read_is_noticed", "wireguard-go reads no configuration file"),
];

/// Why a program other than wgd may fail `check`.
#[must_use]
pub fn reason(check: &str) -> Option<&'static str> {
    TABLE.iter().find(|(name, _)| *name == check).map(|(_, reason)| *reason)
}

/// The table as it stands in `docs/conformance.md`.
#[must_use]
pub fn as_markdown() -> String {
    let mut text = String::from("| check | why another program may differ |\n| --- | --- |\n");
    for (name, reason) in TABLE {
        text.push_str(&format!("| `{name}` | {reason} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_names_a_check() {
        let checks = crate::checks::all();
        for (name, _) in TABLE {
            assert!(checks.iter().any(|check| check.name == *name), "{name}");
        }
    }

    #[test]
    fn the_documentation_holds_the_table() {
        let page = include_str!("../../../docs/conformance.md");
        assert!(page.contains(&as_markdown()), "docs/conformance.md should hold:\n\n{}", as_markdown());
    }
}
