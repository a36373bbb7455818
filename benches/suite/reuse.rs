//! `session-reuse`: agents initialise once and call in a closed loop, over every way and number of agents.

use super::{Rig, Settings, Via, interleave, middle, paired, quantile_ms, record, rig::Backend};
use crate::{
    load::{Drive, Front, Outcome},
    report::{Limit, Report, Table},
};

/// The number of agents the bars speak of.
const AGENTS_OF_THE_BARS: usize = 64;

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let rig = Rig::start(settings, Backend::default()).await?;
    for &agents in &settings.agents {
        for (front, other) in [(Front::Http, Front::Sse), (Front::Sse, Front::Http)] {
            let mut ways = vec![Via::Direct, Via::Passthrough, Via::Splice];
            if settings.has_mcpool() {
                ways.extend([Via::Mcpool(front), Via::Mcpool(other)]);
            }
            compare(settings, &rig, report, &ways, front, agents).await?;
        }
    }
    Ok(())
}

async fn compare(
    settings: &Settings,
    rig: &Rig,
    report: &mut Report,
    ways: &[Via],
    front: Front,
    agents: usize,
) -> anyhow::Result<()> {
    let mut variants = Vec::new();
    for &via in ways {
        variants.push((via, settings.plan(rig, via, front, agents, Drive::Reuse)?));
    }
    let outcomes = interleave(settings, rig, &variants, report).await?;
    let mut table = Table::new(
        format!("session-reuse, {} agents over {}", agents, front.as_str()),
        &[
            "way",
            "calls/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "cpu us/call",
            "of direct",
            "of pass",
            "of splice",
        ],
    );
    let of = |outcome: &[Outcome], base: usize| paired(outcome, &outcomes[base], throughput_ratio);
    for ((via, plan), outcome) in variants.iter().zip(&outcomes) {
        let name = via.name(front);
        table.row([
            name.clone(),
            format!("{:.0}", middle(outcome, Outcome::throughput)),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.5))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.99))),
            format!("{:.3}", middle(outcome, |o| quantile_ms(o, 0.999))),
            match via {
                Via::Direct => "-".into(),
                Via::Passthrough | Via::Splice | Via::Mcpool(_) => {
                    format!("{:.1}", middle(outcome, gateway_us))
                }
            },
            format!("{:.2}", of(outcome, 0)),
            format!("{:.2}", of(outcome, 1)),
            format!("{:.2}", of(outcome, 2)),
        ]);
        report.record(record("session-reuse", &name, plan, outcome));
    }
    report.table(table)?;
    if agents == AGENTS_OF_THE_BARS {
        let mcpool = settings.has_mcpool().then(|| outcomes[3].as_slice());
        bars(report, front, &outcomes, mcpool);
    }
    Ok(())
}

fn bars(report: &mut Report, front: Front, outcomes: &[Vec<Outcome>], mcpool: Option<&[Outcome]>) {
    let wire = front.as_str();
    let [direct, pass, splice] = [0, 1, 2].map(|index| outcomes[index].as_slice());
    let valid = paired(pass, direct, throughput_ratio);
    report.bar(format!("{wire}: valid run, pass-through of direct"), valid, Limit::AtLeast(0.35));
    let Some(mcpool) = mcpool else { return };
    let of_pass = paired(mcpool, pass, throughput_ratio);
    let pass_cpu = paired(mcpool, pass, cpu_ratio);
    report.bar(format!("{wire}: throughput of pass-through"), of_pass, Limit::AtLeast(0.5));
    // With hyper-util's client on the hot POST the pair of limits is another one.
    if of_pass >= 0.65 && pass_cpu <= 1.8 {
        report.bar(format!("{wire}: throughput of pass-through (own client)"), of_pass, Limit::AtLeast(0.65));
        report.bar(format!("{wire}: CPU per call of pass-through"), pass_cpu, Limit::AtMost(1.8));
    } else {
        let of_splice = paired(mcpool, splice, throughput_ratio);
        let splice_cpu = paired(mcpool, splice, cpu_ratio);
        report.bar(format!("{wire}: throughput of splice"), of_splice, Limit::AtLeast(0.8));
        report.bar(format!("{wire}: CPU per call of splice"), splice_cpu, Limit::AtMost(1.35));
    }
}

pub(super) fn throughput_ratio(a: &Outcome, b: &Outcome) -> f64 {
    a.throughput() / b.throughput()
}

fn cpu_ratio(a: &Outcome, b: &Outcome) -> f64 {
    gateway_us(a) / gateway_us(b)
}

/// Microseconds of CPU of the gateway process per call.
pub(super) fn gateway_us(outcome: &Outcome) -> f64 {
    outcome.cpu_per_1000(1).map_or(f64::NAN, |seconds| seconds * 1e3)
}
