//! Preparations before serving: descriptor limit and warnings about the environment.

use std::env;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::observe::max_descriptors;

/// Proxy variables of other programs.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// Raises the soft descriptor limit to the hard one: a soft limit of 1,024 is common, and meant for programs that
/// cannot use more. Returns the limit.
#[must_use]
pub fn raise_descriptors() -> usize {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => tracing::info!(from = soft, to = hard, "the open-file limit was raised"),
            Err(error) => {
                tracing::warn!(%error, soft, hard, "the open-file limit could not be raised");
            }
        }
    }
    max_descriptors().unwrap_or(usize::MAX)
}

/// Warns that a proxy set in the environment is not used.
pub fn warn_about_proxies() {
    if let Some(name) = proxy_of(|name| env::var_os(name).is_some_and(|value| !value.is_empty())) {
        tracing::warn!(
            "{name} is set, and mcpool does not use it: backends are connected to directly; one that can be reached \
             through a proxy only needs a forwarder in front of it as its `url`"
        );
    }
}

fn proxy_of(is_set: impl Fn(&str) -> bool) -> Option<&'static str> {
    PROXIES.into_iter().find(|name| is_set(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256.min(hard), hard).unwrap();
        assert_eq!(u64::try_from(raise_descriptors()).unwrap(), hard);
    }

    #[test]
    fn a_proxy_in_the_environment_is_named() {
        assert_eq!(proxy_of(|_| false), None);
        assert_eq!(proxy_of(|name| name == "https_proxy"), Some("https_proxy"));
    }
}
