//! The identity behind a request: what sharing, limits, queueing and sealed ids go by.
//!
//! Kind and subject are separate fields. Joined into one word, a subject that looks like another kind would be taken for
//! it; the joined form ([`fmt::Display`]) is for people only and is never compared.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

/// Who sends a request, as far as that was verified. Two requests are from the same one only if all fields are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What vouches for the subject.
    pub kind: IdentityKind,
    /// The name within the kind; empty for the anonymous identity.
    pub subject: Arc<str>,
    /// The subject's tenant, if tenants exist.
    pub tenant: Option<Arc<str>>,
}

/// What vouches for a subject. No listener verifies anybody yet; sharing, limits and queueing already work per identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// Nothing: the agent was not authenticated. An identity of its own, not a missing one.
    Anonymous,
    /// An API key of this gateway; the subject is the key's name.
    Key,
    /// A token of the issuer with this configured name.
    Issuer(Arc<str>),
}

impl Identity {
    /// The identity of all who were not authenticated.
    #[must_use]
    pub fn anonymous() -> Arc<Self> {
        static ANONYMOUS: LazyLock<Arc<Identity>> =
            LazyLock::new(|| Arc::new(Identity::new(IdentityKind::Anonymous, "")));
        Arc::clone(&ANONYMOUS)
    }

    /// An identity without tenant.
    #[must_use]
    pub fn new(kind: IdentityKind, subject: &str) -> Self {
        Self { kind, subject: subject.into(), tenant: None }
    }

    /// True if the agent was not authenticated.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.kind == IdentityKind::Anonymous
    }

    /// The bytes to which seals bind this identity. Different identities have different bytes, whatever follows them.
    #[must_use]
    pub fn to_binding(&self) -> Vec<u8> {
        const VERIFIED: u64 = 1 << 63;
        let fields = match &self.kind {
            // As ids bind it that were sealed before there were kinds: they stay good.
            IdentityKind::Anonymous => {
                return [&(ANONYMOUS.len() as u64).to_be_bytes(), ANONYMOUS.as_bytes()].concat();
            }
            IdentityKind::Key => [Some("key"), None],
            IdentityKind::Issuer(name) => [Some("issuer"), Some(&**name)],
        };
        let mut binding = VERIFIED.to_be_bytes().to_vec();
        for field in fields.into_iter().chain([Some(&*self.subject), self.tenant.as_deref()]) {
            // One more than the length, so that an empty field is not a missing one.
            let length = field.map_or(0, |field| field.len() as u64 + 1);
            binding.extend_from_slice(&length.to_be_bytes());
            binding.extend_from_slice(field.unwrap_or_default().as_bytes());
        }
        binding
    }
}

const ANONYMOUS: &str = "anonymous";

/// For logs and pages: `anonymous`, `key/NAME` or `ISSUER/SUBJECT`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            IdentityKind::Anonymous => f.write_str(ANONYMOUS),
            IdentityKind::Key => write!(f, "key/{}", self.subject),
            IdentityKind::Issuer(name) => write!(f, "{name}/{}", self.subject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_issuer(issuer: &str, subject: &str, tenant: Option<&str>) -> Identity {
        let kind = IdentityKind::Issuer(issuer.into());
        Identity { tenant: tenant.map(Into::into), ..Identity::new(kind, subject) }
    }

    #[test]
    fn identities_that_look_alike_are_neither_equal_nor_bound_alike() {
        let alike = [
            Identity::clone(&Identity::anonymous()),
            Identity::new(IdentityKind::Key, ""),
            Identity::new(IdentityKind::Key, "anonymous"),
            Identity::new(IdentityKind::Key, "a"),
            of_issuer("key", "a", None),
            of_issuer("ke", "ya", None),
            of_issuer("key", "a", Some("")),
            of_issuer("key", "", Some("a")),
            of_issuer("", "key", Some("a")),
        ];
        for (at, one) in alike.iter().enumerate() {
            for other in &alike[at + 1..] {
                assert_ne!(one, other);
                let (one, other) = (one.to_binding(), other.to_binding());
                assert!(!one.starts_with(&other) && !other.starts_with(&one), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_anonymous_identity_is_bound_as_ever_and_is_alone_of_its_kind() {
        let anonymous = Identity::anonymous();
        assert_eq!(anonymous.to_binding(), b"\0\0\0\0\0\0\0\x09anonymous");
        assert!(anonymous.is_anonymous() && Arc::ptr_eq(&anonymous, &Identity::anonymous()));
        assert!(!Identity::new(IdentityKind::Key, "anonymous").is_anonymous());
    }

    #[test]
    fn people_read_kind_and_subject() {
        let texts = [
            Identity::anonymous().to_string(),
            Identity::new(IdentityKind::Key, "ci").to_string(),
            of_issuer("corp", "alice", Some("acme")).to_string(),
        ];
        assert_eq!(texts, ["anonymous", "key/ci", "corp/alice"]);
    }
}
