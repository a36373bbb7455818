//! The raw server as a program over standard input and output.

use std::io::{self, BufRead as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::server::{hello, tools};

/// Serves standard input and output for as long as its input is open.
///
/// # Errors
/// When its input cannot be read.
pub(super) fn serve() -> Result<()> {
    for line in io::stdin().lock().lines() {
        let Ok(asked) = serde_json::from_str::<Value>(&line?) else { continue };
        if asked.get("id").is_none() {
            continue;
        }
        match asked["method"].as_str() {
            Some("initialize") => say(&asked, &hello(&asked)),
            Some("tools/list") => say(&asked, &tools()),
            Some("tools/call") => drop(std::thread::spawn(move || {
                long_call(asked["params"]["arguments"]["ms"].as_u64().unwrap_or(0), |done| {
                    let token = &asked["params"]["_meta"]["progressToken"];
                    let params = json!({ "progressToken": token, "progress": done });
                    write(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }));
                    Ok(())
                })
                .map(|()| say(&asked, &json!({ "content": [{ "type": "text", "text": "done" }] })))
            })),
            _ => say(&asked, &json!({})),
        }
    }
    Ok(())
}

fn say(asked: &Value, result: &Value) {
    write(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result }));
}

fn write(message: &Value) {
    let mut out = io::stdout().lock();
    // A gateway that has gone closes the input, too, which ends the program.
    let _ = out.write_all(format!("{message}\n").as_bytes()).and_then(|()| out.flush());
}

/// Waits for so many milliseconds, and tells of progress every two seconds.
pub(super) fn long_call(ms: u64, mut tell: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let end = Instant::now() + Duration::from_millis(ms);
    for done in 1.. {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(Duration::from_secs(2)));
        tell(done)?;
    }
    Ok(())
}
