//! A backend behind TLS whose certificate is signed by nobody the system knows: served where `tls.ca_file` names its
//! root, refused with a cause an operator understands where not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig},
};
use mcpool_upstream::{Endpoint, HttpEndpoint, Times, TransportChoice};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};

use crate::rig::{Rig, Wanted};

/// A root of its own, and a server that shows a certificate signed by it and passes everything on.
struct Tls {
    root_pem: String,
    addr: SocketAddr,
    _serving: JoinSet<()>,
}

impl Tls {
    /// For a certificate that is good for `name`, in front of a plain server.
    async fn start(name: &str, behind: SocketAddr) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let mut root = CertificateParams::new(Vec::new()).expect("a root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two roots of one name would be one root with a bad signature.
        root.distinguished_name.push(DnType::CommonName, format!("root of {name}"));
        let root_pem = root.self_signed(&root_key).expect("a root").pem();
        let key = KeyPair::generate().expect("a key");
        let shown = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let shown = shown.signed_by(&key, &Issuer::new(root, root_key)).expect("a certificate");
        Self::showing(shown.der().clone(), &key, root_pem, behind).await
    }

    /// With one certificate for everything, as the first guide on the web makes it: its own authority.
    async fn with_its_root(name: &str, behind: SocketAddr) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut root = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = root.self_signed(&key).expect("a root");
        Self::showing(root.der().clone(), &key, root.pem(), behind).await
    }

    async fn showing(
        shown: CertificateDer<'static>,
        key: &KeyPair,
        root_pem: String,
        behind: SocketAddr,
    ) -> Self {
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![shown], key)
            .expect("a usable certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), behind));
        Self { root_pem, addr, _serving: serving }
    }

    fn wanted(&self, path: &str, ca_pem: Option<Vec<u8>>) -> Wanted {
        let url = format!("https://{}/{path}", self.addr).parse().expect("a URL");
        let transport = if path == "sse" { TransportChoice::Sse } else { TransportChoice::Http };
        let times = Times { first_open: Duration::from_secs(20), ..Times::default() };
        let endpoint = Endpoint::Http(HttpEndpoint { ca_pem, ..HttpEndpoint::new(url) });
        Wanted { endpoint, transport, times, ..Wanted::shared("http://unused/".to_owned()) }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // A client that does not like the certificate leaves here.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Ok(mut plain) = TcpStream::connect(behind).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut plain).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

#[tokio::test]
async fn a_root_from_ca_file_is_trusted_over_both_transports() {
    let backend = Server::start(Script::default()).await.expect("a backend");
    let tls = Tls::start("127.0.0.1", backend.addr()).await;
    for path in ["mcp", "sse"] {
        let rig = Rig::start(tls.wanted(path, Some(tls.root_pem.clone().into_bytes()))).await;
        let agent = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent is served");
        let answer = agent.call_tool("echo", json!({ "text": "secret" })).await.expect("an answer");
        assert!(answer.to_string().contains("secret"), "{answer}");
        agent.close().await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_root_nobody_named_and_a_name_it_is_not_good_for_are_refused_with_the_cause() {
    let backend = Server::start(Script::default()).await.expect("a backend");
    let here = Tls::start("127.0.0.1", backend.addr()).await;
    let elsewhere = Tls::start("search.example", backend.addr()).await;
    let other_root = here.root_pem.clone().into_bytes();
    let own_root = elsewhere.root_pem.clone().into_bytes();
    let alone = Tls::with_its_root("127.0.0.1", backend.addr()).await;
    let its_root = alone.root_pem.clone().into_bytes();
    for (wanted, cause) in [
        (alone.wanted("mcp", Some(its_root)), "a CA certificate as its own"),
        (here.wanted("mcp", None), "UnknownIssuer"),
        (elsewhere.wanted("sse", Some(other_root)), "UnknownIssuer"),
        (elsewhere.wanted("mcp", Some(own_root)), "not valid for name"),
    ] {
        let rig = Rig::start(wanted).await;
        let told = async {
            loop {
                if let Some(trouble) = rig.gateway.backends()[0].backend.trouble() {
                    return trouble.why;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // The agent's wish to be served is what makes the gateway try.
        let agent = Agent::connect(AgentConfig::http(rig.url_http())).await.expect("no dial yet");
        let why = tokio::select! {
            why = tokio::time::timeout(Duration::from_secs(30), told) => why.expect("a cause"),
            served = agent.initialize() => panic!("served: {served:?}"),
        };
        assert!(why.contains("certificate") && why.contains(cause), "{why}");
        drop(agent);
        rig.stop().await;
    }
    assert_eq!(
        backend.stats().requests_of("initialize"),
        0,
        "not a byte of MCP went over an untrusted connection"
    );
}
