//! Bodies and headers that are not read: encoded, too large, malformed.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::{PATIENCE, Running, start, tool};

#[tokio::test]
async fn a_body_that_is_encoded_is_415() {
    let front = start().await;
    let session = front.session("/mcp").await;
    for (coding, status) in [("gzip", 415), ("identity", 200), ("identity, br", 415), ("Identity", 200)] {
        let headers = [("mcp-session-id", session.as_str()), ("content-encoding", coding)];
        let got = front.post("/mcp", &headers, &tool(1, "echo")).await;
        assert_eq!(got.status, status, "{coding} {got:?}");
    }
}

/// What comes back for these bytes, until the connection ends or nothing more comes.
async fn answered(front: &Running, text: &str) -> String {
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buf = [0; 4096];
    while !answer.ends_with(b"}") {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buf)).await.unwrap().unwrap_or(0);
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buf[..read]);
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_that_would_be_too_large_is_413_before_it_is_asked_for() {
    let front = start().await;
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let large = format!("{head}expect: 100-continue\r\ncontent-length: 5000000000\r\n\r\n");
    let text = answered(&front, &large).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let small = format!("{head}expect: 100-continue\r\ncontent-length: 2\r\n\r\n{{}}");
    assert!(answered(&front, &small).await.contains("HTTP/1.1 100"));
}

#[tokio::test]
async fn a_malformed_or_short_body_is_400_at_once() {
    let front = start().await;
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for chunk in ["zz\r\n{}\r\n", "2\r\n{}x\r\n", "-1\r\n", "fffffffffffffffff\r\n"] {
        let text = answered(&front, &format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}")).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{chunk:?} {text}");
    }
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(format!("{head}content-length: 100\r\n\r\n{{}}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}

#[tokio::test]
async fn a_header_beyond_its_limit_is_431_however_it_is_cut() {
    let front = start().await;
    for size in [20_000, 32_700, 34_000, 40_000, 60_000, 100_000] {
        let filler = "x".repeat(size);
        let text = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-filler: {filler}\r\n\r\n");
        let answer = answered(&front, &text).await;
        let status = if size < 34_000 { "HTTP/1.1 200" } else { "HTTP/1.1 431" };
        assert!(answer.starts_with(status), "{size}: {answer}");
    }
    let many = (0..90).map(|at| format!("x-{at}: {}\r\n", "y".repeat(400))).collect::<String>();
    let answer = answered(&front, &format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}
