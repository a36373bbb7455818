//! An MCP server over standard input and output, written as such servers are: for one caller. Calls run side by side,
//! and `write` reads a file, thinks, and writes it back, so that two at a time lose one (SEMANTICS.md 2, E15).
//!
//! The file is named by `STORE`. With `LOG` set, every call is noted there when it begins.

use std::{
    env, fs,
    io::{self, BufRead as _, Write as _},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

fn main() {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message["id"].is_null() {
            continue;
        }
        if message["method"] == "tools/call" {
            thread::spawn(move || {
                let result = call(&message["params"]);
                let in_array = message["params"]["arguments"]["array"] == true;
                say(&message["id"], &result, in_array);
            });
        } else {
            say(&message["id"], &answer(&message), false);
        }
    }
}

fn say(id: &Value, result: &Value, in_array: bool) {
    let mut line = json!({ "jsonrpc": "2.0", "id": id, "result": result });
    if in_array {
        line = json!([{ "jsonrpc": "2.0", "method": "notifications/x" }, line]);
    }
    // Whoever asked may be gone.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

fn answer(message: &Value) -> Value {
    let tool = |name: &str, read_only: bool| {
        json!({
            "name": name,
            "inputSchema": { "type": "object" },
            "annotations": { "readOnlyHint": read_only },
        })
    };
    match message["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "stdio-server", "version": "1" },
        }),
        Some("tools/list") => json!({ "tools": [
            tool("echo", true), tool("sleep", true), tool("pid", true), tool("large", true), tool("write", false),
        ] }),
        _ => json!({}),
    }
}

fn call(params: &Value) -> Value {
    let (name, arguments) = (params["name"].as_str().unwrap_or_default(), &params["arguments"]);
    if let Ok(log) = env::var("LOG") {
        let line = format!("{name} {}\n", arguments["n"]);
        let file = fs::OpenOptions::new().append(true).create(true).open(log);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a log");
    }
    thread::sleep(Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0)));
    let text = match name {
        "pid" => std::process::id().to_string(),
        "large" => "x".repeat(usize::try_from(arguments["bytes"].as_u64().unwrap_or(0)).unwrap_or(0)),
        "write" => {
            write(arguments);
            "written".to_owned()
        }
        _ => arguments.to_string(),
    };
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn write(arguments: &Value) {
    let Ok(store) = env::var("STORE") else { return };
    let before = fs::read_to_string(&store).unwrap_or_default();
    thread::sleep(Duration::from_millis(5));
    fs::write(&store, format!("{before}{}\n", arguments["n"])).expect("a store");
}
