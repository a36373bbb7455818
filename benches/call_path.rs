//! What a call costs between the front and the wire: lease and drop, and lease, send, answer.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use mcpool_benches::inproc::{self, Shape};
use mcpool_upstream::{Backend, CallKind, Limits, Seat};
use tokio::runtime::Runtime;

const THREADS: usize = 4;

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built")
}

/// A backend with a ready session, and the seats of so many agents on it.
fn seated(runtime: &Runtime, shape: Shape, agents: u64) -> (Arc<Backend>, Vec<Seat>) {
    let seated = runtime.block_on(async {
        let backend = inproc::backend(shape, Limits::default())?;
        let mut seats = Vec::new();
        for agent in 0..agents {
            let seat = inproc::seat(&backend, agent).await?;
            drop(inproc::lease(&backend, &seat).await?);
            seats.push(seat);
        }
        anyhow::Ok((backend, seats))
    });
    seated.expect("a backend in memory answers")
}

fn lease_and_drop(backend: &Backend, seat: &Seat, times: u64) {
    for _ in 0..times {
        assert!(backend.try_lease(seat, CallKind::Free, None).is_ok(), "there are more slots than threads");
    }
}

fn lease(criterion: &mut Criterion) {
    let runtime = runtime();
    let (backend, seats) = seated(&runtime, Shape::Exchange, THREADS as u64);
    criterion.bench_function("call_path/lease and drop, 1 thread", |bencher| {
        bencher.iter(|| lease_and_drop(&backend, &seats[0], 1));
    });
    criterion.bench_function("call_path/lease and drop, 4 threads", |bencher| {
        bencher.iter_custom(|times| in_parallel(&backend, &seats, times));
    });
}

/// The time until every thread has leased so often.
fn in_parallel(backend: &Backend, seats: &[Seat], times: u64) -> Duration {
    let start = Barrier::new(seats.len() + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = seats
            .iter()
            .map(|seat| {
                scope.spawn(|| {
                    start.wait();
                    lease_and_drop(backend, seat, times);
                })
            })
            .collect();
        start.wait();
        let begin = Instant::now();
        for thread in threads {
            thread.join().expect("a slot is free");
        }
        begin.elapsed()
    })
}

fn call(criterion: &mut Criterion) {
    for (name, shape) in [("exchange", Shape::Exchange), ("stream", Shape::Stream)] {
        let runtime = runtime();
        let (backend, seats) = seated(&runtime, shape, 1);
        let call = inproc::call(0);
        criterion.bench_function(&format!("call_path/call answered by {name}"), |bencher| {
            bencher.iter(|| {
                let answer = runtime.block_on(async {
                    let lease = inproc::lease(&backend, &seats[0]).await?;
                    lease.call(&call).await.map_err(|error| anyhow::anyhow!("{error}"))
                });
                assert!(answer.is_ok());
            });
        });
    }
}

criterion_group!(benches, lease, call);
criterion_main!(benches);
