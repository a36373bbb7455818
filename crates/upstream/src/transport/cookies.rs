//! Cookies of one backend session: sent back with the requests of that session only (RFC 6265). Load balancers use them
//! to find the instance that holds a session.
//!
//! All requests of a session go to one host, so cookies of other hosts are ignored. Number and size are bounded; an
//! expiry is converted to the monotonic clock on receipt.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use cookie::Cookie;
use http::{HeaderMap, HeaderValue, header};
use url::{Host, Url};

use super::dates;
use crate::clock;

/// Maximum number of cookies per session; the oldest is dropped.
const MAX_COOKIES: usize = 50;
/// Maximum size of a cookie's name and value in bytes.
const MAX_BYTES: usize = 4096;
/// Maximum size of the `Cookie` header in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// The cookies of a session.
#[derive(Default)]
pub(super) struct Cookies {
    kept: Mutex<Vec<Kept>>,
    /// False while there are none: most backends set none, and their calls take no lock.
    any: AtomicBool,
}

struct Kept {
    name: String,
    value: String,
    path: String,
    is_secure: bool,
    until: Option<Instant>,
}

impl Cookies {
    /// Stores the cookies set by a response from this URL. True if it set any.
    pub(super) fn learn(&self, from: &Url, headers: &HeaderMap) -> bool {
        if !headers.contains_key(header::SET_COOKIE) {
            return false;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for text in headers.get_all(header::SET_COOKIE).iter().take(MAX_COOKIES) {
            if let Some(cookie) = text.to_str().ok().and_then(|text| Cookie::parse(text).ok()) {
                keep(&mut kept, from, &cookie, headers);
            }
        }
        self.any.store(!kept.is_empty(), Ordering::Release);
        !kept.is_empty()
    }

    /// Adds the cookies for this URL to a request. A configured or forwarded cookie of the same name is not replaced.
    pub(super) fn add_to(&self, to: &Url, headers: &mut HeaderMap) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let now = clock::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|cookie| cookie.until.is_none_or(|until| until > now));
        let given: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let mut line = given.join(&b"; "[..]);
        let mut fitting: Vec<&Kept> = kept.iter().filter(|cookie| cookie.belongs_to(to)).collect();
        // Most specific path first.
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        for Kept { name, value, .. } in fitting {
            if is_given(&given, name) || line.len() + name.len() + value.len() + 3 > MAX_HEADER {
                continue;
            }
            if !line.is_empty() {
                line.extend_from_slice(b"; ");
            }
            line.extend_from_slice(format!("{name}={value}").as_bytes());
        }
        if line.is_empty() {
            return;
        }
        if let Ok(mut line) = HeaderValue::from_bytes(&line) {
            line.set_sensitive(true);
            headers.insert(header::COOKIE, line);
        }
    }
}

impl Kept {
    fn belongs_to(&self, to: &Url) -> bool {
        (!self.is_secure || to.scheme() == "https") && path_fits(&self.path, to.path())
    }
}

fn is_given(given: &[&[u8]], name: &str) -> bool {
    let pairs = given.iter().flat_map(|line| line.split(|byte| *byte == b';'));
    pairs
        .filter_map(|pair| pair.split(|byte| *byte == b'=').next())
        .any(|key| key.trim_ascii() == name.as_bytes())
}

fn keep(kept: &mut Vec<Kept>, from: &Url, cookie: &Cookie<'_>, headers: &HeaderMap) {
    let (name, value) = (cookie.name(), cookie.value());
    let is_plain = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';');
    if name.is_empty() || name.len() + value.len() > MAX_BYTES || !is_plain(name) || !is_plain(value) {
        return;
    }
    if cookie.domain().is_some_and(|domain| !is_domain_of(domain, from)) {
        return;
    }
    let is_secure = cookie.secure().unwrap_or(false);
    if is_secure && from.scheme() != "https" {
        return;
    }
    let path = match cookie.path() {
        Some(path) if path.starts_with('/') => path.to_owned(),
        _ => default_path(from.path()).to_owned(),
    };
    kept.retain(|old| (old.name.as_str(), old.path.as_str()) != (name, path.as_str()));
    let lifetime = lifetime(cookie, headers);
    if lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
        return;
    }
    if kept.len() == MAX_COOKIES {
        kept.remove(0);
    }
    let until = lifetime.map(|lifetime| clock::now() + lifetime);
    kept.push(Kept { name: name.to_owned(), value: value.to_owned(), path, is_secure, until });
}

/// The lifetime, if given; zero deletes the cookie. More than a day counts as the session's lifetime.
fn lifetime(cookie: &Cookie<'_>, headers: &HeaderMap) -> Option<Duration> {
    const LONG: Duration = Duration::from_secs(24 * 3600);
    let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let lifetime = match (cookie.max_age(), cookie.expires_datetime()) {
        (Some(age), _) => seconds(age.whole_seconds()),
        (None, Some(at)) => dates::until(SystemTime::UNIX_EPOCH + seconds(at.unix_timestamp()), headers),
        (None, None) => return None,
    };
    (lifetime < LONG).then_some(lifetime)
}

/// True if `Domain` is the host or a parent of it.
fn is_domain_of(domain: &str, from: &Url) -> bool {
    let domain = domain.trim_start_matches('.').to_ascii_lowercase();
    match from.host() {
        Some(Host::Domain(host)) => {
            host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        Some(_) => from.host_str().is_some_and(|host| host == domain),
        None => false,
    }
}

fn default_path(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &path[..at],
    }
}

fn path_fits(of_cookie: &str, path: &str) -> bool {
    path.strip_prefix(of_cookie)
        .is_some_and(|rest| rest.is_empty() || of_cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn learned(from: &str, set: &[&str]) -> Cookies {
        let cookies = Cookies::default();
        learn(&cookies, from, set);
        cookies
    }

    fn learn(cookies: &Cookies, from: &str, set: &[&str]) {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, "Sun, 06 Nov 1994 12:00:00 GMT".parse().unwrap());
        for text in set {
            headers.append(header::SET_COOKIE, text.parse().unwrap());
        }
        cookies.learn(&url(from), &headers);
    }

    fn sent(cookies: &Cookies, to: &str) -> String {
        let mut headers = HeaderMap::new();
        cookies.add_to(&url(to), &mut headers);
        headers.get(header::COOKIE).map(|line| line.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    const MCP: &str = "http://a.example/api/mcp";

    #[test]
    fn what_was_set_goes_back_where_it_belongs() {
        for (set, to, line) in [
            (vec!["AWSALB=x; Path=/"], MCP, "AWSALB=x"),
            (vec!["a=1", "b=\"2\"; HttpOnly; SameSite=Lax"], MCP, "a=1; b=\"2\""),
            (vec!["a=1; Path=/", "a=2; Path=/"], MCP, "a=2"),
            (vec!["a=1; Path=/", "a=2; Path=/api"], MCP, "a=2; a=1"),
            (vec!["a=1"], "http://a.example/apis", ""),
            (vec!["a=1; Path=/other"], MCP, ""),
            (vec!["a=1; Path=/api/mcp"], "http://a.example/api/mcp/x", "a=1"),
            (vec!["a=1; Secure"], MCP, ""),
            (vec!["a=1; Domain=example"], MCP, "a=1"),
            (vec!["a=1; Domain=.A.example"], MCP, "a=1"),
            (vec!["a=1; Domain=b.example"], MCP, ""),
            (vec!["a=1; Domain=ample"], MCP, ""),
            (vec!["a=1; Max-Age=60"], MCP, "a=1"),
            (vec!["a=1", "a=; Max-Age=0"], MCP, ""),
            (vec!["a=1; Expires=Sun, 06 Nov 1994 12:01:00 GMT"], MCP, "a=1"),
            (vec!["a=1; Expires=Sun, 06 Nov 1994 11:00:00 GMT"], MCP, ""),
            (vec!["a=1; Expires=Fri, 01 Jan 2038 00:00:00 GMT"], MCP, "a=1"),
            (vec!["nonsense", "=x", "a=1"], MCP, "a=1"),
        ] {
            let cookies = learned(MCP, &set);
            assert_eq!(sent(&cookies, to), line, "{set:?} to {to}");
        }
        let secure = learned("https://a.example/mcp", &["a=1; Secure"]);
        assert_eq!(sent(&secure, "https://a.example/mcp"), "a=1");
        assert_eq!(sent(&secure, "http://a.example/mcp"), "");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let cookies = Cookies::default();
        for number in 0..200 {
            learn(&cookies, MCP, &[&format!("c{number}={}", "x".repeat(1000))]);
        }
        learn(&cookies, MCP, &[&format!("huge={}", "x".repeat(5000))]);
        assert_eq!(cookies.kept.lock().unwrap().len(), MAX_COOKIES);
        let line = sent(&cookies, MCP);
        assert!(
            line.len() <= MAX_HEADER && !line.contains("huge") && line.contains("c150="),
            "{}",
            line.len()
        );
    }

    #[test]
    fn what_is_configured_stays_as_it_is() {
        let cookies = learned(MCP, &["a=theirs", "b=2"]);
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=ours; c=3".parse().unwrap());
        cookies.add_to(&url(MCP), &mut headers);
        let lines: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(lines, ["a=ours; c=3; b=2"]);
    }
}
