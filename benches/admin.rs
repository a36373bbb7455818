//! What the gateway says of itself to operators: pages of its admin listener, and series on its metrics page.
//!
//! The subtle thing: a series is found by its whole name, so that a gauge never takes in the counter whose name begins
//! like its own.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context as _;

/// The body of a page of the admin listener.
pub(crate) fn page(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let patience = Duration::from_secs(20);
    let mut stream = TcpStream::connect_timeout(&admin, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    anyhow::ensure!(head.contains(" 200 "), "{path} is not 200: {head}");
    Ok(body.to_owned())
}

/// The sum of all samples of a series.
pub(crate) fn sum(page: &str, series: &str) -> Option<f64> {
    let of = |line: &str| {
        let rest = line.strip_prefix(series)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    };
    page.lines().filter_map(of).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn only_the_series_asked_for_is_summed() {
        let page = "# TYPE a gauge\na{x=\"1 2\"} 2\na{x=\"b\"} 3\na_total 9\nb 4\n";
        assert_eq!((sum(page, "a"), sum(page, "b"), sum(page, "c")), (Some(5.0), Some(4.0), None));
    }
}
