//! `stateless`: callers without handshake and session (2026-07-28) beside agents with one, through the same gateway to
//! the same pooled HTTP+SSE backend.
//!
//! The subtle thing: what such a caller costs more is parsing, since it says all of itself with every call; it must not
//! cost a handshake of the backend, so those are counted, from when the pool has grown to the load.

use super::{
    Rig, Settings, Via, interleave, middle, paired, quantile_ms, record,
    reuse::{gateway_us, throughput_ratio},
    rig::Backend,
};
use crate::{
    load::{self, Drive, Front, Outcome, Plan},
    report::{Limit, Report, Table},
};

const AGENTS: usize = 64;
const VIA: Via = Via::Mcpool(Front::Sse);

/// Rounds in which the pool may grow.
const MOST_ROUNDS: usize = 10;

/// Puts the load on the pool until it does not grow any more: how many sessions were opened until then.
async fn grown(rig: &Rig, variants: &[(Via, Plan)], report: &mut Report) -> anyhow::Result<f64> {
    let mut opened = rig.sessions_opened()?;
    for _ in 0..MOST_ROUNDS {
        for (_, plan) in variants {
            report.count(&load::run(plan, &[]).await?.tally, "stateless, while the pool grows");
        }
        let before = std::mem::replace(&mut opened, rig.sessions_opened()?);
        if opened <= before {
            break;
        }
    }
    Ok(opened)
}

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    if !settings.has_mcpool() {
        return Ok(());
    }
    let rig = Rig::with_mcpool_alone(settings, Backend::default()).await?;
    let mut variants = Vec::new();
    for front in [Front::Http, Front::Modern] {
        rig.wait_until_answered(VIA, front).await?;
        variants.push((VIA, settings.plan(&rig, VIA, front, AGENTS, Drive::Reuse)?));
    }
    let before = grown(&rig, &variants, report).await?;
    let outcomes = interleave(settings, &rig, &variants, report).await?;
    let opened = rig.sessions_opened()? - before;
    let (legacy, modern) = (&outcomes[0], &outcomes[1]);
    let throughput = |a: &[Outcome]| paired(a, legacy, throughput_ratio);
    let mut table = Table::new(
        format!("stateless callers beside agents with sessions, {AGENTS} of each, pooled HTTP+SSE backend"),
        &["way", "calls/s", "p50 ms", "p99 ms", "p99.9 ms", "cpu us/call", "of legacy"],
    );
    for ((via, plan), outcome) in variants.iter().zip(&outcomes) {
        let name = via.name(plan.target.front);
        table.row([
            name.clone(),
            format!("{:.0}", middle(outcome, Outcome::throughput)),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.5))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.99))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.999))),
            format!("{:.1}", middle(outcome, gateway_us)),
            format!("{:.2}", throughput(outcome)),
        ]);
        report.record(record("stateless", &name, plan, outcome));
    }
    report.table(table)?;
    report.bar("stateless: throughput of agents with sessions", throughput(modern), Limit::AtLeast(0.9));
    let calls: u64 = outcomes.iter().flatten().map(|outcome| outcome.tally.answered).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
    let per_call = opened / calls as f64;
    report.bar("stateless: handshakes of the backend per call", per_call, Limit::AtMost(0.0));
    Ok(())
}
