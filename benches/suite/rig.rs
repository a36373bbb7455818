//! The programs of one comparison: a backend, and the gateways in front of it, each a process of its own.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;

use super::Settings;
use crate::{
    admin,
    load::{Agent, Front, Target, Work},
    process::{self, CpuMeter, Program, Rank},
};

/// Which way a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Direct,
    Passthrough,
    Splice,
    /// mcpool, speaking this with the backend.
    Mcpool(Front),
}

impl Via {
    /// The name in tables, for agents that talk this way.
    pub(super) fn name(self, front: Front) -> String {
        match self {
            Self::Direct => "direct".into(),
            Self::Passthrough => "pass-through".into(),
            Self::Splice => "splice".into(),
            Self::Mcpool(back) => format!("mcpool {}->{}", front.as_str(), back.as_str()),
        }
    }
}

/// What the backend of a rig is like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backend {
    pub(super) handshake_ms: u64,
    /// Answers every POST with an event stream.
    pub(super) events: bool,
}

/// Which of the backends behind a gateway is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Main,
    /// The second one, where there is one.
    Second,
}

/// The running programs; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Rig {
    // Gateways first: fields are dropped in order, and they should not see their backend go.
    pub(super) mcpool: Option<Program>,
    /// Where operators reach it.
    admin: Option<SocketAddr>,
    passthrough: Option<Program>,
    splice: Option<Program>,
    second: Option<Program>,
    pub(super) backend: Program,
}

impl Rig {
    /// A backend with all programs in front of it.
    pub(super) async fn start(settings: &Settings, backend: Backend) -> anyhow::Result<Self> {
        let mut rig = Self::with_mcpool_alone(settings, backend).await?;
        rig.passthrough = Some(Program::start(sibling("passthrough", rig.backend.addr)?)?);
        rig.splice = Some(Program::start(sibling("splice", rig.backend.addr)?)?);
        for front in [Front::Http, Front::Sse] {
            rig.wait_until_answered(Via::Mcpool(front), front).await?;
        }
        Ok(rig)
    }

    /// A backend and a fresh mcpool that no agent has called yet.
    pub(super) async fn with_mcpool_alone(settings: &Settings, backend: Backend) -> anyhow::Result<Self> {
        let backend = start_backend(backend)?;
        let (mcpool, admin) =
            start_mcpool(settings, Rank::Ordinary, &[(Which::Main, backend.addr)]).await?.unzip();
        Ok(Self { mcpool, admin, passthrough: None, splice: None, second: None, backend })
    }

    /// Two backends of a kind behind one mcpool.
    pub(super) async fn with_two_backends(settings: &Settings, backend: Backend) -> anyhow::Result<Self> {
        // On few cores the work of the second backend would delay everybody, whatever the gateway does.
        let program = beside("backend")?;
        let main = start_backend_by(Rank::Ahead.command(&program), backend)?;
        let second = start_backend_by(Rank::Behind.command(&program), backend)?;
        let backends = [(Which::Main, main.addr), (Which::Second, second.addr)];
        let (mcpool, admin) = start_mcpool(settings, Rank::Ahead, &backends).await?.unzip();
        let rig =
            Self { mcpool, admin, passthrough: None, splice: None, second: Some(second), backend: main };
        for front in [Front::Http, Front::Sse] {
            rig.wait_until_answered(Via::Mcpool(front), front).await?;
        }
        Ok(rig)
    }

    /// Where an agent that talks this way has to call.
    pub(super) fn target(&self, via: Via, front: Front) -> anyhow::Result<Target> {
        self.target_of(Which::Main, via, front)
    }

    /// Where an agent has to call for one of two backends.
    pub(super) fn target_of(&self, which: Which, via: Via, front: Front) -> anyhow::Result<Target> {
        let plain = match front {
            Front::Http | Front::Modern => "/mcp".to_owned(),
            Front::Sse => "/sse".to_owned(),
        };
        let path = match via {
            Via::Mcpool(back) => format!("/{}{plain}", backend_name(which, back)),
            Via::Direct | Via::Passthrough | Via::Splice => plain,
        };
        let backend = match which {
            Which::Main => Some(&self.backend),
            Which::Second => self.second.as_ref(),
        };
        let program = self.gateway(via).unwrap_or(backend).context("that program is not running")?;
        Ok(Target { addr: program.addr, path, front })
    }

    /// Sessions that mcpool has opened so far.
    pub(super) fn sessions_opened(&self) -> anyhow::Result<f64> {
        const OPENED: &str = "mcpool_sessions_opened_total";
        let page = admin::page(self.admin.context("mcpool is not running")?, "/metrics")?;
        admin::sum(&page, OPENED).with_context(|| format!("the metrics page has no {OPENED}"))
    }

    /// Meters of the backend and, second, of the gateway if there is one on this way.
    pub(super) fn meters(&self, via: Via) -> Vec<CpuMeter> {
        let gateway = self.gateway(via).flatten();
        std::iter::once(&self.backend).chain(gateway).map(Program::meter).collect()
    }

    fn gateway(&self, via: Via) -> Option<Option<&Program>> {
        match via {
            Via::Direct => None,
            Via::Passthrough => Some(self.passthrough.as_ref()),
            Via::Splice => Some(self.splice.as_ref()),
            Via::Mcpool(_) => Some(self.mcpool.as_ref()),
        }
    }

    /// Waits until a call on this way has its answer: sessions are open, nothing is cold.
    pub(super) async fn wait_until_answered(&self, via: Via, front: Front) -> anyhow::Result<()> {
        if matches!(via, Via::Mcpool(_)) && self.mcpool.is_none() {
            return Ok(());
        }
        let target = self.target(via, front)?;
        let mut last = None;
        for _ in 0..50 {
            let answered = async {
                let mut agent = Agent::open(&target, 1).await?;
                agent.call(Work::Echo).await?;
                agent.close().await
            };
            match tokio::time::timeout(Duration::from_secs(5), answered).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => last = Some(failure.to_string()),
                Err(_) => last = Some("no answer in 5 s".to_owned()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("{} does not answer: {}", via.name(front), last.unwrap_or_default())
    }
}

fn backend_name(which: Which, back: Front) -> String {
    let which = match which {
        Which::Main => "main",
        Which::Second => "second",
    };
    format!("{which}-{}", back.as_str())
}

fn start_backend(options: Backend) -> anyhow::Result<Program> {
    start_backend_by(Command::new(beside("backend")?), options)
}

fn start_backend_by(mut command: Command, options: Backend) -> anyhow::Result<Program> {
    command.args(["--handshake-ms", &options.handshake_ms.to_string()]);
    if options.events {
        command.arg("--events");
    }
    Program::start(command)
}

/// Starts mcpool, if it is measured, with two entries for each backend, one per transport; everything else is at its
/// default. Also where operators reach it.
async fn start_mcpool(
    settings: &Settings,
    rank: Rank,
    backends: &[(Which, SocketAddr)],
) -> anyhow::Result<Option<(Program, SocketAddr)>> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Some(path) = &settings.mcpool else { return Ok(None) };
    let (folder, number) = (&settings.folder, NUMBER.fetch_add(1, Ordering::Relaxed));
    let config = folder.join(format!("mcpool-{number}.toml"));
    let mut text = String::new();
    for &(which, addr) in backends {
        for (front, transport, at) in [(Front::Http, "http", "mcp"), (Front::Sse, "sse", "sse")] {
            text += &format!(
                "[backends.{}]\nurl = \"http://{addr}/{at}\"\ntransport = \"{transport}\"\nmode = \"shared\"\n\n",
                backend_name(which, front)
            );
        }
    }
    fs::write(&config, text)?;
    let log = fs::File::create(folder.join(format!("mcpool-{number}.log")))?;
    let (listen, admin) = (process::free_port()?, process::free_port()?);
    let mut command = match rank {
        Rank::Ordinary => Command::new(path),
        Rank::Ahead | Rank::Behind => rank.command(path),
    };
    command.arg("serve").arg("--config").arg(&config);
    command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
    // What the caller's environment says about another gateway must not reach this one.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MCPOOL_")) {
        command.env_remove(name);
    }
    // A key of its own, which is not left behind.
    command.env("XDG_STATE_HOME", folder);
    command.stdout(log.try_clone()?).stderr(log);
    let mut program = Program::start_at(command, listen)?;
    process::wait_for_listener(&mut program)
        .await
        .with_context(|| format!("mcpool does not start, see mcpool-{number}.log in {}", folder.display()))?;
    Ok(Some((program, admin)))
}

fn sibling(name: &str, backend: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(beside(name)?);
    command.args(["--to", &backend.to_string()]);
    Ok(command)
}

/// The program of this name beside this one.
fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "there is no {}: build the whole package", path.display());
    Ok(path)
}
