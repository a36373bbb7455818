//! Backends whose names do not resolve, or resolve to somebody who does not answer (F5): a call waits for its own
//! backend's name only.
//!
//! The system's resolver is asked; it takes what it takes to say that a name does not exist, and on a machine without
//! one it may say nothing for long. Both are wanted here.

use super::*;

use tokio_util::sync::CancellationToken;

use mcpool_testkit::Script;

use crate::wires::{WIRES, over, serve};

/// Names that never exist (RFC 6761).
const NOWHERE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_waits_for_the_name_of_another_backend() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let names: Vec<String> = (0..NOWHERE).map(|n| format!("nowhere-{n}")).collect();
        let nowhere = |name: &String| hasty(Wanted::shared(format!("http://{name}.invalid:9/mcp")));
        let mut all = vec![("good", hasty(wanted(&server, back, ModeChoice::Shared)))];
        all.extend(names.iter().map(|name| (name.as_str(), nowhere(name))));
        let rig = Rig::start_all(all).await;
        let other = agent_of(&rig, "good", Transport::Http).await;
        is_served(&other, "warm").await;
        let stop = CancellationToken::new();
        let lost = async {
            // Each of them several times: the resolver is busy all the time.
            for _ in 0..3 {
                let agents = names.iter().map(async |name| {
                    let began = Instant::now();
                    let url = rig.url_of(name, "mcp");
                    let refused = Agent::ready(AgentConfig::http(url)).await.expect_err("there is nobody");
                    let AgentError::Rpc { code, data, .. } = refused else { panic!("{refused:?}") };
                    assert_eq!(data["executed"], "no", "{code} {data}");
                    assert!(began.elapsed() < HANDSHAKE + SLACK, "{:?}", began.elapsed());
                });
                futures::future::join_all(agents).await;
            }
            stop.cancel();
        };
        let ((), (longest, calls)) = tokio::join!(lost, keeps_calling(&other, &stop));
        assert!(calls > 0 && longest < UNHURT, "{calls} calls, the longest took {longest:?}");
        drop(other);
        over(rig).await;
    }
}
