//! The security suites: which of all tests stand for which danger, by their names.
//!
//! Invariant: every test that is named here exists (a unit test looks), and a run in which fewer ran than are named fails.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::results::Results;
use crate::{packages, steps, test};

/// A file of tests, and those that are meant.
type Tests = (&'static str, &'static [&'static str]);

/// One danger.
pub(crate) struct Suite {
    name: &'static str,
    about: &'static str,
    /// What other projects call it; taken as its name too.
    aliases: &'static [&'static str],
    tests: &'static [Tests],
    /// Those of the quick run: no root, no namespaces.
    smoke: &'static [&'static str],
}

/// What a run takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    Smoke,
}

pub(crate) const SUITES: [Suite; 10] = [
    Suite {
        name: "path",
        about: "no spelling of a path leads out of its cohort, by any way in",
        aliases: &["test_storage_path_traversal"],
        tests: &[
            (
                "crates/store-proto/src/logical_path.rs",
                &[
                    "no_spelling_climbs",
                    "no_encoded_spelling_climbs",
                    "lengths_are_bounded",
                    "what_parses_keeps_the_invariant",
                    "what_parses_from_hostile_pieces_keeps_the_invariant",
                ],
            ),
            (
                "edge/src/target.rs",
                &[
                    "traversal_and_tricks_are_refused",
                    "only_the_documented_resources_exist",
                    "cohorts_are_named_by_lower_case_tokens",
                    "a_refused_path_is_not_repeated",
                ],
            ),
            ("edge/src/upload_metadata.rs", &["what_is_not_tus_is_refused_without_being_repeated"]),
            ("edge/src/disposition.rs", &["what_could_be_read_in_two_ways_is_refused"]),
            ("edge/tests/refusals.rs", &["a_path_with_dots_is_refused_by_rule_and_not_repeated"]),
            ("storaged/tests/path_traversal.rs", &["no_spelling_climbs_by_any_way_in"]),
            ("storaged/tests/locks.rs", &["climbing_paths_are_refused"]),
            ("culvert/src/target.rs", &["a_remote_file_has_a_cohort_and_a_clean_path"]),
            ("tests/netns/tests/refusals.rs", &["bad_paths_and_cohorts_are_refused"]),
        ],
        smoke: &["no_encoded_spelling_climbs", "traversal_and_tricks_are_refused"],
    },
    Suite {
        name: "injection",
        about: "what a client says is data: in heads, queries, logs, reports and terminals",
        aliases: &["test_sql_injection_security"],
        tests: &[
            (
                "edge/tests/refusals.rs",
                &["smuggling_attempts_do_not_pass", "what_is_not_http_is_refused_with_a_problem"],
            ),
            (
                "edge/src/plan/tests.rs",
                &[
                    "a_listing_takes_cursor_and_limit_once_each",
                    "a_listing_is_narrowed_by_type_and_day",
                    "a_listing_is_narrowed_by_what_is_said_of_files",
                    "what_is_said_of_a_file_comes_in_fields_and_lists",
                    "a_key_for_repeating_is_checked_for_its_form",
                    "what_would_change_the_meaning_of_a_put_is_refused",
                ],
            ),
            (
                "crates/store-proto/src/attributes.rs",
                &["what_could_mean_something_elsewhere_is_no_attribute"],
            ),
            (
                "edge/tests/log_injection.rs",
                &[
                    "no_name_header_or_token_breaks_a_line",
                    "nothing_that_a_client_says_stands_in_the_usual_log",
                ],
            ),
            ("tests/netns/tests/refusals.rs", &["what_a_client_says_breaks_no_log_and_stands_in_none"]),
            ("edge/src/form.rs", &["what_is_not_one_file_at_the_end_is_refused"]),
            (
                "storaged/src/report/tests.rs",
                &[
                    "a_csv_cell_is_no_formula_and_ends_no_row",
                    "a_markdown_cell_ends_no_row_and_makes_no_markup",
                    "json_is_json_and_holds_every_record",
                ],
            ),
            ("culvert/src/console.rs", &["escape_sequences_do_not_reach_a_terminal"]),
            ("culvert/src/problem.rs", &["a_page_that_is_no_problem_is_cut_and_cleaned"]),
        ],
        smoke: &["smuggling_attempts_do_not_pass", "a_listing_takes_cursor_and_limit_once_each"],
    },
    Suite {
        name: "page",
        about: "names and errors stay text in the page and in reports, and no other code runs",
        aliases: &["test_xss_security"],
        tests: &[
            ("storaged/src/report/tests.rs", &["hostile_names_stay_text_in_html"]),
            (
                "edge/src/page.rs",
                &[
                    "every_piece_of_code_is_named_by_its_hash_and_no_other_is",
                    "the_page_needs_nothing_that_its_policy_forbids",
                    "the_token_is_in_memory_alone",
                ],
            ),
            ("edge/src/answer.rs", &["every_answer_carries_the_standing_headers_and_no_cookie"]),
            ("tests/netns/tests/page.rs", &["the_page_uploads_resumes_verifies_and_shares"]),
        ],
        smoke: &["every_piece_of_code_is_named_by_its_hash_and_no_other_is"],
    },
    Suite {
        name: "api",
        about: "the internal API: peer, key, host and context, each lock by itself",
        aliases: &["test_api_security", "InternalAPIAuthenticationTest"],
        tests: &[
            (
                "storaged/tests/locks.rs",
                &[
                    "with_all_locks_open_it_works",
                    "without_the_tunnels_word_it_is_refused",
                    "when_wgd_is_silent_it_is_refused_and_may_be_tried_again",
                    "an_unregistered_peer_is_refused_even_for_health",
                    "another_edges_context_is_refused",
                    "the_internal_key_is_needed_and_its_alias_does",
                    "another_host_is_refused",
                    "what_is_for_another_store_is_refused",
                    "a_missing_or_unreadable_context_is_refused",
                    "a_stale_context_is_refused",
                    "a_context_that_stands_twice_is_refused_and_two_keys_must_be_one",
                ],
            ),
            ("storaged/src/policy.rs", &["two_internal_keys_live_at_once"]),
            (
                "tests/netns/tests/refusals.rs",
                &[
                    "a_request_that_did_not_come_through_the_tunnel_is_refused",
                    "a_peer_without_the_internal_key_is_refused",
                    "the_public_listener_serves_nothing_private",
                ],
            ),
        ],
        smoke: &["the_internal_key_is_needed_and_its_alias_does", "two_internal_keys_live_at_once"],
    },
    Suite {
        name: "access",
        about: "role × route × cohort × edge, and whose an upload or a link is",
        aliases: &["test_access_control_security", "CohortAccessControlTest"],
        tests: &[
            (
                "storaged/tests/locks.rs",
                &[
                    "every_role_on_every_route_in_every_cohort_through_every_edge",
                    "role_and_cohort_must_allow_the_action",
                    "a_file_is_not_served_to_another_cohorts_user",
                    "a_token_that_stands_for_nobody_is_refused",
                ],
            ),
            (
                "storaged/tests/access.rs",
                &[
                    "every_role_route_and_cohort",
                    "a_group_opens_its_cohort_and_leaving_it_closes",
                    "a_token_that_ran_out_or_was_revoked_stands_for_nobody",
                    "shutting_a_user_out_ends_what_they_have_open_within_a_second",
                    "a_link_is_for_nothing_else_and_ends_with_its_makers_rights",
                    "a_capability_alone_is_not_enough_to_get_in",
                ],
            ),
            ("storaged/tests/uploads.rs", &["an_upload_belongs_to_the_user_who_began_it"]),
            ("storaged/src/policy.rs", &["the_role_by_action_matrix", "user_edge_and_role_must_all_agree"]),
        ],
        smoke: &["the_role_by_action_matrix", "user_edge_and_role_must_all_agree"],
    },
    Suite {
        name: "headers",
        about: "no cookies, no other origins, TLS and its floor, no session resumed",
        aliases: &["test_session_security"],
        tests: &[
            ("edge/src/answer.rs", &["every_answer_carries_the_standing_headers_and_no_cookie"]),
            (
                "edge/tests/tls.rs",
                &[
                    "answers_under_tls_keep_browsers_at_tls",
                    "tls_1_2_is_spoken_only_where_it_is_chosen",
                    "no_session_is_resumed",
                    "a_wrong_pair_is_refused_and_the_old_one_stays",
                ],
            ),
            ("edge/src/config/tests.rs", &["the_public_side_has_tls_unless_plain_http_is_said_in_words"]),
            ("culvert/tests/transfer.rs", &["under_tls_only_a_server_that_is_vouched_for_gets_the_token"]),
        ],
        smoke: &[
            "every_answer_carries_the_standing_headers_and_no_cookie",
            "the_public_side_has_tls_unless_plain_http_is_said_in_words",
        ],
    },
    Suite {
        name: "upload",
        about: "sizes, types, quotas, time and memory of uploads",
        aliases: &["test_file_upload_security"],
        tests: &[
            (
                "edge/tests/uploads.rs",
                &[
                    "a_body_longer_than_allowed_is_stopped",
                    "a_body_that_pauses_is_given_up",
                    "a_body_that_trickles_is_given_up",
                    "bytes_beyond_the_announced_length_are_no_part_of_the_file",
                    "the_body_is_asked_for_only_after_permission",
                ],
            ),
            ("edge/src/plan/tests.rs", &["an_upload_is_bounded_by_both_limits"]),
            ("edge/tests/sealed.rs", &["half_a_gibibyte_passes_in_both_directions_and_memory_stays_flat"]),
            (
                "storaged/tests/files.rs",
                &[
                    "only_listed_types_are_taken",
                    "a_cohort_stays_within_its_quota",
                    "an_upload_of_unknown_length_is_ended_where_the_quota_ends",
                    "what_is_held_is_read_by_a_scanner_alone_until_its_verdict",
                ],
            ),
            ("storaged/tests/uploads.rs", &["one_user_does_not_begin_uploads_without_end"]),
        ],
        smoke: &["an_upload_is_bounded_by_both_limits", "a_body_longer_than_allowed_is_stopped"],
    },
    Suite {
        name: "rate",
        about: "rates, lock-outs by principal and address, and their end by the clock",
        aliases: &["test_rate_limiting_security"],
        tests: &[
            (
                "edge/tests/limits.rs",
                &[
                    "failed_attempts_lock_the_address_out_until_the_cool_off_is_over",
                    "requests_beyond_the_rate_are_refused",
                    "a_lock_out_is_told_to_storaged_and_outlives_a_restart",
                ],
            ),
            (
                "edge/src/gate.rs",
                &[
                    "failures_lock_the_address_out_whatever_is_shown_until_the_cool_off_is_over",
                    "a_token_that_fails_is_locked_out_wherever_it_is_shown",
                    "failures_far_apart_do_not_add_up",
                    "who_was_let_in_is_not_shut_out_by_a_neighbour",
                    "a_burst_passes_and_then_the_rate",
                    "who_is_too_fast_is_news_once_in_a_while",
                    "the_table_stays_bounded_and_keeps_who_is_locked_out",
                ],
            ),
            (
                "storaged/tests/lockouts.rs",
                &[
                    "a_lock_out_is_recorded_and_told_to_its_own_edge_while_it_holds",
                    "only_an_edge_with_the_key_is_heard_and_only_within_bounds",
                    "who_asks_too_fast_is_recorded_and_not_locked_out_by_a_restart",
                ],
            ),
        ],
        smoke: &["failures_lock_the_address_out_whatever_is_shown_until_the_cool_off_is_over"],
    },
    Suite {
        name: "lockdown",
        about: "what the daemons can still do once they serve: nothing but their work",
        aliases: &[],
        tests: &[
            (
                "tests/netns/tests/lockdown.rs",
                &[
                    "every_thread_of_every_daemon_is_locked_down",
                    "only_wgd_netcfg_keeps_net_admin",
                    "edge_and_storaged_reach_only_the_tunnel",
                    "the_daemons_report_the_layers_that_proc_shows",
                    "the_production_profile_has_every_layer_or_refuses",
                    "no_daemon_but_storaged_holds_a_regular_file",
                    "every_process_is_within_its_limits_and_holds_no_odd_memory",
                    "no_key_is_found_in_memory_environment_or_log",
                ],
            ),
            (
                "tests/netns/tests/captured.rs",
                &[
                    "a_captured_edge_writes_not_one_byte",
                    "a_captured_edge_reaches_storaged_alone",
                    "a_captured_edge_is_nobody_without_a_token_and_mints_none",
                    "a_captured_edge_cannot_take_back_what_is_recorded",
                    "bodies_under_load_are_nowhere_on_web",
                ],
            ),
            ("tests/netns/tests/probe.rs", &["no_program_can_be_told_to_attack_its_host"]),
            ("edge/tests/sealed.rs", &["many_clients_at_once_do_not_reach_a_forbidden_call"]),
            ("storaged/tests/process.rs", &["a_served_file_and_a_lockdown_that_proc_confirms"]),
        ],
        smoke: &[],
    },
    Suite {
        name: "record",
        about: "what was done is recorded: who, which cohort, what, and how it ended",
        aliases: &["test_phi_tracking_creation"],
        tests: &[
            (
                "tests/netns/tests/transfer.rs",
                &["the_command_puts_gets_and_lists", "an_aborted_upload_leaves_nothing_but_its_record"],
            ),
            ("storaged/tests/operators.rs", &["an_auditor_looks_and_a_stranger_is_recorded"]),
            (
                "storaged/tests/locks.rs",
                &[
                    "guessing_tokens_does_not_fill_the_ledger",
                    "health_that_is_refused_each_second_does_not_fill_the_ledger",
                ],
            ),
        ],
        smoke: &["guessing_tokens_does_not_fill_the_ledger"],
    },
];

/// The suites with their names, for `--help`.
pub(crate) fn help() -> String {
    let lines = SUITES.iter().map(|suite| format!("  {:<10} {}", suite.name, suite.about));
    format!("Security suites (`security NAME`):\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// `security`: every suite, or the one that is named.
pub(crate) fn run(name: Option<&str>) -> Result<ExitCode> {
    let suites: Vec<&Suite> = match name {
        None => SUITES.iter().collect(),
        Some(name) => {
            let is_meant = |suite: &&Suite| suite.name == name || suite.aliases.contains(&name);
            let found = SUITES.iter().find(is_meant);
            vec![found.with_context(|| format!("there is no security suite {name}\n\n{}", help()))?]
        }
    };
    run_suites(&suites, Extent::All)
}

/// `security-smoke`: what a minute shows, without root.
pub(crate) fn run_smoke() -> Result<ExitCode> {
    run_suites(&SUITES.iter().collect::<Vec<_>>(), Extent::Smoke)
}

fn run_suites(suites: &[&Suite], extent: Extent) -> Result<ExitCode> {
    let path = if extent == Extent::All {
        packages::provide()?
    } else {
        std::env::var_os("PATH").unwrap_or_default()
    };
    let mut results = Results::default();
    for suite in suites {
        println!("\nsecurity/{}: {}", suite.name, suite.about);
        let before = results.ran();
        let named = run_suite(suite, extent, &mut results, &path)?;
        if results.ran() - before < named {
            // A name that selects nothing would otherwise look like a success.
            results.suite_ended(
                &format!("security/{}: {named} tests are named", suite.name),
                false,
                results.failed(),
            );
        }
    }
    Ok(test::conclude(&results))
}

/// Runs what is named, package by package; gives how many tests that are.
fn run_suite(suite: &Suite, extent: Extent, results: &mut Results, path: &OsStr) -> Result<u64> {
    let mut selected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, names) in suite.tests {
        let taken = names.iter().filter(|name| extent == Extent::All || suite.smoke.contains(name));
        selected.entry(package(file)).or_default().extend(taken);
    }
    let mut named = 0;
    for (package, names) in selected.iter().filter(|(_, names)| !names.is_empty()) {
        named += names.len() as u64;
        if *package == "culvert-netns" {
            test::scenarios(results, path, &test::Selection { filters: names, ..Default::default() })?;
        } else {
            let mut tests = steps::cargo();
            tests.args(["test", "--package", package, "--no-fail-fast"]);
            test::suite(results, &format!("{package} for {}", suite.name), tests, path, names)?;
        }
    }
    Ok(named)
}

/// The package that a file of tests belongs to.
fn package(file: &str) -> &str {
    let mut parts = file.split('/');
    match (parts.next(), parts.next()) {
        (Some("crates"), Some(name)) => name,
        (Some("tests"), Some("netns")) => "culvert-netns",
        (Some(name), _) => name,
        (None, _) => file,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_named_test_exists_and_is_named_once_in_its_suite() {
        for suite in &SUITES {
            let mut seen = Vec::new();
            for (file, names) in suite.tests {
                let source = fs::read_to_string(steps::root().join(file)).expect(file);
                for name in *names {
                    let is_there =
                        source.contains(&format!("fn {name}(")) || source.contains(&format!("\"{name}\""));
                    assert!(is_there, "{}: {file} has no {name}", suite.name);
                    assert!(!seen.contains(name), "{}: {name} stands there twice", suite.name);
                    seen.push(name);
                }
            }
            for name in suite.smoke {
                assert!(seen.contains(name), "{}: {name} is no test of the suite", suite.name);
            }
        }
    }

    #[test]
    fn the_suites_are_as_large_as_they_have_to_be() {
        let count = |name: &str| {
            let suite = SUITES.iter().find(|suite| suite.name == name).expect(name);
            suite.tests.iter().map(|(_, names)| names.len()).sum::<usize>()
        };
        for (name, least) in [
            ("injection", 10),
            ("page", 5),
            ("api", 2),
            ("access", 2),
            ("headers", 3),
            ("upload", 3),
            ("rate", 3),
        ] {
            assert!(count(name) >= least, "{name} has {} tests", count(name));
        }
        assert!(SUITES.iter().map(|suite| suite.smoke.len()).sum::<usize>() >= 13);
    }

    #[test]
    fn a_suite_is_found_by_the_name_that_others_know() {
        let of =
            |name: &str| SUITES.iter().find(|suite| suite.aliases.contains(&name)).map(|suite| suite.name);
        assert_eq!(of("CohortAccessControlTest"), Some("access"));
        assert_eq!(of("InternalAPIAuthenticationTest"), Some("api"));
        assert_eq!(of("test_phi_tracking_creation"), Some("record"));
    }
}
