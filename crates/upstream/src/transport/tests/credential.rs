//! A credential that is rotated under living sessions.

use std::sync::atomic::{AtomicU64, Ordering};

use ::http::header::AUTHORIZATION;
use mcpool_wire::{Identity, IdentityKind, Revision};

use super::*;
use crate::credential::{CredentialKey, Presented};

/// A token of each caller, in its latest version.
#[derive(Debug, Default)]
struct Tokens(AtomicU64);

impl Credential for Tokens {
    fn key(&self, caller: &Arc<Identity>) -> CredentialKey {
        CredentialKey::Of(Arc::clone(caller))
    }

    fn headers(&self, key: &CredentialKey) -> Presented {
        let CredentialKey::Of(of) = key else { panic!("no key of these") };
        let version = self.0.load(Ordering::SeqCst);
        let token = format!("Bearer {}-{version}", of.subject).parse().unwrap();
        Presented { version, headers: [(AUTHORIZATION, token)].into() }
    }
}

fn of(name: &str) -> Arc<Identity> {
    Arc::new(Identity::new(IdentityKind::Key, name))
}

async fn server() -> Server {
    Server::start(|seen| async move {
        match seen.path.as_str() {
            "/sse" => Answer::events(
                "event: endpoint\ndata: /messages\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}\n\n",
            ),
            "/messages" => Answer::status(202),
            _ if seen.is_initialize() => Answer::json(INITIALIZED).with("mcp-session-id", "s"),
            _ => Answer::json(ANSWER),
        }
    })
    .await
}

#[tokio::test]
async fn a_rotated_credential_is_in_the_next_request_of_the_same_session() {
    for (path, choice) in [("/mcp", TransportChoice::Http), ("/sse", TransportChoice::Sse)] {
        let (server, tokens) = (server().await, Arc::<Tokens>::default());
        let credential: Arc<dyn Credential> = Arc::<Tokens>::clone(&tokens);
        let endpoint = HttpEndpoint::new(server.url(path));
        let (times, limits) = (Times::default(), Limits::default());
        let transport = http_transport(&"b".into(), &endpoint, &credential, choice, &times, &limits).unwrap();
        let request = ConnectRequest { credential: credential.key(&of("ada")), ..initialize(INITIALIZE) };
        let opened = transport.connect(request).await.unwrap();
        opened.outbound.agreed(Revision::V2025_06_18);
        let before = server.seen().len();
        for version in 0..3 {
            tokens.0.store(version, Ordering::SeqCst);
            accepted(&mut opened.outbound.send(CALL.into())).await;
        }
        let seen = server.seen();
        let told: Vec<_> = seen[before..].iter().map(|one| one.header("authorization").unwrap()).collect();
        assert_eq!(told, ["Bearer ada-0", "Bearer ada-1", "Bearer ada-2"]);
        assert_eq!(seen.iter().filter(|one| one.is_initialize()).count(), 1, "one session");
        let kept = |name: &'static str| seen[before..].iter().map(move |one| one.header(name));
        assert!(kept("mcp-protocol-version").all(|revision| revision == Some("2025-06-18")));
        let id = (choice == TransportChoice::Http).then_some("s");
        assert!(kept("mcp-session-id").all(|session| session == id));
    }
}

#[test]
fn a_key_tells_callers_apart_and_outlives_a_rotation() {
    let tokens = Tokens::default();
    let before = tokens.key(&of("ada"));
    tokens.0.store(1, Ordering::SeqCst);
    assert_eq!(tokens.key(&of("ada")), before);
    assert_ne!(tokens.key(&of("bob")), before);
    let one = StaticHeaders::holding(&[]);
    assert_eq!(one.key(&of("ada")), one.key(&of("bob")));
}
