//! Arguments of the commands that talk to a running gateway.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use crate::config::{Problems, check_name, parse_duration};

/// Where the gateway is, and how it is talked to.
#[derive(Args, Clone, Debug)]
pub struct AdminArgs {
    /// Admin listener of the gateway: http://IP:PORT or IP:PORT [default: 127.0.0.1:8801]
    #[arg(long, value_name = "URL", env = "MCPOOL_ADMIN_URL")]
    pub admin: Option<String>,
    /// The admin_token of the gateway's configuration
    #[arg(long, value_name = "TOKEN", env = "MCPOOL_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl AdminArgs {
    /// The admin listener's address: the argument, `MCPOOL_ADMIN_URL`, the older `MCPOOL_ADMIN`, or the default.
    #[must_use]
    pub fn address(&self) -> String {
        let old = || std::env::var(super::OLD_ADMIN).ok().filter(|old| !old.is_empty());
        self.admin.clone().or_else(old).unwrap_or_else(|| "127.0.0.1:8801".to_owned())
    }
}

/// Parses `MCPOOL_ADMIN` as an address; it may also be a URL.
pub(super) fn listen_address(old: &str) -> Result<SocketAddr, Problems> {
    let text = old.strip_prefix("http://").unwrap_or(old).trim_end_matches('/');
    text.parse().map_err(|_| {
        let reason = format!(
            "{old:?} is no address to listen on; set MCPOOL_ADMIN_LISTEN to IP:PORT, and MCPOOL_ADMIN_URL to the URL that \
             `mcpool status` and the other commands ask"
        );
        Problems::of_flag(super::OLD_ADMIN, reason)
    })
}

/// The arguments of a verb.
#[derive(Args, Clone, Debug)]
pub struct VerbArgs {
    /// The backend
    #[arg(value_name = "NAME", value_parser = name)]
    pub name: String,
    /// Time to wait until it is finished; after that it continues by itself
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = wait)]
    pub wait: Duration,
    /// Where the gateway is.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// The arguments of `reconnect`.
#[derive(Args, Clone, Debug)]
pub struct ReconnectArgs {
    /// The arguments of every verb.
    #[command(flatten)]
    pub verb: VerbArgs,
    /// Also end the sessions of single agents: they must initialize again, and lose their state
    #[arg(long)]
    pub pinned: bool,
}

/// The arguments of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Only this backend, with its sessions
    #[arg(value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Where the gateway is.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// The arguments of `agents`.
#[derive(Args, Clone, Debug)]
pub struct AgentsArgs {
    /// Only this backend
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub backend: Option<String>,
    /// Number of rows, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Only agents with a higher number: the next page
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub after: u64,
    /// Where the gateway is.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// The arguments of `calls`.
#[derive(Args, Clone, Debug)]
pub struct CallsArgs {
    /// Only this backend
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub backend: Option<String>,
    /// Number of rows, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Where the gateway is.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Checks that a name is valid in a path; the gateway checks whether it exists.
fn name(text: &str) -> Result<String, String> {
    check_name(text)?;
    Ok(text.to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

pub(super) const CONSOLE_EXAMPLES: &str = "\
Examples:
  mcpool status                                  a table, the backend with the longest wait first
  mcpool agents --backend search                 clients, with address and age
  mcpool calls                                   running calls, the longest first
  mcpool pause search && systemctl restart search && mcpool resume search
  mcpool reconnect search --pinned --wait 2m
  mcpool drain search --admin http://gateway:8801 --token TOKEN --json

Exit status: 0 done; 1 rejected, unreachable, or not finished within --wait (it continues); 2 invalid command line.";

pub(super) const COMPLETION_EXAMPLES: &str = "\
Examples:
  mcpool completions bash > /etc/bash_completion.d/mcpool
  mcpool completions fish > ~/.config/fish/completions/mcpool.fish";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(args: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from([&["mcpool"], args].concat()).map(Cli::command)
    }

    #[test]
    fn the_older_variable_is_read_as_an_address_or_a_url() {
        for old in ["127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            assert_eq!(listen_address(old).unwrap(), "127.0.0.1:1".parse().unwrap(), "{old}");
        }
        let why = listen_address("http://gateway:8801").unwrap_err().to_string();
        assert!(why.starts_with("MCPOOL_ADMIN: ") && why.contains("MCPOOL_ADMIN_LISTEN"), "{why}");
    }

    #[test]
    fn a_verb_names_its_backend_and_its_gateway() {
        let Ok(Command::Pause(args)) =
            parse(&["pause", "a", "--wait", "2m", "--admin", "http://h:1", "--json"])
        else {
            panic!("pause")
        };
        assert_eq!((args.name.as_str(), args.wait), ("a", Duration::from_secs(120)));
        assert_eq!((args.admin.address().as_str(), args.admin.json), ("http://h:1", true));
        assert!(
            matches!(parse(&["reconnect", "a", "--pinned"]), Ok(Command::Reconnect(args)) if args.pinned)
        );
        assert!(matches!(parse(&["status"]), Ok(Command::Status(args)) if args.name.is_none()));
        for wrong in [
            &["pause"][..],
            &["pause", "a/../b"],
            &["pause", "a", "--wait", "soon"],
            &["drain", "a", "--pinned"],
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
