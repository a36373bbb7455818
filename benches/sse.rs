//! Reading server-sent events: many small ones, and one large one in chunks of 16 KiB, where the time per byte must
//! not grow with the size.

use std::convert::Infallible;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{FutureExt, StreamExt, stream};
use mcpool_upstream::transport::{SseItem, SseReader};

const CHUNK: usize = 16 * 1024;
const CAP: usize = 64 * 1024 * 1024;

fn chunks(body: &Bytes, size: usize) -> Vec<Bytes> {
    (0..body.len()).step_by(size).map(|at| body.slice(at..body.len().min(at + size))).collect()
}

/// Reads everything; the number of events and of bytes in them.
fn read(chunks: Vec<Bytes>) -> (usize, usize) {
    let body = stream::iter(chunks.into_iter().map(Ok::<_, Infallible>));
    let count = SseReader::new(body, CAP).fold((0, 0), |(events, bytes), item| async move {
        match item {
            Ok(SseItem::Event(event)) => (events + 1, bytes + event.data.len()),
            Ok(SseItem::Alive | SseItem::Retry(_)) | Err(_) => (events, bytes),
        }
    });
    count.now_or_never().unwrap_or_default()
}

fn sse(criterion: &mut Criterion) {
    let message =
        r#"{"jsonrpc":"2.0","id":17,"result":{"content":[{"type":"text","text":"0123456789abcdef"}]}}"#;
    let small = Bytes::from(format!("event: message\ndata: {message}\n\n").repeat(4000));
    assert_eq!(read(chunks(&small, CHUNK)), (4000, 4000 * message.len()));
    let mut group = criterion.benchmark_group("sse/4000 small events in chunks of");
    group.throughput(Throughput::Elements(4000));
    for size in [128, CHUNK, small.len()] {
        group.bench_with_input(
            BenchmarkId::from_parameter(size),
            &chunks(&small, size),
            |bencher, chunks| {
                bencher.iter(|| read(chunks.clone()));
            },
        );
    }
    group.finish();

    let mut group = criterion.benchmark_group("sse/one event in chunks of 16 KiB, MiB");
    group.sample_size(20);
    for mib in [1, 2, 4, 8] {
        let body = Bytes::from(format!("event: message\ndata: {}\n\n", "x".repeat(mib << 20)));
        assert_eq!(read(chunks(&body, CHUNK)), (1, mib << 20));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(mib), &chunks(&body, CHUNK), |bencher, chunks| {
            bencher.iter(|| read(chunks.clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, sse);
criterion_main!(benches);
