//! What a call costs between the front and the wire: lease and drop, and lease, send, answer.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use mcpool_benches::inproc::{self, Shape};
use mcpool_upstream::{Backend, Binding, CallKind, Limits};
use tokio::runtime::Runtime;

const THREADS: usize = 4;

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built")
}

/// A backend with a ready session, and the bindings of so many agents on it.
fn bound(runtime: &Runtime, shape: Shape, agents: u64) -> (Arc<Backend>, Vec<Binding>) {
    let bound = runtime.block_on(async {
        let backend = inproc::backend(shape, Limits::default())?;
        let mut bindings = Vec::new();
        for agent in 0..agents {
            let binding = inproc::bind(&backend, agent).await?;
            drop(inproc::lease(&backend, &binding).await?);
            bindings.push(binding);
        }
        anyhow::Ok((backend, bindings))
    });
    bound.expect("a backend in memory answers")
}

fn lease_and_drop(backend: &Backend, binding: &Binding, times: u64) {
    for _ in 0..times {
        assert!(
            backend.try_lease(binding, CallKind::Free, None).is_ok(),
            "there are more permits than threads"
        );
    }
}

fn lease(criterion: &mut Criterion) {
    let runtime = runtime();
    let (backend, bindings) = bound(&runtime, Shape::Exchange, THREADS as u64);
    criterion.bench_function("call_path/lease and drop, 1 thread", |bencher| {
        bencher.iter(|| lease_and_drop(&backend, &bindings[0], 1));
    });
    criterion.bench_function("call_path/lease and drop, 4 threads", |bencher| {
        bencher.iter_custom(|times| in_parallel(&backend, &bindings, times));
    });
}

/// The time until every thread has leased so often.
fn in_parallel(backend: &Backend, bindings: &[Binding], times: u64) -> Duration {
    let start = Barrier::new(bindings.len() + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = bindings
            .iter()
            .map(|binding| {
                scope.spawn(|| {
                    start.wait();
                    lease_and_drop(backend, binding, times);
                })
            })
            .collect();
        start.wait();
        let begin = Instant::now();
        for thread in threads {
            thread.join().expect("a permit is free");
        }
        begin.elapsed()
    })
}

fn call(criterion: &mut Criterion) {
    for (name, shape) in [("exchange", Shape::Exchange), ("stream", Shape::Stream)] {
        let runtime = runtime();
        let (backend, bindings) = bound(&runtime, shape, 1);
        let call = inproc::call(0);
        criterion.bench_function(&format!("call_path/call answered by {name}"), |bencher| {
            bencher.iter(|| {
                let answer = runtime.block_on(async {
                    let lease = inproc::lease(&backend, &bindings[0]).await?;
                    lease.call(&call).await.map_err(|error| anyhow::anyhow!("{error}"))
                });
                assert!(answer.is_ok());
            });
        });
    }
}

criterion_group!(benches, lease, call);
criterion_main!(benches);
