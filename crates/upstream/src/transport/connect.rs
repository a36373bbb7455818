//! Connections to a backend: DNS, TCP, and TLS for `https`, together within one timeout.
//!
//! A connection yields after [`BURST`] bytes, so that a peer that never stops sending leaves other tasks their turn. TLS
//! is set up for the first `https` URL, because loading the system's roots costs start-up time and memory. All clients
//! of a backend share it.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Uri, uri::Scheme};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::{
    CertificateError, ClientConfig, InvalidMessage,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;
use url::Url;

use super::dns::DnsResolver;
use crate::descriptors;

/// Bytes read of one connection before other tasks have their turn.
const BURST: usize = 128 * 1024;
/// Pause between two looks for a free descriptor, give or take a half.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(40);
/// TCP keep-alive: time of silence before the first probe, and between probes.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;
/// Maximum time that written bytes may stay unacknowledged; then the connection ends.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Opens connections of one backend. It is cloned for each request.
#[derive(Clone)]
pub(super) struct Connector(Arc<Settings>);

struct Settings {
    tcp: HttpConnector<DnsResolver>,
    tls: Tls,
    limit: Duration,
    /// Address of a plain backend, whose requests do not name it.
    plain: Option<Uri>,
}

/// TLS settings of one backend, loaded on first use.
#[derive(Clone)]
pub(super) struct Tls {
    ca_pem: Option<Arc<Vec<u8>>>,
    config: Arc<OnceLock<Result<Arc<ClientConfig>, String>>>,
}

/// The reason why a connection failed.
#[derive(Clone, Debug)]
pub(super) enum NoConnection {
    /// It took too long.
    Late,
    /// There is no address, or nobody listens there.
    Tcp(String),
    /// TLS failed.
    Tls(String),
    /// This process has no descriptor for it.
    Descriptors,
}

/// An open connection.
pub(super) type Stream = MaybeHttpsStream<TokioIo<Paced>>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(super) fn new(backend: &Url, dns: DnsResolver, tls: Tls, limit: Duration) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(dns);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limit));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        // The origin alone: a path that is no URI must not hide the address.
        let origin = || backend.origin().ascii_serialization().parse().ok();
        let plain = (backend.scheme() == "http").then(origin).flatten();
        Self(Arc::new(Settings { tcp, tls, limit, plain }))
    }

    /// Connects, and waits while the process has no free descriptor. A request that waits here takes the first
    /// connection that another request frees.
    async fn open_when_possible(self, to: Uri) -> Result<Stream, NoConnection> {
        loop {
            if !descriptors::are_short() {
                match self.clone().open(to.clone()).await {
                    Err(NoConnection::Descriptors) => {}
                    settled => return settled,
                }
            }
            tokio::time::sleep(WITHOUT_DESCRIPTOR.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    async fn open(self, to: Uri) -> Result<Stream, NoConnection> {
        let mut tcp = Tcp(self.0.tcp.clone());
        if to.scheme() != Some(&Scheme::HTTPS) {
            return tcp.call(to).await.map(MaybeHttpsStream::Http);
        }
        let config = self.0.tls.config().map_err(NoConnection::Tls)?;
        let names = Arc::new(DefaultServerNameResolver::default());
        HttpsConnector::new(tcp, config, true, names).call(to).await.map_err(|error| tls_stage(&error))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = NoConnection;
    type Future = BoxFuture<'static, Result<Stream, NoConnection>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoConnection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let to = self.0.plain.clone().unwrap_or(to);
        let connecting = self.clone().open_when_possible(to);
        let limit = self.0.limit;
        let late = || if descriptors::are_short() { NoConnection::Descriptors } else { NoConnection::Late };
        async move { tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(late())) }.boxed()
    }
}

/// The TCP connector below TLS.
struct Tcp(HttpConnector<DnsResolver>);

impl Service<Uri> for Tcp {
    type Response = TokioIo<Paced>;
    type Error = NoConnection;
    type Future = BoxFuture<'static, Result<TokioIo<Paced>, NoConnection>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoConnection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        // Its own readiness is that of `DnsResolver`, which is always ready.
        let connecting = self.0.call(to);
        async move {
            let stream = connecting.await.map_err(|error| tcp_stage(&error))?;
            Ok(TokioIo::new(Paced { stream: stream.into_inner(), read: 0 }))
        }
        .boxed()
    }
}

impl Tls {
    /// TLS with these roots beside those of the system.
    ///
    /// # Errors
    /// One sentence for the operator if the roots are unusable. A plain backend does not load them.
    pub(super) fn new(ca_pem: Option<&[u8]>, is_needed: bool) -> Result<Self, String> {
        let tls = Self { ca_pem: ca_pem.map(|pem| Arc::new(pem.to_vec())), config: Arc::default() };
        if is_needed {
            tls.config()?;
        }
        Ok(tls)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.config.get_or_init(|| client_config(self.ca_pem.as_ref().map(|pem| pem.as_slice()))).clone()
    }
}

fn client_config(ca_pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let roots = ca_pem.map(roots).transpose()?.unwrap_or_default();
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(roots, provider.clone())
        .map_err(|error| format!("no roots to trust: {error}"))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS: {error}"))?
        // The builder's word for a verifier that is handed in; this one checks chain, name and time.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let roots = roots.map_err(|error| format!("tls.ca_file is no PEM bundle: {error}"))?;
    if roots.is_empty() {
        return Err("tls.ca_file holds no certificate".to_owned());
    }
    Ok(roots)
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("connecting took too long"),
            Self::Descriptors => f.write_str("there is no descriptor for a connection"),
            Self::Tcp(why) | Self::Tls(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NoConnection {}

fn tcp_stage(error: &(dyn std::error::Error + 'static)) -> NoConnection {
    let system = || causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    if system().any(descriptors::is_shortage) {
        return NoConnection::Descriptors;
    }
    if system().any(|error| error.kind() == io::ErrorKind::TimedOut) {
        return NoConnection::Late;
    }
    NoConnection::Tcp(innermost(error))
}

/// The failure of a TLS handshake; an error below TLS is returned as it is.
fn tls_stage(error: &BoxError) -> NoConnection {
    if let Some(below) = error.downcast_ref::<NoConnection>() {
        return below.clone();
    }
    NoConnection::Tls(tls_words(error.as_ref()))
}

/// The text of a failed handshake: what the operator can do, then the library's own words.
fn tls_words(error: &(dyn std::error::Error + 'static)) -> String {
    let Some(tls) = rustls_error(error) else { return innermost(error) };
    let words = match tls {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no authority that is trusted here signed the server's certificate: name the one that did in `tls.ca_file`"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the server's certificate is for another host name than the one in the URL",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the server's certificate is not valid yet: are both clocks right?",
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains(CA_AS_SERVER) || format!("{other:?}").contains(CA_AS_SERVER) =>
        {
            return format!(
                "the server shows a CA certificate as its own, which TLS does not allow: give the server a \
                 certificate signed by that CA (basicConstraints CA:FALSE), and name the CA in `tls.ca_file` \
                 (invalid peer certificate: {CA_AS_SERVER})"
            );
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS on this port: is its URL `http://`?"
        }
        _ => return tls.to_string(),
    };
    format!("{words} ({tls})")
}

/// How the library calls a CA certificate that a server shows as its own.
const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

/// The TLS library's error; it may be wrapped in an `io::Error` within another, which a chain of sources steps over.
fn rustls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        let mut inner = error;
        loop {
            if let Some(found) = inner.downcast_ref::<rustls::Error>() {
                return Some(found);
            }
            inner = inner.downcast_ref::<io::Error>()?.get_ref()?;
        }
    })
}

pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The causes of an error, from the outermost to the innermost.
pub(super) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&e| e.source())
}

/// A TCP connection whose reader yields after a burst.
pub(super) struct Paced {
    stream: TcpStream,
    /// Bytes read since the peer last had no more.
    read: usize,
}

impl Connection for Paced {
    fn connected(&self) -> Connected {
        // Without the addresses, which would be copied into each response.
        Connected::new()
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= BURST {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read = if polled.is_pending() { 0 } else { self.read + buf.filled().len() - before };
        polled
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
