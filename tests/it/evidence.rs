//! What real servers do (SEMANTICS.md 2), row by row: the flags of the scripted backend that show it, and the tests
//! through a whole gateway that prove mcpool safe against it. A row without a test names the reason.

mod bodies;
mod ids;
mod lifetimes;
mod residue;

/// One row of the evidence.
struct Row {
    number: u32,
    /// What shows it, a field of `Script` or a tool of the backend.
    shown_by: &'static [&'static str],
    proof: Proof,
}

enum Proof {
    /// Tests of this binary.
    Tests(&'static [&'static str]),
    /// Why no backend can show it to a gateway.
    None(&'static str),
}

use Proof::{None, Tests};

const fn row(number: u32, shown_by: &'static [&'static str], proof: Proof) -> Row {
    Row { number, shown_by, proof }
}

const CROSS_TALK: &str = "no_secret_of_an_agent_reaches_another_from_sse_to_sse";

const ROWS: &[Row] = &[
    row(1, &["ids"], Tests(&["equal_ids_of_two_agents_are_two_calls", CROSS_TALK])),
    row(2, &["ids"], Tests(&["equal_ids_of_two_agents_are_two_calls", "a_number_and_its_text_are_two_ids"])),
    row(3, &["ids"], Tests(&["the_id_of_the_get_stream_is_an_id_like_any_other"])),
    row(4, &["ids"], Tests(&["odd_ids_are_refused_and_never_sent_on"])),
    row(5, &["cancel_answer"], Tests(&["an_agent_cancels_its_own_calls_only"])),
    row(6, &["refuse_second_initialize"], Tests(&["a_second_initialize_is_answered_and_stays_here"])),
    row(7, &["get_stream"], Tests(&["every_agent_has_a_stream_and_the_backend_sees_one"])),
    row(8, &["ask_on"], Tests(&["a_person_is_asked_only_what_its_own_session_asks"])),
    row(9, &["list_by_capability"], Tests(&["an_agent_sees_the_tools_of_its_own_capabilities"])),
    row(10, &["toggle"], Tests(&["a_toggle_is_everybodys_where_sessions_are_shared_and_ones_own_elsewhere"])),
    row(11, &["resources/subscribe"], Tests(&["an_unsubscription_silences_nobody_else"])),
    row(12, &["logging/setLevel"], Tests(&["a_level_silences_nobody_else"])),
    row(13, &["allowed"], Tests(&["roots_open_the_files_of_their_owner_only"])),
    row(
        14,
        &["set_state", "reveal"],
        Tests(&["a_cart_holds_what_the_mode_says", "a_revealed_tool_is_seen_as_the_mode_says"]),
    ),
    row(15, &["store"], Tests(&["one_call_at_a_time_loses_no_write"])),
    row(16, &["block"], Tests(&["a_blocked_backend_loses_no_session", "calls_wait_for_a_blocked_backend"])),
    row(17, &["sleep"], Tests(&["a_call_whose_agent_vanished_runs_to_its_end"])),
    row(18, &["no_backpressure"], Tests(&["an_agent_that_does_not_read_delays_nobody"])),
    row(19, &["sse_path"], Tests(&["equal_ids_of_two_agents_are_two_calls", CROSS_TALK])),
    row(20, &["lost"], Tests(&["forgotten_sessions_are_replaced_behind_the_callers_back"])),
    row(21, &["http_paths"], Tests(&["streamable_where_sse_is_expected_is_found_out"])),
    row(22, &["bind_credential"], Tests(&["the_credential_of_a_session_is_the_gateways"])),
    row(
        23,
        &["ping_killer", "roots_wait"],
        Tests(&[
            "a_backend_that_pings_and_closes_loses_no_session",
            "an_hour_of_pings_is_answered",
            "the_first_call_does_not_wait_for_a_stream",
        ]),
    ),
    row(24, &["handshake_delay"], Tests(&["fifty_cold_callers_open_few_sessions_and_few_at_once"])),
    row(25, &["idle_expiry"], Tests(&["a_session_the_backend_forgot_while_nobody_called_is_replaced"])),
    row(26, &["instances"], Tests(&["behind_a_balancer_without_affinity_agents_are_told_and_never_cut_off"])),
    row(
        27,
        &["strict_init", "handover_delay"],
        Tests(&[
            "a_handshake_that_is_acknowledged_too_early_is_waited_for",
            "a_cold_herd_of_sse_agents_gets_no_error_from_an_sse_backend",
        ]),
    ),
    row(28, &[], Tests(&["bad_bodies_end_at_the_gateway"])),
    row(29, &[], None("2026-07-28 only; its own wire")),
    row(30, &["only_host"], Tests(&["the_host_is_the_one_that_was_configured"])),
];

#[test]
fn every_row_has_its_flags_and_its_tests() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: std::path::PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let demo = root.join("../crates/demo/src");
    let shown: String =
        ["script.rs", "server/residue.rs", "server/tools.rs"].map(|file| read(demo.join(file))).concat();
    let files = ["it", "it/evidence"]
        .into_iter()
        .flat_map(|dir| std::fs::read_dir(root.join(dir)).expect("a folder"));
    let files = files.map(|entry| entry.expect("an entry").path()).filter(|path| path.extension().is_some());
    let tests: String = files.map(read).collect();
    for (at, row) in (1..).zip(ROWS) {
        assert_eq!(row.number, at, "a row is missing");
        for flag in row.shown_by {
            let (field, tool) = (format!("pub {flag}:"), format!("\"{flag}\""));
            assert!(shown.contains(&field) || shown.contains(&tool), "E{at}: nothing is called {flag}");
        }
        match &row.proof {
            Tests(names) => {
                assert!(!names.is_empty(), "E{at} has no test");
                for name in *names {
                    assert!(tests.contains(&format!("async fn {name}()")), "E{at}: no test {name}");
                }
            }
            None(why) => assert!(!why.is_empty(), "E{at}: say why"),
        }
    }
    assert_eq!(ROWS.len(), 30);
}
