//! Latency at a rate everybody can keep: 1,000 calls per second over 64 agents, due at fixed times.

use super::{Rig, Settings, Via, interleave, middle, paired, quantile_ms, record, rig::Backend};
use crate::{
    load::{Drive, Front, Outcome},
    report::{Limit, Report, Table},
};

const AGENTS: usize = 64;
const RATE: u32 = 1000;

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let rig = Rig::start(settings, Backend::default()).await?;
    for front in [Front::Http, Front::Sse] {
        compare(settings, &rig, report, front).await?;
    }
    Ok(())
}

async fn compare(settings: &Settings, rig: &Rig, report: &mut Report, front: Front) -> anyhow::Result<()> {
    let mut variants = Vec::new();
    let mcpool = settings.has_mcpool().then_some(Via::Mcpool(front));
    for via in [Via::Direct, Via::Passthrough, Via::Splice].into_iter().chain(mcpool) {
        variants.push((via, settings.plan(rig, via, front, AGENTS, Drive::OpenLoop { rate: RATE })?));
    }
    let outcomes = interleave(settings, rig, &variants, report).await?;
    let mut table = Table::new(
        format!("open loop, {RATE} calls/s over {AGENTS} agents, {}", front.as_str()),
        &["way", "calls/s", "p50 ms", "p99 ms", "p99.9 ms", "p50 above direct", "p99 above direct"],
    );
    for ((via, plan), outcome) in variants.iter().zip(&outcomes) {
        let name = via.name(front);
        let above = |q| paired(outcome, &outcomes[0], |a, b| quantile_ms(a, q) - quantile_ms(b, q));
        table.row([
            name.clone(),
            format!("{:.0}", middle(outcome, Outcome::throughput)),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.5))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.99))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.999))),
            format!("{:.3}", above(0.5)),
            format!("{:.3}", above(0.99)),
        ]);
        report.record(record("open loop", &name, plan, outcome));
        if matches!(via, Via::Mcpool(_)) {
            let wire = front.as_str();
            report.bar(format!("{wire}: open loop p50 above direct, ms"), above(0.5), Limit::AtMost(0.3));
            report.bar(format!("{wire}: open loop p99 above direct, ms"), above(0.99), Limit::AtMost(2.0));
        }
    }
    report.table(table)
}
