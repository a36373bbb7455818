//! What an id opens for, and that nothing else does.

use std::{collections::HashSet, sync::LazyLock};

use mcpool_wire::IdentityKind;

use super::*;

const TAG_AND_REST: usize = 64;

fn target(name: &str) -> Target {
    Target::named(name)
}

fn keys() -> (SessionKey, SessionKeys) {
    let key = SessionKey::random().unwrap();
    (key.clone(), SessionKeys::new(&[key]))
}

static NOTHING: LazyLock<Carried> = LazyLock::new(Carried::default);
static NOBODY: LazyLock<Arc<Identity>> = LazyLock::new(Identity::anonymous);

fn here(target: &Target) -> Binding<'_> {
    Binding { transport: Transport::Http, identity: &NOBODY, target, carried: &NOTHING }
}

const CLAIMS: Claims = Claims {
    issued: 1_795_000_000_123,
    revision: Some(Revision::V2025_06_18),
    own: false,
    interactive: true,
    carried: 0,
};

#[test]
fn an_id_says_what_was_sealed_and_only_for_whom_and_where() {
    let (_, keys) = keys();
    let (a, b) = (target("a"), target("b"));
    let here = here(&a);
    for revision in REVISIONS.map(Some).into_iter().chain([None]) {
        for (own, interactive) in [(false, false), (true, false), (false, true), (true, true)] {
            let carried = if own { 0 } else { 1 << 31 | 2 };
            let claims = Claims { revision, own, interactive, carried, ..CLAIMS };
            let id = keys.seal(Slot::read(7), &claims, &here).unwrap();
            assert_eq!(keys.open(id, &here), Some(claims));
            assert_eq!(claims.is_restorable(), !own && !interactive);
        }
    }
    let id = keys.seal(Slot::NONE, &CLAIMS, &here).unwrap();
    assert_eq!(keys.open(id, &Binding { target: &b, ..here }), None);
    assert_eq!(keys.open(id, &Binding { transport: Transport::Sse, ..here }), None);
    assert_eq!(self::keys().1.open(id, &here), None);
}

#[test]
fn what_an_id_is_bound_to_is_unambiguous() {
    let (a, b) = (target("a"), target("b"));
    let here = here(&a);
    let bound = here.bound_to([2, 0, 0, 0]);
    let name = "anonymous";
    assert_eq!(&bound[..5], &[2, 0, 0, 0, Transport::Http as u8]);
    assert_eq!(&bound[5..13], &(name.len() as u64).to_be_bytes());
    assert_eq!(&bound[13..], format!("{name}a").as_bytes());
    assert_ne!(bound, Binding { target: &b, ..here }.bound_to([2, 0, 0, 0]));
    assert_ne!(bound, here.bound_to([2, 0, 0, 1]));
}

#[test]
fn somebody_who_is_called_like_nobody_is_somebody() {
    let (_, keys) = keys();
    let a = target("a");
    let somebody = Arc::new(Identity::new(IdentityKind::Key, "anonymous"));
    let (nobodys, somebodys) = (here(&a), Binding { identity: &somebody, ..here(&a) });
    for (own, other) in [(nobodys, somebodys), (somebodys, nobodys)] {
        let id = keys.seal(Slot::NONE, &CLAIMS, &own).unwrap();
        assert_eq!((keys.open(id, &own), keys.open(id, &other)), (Some(CLAIMS), None));
    }
}

#[test]
fn an_id_of_before_headers_were_noted_says_none_whatever_its_random_bytes_are() {
    for _ in 0..64 {
        let body = CLAIMS.to_body().unwrap();
        assert_eq!(Claims::of_body(&body), Some(CLAIMS));
        assert_eq!(body[6], Claims::INTERACTIVE, "nothing that an id of before does not have");
    }
}

fn of_record(name: &str, id: &str) -> Target {
    Target { durable_id: Some(id.into()), ..target(name) }
}

/// Sealed before backends had records, identities kinds and replicas slots: by this key, for `a` over Streamable HTTP.
const OLD: (&str, &str) = (
    "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
    "AksAAPacyElH-7q9KB6NWOGp6ZwRcEg-LT3NgODjAO19FwAVkkEeAWUykb5EfsGW",
);

#[test]
fn an_id_of_before_stays_good() {
    let keys = SessionKeys::new(&[SessionKey::parse(OLD.0).unwrap()]);
    let id = AgentSessionId::parse(OLD.1).unwrap();
    let said = Claims { interactive: false, carried: 1 << 31 | 2, ..CLAIMS };
    assert_eq!(keys.open(id, &here(&target("a"))), Some(said));
    assert_eq!(keys.open(id, &here(&of_record("a", "r1"))), Some(said), "also once it has a record");
    assert_eq!(keys.open(id, &here(&target("b"))), None);
    assert_eq!(keys.open(id, &here(&of_record("b", "a"))), None);
}

/// As [`OLD`], for the number 77 and what is bound to it.
const OLD_NOTE: &str = "S73bgan0C07X6xjXh2tA58w0kzMF59WlOZcDb7f6SCVb2h-3Ww";

#[test]
fn ids_and_notes_say_which_replica_gave_them_out_and_those_of_before_none() {
    let keys = SessionKeys::new(&[SessionKey::parse(OLD.0).unwrap()]);
    assert_eq!(AgentSessionId::parse(OLD.1).unwrap().owner(), Slot::NONE);
    assert_eq!(keys.open_note(OLD_NOTE, b"bound"), Some(77));
    let a = target("a");
    for slot in [Slot::NONE, Slot::read(1), Slot::read(Slot::MOST)] {
        let id = keys.seal(slot, &CLAIMS, &here(&a)).unwrap();
        assert_eq!((id.owner(), keys.open(id, &here(&a))), (slot, Some(CLAIMS)), "any replica opens it");
        let note = keys.seal_note(slot, 77, b"bound").unwrap();
        assert_eq!(note.len() == OLD_NOTE.len(), slot == Slot::NONE);
        assert_eq!(keys.open_note(&note, b"bound"), Some(77), "any replica opens it");
        assert_eq!(keys.open_note(&note, b"unbound"), None);
    }
    // Whoever takes the slot of another into it has none.
    let note = keys.seal_note(Slot::read(1), 77, b"bound").unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(&note).unwrap();
    assert_eq!(bytes[1..3], [0, 1]);
    bytes[2] = 2;
    assert_eq!(keys.open_note(&URL_SAFE_NO_PAD.encode(&bytes), b"bound"), None);
    bytes.drain(1..3);
    assert_eq!(keys.open_note(&URL_SAFE_NO_PAD.encode(&bytes), b"\0\x01bound"), None);
}

#[test]
fn an_id_is_worth_nothing_at_another_backend_that_got_the_name() {
    let (_, keys) = keys();
    let of = of_record("a", "r1");
    let id = keys.seal(Slot::NONE, &CLAIMS, &here(&of)).unwrap();
    assert_eq!(keys.open(id, &here(&of)), Some(CLAIMS));
    // The last ones have the same bytes behind each other.
    for other in
        [of_record("a", "r2"), target("a"), of_record("1a", "r"), of_record("", "r1a"), target("r1a")]
    {
        assert_eq!(keys.open(id, &here(&other)), None, "{other:?}");
    }
}

#[test]
fn a_flipped_bit_opens_nothing_wherever_it_is() {
    let (_, keys) = keys();
    let a = target("a");
    let here = here(&a);
    let text = keys.seal(Slot::NONE, &CLAIMS, &here).unwrap().to_text();
    assert_eq!(text.len(), TAG_AND_REST);
    let opens = |text: &str| AgentSessionId::parse(text).and_then(|id| keys.open(id, &here)).is_some();
    assert!(opens(&text));
    for place in 0..text.len() {
        for bit in 0..7 {
            let mut flipped = text.clone().into_bytes();
            flipped[place] ^= 1 << bit;
            assert!(!opens(&String::from_utf8(flipped).unwrap()), "bit {bit} of character {place}");
        }
    }
    // The bits of the id itself, and not only those that leave a readable text.
    let (head, nonce, sealed) = AgentSessionId::parse(&text).unwrap().parts();
    let bytes = [&head[..], &nonce, &sealed].concat();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let head = *bytes.first_chunk().unwrap();
        let id = AgentSessionId::of_parts(head, bytes[4..16].try_into().unwrap(), &bytes[16..]).unwrap();
        assert_eq!(keys.open(id, &here), None, "bit {bit}");
    }
}

#[test]
fn a_million_ids_are_all_different_and_in_no_order() {
    let (_, keys) = keys();
    let a = target("a");
    let here = here(&a);
    let mut seen = HashSet::with_capacity(1_000_000);
    let (mut prints, mut rising, mut last) = (HashSet::with_capacity(1_000_000), 0, 0);
    for _ in 0..1_000_000 {
        // All of one moment: nothing but chance tells them apart.
        let id = keys.seal(Slot::NONE, &CLAIMS, &here).unwrap();
        assert!(seen.insert(id));
        assert!(prints.insert(fingerprint_of(id)), "two ids that would be deleted as one");
        rising += usize::from(fingerprint_of(id) > last);
        last = fingerprint_of(id);
    }
    assert!((495_000..505_000).contains(&rising), "{rising} of a million rise");
}

#[test]
fn a_key_that_was_replaced_still_opens_and_no_longer_seals() {
    let ((old, only_old), (new, only_new)) = (keys(), keys());
    let both = SessionKeys::new(&[new, old]);
    let a = target("a");
    let here = here(&a);
    let before = only_old.seal(Slot::NONE, &CLAIMS, &here).unwrap();
    assert_eq!(both.open(before, &here), Some(CLAIMS));
    let after = both.seal(Slot::NONE, &CLAIMS, &here).unwrap();
    assert_eq!((only_new.open(after, &here), only_old.open(after, &here)), (Some(CLAIMS), None));
}

#[test]
fn keys_are_read_as_they_are_written_and_never_shown() {
    let (key, keys) = keys();
    let text = key.to_secret_text();
    assert_eq!(SessionKey::parse(&format!(" {text}\n")).unwrap(), key);
    for bad in ["", "hunter2", "AAAA", &text[1..]] {
        assert!(SessionKey::parse(bad).unwrap_err().starts_with("not a key"), "{bad}");
    }
    assert_eq!(format!("{key:?} {keys:?}"), "SessionKey(..) SessionKeys(..)");
}
