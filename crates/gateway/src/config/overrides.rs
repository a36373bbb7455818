//! Settings from the command line and the environment, which override the file; and the log settings.

use std::{net::SocketAddr, sync::Arc};

use mcpool_upstream::Origin;
use mcpool_wire::BackendId;
use url::Url;

use super::{Config, Problems};

/// Settings from the command line and the environment; they override the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--admin-listen`
    pub admin_listen: Option<SocketAddr>,
    /// `--backend`, in addition to those of the file
    pub backends: Vec<BackendFlag>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
    /// `MCPOOL_LOG`
    pub log_level: Option<String>,
}

/// `--backend NAME=URL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFlag {
    /// The validated name.
    pub name: Arc<str>,
    /// The validated URL.
    pub url: Url,
}

/// Log settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The line format.
    pub format: LogFormat,
    /// A level, or a filter such as `info,mcpool=debug`.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

impl LogFormat {
    /// The word for it in the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl Config {
    /// Applies the overrides.
    pub(super) fn apply(&mut self, overrides: Overrides) -> Result<(), Problems> {
        self.listen = overrides.listen.unwrap_or(self.listen);
        self.admin_listen = overrides.admin_listen.unwrap_or(self.admin_listen);
        self.log.format = overrides.log_format.unwrap_or(self.log.format);
        if let Some(wanted) = overrides.log_level {
            self.log.level = level(&wanted).map_err(|reason| Problems::of_flag("MCPOOL_LOG", reason))?;
        }
        for one in overrides.backends {
            if self.backends.iter().any(|known| known.spec.name == one.name) {
                return Err(Problems::of_flag(
                    "--backend",
                    format!("there is already a backend named {:?}", one.name),
                ));
            }
            let id = BackendId(u32::try_from(self.backends.len()).unwrap_or(u32::MAX));
            let mut settings = self.plain(&one.name, one.url, Origin::Cli);
            settings.spec.id = id;
            self.backends.push(settings);
        }
        Ok(())
    }
}

/// Validates a log filter.
pub(super) fn level(text: &str) -> Result<String, String> {
    match crate::logging::parse_filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(why) => {
            Err(format!("{text:?} is not a log level ({why}); write error, warn, info, debug or trace"))
        }
    }
}
