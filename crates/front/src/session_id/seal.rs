//! Sealed ids: the claims of an agent session id, enough to restore the session after a restart without a store.
//!
//! The body is encrypted and authenticated. Identity, backend and transport are not in it but bound to it: presented by
//! or for anything else the id does not open, like any forged text. The cipher is AES-256-GCM-SIV, because the keys
//! live for years and nonces are random: with plain GCM a repeated nonce would let anybody forge ids.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey},
    digest::{SHA256, digest},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use mcpool_wire::{Identity, Revision, Slot, Target};
use rand::{TryRng as _, rngs::SysRng};

use crate::{
    forwarded_headers::Carried,
    observe::Transport,
    session_id::{AgentSessionId, BODY, HEAD, NONCE, TAG},
};

const KEY_BYTES: usize = 32;

/// One key that seals agent session ids.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey([u8; KEY_BYTES]);

/// The keys of one gateway: the first seals, all open.
#[derive(Clone)]
pub struct SessionKeys(Arc<[Ready]>);

struct Ready {
    /// The key id, in the readable part of an id.
    id: u8,
    cipher: RandomizedNonceKey,
}

/// The claims of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    /// The time of issue, in milliseconds since 1970 of the wall clock.
    pub(crate) issued: u64,
    /// The agreed revision; an HTTP+SSE agent gets its id before its handshake.
    pub(crate) revision: Option<Revision>,
    /// Whether it had its own backend session, whose state is lost with the gateway.
    pub(crate) own: bool,
    /// Whether servers can ask the agent anything.
    pub(crate) interactive: bool,
    /// The forwarded headers it was opened with, a bit each; none in ids from before this claim existed.
    pub(crate) carried: u32,
}

/// The binding: by whom and for what an id is presented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'a> {
    pub(crate) transport: Transport,
    pub(crate) identity: &'a Arc<Identity>,
    pub(crate) target: &'a Target,
    pub(crate) carried: &'a Carried,
}

impl SessionKey {
    /// Reads a key as configurations and key files hold it.
    ///
    /// # Errors
    /// What a key must look like; the text is not repeated.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or("not a key; write 32 random bytes in base64, such as `openssl rand -base64 32` prints")
    }

    /// A random key; `None` when the system has no randomness.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        SysRng.try_fill_bytes(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The text that [`Self::parse`] reads: the secret itself.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        STANDARD.encode(self.0)
    }
}

/// Warms up the random generator, for which the library gathers entropy: tens of milliseconds, once per process. Call
/// it before an id is needed.
pub fn warm_up() {
    // Without randomness no id can be sealed either, and that failure is reported when one is needed.
    let _ = aws_lc_rs::rand::fill(&mut [0; 1]);
}

impl SessionKeys {
    /// The first of these seals, all of them open.
    #[must_use]
    pub fn new(keys: &[SessionKey]) -> Self {
        Self(keys.iter().filter_map(Ready::new).collect())
    }

    /// Seals an id; `None` when the system has no randomness.
    pub(crate) fn seal(&self, owner: Slot, claims: &Claims, binding: &Binding<'_>) -> Option<AgentSessionId> {
        let key = self.0.first()?;
        let head = AgentSessionId::head(key.id, owner);
        let mut sealed = claims.to_body()?.to_vec();
        let aad = Aad::from(binding.bound_to(head));
        let nonce = key.cipher.seal_in_place_append_tag(aad, &mut sealed).ok()?;
        AgentSessionId::of_parts(head, nonce.as_ref(), &sealed)
    }

    /// Opens an id; `None` unless one of these keys sealed it for exactly this binding. An id from before its backend
    /// had a record is bound to the name alone, and stays valid.
    pub(crate) fn open(&self, id: AgentSessionId, binding: &Binding<'_>) -> Option<Claims> {
        let by_name = Target::named(Arc::clone(&binding.target.name));
        let has_record = binding.target.durable_id.is_some();
        let before = has_record.then_some(Binding { target: &by_name, ..*binding });
        self.open_as(id, binding).or_else(|| self.open_as(id, &before?))
    }

    fn open_as(&self, id: AgentSessionId, binding: &Binding<'_>) -> Option<Claims> {
        let (head, nonce, sealed) = id.parts();
        self.0.iter().filter(|key| key.id == id.key()).find_map(|key| {
            let mut sealed = sealed;
            let aad = Aad::from(binding.bound_to(head));
            let nonce = Nonce::assume_unique_for_key(nonce);
            let body = key.cipher.open_in_place(nonce, aad, &mut sealed).ok()?;
            Claims::of_body(body.first_chunk()?)
        })
    }
}

/// Numbers for whoever comes back with them.
impl SessionKeys {
    /// A text that stands for this number, for exactly what it is bound to; `None` when the system has no randomness. The
    /// slot of a replica stands in the open behind the key, as the caller may come back to another one.
    pub(crate) fn seal_note(&self, owner: Slot, number: u64, bound: &[u8]) -> Option<String> {
        let key = self.0.first()?;
        let head = [[key.id].as_slice(), &owner.number().to_be_bytes()].concat();
        let head = if owner == Slot::NONE { &head[..1] } else { &head };
        let mut sealed = number.to_be_bytes().to_vec();
        let nonce = key.cipher.seal_in_place_append_tag(note(head, bound), &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([head, nonce.as_ref(), &sealed].concat()))
    }

    /// The number a text stands for; `None` unless one of these keys sealed it for exactly this.
    pub(crate) fn open_note(&self, text: &str, bound: &[u8]) -> Option<u64> {
        const REST: usize = NONCE + 8 + TAG;
        let mut bytes = [0; 3 + REST];
        // Other lengths are invalid, and decoding is strict: one text for one number.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (head, rest) = bytes[..length].split_at_checked(length.checked_sub(REST)?)?;
        let id = head.first().filter(|_| matches!(head.len(), 1 | 3))?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        self.0.iter().filter(|key| key.id == *id).find_map(|key| {
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let body = key.cipher.open_in_place(nonce, note(head, bound), &mut sealed).ok()?;
            Some(u64::from_be_bytes(*body.first_chunk()?))
        })
    }
}

/// What is authenticated with a note: nothing that is authenticated with an id begins like it, nor a note of another
/// kind: a head with a slot is announced.
fn note(head: &[u8], bound: &[u8]) -> Aad<Vec<u8>> {
    let kind = if head.len() == 1 { b"note".as_slice() } else { b"slot" };
    Aad::from([kind, head, bound].concat())
}

impl Default for SessionKeys {
    /// A key of this process: its ids are invalid after a restart.
    fn default() -> Self {
        Self::new(SessionKey::random().as_slice())
    }
}

impl Ready {
    fn new(key: &SessionKey) -> Option<Self> {
        let id = digest(&SHA256, &key.0).as_ref().first().copied()?;
        let cipher = RandomizedNonceKey::new(&AES_256_GCM_SIV, &key.0).ok()?;
        Some(Self { id, cipher })
    }
}

impl Claims {
    const OWN: u8 = 1;
    const INTERACTIVE: u8 = 2;
    /// The four bytes behind the revision say what was carried; without it they are random, as the rest.
    const CARRIED: u8 = 4;

    /// Whether a gateway that does not hold the session can restore it.
    pub(crate) fn is_restorable(&self) -> bool {
        !self.own && !self.interactive
    }

    /// Time, flags, revision, what was carried, and random bytes: with the nonce an id holds 128 random bits at least.
    fn to_body(self) -> Option<[u8; BODY]> {
        let mut body = [0; BODY];
        body[..6].copy_from_slice(&self.issued.to_be_bytes()[2..]);
        body[6] = u8::from(self.own) * Self::OWN + u8::from(self.interactive) * Self::INTERACTIVE;
        body[7] = self.revision.map_or(0, number_of);
        SysRng.try_fill_bytes(&mut body[8..]).ok()?;
        if self.carried != 0 {
            body[6] |= Self::CARRIED;
            body[8..12].copy_from_slice(&self.carried.to_be_bytes());
        }
        Some(body)
    }

    fn of_body(body: &[u8; BODY]) -> Option<Self> {
        let mut issued = [0; 8];
        issued[2..].copy_from_slice(&body[..6]);
        let revision = match body[7] {
            0 => None,
            number => Some(REVISIONS.into_iter().find(|one| number_of(*one) == number)?),
        };
        let carried = body[8..].first_chunk().filter(|_| body[6] & Self::CARRIED != 0);
        Some(Self {
            issued: u64::from_be_bytes(issued),
            revision,
            own: body[6] & Self::OWN != 0,
            interactive: body[6] & Self::INTERACTIVE != 0,
            carried: carried.map_or(0, |bits| u32::from_be_bytes(*bits)),
        })
    }
}

const REVISIONS: [Revision; 4] =
    [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

/// Written into ids that outlive this program: a number never changes its meaning.
fn number_of(revision: Revision) -> u8 {
    match revision {
        Revision::V2024_11_05 => 1,
        Revision::V2025_03_26 => 2,
        Revision::V2025_06_18 => 3,
        Revision::V2025_11_25 => 4,
        // The stateless era has no session.
        Revision::V2026_07_28 => 0,
    }
}

/// Beside the transport: the backend is bound by its record, too.
const HAS_RECORD: u8 = 0x80;

impl Binding<'_> {
    /// What is authenticated with the body. Unambiguous: the bytes of an identity say where they end, and a durable id
    /// is announced and has its length in front.
    fn bound_to(&self, head: [u8; HEAD]) -> Vec<u8> {
        let Target { name, durable_id } = self.target;
        let announced = u8::from(durable_id.is_some()) * HAS_RECORD;
        let mut bound = [&head, [self.transport as u8 | announced].as_slice()].concat();
        bound.extend_from_slice(&self.identity.to_binding());
        if let Some(id) = durable_id {
            bound.extend_from_slice(&(id.len() as u64).to_be_bytes());
            bound.extend_from_slice(id.as_bytes());
        }
        bound.extend_from_slice(name.as_bytes());
        bound
    }
}

/// The fingerprint of an id in the revocation list: part of its nonce.
pub(crate) fn fingerprint_of(id: AgentSessionId) -> u64 {
    let (_, nonce, _): (_, [u8; NONCE], _) = id.parts();
    nonce.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(..)")
    }
}

#[cfg(test)]
mod tests;
