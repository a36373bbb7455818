//! Events are those of the standard, whatever the chunks; what is too large is skipped, and nothing is kept.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use mcpool_upstream::transport::{SseError, SseEvent, SseItem, SseReader};

use crate::pieces::Sizes;

#[derive(Arbitrary)]
struct Head {
    sizes: Sizes,
    cap: u16,
}

/// Sizes of chunks, a limit, then the body of a stream.
pub fn sse(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(Head { sizes, cap }) = input.arbitrary() else { return };
    let cap = usize::from(cap).max(1);
    let body = Bytes::copy_from_slice(input.take_rest());
    let whole = events(VecDeque::from([body.clone()]), cap);
    assert_eq!(events(sizes.cut(&body), cap), whole);
    assert_eq!(events(Sizes::SINGLE.cut(&body), cap), whole);
    for said in &whole {
        if let Said::Event(event) = said {
            // What is no UTF-8 is replaced, by three bytes for one.
            assert!(event.data.len() <= cap * 3);
            assert!(std::str::from_utf8(&event.data).is_ok());
            assert!(event.name.as_deref() != Some("message"));
            let one_line = |text: &str| !text.contains(['\n', '\r']);
            assert!(event.name.as_deref().is_none_or(one_line));
            assert!(event.id.as_deref().is_none_or(|id| one_line(id) && !id.contains('\0')));
        }
    }
    if !whole.contains(&Said::TooLarge) {
        assert_eq!(whole, standard(&String::from_utf8_lossy(&body)));
    }
}

#[derive(Debug, PartialEq)]
enum Said {
    Event(SseEvent),
    Retry(Duration),
    TooLarge,
}

fn events(chunks: VecDeque<Bytes>, cap: usize) -> Vec<Said> {
    let chunks = stream::iter(chunks.into_iter().map(Ok::<_, Infallible>));
    let said = SseReader::new(chunks, cap).filter_map(async |item| match item {
        Ok(SseItem::Event(event)) => Some(Said::Event(event)),
        Ok(SseItem::Retry(wish)) => Some(Said::Retry(wish)),
        Ok(SseItem::Alive) => None,
        Err(SseError::TooLarge { .. }) => Some(Said::TooLarge),
        Err(SseError::Body(never)) => match never {},
    });
    said.collect().now_or_never().expect("nothing is waited for")
}

/// The interpretation of the standard, line by line, but that an id alone is an event and that the last retry of an
/// event comes before it.
fn standard(body: &str) -> Vec<Said> {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let (mut said, mut event) = (Vec::new(), Pending::default());
    for line in lines(body) {
        if line.is_empty() {
            std::mem::take(&mut event).dispatch(&mut said);
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        event.take(name, value.strip_prefix(' ').unwrap_or(value));
    }
    said
}

/// Complete lines only.
fn lines(mut body: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = body.find(['\n', '\r'])?;
        let line = &body[..end];
        let long = if body[end..].starts_with("\r\n") { 2 } else { 1 };
        body = &body[end + long..];
        Some(line)
    })
}

#[derive(Default)]
struct Pending {
    name: String,
    data: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
}

impl Pending {
    fn take(&mut self, name: &str, value: &str) {
        match name {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data = Some(match self.data.take() {
                    Some(before) => format!("{before}\n{value}"),
                    None => value.to_owned(),
                });
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                let most = Duration::from_secs(60);
                self.retry = Some(value.parse().map_or(most, Duration::from_millis).min(most));
            }
            _ => {}
        }
    }

    fn dispatch(self, said: &mut Vec<Said>) {
        said.extend(self.retry.map(Said::Retry));
        if self.data.is_none() && self.id.is_none() {
            return;
        }
        said.push(Said::Event(SseEvent {
            name: Some(self.name).filter(|name| !name.is_empty() && name != "message"),
            data: Bytes::from(self.data.unwrap_or_default()),
            id: self.id.filter(|id| !id.is_empty()),
        }));
    }
}
