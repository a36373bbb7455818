//! HTTP client for the admin listener of a running gateway. Errors are sentences for people.

use std::{net::IpAddr, time::Duration};

use http::{Method, header};
use serde_json::Value;
use url::Url;

use mcpool_admin::{ADMIN_HEADER, message_of};

/// Address and token of the admin listener.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// `host:port`, as in the `Host` header.
    authority: String,
    token: Option<String>,
}

/// A JSON response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

const CONNECT: Duration = Duration::from_secs(5);
/// Maximum response size; the sessions of ten thousand pinned agents take 2 MiB.
const MOST_BYTES: usize = 64 << 20;

impl Client {
    pub(super) fn new(admin: &str, token: Option<&str>) -> Result<Self, String> {
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        Ok(Self { authority: authority(admin)?, token })
    }

    /// Sends a request and waits up to `within` for the response.
    pub(super) async fn ask(&self, method: Method, path: &str, within: Duration) -> Result<Answer, String> {
        let at = &self.authority;
        let failed = |why: &reqwest::Error| {
            if why.is_builder() {
                return "the token holds characters that no header can carry".to_owned();
            }
            if why.is_timeout() && !why.is_connect() {
                return format!("the gateway at {at} did not answer within {within:?}");
            }
            format!(
                "cannot reach a gateway at {at}: {}; name its admin listener with --admin or MCPOOL_ADMIN_URL",
                innermost(why)
            )
        };
        // Direct connection: the operator named the address, so no proxy and no redirect.
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.connect_timeout(CONNECT).timeout(within).build().map_err(|why| failed(&why))?;
        let mut request = client.request(method, format!("http://{at}{path}")).header(ADMIN_HEADER, "1");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut response = request.send().await.map_err(|why| failed(&why))?;
        let (status, mut body) = (response.status().as_u16(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|why| failed(&why))? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(format!("the gateway at {at} answered with more than {MOST_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }
}

/// The innermost cause; the outer ones repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl Answer {
    /// The body of a successful response, or the gateway's error.
    pub(super) fn accepted(self) -> Result<Value, String> {
        match self.status {
            200..=299 => Ok(self.body),
            401 => Err(format!("{}; give it with --token or MCPOOL_ADMIN_TOKEN", message_of(&self.body))),
            status => match message_of(&self.body) {
                "" => Err(format!("the gateway answered {status}; is this its admin listener?")),
                said => Err(said.to_owned()),
            },
        }
    }
}

/// Parses `IP:PORT` or a URL. An unspecified address means this machine.
fn authority(admin: &str) -> Result<String, String> {
    let shape = || {
        format!("{admin:?} is no address of an admin listener; write http://127.0.0.1:8801 or 127.0.0.1:8801")
    };
    if admin.starts_with("https://") {
        return Err(
            "the admin listener speaks http only; put --admin http://... behind your own tunnel".to_owned()
        );
    }
    let text = if admin.contains("://") { admin.to_owned() } else { format!("http://{admin}") };
    let url = Url::parse(&text).map_err(|_| shape())?;
    if url.scheme() != "http" || url.path() != "/" || url.query().is_some() {
        return Err(shape());
    }
    let host = url.host_str().ok_or_else(shape)?;
    let host = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1",
        Ok(ip) if ip.is_unspecified() => "[::1]",
        _ => host,
    };
    Ok(format!("{host}:{}", url.port().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_listener_is_named_by_address_or_url() {
        for (given, reached) in [
            ("127.0.0.1:8801", "127.0.0.1:8801"),
            ("http://127.0.0.1:8801/", "127.0.0.1:8801"),
            ("0.0.0.0:9", "127.0.0.1:9"),
            ("[::]:9", "[::1]:9"),
            ("http://gateway:8801", "gateway:8801"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(authority(given).as_deref(), Ok(reached), "{given}");
        }
        for given in ["", "http://h/x", "https://h:1", "ftp://h:1", "h:port"] {
            assert!(authority(given).is_err(), "{given}");
        }
    }
}
