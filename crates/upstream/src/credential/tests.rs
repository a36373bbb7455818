//! Sessions of one backend under several credentials.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mcpool_wire::{
    AgentKey, BackendId, Caller, ClientHello, Hello, IdentityKind, LinkEvent, Outlet, OutletFull, Target,
};

use super::*;
use crate::{
    backend::{Backend, Gate, Opening},
    config::{HttpEndpoint, Limits, ModeChoice, Origin, Sharing, Times, TransportChoice},
    error::SendError,
    observe::{Event, Observe, Source},
    transport::{ConnectRequest, Opened, Transport, memory::Memory},
};

/// Gives every caller the credential of the moment.
#[derive(Debug)]
struct OfTheMoment(Mutex<CredentialKey>);

impl Credential for OfTheMoment {
    fn key(&self, _: &Arc<Identity>) -> CredentialKey {
        self.0.lock().unwrap().clone()
    }

    fn headers(&self, _: &CredentialKey) -> Presented {
        Presented { version: 0, headers: Arc::default() }
    }
}

/// Notes the credential of each session that is opened.
struct Noting(Memory, Mutex<Vec<CredentialKey>>);

impl Transport for Noting {
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>> {
        self.1.lock().unwrap().push(request.credential.clone());
        self.0.connect(request)
    }
}

struct Open;

impl Gate for Open {
    fn may_open(&self, _: Instant) -> Opening {
        Opening::Free
    }

    fn wants_probe(&self, _: Instant) -> bool {
        false
    }
}

impl Observe for Open {
    fn on(&self, _: &Source, _: Event<'_>) {}
}

impl Outlet for Open {
    fn push(&self, _: LinkEvent) -> Result<(), OutletFull> {
        Ok(())
    }
}

fn hello() -> Hello {
    let identity = Identity::anonymous();
    let caller =
        Caller { identity, is_local: true, agent: AgentKey(1), affinity: None, forwarded: Arc::default() };
    let (target, client) = (Target::named("b"), ClientHello::neutral());
    Hello { caller: Arc::new(caller), target, client, outlet: Arc::new(Open) }
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_session_under_one_credential_and_none_under_two() {
    let spec = BackendSpec {
        id: BackendId(0),
        name: "b".into(),
        durable_id: None,
        origin: Origin::Cli,
        generation: 1,
        endpoint: Endpoint::Http(HttpEndpoint::new("http://unused/".parse().unwrap())),
        transport: TransportChoice::Auto,
        mode: ModeChoice::Shared,
        sharing: Sharing::default(),
        fan_out_logs: false,
        times: Times::default(),
        limits: Limits::default(),
    };
    let keys = ["ada", "bob"].map(|name| CredentialKey::Of(Arc::new(Identity::new(IdentityKind::Key, name))));
    let credential = Arc::new(OfTheMoment(Mutex::new(keys[0].clone())));
    let transport = Arc::new(Noting(Memory::echo(), Mutex::default()));
    let (used, given) = (Arc::<Noting>::clone(&transport), Arc::<OfTheMoment>::clone(&credential));
    let backend = Backend::start(spec, used, given, Arc::new(Open), Arc::new(Open)).unwrap();
    let mut bindings = Vec::new();
    for key in [&keys[0], &keys[0], &keys[1], &keys[0]] {
        *credential.0.lock().unwrap() = key.clone();
        bindings.push(backend.bind(&hello()).await.unwrap());
    }
    let mut opened = transport.1.lock().unwrap().clone();
    opened.dedup();
    assert_eq!(opened, keys, "a session for each, and none again");
    drop(bindings);
    backend.shutdown(Duration::from_secs(20)).await;
}
