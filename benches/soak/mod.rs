//! The gateway for long, under load and under faults (L5, R3): the real binary, backends that are killed, a network
//! that fails, agents that come, call, leave and vanish; at the end everything must be as it was at the beginning.

mod dice;
mod ledger;
mod load;
mod sample;
mod trouble;
mod verdict;
mod world;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{admin, load::Histogram, machine, report::say};
use dice::Dice;
use ledger::Ledger;
use load::Plan;
use sample::Sample;
use trouble::{History, Kinds};
use verdict::{Check, Evidence, Outcome};
use world::{Paths, World};

/// How long everything that was taken may take to come back: an agent that vanished is missed after 15 s, an idle
/// session is closed after 10 s, a kept connection after 90 s.
const QUIET: Duration = Duration::from_secs(150);

/// The command line of `soak`.
#[derive(Clone, Debug, clap::Parser)]
#[command(about = "Runs mcpool under load and faults, and checks that it stays as it was.")]
pub struct Options {
    /// How long, in minutes.
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// End after so many calls, whatever the time.
    #[arg(long)]
    pub calls: Option<u64>,
    /// Calls per second over all agents; 0: each agent calls as soon as it is answered.
    #[arg(long, default_value_t = 400)]
    pub rate: u32,
    /// Agents at a time.
    #[arg(long, default_value_t = 200)]
    pub agents: u32,
    /// Seconds between two troubles, on average.
    #[arg(long, default_value_t = 5.0)]
    pub trouble: f64,
    /// No troubles but restarts of all backends every 30 s and sessions that the backends forget.
    #[arg(long)]
    pub zero_400: bool,
    /// Repeats the choices of an earlier run [default: another one each time].
    #[arg(long)]
    pub seed: Option<u64>,
    /// The gateway [default: the `mcpool` beside this program].
    #[arg(long)]
    pub mcpool: Option<PathBuf>,
    /// Where samples, report, configuration and log go.
    #[arg(long, default_value = "target/soak")]
    pub folder: PathBuf,
}

/// Runs the soak.
///
/// # Errors
/// When a program cannot be run, or a check fails.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.folder)?;
    let seed = options.seed.unwrap_or_else(another_seed);
    let machine = machine::describe();
    say(&format!("seed {seed}; machine: {machine}\n"))?;
    let mut world = World::start(&paths(options)?).await?;
    warm_up(&world).await?;
    let before = Sample::take(0.0, world.gateway.pid(), world.admin, &Histogram::default()).await?;
    let run = Run::new(options, seed, &world);
    let samples = run.last(&mut world).await?;
    let (lasted, after) = (run.began.elapsed(), quieten(&world, &before).await?);
    let page = admin::page(world.admin, "/metrics")?;
    let troubles = run.history.counts();
    let sums = run.ledger.sums();
    let wanted_calls = match options.calls {
        Some(calls) => exact(calls),
        None => f64::from(options.rate) * lasted.as_secs_f64(),
    };
    let evidence = Evidence {
        lasted,
        sums: &sums,
        refused: refused(&page),
        troubles: troubles.values().sum(),
        before: &before,
        samples: &samples,
        after: &after,
        wanted_calls,
    };
    let checks = verdict::judge(&evidence);
    say(&format!("troubles: {troubles:?}\n{}\n", after.line()))?;
    write(
        options,
        &samples,
        &json!({
            "seed": seed,
            "machine": machine,
            "seconds": lasted.as_secs_f64(),
            "troubles": troubles,
            "failures": sums.failures,
            "before": before.json(),
            "after": after.json(),
            "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
        }),
    )?;
    conclude(&checks)
}

/// A run under way.
struct Run<'a> {
    options: &'a Options,
    seed: u64,
    began: Instant,
    ledger: Arc<Ledger>,
    history: Arc<History>,
    plan: Arc<Plan>,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, seed: u64, world: &World) -> Self {
        let (ledger, history) = (Arc::<Ledger>::default(), Arc::<History>::default());
        let step = match options.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) * options.agents / rate,
        };
        let plan = Arc::new(Plan {
            gateway: world.gateway.addr,
            backends: World::backends(),
            step,
            seed,
            ledger: Arc::clone(&ledger),
            history: Arc::clone(&history),
            stop: CancellationToken::new(),
        });
        Self { options, seed, began: Instant::now(), ledger, history, plan }
    }

    /// Load, troubles and looks until the time is over; then the troubles end, and the agents leave.
    async fn last(&self, world: &mut World) -> anyhow::Result<Vec<Sample>> {
        let mut agents = JoinSet::new();
        for number in 0..u64::from(self.options.agents) {
            agents.spawn(load::place(Arc::clone(&self.plan), number));
        }
        let (pid, admin) = (world.gateway.pid(), world.admin);
        let calm = CancellationToken::new();
        let kinds = if self.options.zero_400 { Kinds::RestartsAndExpiry } else { Kinds::All };
        let every = Duration::try_from_secs_f64(self.options.trouble).context("--trouble")?;
        let dice = Dice::new(self.seed, 0);
        let trouble = trouble::make(world, kinds, every, dice, &self.history, &calm);
        let looks = async {
            let looked = self.look(pid, admin).await;
            calm.cancel();
            looked
        };
        let (samples, trouble) = tokio::join!(looks, trouble);
        trouble?;
        self.plan.stop.cancel();
        while let Some(left) = agents.join_next().await {
            left?;
        }
        samples
    }

    /// Looks at the gateway until the time is over, and says once a minute how it is.
    async fn look(&self, pid: u32, admin: std::net::SocketAddr) -> anyhow::Result<Vec<Sample>> {
        let lasts = Duration::try_from_secs_f64(self.options.minutes * 60.0).context("--minutes")?;
        let every = (lasts / 30).clamp(Duration::from_secs(1), Duration::from_secs(10));
        let (mut said, mut told) = (Instant::now(), 0);
        let mut samples = Vec::new();
        let mut ticks = tokio::time::interval(every);
        ticks.tick().await;
        while self.began.elapsed() < lasts && self.options.calls.is_none_or(|most| self.ledger.calls() < most)
        {
            ticks.tick().await;
            let at = self.began.elapsed().as_secs_f64();
            let sample = Sample::take(at, pid, admin, &self.ledger.take_interval()).await?;
            if said.elapsed() >= Duration::from_secs(60).min(lasts / 4) {
                said = Instant::now();
                let sums = self.ledger.sums();
                say(&format!("{}  failed {}\n", sample.line(), sums.failed))?;
                // Early, because a long run may be ended before its report.
                for failure in sums.failures.iter().skip(told) {
                    say(&format!("  {failure}\n"))?;
                }
                told = sums.failures.len();
            }
            samples.push(sample);
        }
        Ok(samples)
    }
}

/// Every backend is called once over both wires, so that what is there from now on is there at the start too.
async fn warm_up(world: &World) -> anyhow::Result<()> {
    use mcpool_testkit::agent::{Agent, AgentConfig};
    for backend in World::backends() {
        for config in [
            AgentConfig::http(format!("http://{}/{backend}/mcp", world.gateway.addr)),
            AgentConfig::sse(format!("http://{}/{backend}/sse", world.gateway.addr)),
        ] {
            let agent = Agent::ready(config).await.map_err(|error| anyhow::anyhow!("{backend}: {error}"))?;
            let answer = agent.call_tool("echo", json!({ "nonce": "warm" })).await;
            answer.map_err(|error| anyhow::anyhow!("{backend}: {error}"))?;
            agent.close().await;
        }
    }
    Ok(())
}

/// Waits until everything is given back, or no longer than that may take; the last look.
async fn quieten(world: &World, before: &Sample) -> anyhow::Result<Sample> {
    let began = Instant::now();
    loop {
        let sample = Sample::take(0.0, world.gateway.pid(), world.admin, &Histogram::default()).await?;
        let is_quiet = sample.held() == [0.0; 4]
            && sample.descriptors() <= before.descriptors()
            && sample.gauge("mcpool_sessions") <= before.gauge("mcpool_sessions");
        if is_quiet || began.elapsed() > QUIET {
            return Ok(sample);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Responses to agents outside 2xx, as the gateway counted them.
fn refused(page: &str) -> f64 {
    let of = |line: &&str| {
        let code = line.split("code=\"").nth(1).unwrap_or_default();
        line.starts_with("mcpool_agent_responses_total{") && !code.starts_with('2')
    };
    let values = page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

fn paths(options: &Options) -> anyhow::Result<Paths> {
    let own = std::env::current_exe()?;
    let paths = Paths {
        mcpool: options.mcpool.clone().unwrap_or_else(|| own.with_file_name("mcpool")),
        backend: own.with_file_name("backend"),
        stdio_server: own.with_file_name("stdio-server"),
        folder: options.folder.clone(),
    };
    for path in [&paths.mcpool, &paths.backend, &paths.stdio_server] {
        anyhow::ensure!(path.exists(), "there is no {}: `cargo xtask soak` builds it", path.display());
    }
    Ok(paths)
}

fn write(options: &Options, samples: &[Sample], report: &Value) -> anyhow::Result<()> {
    let lines: String = samples.iter().map(|sample| format!("{}\n", sample.json())).collect();
    std::fs::write(options.folder.join("samples.jsonl"), lines)?;
    Ok(std::fs::write(options.folder.join("report.json"), serde_json::to_vec_pretty(report)?)?)
}

fn conclude(checks: &[Check]) -> anyhow::Result<()> {
    for Check { name, outcome, text } in checks {
        say(&format!("{:<10} {name:<12} {text}\n", outcome.as_str()))?;
    }
    anyhow::ensure!(checks.iter().all(|check| check.outcome != Outcome::Failed), "the soak has failed");
    Ok(())
}

fn another_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

#[allow(clippy::cast_precision_loss, reason = "no run has 2^52 calls")]
fn exact(number: u64) -> f64 {
    number as f64
}
