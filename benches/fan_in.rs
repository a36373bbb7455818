//! Many agents on few sessions: 1,024 calls by 1, 64 and 256 agents over 8 sessions with 4 permits each, so that most
//! agents wait in the queue most of the time. And what a call costs beside 10 to 9,000 agents that only have a binding.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcpool_benches::inproc::{self, Shape};
use mcpool_upstream::{Backend, Binding, Limits};
use tokio::task::JoinSet;

const CALLS: u64 = 1024;

/// Every agent makes its part of the calls, one after the other.
async fn fan_in(backend: &Arc<Backend>, bindings: &[Arc<Binding>]) -> anyhow::Result<()> {
    let mut agents = JoinSet::new();
    for (agent, binding) in (0..).zip(bindings) {
        let (backend, binding) = (backend.clone(), binding.clone());
        let calls = CALLS / bindings.len() as u64;
        agents.spawn(async move {
            let call = inproc::call(agent);
            for _ in 0..calls {
                let lease = inproc::lease(&backend, &binding).await?;
                lease.call(&call).await.map_err(|error| anyhow::anyhow!("{error}"))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = agents.join_next().await {
        ended??;
    }
    Ok(())
}

async fn bindings(backend: &Arc<Backend>, agents: u64) -> anyhow::Result<Vec<Arc<Binding>>> {
    let mut bindings = Vec::new();
    for agent in 0..agents {
        bindings.push(Arc::new(inproc::bind(backend, agent).await?));
    }
    Ok(bindings)
}

fn benches_of(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    for (name, shape) in [("exchange", Shape::Exchange), ("stream", Shape::Stream)] {
        let mut group = criterion.benchmark_group(format!("fan_in/1024 calls answered by {name}, agents"));
        group.throughput(Throughput::Elements(CALLS));
        group.sample_size(20);
        for agents in [1, 64, 256] {
            let limits = Limits { shared_sessions: 8, calls_per_session: 4, ..Limits::default() };
            let ready = runtime.block_on(async {
                let backend = inproc::backend(shape, limits)?;
                let bindings = bindings(&backend, agents).await?;
                anyhow::Ok((backend, bindings))
            });
            let (backend, bindings) = ready.expect("a backend in memory answers");
            group.bench_function(BenchmarkId::from_parameter(agents), |bencher| {
                bencher
                    .iter(|| runtime.block_on(fan_in(&backend, &bindings)).expect("every call is answered"));
            });
        }
        group.finish();
    }
}

/// One agent calls; the others are there.
fn beside_idle_agents(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let mut group = criterion.benchmark_group("fan_in/one call beside idle agents");
    for agents in [10, 100, 1_000, 9_000] {
        let ready = runtime.block_on(async {
            let backend = inproc::backend(Shape::Exchange, Limits::default())?;
            let bindings = bindings(&backend, agents).await?;
            // Every agent has called once, so that it keeps to its session.
            for (agent, binding) in (0..).zip(&bindings) {
                let lease = inproc::lease(&backend, binding).await?;
                lease.call(&inproc::call(agent)).await.map_err(|error| anyhow::anyhow!("{error}"))?;
            }
            anyhow::Ok((backend, bindings))
        });
        let (backend, bindings) = ready.expect("a backend in memory answers");
        let (caller, call) = (bindings.first().expect("an agent"), inproc::call(0));
        group.bench_function(BenchmarkId::from_parameter(agents), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let lease = inproc::lease(&backend, caller).await.expect("a permit");
                    lease.call(&call).await.expect("an answer")
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, benches_of, beside_idle_agents);
criterion_main!(benches);
