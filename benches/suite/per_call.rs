//! `session-per-call`: each call is connect, initialize, initialized, call, close, as executors do today.

use super::{Rig, Settings, Via, interleave, middle, paired, quantile_ms, record, rig::Backend};
use crate::{
    load::{Drive, Front, Outcome},
    report::{Limit, Report, Table},
};

const AGENTS: usize = 16;

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    // What the backend takes for a handshake, and what mcpool must then reach of calling it directly.
    for (handshake_ms, bar) in [(50, 5.0), (0, 0.6)] {
        let rig = Rig::start(settings, Backend { handshake_ms, events: false }).await?;
        for front in [Front::Http, Front::Sse] {
            compare(settings, &rig, report, front, handshake_ms, bar).await?;
        }
    }
    Ok(())
}

async fn compare(
    settings: &Settings,
    rig: &Rig,
    report: &mut Report,
    front: Front,
    handshake_ms: u64,
    bar: f64,
) -> anyhow::Result<()> {
    let mut variants = Vec::new();
    let mcpool = settings.has_mcpool().then_some(Via::Mcpool(front));
    for via in [Via::Direct, Via::Passthrough].into_iter().chain(mcpool) {
        variants.push((via, settings.plan(rig, via, front, AGENTS, Drive::PerCall)?));
    }
    let outcomes = interleave(settings, rig, &variants, report).await?;
    let mut table = Table::new(
        format!("session-per-call, {AGENTS} agents over {}, handshake {handshake_ms} ms", front.as_str()),
        &["way", "sessions/s", "p50 ms", "p99 ms", "p99.9 ms", "of direct"],
    );
    let of_direct =
        |outcome: &[Outcome]| paired(outcome, &outcomes[0], |a, b| a.throughput() / b.throughput());
    for ((via, plan), outcome) in variants.iter().zip(&outcomes) {
        let name = via.name(front);
        table.row([
            name.clone(),
            format!("{:.0}", middle(outcome, Outcome::throughput)),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.5))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.99))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.999))),
            format!("{:.2}", of_direct(outcome)),
        ]);
        let scenario = format!("session-per-call, handshake {handshake_ms} ms");
        report.record(record(&scenario, &name, plan, outcome));
        if matches!(via, Via::Mcpool(_)) {
            let name = format!("{}: session-per-call of direct, handshake {handshake_ms} ms", front.as_str());
            report.bar(name, of_direct(outcome), Limit::AtLeast(bar));
        }
    }
    report.table(table)
}
