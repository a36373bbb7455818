//! Version negotiation and the era of a message.

use super::*;

#[test]
fn a_legacy_revision_is_agreed_as_requested_and_anything_else_as_our_newest() {
    for (requested, agreed) in [
        ("2024-11-05", Revision::V2024_11_05),
        ("2025-03-26", Revision::V2025_03_26),
        ("2025-06-18", Revision::V2025_06_18),
        ("2025-11-25", Revision::V2025_11_25),
        ("2026-07-28", Revision::V2025_11_25),
        ("2099-01-01", Revision::V2025_11_25),
        ("", Revision::V2025_11_25),
    ] {
        assert_eq!(Revision::negotiate(requested), agreed, "{requested}");
    }
}

#[test]
fn dates_survive_the_round_trip_and_sort_by_age() {
    for pair in Revision::ALL.windows(2) {
        assert!(pair[0] < pair[1] && pair[0].as_str() < pair[1].as_str());
    }
    for revision in Revision::ALL {
        assert_eq!(Revision::parse(&revision.to_string()), Some(revision));
    }
    assert_eq!(Revision::parse("2025-06-19"), None);
}

#[test]
fn only_the_newest_has_no_handshake() {
    let modern: Vec<_> = Revision::ALL.into_iter().filter(|r| r.era() == Era::Modern).collect();
    assert_eq!(modern, [Revision::V2026_07_28]);
    assert_eq!(Revision::LATEST_LEGACY.era(), Era::Legacy);
    for (header, era) in [
        (None, Era::Legacy),
        (Some("2025-06-18"), Era::Legacy),
        (Some("nonsense"), Era::Legacy),
        (Some("2026-07-28"), Era::Modern),
    ] {
        assert_eq!(Era::of_header(header), era);
    }
}

#[test]
fn the_version_header_came_with_2025_06_18() {
    let with: Vec<_> =
        Revision::ALL.into_iter().filter(|r| r.has_version_header()).map(Revision::as_str).collect();
    assert_eq!(with, ["2025-06-18", "2025-11-25", "2026-07-28"]);
}
