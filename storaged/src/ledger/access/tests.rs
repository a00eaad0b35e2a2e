//! Whatever is asked, in whatever order: the book stays whole, and records, rows and replay agree.

use proptest::prelude::*;
use store_proto::{Cohort, EdgeName, FileId, Role, Token, UserName};

use super::*;
use crate::ledger::tests::{TestTime, fresh_keys, fresh_ledger};

fn user(n: u8) -> UserName {
    UserName::parse(&format!("u{n}")).unwrap()
}

fn cohort(n: u8) -> Cohort {
    Cohort::parse(&format!("c{n}")).unwrap()
}

fn edge(n: u8) -> EdgeName {
    EdgeName::parse(&format!("web{n}")).unwrap()
}

/// Any wish about few names, so that they meet.
fn wish() -> impl Strategy<Value = Wish> {
    let role = prop::sample::select(Role::ALL.to_vec());
    let cohorts = prop::collection::btree_set((0..3u8).prop_map(cohort), 0..3);
    let rules = prop::option::of(1..9u64)
        .prop_map(|quota_bytes| CohortRules { quota_bytes, ..CohortRules::default() });
    prop_oneof![
        (0..4u8, role.clone(), cohorts.clone()).prop_map(|(n, role, cohorts)| Wish::AddUser {
            user: user(n),
            role,
            cohorts
        }),
        (0..4u8, role).prop_map(|(n, role)| Wish::SetRole { user: user(n), role }),
        (0..4u8).prop_map(|n| Wish::DisableUser { user: user(n) }),
        (0..4u8).prop_map(|n| Wish::EnableUser { user: user(n) }),
        (0..4u8, 0..3u8).prop_map(|(n, c)| Wish::JoinGroup { user: user(n), group: format!("c{c}_users") }),
        (0..4u8, 0..3u8).prop_map(|(n, c)| Wish::LeaveGroup { user: user(n), group: format!("c{c}_users") }),
        (0..4u8, 0..9u8).prop_map(|(n, t)| Wish::IssueToken {
            token: FileId::from_bytes([t; 16]),
            user: user(n),
            sha256: Token::from_bytes([t; 32]).digest(),
            expires_ms: (t % 2 == 0).then_some(10_000),
            label: None,
        }),
        (0..9u8).prop_map(|t| Wish::RevokeToken { token: FileId::from_bytes([t; 16]) }),
        (0..3u8, rules.clone()).prop_map(|(c, rules)| Wish::AddCohort { cohort: cohort(c), rules }),
        (0..3u8, rules).prop_map(|(c, rules)| Wish::SetCohort { cohort: cohort(c), rules }),
        (0..3u8, 0..4u8).prop_map(|(c, n)| Wish::Grant { cohort: cohort(c), user: user(n) }),
        (0..3u8, 0..4u8).prop_map(|(c, n)| Wish::Revoke { cohort: cohort(c), user: user(n) }),
        (0..3u8, cohorts.clone()).prop_map(|(e, cohorts)| Wish::AddEdge { edge: edge(e), cohorts }),
        (0..3u8, cohorts).prop_map(|(e, cohorts)| Wish::SetEdge { edge: edge(e), cohorts }),
        (0..3u8).prop_map(|e| Wish::RemoveEdge { edge: edge(e) }),
        any::<bool>().prop_map(|mask_cohorts| Wish::Set {
            settings: Settings { mask_cohorts, ..Settings::default() }
        }),
    ]
}

/// What must hold of every book.
fn assert_whole(book: &Book, had_admin: bool) {
    let known = |cohort: &Cohort| book.cohorts.contains_key(cohort);
    assert!(book.users.values().all(|user| user.cohorts.iter().all(known)), "a grant dangles");
    assert!(book.edges.values().all(|cohorts| cohorts.iter().all(known)), "an edge's cohort dangles");
    for row in book.tokens.values() {
        let owner = book.users.get(&row.user).expect("a token's user is there");
        assert!(!owner.disabled, "a disabled user has a token");
        assert_eq!(book.tokens.values().filter(|other| other.sha256.matches(&row.sha256)).count(), 1);
    }
    assert!(!had_admin || book.live_admins() > 0, "the last admin is gone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_sequence_keeps_the_book_whole_and_replays(wishes in prop::collection::vec(wish(), 1..60)) {
        let (mut book, mut replayed, mut had_admin) = (Book::default(), Book::default(), false);
        for (now, wish) in wishes.iter().enumerate() {
            let before = book.clone();
            match wish.decide(&book, now as u64) {
                Ok(changes) => {
                    prop_assert!(!changes.is_empty());
                    for change in &changes {
                        book.take(change).unwrap();
                        // By way of the record's bytes, as a replay reads them.
                        let bytes = serde_json::to_vec(change).unwrap();
                        replayed.take(&serde_json::from_slice(&bytes).unwrap()).unwrap();
                    }
                    prop_assert_ne!(&book, &before, "a change that changes nothing");
                }
                Err(_) => prop_assert_eq!(&book, &before),
            }
            had_admin |= book.live_admins() > 0;
            assert_whole(&book, had_admin);
        }
        prop_assert_eq!(book, replayed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn rows_records_and_model_agree(wishes in prop::collection::vec(wish(), 1..40)) {
        let time = TestTime::default();
        let ledger = fresh_ledger(&fresh_keys(), &time);
        let mut books = vec![Book::default()];
        for (i, wish) in wishes.into_iter().enumerate() {
            let now = (i as u64 + 1) * 10;
            time.0.store(now, std::sync::atomic::Ordering::Relaxed);
            let mut book = books[i].clone();
            let decided = wish.decide(&book, now);
            let outcome = ledger.submit_blocking(Command::Change { origin: Origin::default(), wish: Box::new(wish) }).unwrap();
            match decided {
                Ok(changes) => {
                    changes.iter().for_each(|change| book.take(change).unwrap());
                    prop_assert_eq!(outcome, Outcome::Changed(changes));
                }
                Err(refusal) => prop_assert_eq!(outcome, Outcome::Refused(refusal)),
            }
            prop_assert_eq!(&Book::read(&ledger.reader().snapshot().unwrap()).unwrap(), &book);
            books.push(book);
        }
        for (i, book) in books.iter().enumerate() {
            let moment = i as u64 * 10 + 9;
            prop_assert_eq!(&Book::at(ledger.reader(), moment).unwrap(), book, "as it was at {}", moment);
        }
        drop(ledger);
    }
}

#[test]
fn nobody_is_called_as_a_daemon_is() {
    let user = UserName::internal(&edge(1));
    assert_eq!(user.as_str(), "internal:web1");
    let wish = Wish::AddUser { user: user.clone(), role: Role::Admin, cohorts: BTreeSet::new() };
    assert_eq!(wish.decide(&Book::default(), 0), Err(Refusal::InternalName(user)));
}

#[test]
fn disabling_ends_the_tokens_and_the_last_admin_stays() {
    let mut book = Book::default();
    let mut ask = |wish: Wish| -> Result<usize, Refusal> {
        let changes = wish.decide(&book, 0)?;
        changes.iter().for_each(|change| book.take(change).unwrap());
        Ok(changes.len())
    };
    let token = |t: u8| Wish::IssueToken {
        token: FileId::from_bytes([t; 16]),
        user: user(1),
        sha256: Token::from_bytes([t; 32]).digest(),
        expires_ms: None,
        label: None,
    };
    ask(Wish::AddUser { user: user(0), role: Role::Admin, cohorts: [].into() }).unwrap();
    ask(Wish::AddUser { user: user(1), role: Role::User, cohorts: [].into() }).unwrap();
    ask(token(1)).unwrap();
    ask(token(2)).unwrap();
    assert_eq!(ask(Wish::DisableUser { user: user(1) }), Ok(3), "the user and both tokens");
    assert_eq!(ask(token(3)), Err(Refusal::Disabled(user(1))));
    assert_eq!(ask(Wish::DisableUser { user: user(0) }), Err(Refusal::LastAdmin(user(0))));
    assert_eq!(ask(Wish::SetRole { user: user(0), role: Role::User }), Err(Refusal::LastAdmin(user(0))));
    ask(Wish::SetRole { user: user(1), role: Role::Admin }).unwrap();
    assert_eq!(
        ask(Wish::DisableUser { user: user(0) }),
        Err(Refusal::LastAdmin(user(0))),
        "an admin who is disabled cannot help"
    );
    ask(Wish::EnableUser { user: user(1) }).unwrap();
    assert_eq!(ask(Wish::DisableUser { user: user(0) }), Ok(1));
}

#[test]
fn a_pattern_gives_each_cohort_its_own_group() {
    let set = |pattern: &str| {
        let settings = Settings { group_pattern: pattern.into(), mask_cohorts: false };
        Wish::Set { settings }.decide(&Book::default(), 0)
    };
    set("study-{cohort}-members").unwrap();
    for bad in ["everybody", "", "{cohort}{cohort}", "{cohort} users"] {
        assert!(matches!(set(bad), Err(Refusal::Malformed(_))), "{bad}");
    }
}
