//! Reading an envelope and replacing its id and progress token, at 1 KB, 50 KB and 1 MB of arguments.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcpool_wire::{Envelope, Message};

fn request(size: usize) -> Bytes {
    let text = "lorem ipsum \\\"dolor\\\" sit amet ".repeat(size / 31 + 1);
    let text = &text[..size.next_multiple_of(31).min(text.len())];
    format!(
        r#"{{"jsonrpc":"2.0","id":"agent-17","method":"tools/call","params":{{"name":"echo","_meta":{{"progressToken":17}},"arguments":{{"text":"{text}"}}}}}}"#
    )
    .into()
}

fn response(size: usize) -> Bytes {
    let item = r#"{"type":"text","text":"lorem ipsum dolor sit amet","n":[1,2.5,true,null]},"#;
    let items = item.repeat(size / item.len() + 1);
    format!(r#"{{"jsonrpc":"2.0","id":4711,"result":{{"content":[{}]}}}}"#, items.trim_end_matches(','))
        .into()
}

fn envelope(criterion: &mut Criterion) {
    for (name, make) in [("request", request as fn(usize) -> Bytes), ("response", response)] {
        let mut parse = criterion.benchmark_group(format!("envelope/parse {name}"));
        for size in [1_000, 50_000, 1_000_000] {
            let message = make(size);
            parse.throughput(Throughput::Bytes(message.len() as u64));
            parse.bench_with_input(BenchmarkId::from_parameter(size), &message, |bencher, message| {
                bencher.iter(|| Envelope::parse(black_box(message)).map(|envelope| envelope.kind));
            });
        }
        parse.finish();

        let mut splice = criterion.benchmark_group(format!("envelope/splice {name}"));
        for size in [1_000, 50_000, 1_000_000] {
            let bytes = make(size);
            let Ok(envelope) = Envelope::parse(&bytes) else {
                panic!("the {name} of {size} bytes is no message")
            };
            let message = Message::new(bytes.clone(), &envelope);
            splice.throughput(Throughput::Bytes(bytes.len() as u64));
            splice.bench_with_input(BenchmarkId::from_parameter(size), &message, |bencher, message| {
                bencher.iter(|| black_box(message).with_id_and_token(black_box(1 << 40)));
            });
        }
        splice.finish();
    }
}

criterion_group!(benches, envelope);
criterion_main!(benches);
