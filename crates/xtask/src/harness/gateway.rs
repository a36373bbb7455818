//! The gateway under test: the built binary with a generated configuration, ended when dropped.
//!
//! The subtle thing: it is asked over its admin listener, like an operator would; the gate has no way into it
//! that a user has not.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::harness::http;
use crate::harness::paths;
use crate::harness::run::{Job, Service};
use crate::real::backends::{self, Backend};

/// A gateway that runs.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Where agents reach it.
    pub(crate) port: u16,
    admin: u16,
    name: String,
    args: Vec<String>,
    /// What its process may open; everything if there is no number.
    descriptors: Option<u32>,
    service: Service,
}

/// One backend as the gateway is told.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name there.
    pub(crate) name: String,
    /// The lines that say where it is.
    pub(crate) reached: String,
    /// Its `mode`, without another agent's traces where it is lent.
    pub(crate) mode: &'static str,
}

impl Gateway {
    /// Starts the gateway in front of these backends, all in mode `shared`.
    ///
    /// # Errors
    /// When it is not ready within half a minute.
    pub(crate) fn start(name: &str, backends: &[(&str, String)]) -> Result<Self> {
        let entry = |(name, url): &(&str, String)| Entry {
            name: (*name).to_owned(),
            reached: backends::reached_at(url),
            mode: "shared",
        };
        Self::with(name, &backends.iter().map(entry).collect::<Vec<_>>())
    }

    /// Starts the gateway in front of backends with a mode each.
    ///
    /// # Errors
    /// When it is not ready within half a minute.
    pub(crate) fn with(name: &str, backends: &[Entry]) -> Result<Self> {
        let tables = backends.iter().map(|Entry { name, reached, mode }| {
            let reset = mode == &"exclusive";
            (name.as_str(), format!("{reached}mode = \"{mode}\"\nreset_on_release = {reset}\n"))
        });
        Self::tables(name, &tables.collect::<Vec<_>>())
    }

    /// Starts the gateway in front of backends, each with the lines of its table.
    ///
    /// # Errors
    /// When it is not ready within half a minute.
    pub(crate) fn tables(name: &str, backends: &[(&str, String)]) -> Result<Self> {
        let mut gateway = Self::configured(name, "", backends, None)?;
        gateway.wait("/readyz", 30)?;
        Ok(gateway)
    }

    /// The same before backends of which some never get ready; `head` are lines before their tables.
    ///
    /// # Errors
    /// When it does not live within two minutes.
    pub(crate) fn of_any_health(name: &str, head: &str, backends: &[(&str, String)]) -> Result<Self> {
        Self::of_any_health_with(name, head, backends, None)
    }

    /// The same with a limit of open descriptors.
    ///
    /// # Errors
    /// When it does not live within two minutes.
    pub(crate) fn of_any_health_with(
        name: &str,
        head: &str,
        backends: &[(&str, String)],
        descriptors: Option<u32>,
    ) -> Result<Self> {
        let mut gateway = Self::configured(name, head, backends, descriptors)?;
        gateway.wait("/livez", 120)?;
        Ok(gateway)
    }

    fn configured(
        name: &str,
        head: &str,
        backends: &[(&str, String)],
        descriptors: Option<u32>,
    ) -> Result<Self> {
        let (port, admin) = (http::free_port()?, http::free_port()?);
        let mut config = format!("listen = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n");
        config.push_str(head);
        for (backend, lines) in backends {
            write!(config, "\n[backends.{backend}]\n{lines}")?;
        }
        fs::create_dir_all(paths::logs())?;
        let file = paths::logs().join(format!("{name}.toml"));
        fs::write(&file, config)?;
        Self::started(name, port, admin, &["--config", &file.display().to_string()], descriptors)
    }

    /// Starts it with nothing configured, so that it serves the bundled demo backend.
    ///
    /// # Errors
    /// When it is not ready within half a minute.
    pub(crate) fn demo(name: &str) -> Result<Self> {
        let (port, admin) = (http::free_port()?, http::free_port()?);
        let words = [format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}")];
        let words = ["--listen", &words[0], "--admin-listen", &words[1]];
        let mut gateway = Self::started(name, port, admin, &words, None)?;
        gateway.wait("/readyz", 30)?;
        Ok(gateway)
    }

    fn started(name: &str, port: u16, admin: u16, args: &[&str], descriptors: Option<u32>) -> Result<Self> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let service = Self::process(name, &args, descriptors)?;
        Ok(Self { port, admin, name: name.to_owned(), args, descriptors, service })
    }

    fn process(name: &str, args: &Vec<String>, descriptors: Option<u32>) -> Result<Service> {
        let job = match descriptors {
            None => Job::new(paths::gateway()),
            Some(most) => {
                let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
                Job::new("sh").args(["-c", &script, &paths::gateway().display().to_string()])
            }
        };
        let job = job.args(["serve"]).args(args);
        // Its keys and the sessions that were deleted belong to the gate, not to whoever runs it.
        let state = paths::logs().join("state").display().to_string();
        job.env("MCPOOL_LOG", "info").env("XDG_STATE_HOME", &state).service(name)
    }

    /// Ends it without a word and starts it again at the same address.
    ///
    /// # Errors
    /// When it is not ready within half a minute.
    pub(crate) fn kill_and_restart(&mut self) -> Result<()> {
        self.service.kill();
        self.service = Self::process(&self.name, &self.args, self.descriptors)?;
        self.wait("/readyz", 30)
    }

    fn wait(&mut self, page: &str, seconds: u64) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < limit {
            if matches!(http::get(self.admin, page), Ok((200, _))) {
                return Ok(());
            }
            if !self.service.alive() {
                bail!("the gateway ended at its start; {}", self.service.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the gateway was not ready within {seconds} s; {}", self.service.last_words())
    }

    /// The file it was configured with.
    pub(crate) fn config_file(&self) -> PathBuf {
        paths::logs().join(format!("{}.toml", self.name))
    }

    /// Where it logs.
    pub(crate) fn log_file(&self) -> PathBuf {
        paths::logs().join(format!("{}.log", self.name))
    }

    /// The running process.
    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Where operators reach it.
    pub(crate) fn admin(&self) -> u16 {
        self.admin
    }

    /// The URL of one backend for an agent: `path` is `sse` or `mcp`.
    pub(crate) fn url(&self, backend: &str, path: &str) -> String {
        format!("http://127.0.0.1:{}/{backend}/{path}", self.port)
    }

    /// Where operators reach it.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// The sum of a series over the samples with these labels.
    ///
    /// # Errors
    /// When the page cannot be read or has no such series.
    pub(crate) fn metric(&self, series: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let (status, page) = http::get(self.admin, "/metrics")?;
        if status != 200 {
            bail!("/metrics answered {status}");
        }
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        // A combination of labels that has not happened may have no series yet.
        let sum = http::sum(&page, series, &labels).or_else(|| http::sum(&page, series, &[]).map(|_| 0.0));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of sessions")]
        sum.map(|sum| sum as u64).with_context(|| format!("/metrics has no {series} with {labels:?}"))
    }

    /// How many sessions a backend has now.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub(crate) fn sessions(&self, backend: &str) -> Result<u64> {
        self.metric("mcpool_sessions", &[("backend", backend)])
    }

    /// How many sessions a backend has had.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub(crate) fn opened(&self, backend: &str) -> Result<u64> {
        self.metric("mcpool_sessions_opened_total", &[("backend", backend)])
    }
}

/// Name and table of each backend, as the gateway is told.
pub(crate) fn tables(backends: &[Backend]) -> Vec<(&str, String)> {
    backends.iter().map(|backend| (backend.spec.name, backend.table())).collect()
}
