//! `check --connect`: opens one session with every backend, as the gateway would, and prints each step. `doctor` shows
//! [`connect`] in full.

use std::{io::Write, sync::Arc, time::Duration};

use mcpool_breaker::Transition;
use mcpool_upstream::{Cause, Event, ModeChoice, Observe, Source};
use tokio::sync::mpsc;

use crate::{config::Config, terminal};
use mcpool_router::{
    events::{GatewayObserve, StackObserve},
    gateway::Gateway,
    settings::BackendSettings,
};

/// Connects to every backend and prints the steps to `out`. True if all are ready.
///
/// # Errors
/// One sentence if a backend cannot be set up, or the output is closed.
pub async fn check_connections(config: &Config, out: &mut dyn Write) -> Result<bool, String> {
    let mut all_ready = true;
    for backend in &config.backends {
        all_ready &= check_one(backend.clone(), out).await?;
    }
    Ok(all_ready)
}

async fn check_one(backend: BackendSettings, out: &mut dyn Write) -> Result<bool, String> {
    let name = backend.spec.name.clone();
    let mut steps = Vec::new();
    let connected = connect(backend, &mut |step| {
        let verdict = if step.ok { "" } else { " failed" };
        steps.push(format!("{}{verdict} {:.1} ms", step.step, step.took.as_secs_f64() * 1e3));
    })
    .await?;
    let server = connected.gateway.backends().first().and_then(|b| b.backend.status().server);
    connected.gateway.shutdown(MARGIN).await;
    let steps = if steps.is_empty() { "nothing was reached".to_owned() } else { steps.join(", ") };
    match &connected.outcome {
        Ok(transport) => {
            let server = server.map(|server| format!(", {server}")).unwrap_or_default();
            terminal::line(out, &format!("{name}: ready over {transport}{server} ({steps})"))?;
        }
        Err(failed) => terminal::line(out, &format!("{name}: not ready: {} ({steps})", failed.why))?,
    }
    Ok(connected.outcome.is_ok())
}

/// Result of connecting, with the gateway that did it.
pub(crate) struct Connected {
    /// The session's transport, or the failure.
    pub(crate) outcome: Result<&'static str, Failed>,
    /// The gateway, still running with its session, if any.
    pub(crate) gateway: Gateway,
}

/// A failure to connect.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The transport's cause, if it got that far.
    pub(crate) cause: Option<Cause>,
    /// The reason, for people.
    pub(crate) why: String,
}

/// A step towards a ready session.
#[derive(Debug)]
pub(crate) struct Step {
    /// `connect`, `initialize`, `initialized`, `listen`, `ping`, `list`.
    pub(crate) step: &'static str,
    /// True if it succeeded.
    pub(crate) ok: bool,
    /// Its duration.
    pub(crate) took: Duration,
}

/// Opens one session without client capabilities, in any configured mode.
///
/// # Errors
/// One sentence if the backend cannot be set up.
pub(crate) async fn connect(
    mut backend: BackendSettings,
    seen: &mut dyn FnMut(Step),
) -> Result<Connected, String> {
    // A shared session opens by itself, whatever the configuration.
    if backend.spec.mode != ModeChoice::Auto {
        backend.spec.mode = ModeChoice::Shared;
    }
    backend.spec.limits.min_idle = 1;
    let patience = backend.spec.times.handshake + MARGIN;
    let (tell, mut told) = mpsc::channel(MOST_EVENTS);
    let gateway = Gateway::start(vec![backend], None, &Arc::new(StepObserver(tell)))?;
    let failed = |why| Err(Failed { cause: None, why });
    let outcome = tokio::time::timeout(patience, async {
        loop {
            match told.recv().await {
                Some(Seen::Step(step)) => seen(step),
                Some(Seen::Ended(outcome)) => break outcome,
                None => break failed("it was given up".to_owned()),
            }
        }
    })
    .await
    .unwrap_or_else(|_| failed(format!("nothing happened within {patience:?}")));
    Ok(Connected { outcome, gateway })
}

/// Events of interest.
enum Seen {
    Step(Step),
    Ended(Result<&'static str, Failed>),
}

struct StepObserver(mpsc::Sender<Seen>);

impl Observe for StepObserver {
    fn on(&self, _: &Source, event: Event<'_>) {
        let seen = match event {
            Event::Rung { step, ok, took } => Seen::Step(Step { step, ok, took }),
            Event::Opened { transport, .. } => Seen::Ended(Ok(transport)),
            Event::OpenFailed { cause, why, .. } => {
                Seen::Ended(Err(Failed { cause: Some(cause.clone()), why: why.to_owned() }))
            }
            Event::Opening { .. }
            | Event::Closed { .. }
            | Event::Answered { .. }
            | Event::Probed { .. }
            | Event::ModeChosen { .. }
            | Event::Demoted { .. }
            | Event::Dropped { .. }
            | Event::Panicked { .. }
            | Event::Status { .. } => return,
        };
        // A full channel already holds more than one handshake reports.
        let _ = self.0.try_send(seen);
    }
}

impl GatewayObserve for StepObserver {
    fn stack(&self, _: &Source) -> Arc<dyn StackObserve> {
        Arc::new(NullObserver)
    }

    fn transition(&self, _: &Source, _: &Transition) {}
}

/// Observer that ignores everything, as no calls are made.
struct NullObserver;

impl StackObserve for NullObserver {
    fn leased(&self, _: Duration) {}

    fn retried(&self, _: &'static str) {}

    fn rejected(&self, _: &'static str) {}
}

const MARGIN: Duration = Duration::from_secs(1);
const MOST_EVENTS: usize = 64;

#[cfg(test)]
mod tests {
    use mcpool_demo::{Fault, FaultKind, Script, Server, Stage};

    use super::*;

    async fn walked(url: &str) -> (bool, String) {
        let text = format!("[backends.a]\nurl = \"{url}\"\nmode = \"pinned\"\nmin_idle = 0");
        let config = Config::parse("file.toml", &text, std::path::Path::new(""), &|_| None).unwrap();
        let mut out = Vec::new();
        let ready = check_connections(&config, &mut out).await.unwrap();
        (ready, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_backend_that_works_is_walked_to_the_end() {
        let server = Server::start(Script::default()).await.unwrap();
        for (url, transport) in [(server.url_http(), "http"), (server.url_sse(), "sse")] {
            let (ready, said) = walked(&url).await;
            assert!(ready, "{said}");
            assert!(said.starts_with(&format!("a: ready over {transport}, ")), "{said}");
            for step in ["initialize ", "ping ", "list "] {
                assert!(said.contains(step), "{said}");
            }
        }
    }

    #[tokio::test]
    async fn a_backend_that_does_not_says_why() {
        let server = Server::start(Script::default()).await.unwrap();
        let refusal = FaultKind::Status(401, "no token".to_owned());
        server.set_fault(Fault::always(Stage::Initialize, refusal));
        let (ready, said) = walked(&server.url_http()).await;
        assert!(!ready && said.starts_with("a: not ready: ") && said.contains("401"), "{said}");
        let url = server.url_http();
        drop(server);
        let (ready, said) = walked(&url).await;
        assert!(!ready && said.starts_with("a: not ready: cannot connect"), "{said}");
    }
}
