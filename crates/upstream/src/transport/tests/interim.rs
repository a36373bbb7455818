//! Interim answers (1xx) without end, and a few of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A server that says this so many times before it answers; `None`: for ever.
async fn hinting(hint: &'static str, times: Option<usize>) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/mcp", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let hints = hint.repeat(100);
                let mut left = times;
                while left != Some(0) && socket.write_all(hints.as_bytes()).await.is_ok() {
                    left = left.map(|left| left.saturating_sub(100));
                }
                let length = INITIALIZED.len();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {length}\r\n\r\n{INITIALIZED}");
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n";

#[tokio::test]
async fn interim_answers_without_end_are_given_up() {
    for hint in [EARLY, "HTTP/1.1 102 Processing\r\n\r\n"] {
        let connecting =
            transport(hinting(hint, None).await, TransportChoice::Http).connect(initialize(INITIALIZE));
        let error = failed(within(connecting).await);
        assert_eq!(error.phase, SendPhase::MaybeSent);
        assert!(error.to_string().contains("interim (1xx) answers"), "{error}");
    }
}

#[tokio::test]
async fn some_interim_answers_are_passed_over() {
    let url = hinting(EARLY, Some(500)).await;
    let opened = within(transport(url, TransportChoice::Http).connect(initialize(INITIALIZE))).await.unwrap();
    assert_eq!(opened.answer, INITIALIZED);
}

/// On one thread, where whoever does not yield keeps all others waiting.
#[tokio::test]
async fn others_have_their_turn_while_they_come() {
    let url = hinting(EARLY, None).await;
    let flooded = transport(url, TransportChoice::Http).connect(initialize(INITIALIZE));
    let turns = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::pin!(flooded, turns);
    within(futures::future::join(flooded, turns)).await.0.err().expect("given up");
}
