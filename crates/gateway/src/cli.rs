//! The command line. `mcpool` alone means `mcpool serve`, so the arguments of `serve` are also accepted at the top
//! level.

mod control;
mod diagnose;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

pub use self::{
    control::{AdminArgs, AgentsArgs, CallsArgs, ReconnectArgs, StatusArgs, VerbArgs},
    diagnose::{DoctorArgs, RehearseArgs},
};
use self::{
    control::{COMPLETION_EXAMPLES, CONSOLE_EXAMPLES},
    diagnose::{DOCTOR_EXAMPLES, REHEARSE_EXAMPLES},
};
use crate::config::{BackendFlag, LogFormat, Overrides, Problems, check_name, masked_text, parse_url};

/// A session-pooling gateway for the Model Context Protocol.
#[derive(Debug, Parser)]
#[command(name = "mcpool", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do; without it: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The arguments of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve agents (also what `mcpool` does without a command)
    #[command(after_help = EXAMPLES)]
    Serve(ServeArgs),
    /// Check a configuration file: name every mistake with line and reason, or print OK
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Connect to one MCP server step by step, and explain what fails and how to fix it
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Run parallel executors against a server, directly and through a pool, in the orders that break servers
    #[command(after_help = REHEARSE_EXAMPLES)]
    Rehearse(RehearseArgs),
    /// Show the backends of a running gateway, the longest wait first; with NAME its sessions
    #[command(after_help = CONSOLE_EXAMPLES)]
    Status(StatusArgs),
    /// Show the agents of a running gateway: client, address, age and calls
    #[command(after_help = CONSOLE_EXAMPLES)]
    Agents(AgentsArgs),
    /// Show running and queued calls, the longest first: method, tool, duration, session and agent
    #[command(after_help = CONSOLE_EXAMPLES)]
    Calls(CallsArgs),
    /// Pause a backend: new calls wait, running ones finish; then it can be restarted
    #[command(after_help = CONSOLE_EXAMPLES)]
    Pause(VerbArgs),
    /// Resume a backend after pause or drain
    #[command(after_help = CONSOLE_EXAMPLES)]
    Resume(VerbArgs),
    /// Replace the sessions of a backend one by one while calls continue
    #[command(after_help = CONSOLE_EXAMPLES)]
    Reconnect(ReconnectArgs),
    /// Drain a backend: reject new calls, let running ones finish, close the sessions
    #[command(after_help = CONSOLE_EXAMPLES)]
    Drain(VerbArgs),
    /// Make a running gateway read its configuration again
    #[command(after_help = CONSOLE_EXAMPLES)]
    Reload(AdminArgs),
    /// Print the completion script of a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
}

/// The arguments of `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Address for agents [default: 127.0.0.1:8800]
    #[arg(long, value_name = "ADDR", env = "MCPOOL_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Address for operators: /metrics, /readyz, /api/v1/... [default: 127.0.0.1:8801]
    #[arg(long, value_name = "ADDR", env = "MCPOOL_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,
    /// Format of log lines [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log level, or a filter such as info,mcpool=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "MCPOOL_LOG")]
    pub log_level: Option<String>,
}

/// The arguments of `check`.
#[derive(Args, Clone, Debug, Default)]
pub struct CheckArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Also open a session with every backend, and report it (exit status 1 if one is not ready)
    #[arg(long)]
    pub connect: bool,
    /// Print the whole configuration in force, secrets masked
    #[arg(long)]
    pub print: bool,
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub struct SourceArgs {
    /// Configuration file [default: config/mcpool.toml, if it exists and no --backend is given]
    #[arg(long, value_name = "FILE", env = "MCPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// A backend, in addition to those of the file; may be repeated
    #[arg(long = "backend", value_name = "NAME=URL", value_parser = backend)]
    pub backends: Vec<BackendFlag>,
}

impl Cli {
    /// Reads the command line of this process.
    ///
    /// # Errors
    /// The usage error, or the help that was asked for; credentials in a refused value are masked.
    pub fn read() -> Result<Self, clap::Error> {
        Self::try_parse().map_err(masked)
    }

    /// The chosen command, `serve` by default.
    #[must_use]
    pub fn command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

impl ServeArgs {
    /// The overrides from arguments and environment.
    ///
    /// # Errors
    /// If `MCPOOL_ADMIN`, which older versions read here, is not an address.
    pub fn overrides(&self) -> Result<Overrides, Problems> {
        let admin_listen = match (self.admin_listen, std::env::var(OLD_ADMIN)) {
            (None, Ok(old)) if !old.is_empty() => Some(control::listen_address(&old)?),
            (named, _) => named,
        };
        Ok(Overrides {
            listen: self.listen,
            admin_listen,
            backends: self.source.backends.clone(),
            log_format: self.log_format,
            log_level: self.log_level.clone(),
        })
    }
}

impl CheckArgs {
    /// The overrides from the arguments.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides { backends: self.source.backends.clone(), ..Overrides::default() }
    }
}

fn backend(text: &str) -> Result<BackendFlag, String> {
    let (name, url) =
        text.split_once('=').ok_or("write NAME=URL, such as search=http://127.0.0.1:9000/sse/")?;
    check_name(name)?;
    Ok(BackendFlag { name: name.into(), url: parse_url(url)? })
}

/// Masks the rejected value in a usage error: it may hold a password.
fn masked(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) {
        let shown = masked_text(value);
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    error
}

/// Older variable: an address for `serve`, a URL for the other commands. Each has its own variable now.
const OLD_ADMIN: &str = "MCPOOL_ADMIN";

const EXAMPLES: &str = "\
Examples:
  mcpool                                                    the file config/mcpool.toml, or a demo backend
  mcpool --backend search=http://127.0.0.1:9000/sse/        one backend, no file
  mcpool --backend a=http://127.0.0.1:9000/mcp --backend b=http://127.0.0.1:9001/sse
  mcpool serve --config my.toml --log-format json           as a service
  mcpool --listen 127.0.0.1:9900 --admin-listen 127.0.0.1:9901

Agents connect to http://ADDR/NAME/mcp (Streamable HTTP) or http://ADDR/NAME/sse (HTTP+SSE); with one backend, or a
default_backend, also without /NAME. Every URL speaks every transport.";

const CHECK_EXAMPLES: &str = "\
Examples:
  mcpool check --config my.toml                 exit status 0, or 2 with file, line and reason of every mistake
  mcpool check --config my.toml --print         the configuration in force, secrets masked
  mcpool check --config my.toml --connect       1 if a backend is not ready
  mcpool check --connect --backend search=http://127.0.0.1:9000/sse/";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from([&["mcpool"], args].concat()).map(Cli::command).map_err(masked)
    }

    fn serve(args: &[&str]) -> ServeArgs {
        match parse(args).unwrap() {
            Command::Serve(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bare_mcpool_serves_with_the_same_arguments() {
        let args = ["--listen", "127.0.0.1:1", "--backend", "a=http://h/mcp", "--backend", "b=http://h/sse/"];
        for args in [serve(&args), serve(&[&["serve"], &args[..]].concat())] {
            assert_eq!(args.listen, Some("127.0.0.1:1".parse().unwrap()));
            let names: Vec<_> = args.source.backends.iter().map(|b| b.name.to_string()).collect();
            assert_eq!(names, ["a", "b"]);
            // The slash stays: without it the URL is another one.
            assert_eq!(args.source.backends[1].url.as_str(), "http://h/sse/");
        }
    }

    #[test]
    fn a_bad_backend_is_refused_with_the_reason() {
        for (flag, reason) in [
            ("http://h/mcp", "write NAME=URL"),
            ("http://h/?a=b", "is not a name"),
            ("search", "write NAME=URL"),
            ("mcp=http://h/", "\"mcp\" is reserved"),
            ("a=ftp://h/", "its scheme is \"ftp\""),
            ("a=h", "not a URL"),
            ("a=http://user:secret@h/", "must not hold credentials"),
        ] {
            let error = parse(&["--backend", flag]).unwrap_err().to_string();
            assert!(error.contains(reason), "{flag}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let header = ["rehearse", "http://h/mcp", "--header", "Authorization: Bearer secret\nx: y"];
        let error = parse(&header).unwrap_err().to_string();
        assert!(error.contains("not a header value") && !error.contains("secret"), "{error}");
        let error = parse(&["rehearse", "http://user:secret@h/mcp"]).unwrap_err().to_string();
        assert!(error.contains("http://***@h/mcp") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn the_help_teaches_with_examples() {
        let verbs = [
            "doctor",
            "rehearse",
            "status",
            "agents",
            "calls",
            "pause",
            "resume",
            "reconnect",
            "drain",
            "reload",
            "completions",
        ];
        let verbs = verbs.map(|verb| [verb, "--help"]);
        let others = [&["--help"][..], &["serve", "--help"], &["check", "--help"]];
        for args in others.into_iter().chain(verbs.iter().map(|args| &args[..])) {
            let help = parse(args).unwrap_err().to_string();
            assert!(help.contains("Examples:\n  mcpool"), "{help}");
        }
    }
}
