//! A GET over loopback and the few readings of a metrics page the gate needs.
//!
//! The subtle thing: it speaks HTTP/1.0 and reads to the end of the connection, so no answer comes in chunks.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// Status and body of a GET.
///
/// # Errors
/// When nobody answers within five seconds.
pub(crate) fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let limit = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer with a head")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// A port that was free a moment ago.
///
/// # Errors
/// When none can be bound.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Sum of the samples of a series whose labels hold all of these `label="value"` texts.
pub(crate) fn sum(metrics: &str, series: &str, labels: &[String]) -> Option<f64> {
    let mut found = None;
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix(series) else { continue };
        let (set, value) = match rest.strip_prefix('{') {
            Some(rest) => match rest.rsplit_once("} ") {
                Some(pair) => pair,
                None => continue,
            },
            None if rest.starts_with(' ') => ("", rest.trim()),
            None => continue,
        };
        if labels.iter().all(|label| set.contains(label.as_str()))
            && let Ok(value) = value.trim().parse::<f64>()
        {
            found = Some(found.unwrap_or(0.0) + value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::sum;

    const PAGE: &str = "# TYPE mcpool_sessions gauge\n\
        mcpool_sessions{backend=\"a\",state=\"ready\"} 2\n\
        mcpool_sessions{backend=\"a\",state=\"draining\"} 1\n\
        mcpool_sessions{backend=\"b\",state=\"ready\"} 5\n\
        mcpool_sessions_opened_total{backend=\"a\"} 9\n\
        mcpool_draining 0\n";

    #[test]
    fn sums_only_the_series_and_the_labels_asked_for() {
        let a = ["backend=\"a\"".to_owned()];
        assert_eq!(sum(PAGE, "mcpool_sessions", &a), Some(3.0));
        assert_eq!(sum(PAGE, "mcpool_sessions", &[]), Some(8.0));
        assert_eq!(sum(PAGE, "mcpool_draining", &[]), Some(0.0));
        assert_eq!(sum(PAGE, "mcpool_other", &[]), None);
    }
}
