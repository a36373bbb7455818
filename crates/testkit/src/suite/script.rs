//! What the agent does in each scenario, and what it has to get.

use serde_json::{Value, json};

use super::caller::Caller;

/// What the agent of a scenario declares.
pub(super) fn capabilities(scenario: &str) -> Value {
    match scenario {
        "elicitation-sep1034-client-defaults" => {
            json!({ "elicitation": { "form": { "applyDefaults": true } } })
        }
        "sep-2322-client-request-state" => json!({ "elicitation": {} }),
        "request-metadata" => json!({ "elicitation": {}, "sampling": {}, "roots": {} }),
        _ => json!({}),
    }
}

/// Plays one scenario.
///
/// # Errors
/// When the agent does not get what it should.
pub(super) async fn play(scenario: &str, context: &Value, caller: &Caller) -> Result<(), String> {
    let tools = list(caller, "tools").await?;
    match scenario {
        "initialize" | "request-metadata" | "json-schema-ref-no-deref" => Ok(()),
        "tools_call" => expect(caller, &tools, "add_numbers", json!({ "a": 5, "b": 3 }), "is 8").await,
        "elicitation-sep1034-client-defaults" => {
            let tool = "test_client_elicitation_defaults";
            expect(caller, &tools, tool, json!({}), "Elicitation completed").await
        }
        "sse-retry" => {
            let done = "Reconnection test completed successfully";
            expect(caller, &tools, "test_reconnection", json!({}), done).await
        }
        "json-schema-2020-12-preservation" => {
            let schema = &named(&tools, "json_schema_2020_12_tool")?["inputSchema"];
            expect(caller, &tools, "json_schema_echo", json!({ "schema": schema }), "echoed").await
        }
        "sep-2322-client-request-state" => rounds(caller, &tools).await,
        "http-standard-headers" => everything(caller, &tools).await,
        "http-custom-headers" => {
            for call in context["toolCalls"].as_array().ok_or("no calls in the context")? {
                let tool = named(&tools, call["name"].as_str().unwrap_or_default())?;
                caller.call(tool, call["arguments"].clone()).await?;
            }
            Ok(())
        }
        "http-invalid-tool-headers" => only_the_valid(caller, &tools).await,
        // Whoever can log in finds one tool behind it.
        scenario if scenario.starts_with("auth/") => expect(caller, &tools, "test-tool", json!({}), "").await,
        unknown => Err(format!("no script for {unknown}")),
    }
}

/// Questions of one call must not get into another that runs meanwhile.
async fn rounds(caller: &Caller, tools: &[Value]) -> Result<(), String> {
    let none = || json!({});
    tokio::try_join!(
        expect(caller, tools, "test_mrtr_echo_state", none(), "echo-state-ok"),
        expect(caller, tools, "test_mrtr_unrelated", none(), "unrelated-ok"),
    )?;
    expect(caller, tools, "test_mrtr_no_state", none(), "no-state-ok").await?;
    expect(caller, tools, "test_mrtr_unrelated", none(), "unrelated-ok").await?;
    expect(caller, tools, "test_mrtr_no_result_type", none(), "no-result-type-test-ok").await
}

/// Every request that names something.
async fn everything(caller: &Caller, tools: &[Value]) -> Result<(), String> {
    for tool in tools {
        caller.call(tool, json!({})).await?;
    }
    for resource in list(caller, "resources").await? {
        caller.request("resources/read", json!({ "uri": resource["uri"] })).await?;
    }
    for prompt in list(caller, "prompts").await? {
        caller.request("prompts/get", json!({ "name": prompt["name"] })).await?;
    }
    Ok(())
}

/// Calls whatever it may, which has to be the one valid tool.
async fn only_the_valid(caller: &Caller, tools: &[Value]) -> Result<(), String> {
    let mut called = Vec::new();
    for tool in tools.iter().filter(|tool| caller.may_call(tool)) {
        caller.call(tool, json!({ "region": "eu" })).await?;
        called.push(tool["name"].as_str().unwrap_or_default());
    }
    if called == ["valid_tool"] { Ok(()) } else { Err(format!("tools that can be called: {called:?}")) }
}

async fn list(caller: &Caller, what: &str) -> Result<Vec<Value>, String> {
    let mut page = caller.request(&format!("{what}/list"), json!({})).await?;
    match page[what].take() {
        Value::Array(items) => Ok(items),
        other => Err(format!("{what}/list: {other}")),
    }
}

fn named<'t>(tools: &'t [Value], name: &str) -> Result<&'t Value, String> {
    tools.iter().find(|tool| tool["name"] == name).ok_or_else(|| format!("no tool {name}"))
}

/// A call whose text has to hold these words.
async fn expect(
    caller: &Caller,
    tools: &[Value],
    name: &str,
    arguments: Value,
    words: &str,
) -> Result<(), String> {
    let text = caller.call(named(tools, name)?, arguments).await?;
    if text.contains(words) { Ok(()) } else { Err(format!("{name} says {text:?}, not {words:?}")) }
}
