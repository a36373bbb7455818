//! Real processes, most of them badly behaved: each is a few lines of shell.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Instant};

use super::*;
use crate::{
    config::StdioEndpoint,
    transport::{
        TransportKind,
        stdio::{FAREWELL, Stdio},
    },
};

/// Answers every request with an empty result.
const SERVE: &str = r#"
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%[,\}]*}
  case $line in *'"id":'*) printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id";; esac
done
"#;
const LIMIT: usize = 1 << 20;

fn shell(script: &str) -> StdioEndpoint {
    let args = vec!["-c".to_owned(), script.to_owned()];
    StdioEndpoint { command: "sh".into(), args, env: BTreeMap::new(), cwd: None }
}

fn stdio(endpoint: StdioEndpoint) -> Stdio {
    Stdio::new("demo".into(), endpoint, LIMIT, Duration::from_secs(60))
}

async fn open(script: &str) -> (Opened, Inbound) {
    let opened = within(stdio(shell(script)).connect(initialize(INITIALIZE))).await.unwrap();
    let inbound = within(opened.outbound.listen()).await.unwrap();
    (opened, inbound)
}

async fn call(opened: &Opened, inbound: &mut Inbound) -> Bytes {
    assert!(messages(opened.outbound.send(CALL.into())).await.is_empty());
    hear(inbound).await.unwrap().unwrap()
}

/// A file for a process to write to, in a folder of its own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcpool-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> String {
        self.0.join("pids").display().to_string()
    }

    /// The processes that wrote their number, once there are that many.
    async fn pids(&self, count: usize) -> Vec<u32> {
        within(async {
            loop {
                let text = std::fs::read_to_string(self.file()).unwrap_or_default();
                let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
                if pids.len() >= count {
                    return pids;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether a process runs; a zombie nobody has waited for yet does not.
fn runs(pid: u32) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

async fn all_gone(pids: &[u32]) {
    within(async {
        while pids.iter().any(|pid| runs(*pid)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_process_is_one_session_and_answers_come_by_its_stream() {
    let (opened, mut inbound) = open(SERVE).await;
    assert_eq!((opened.kind, opened.has_session), (TransportKind::Stdio, true));
    assert_eq!(opened.answer, INITIALIZED);
    assert_eq!(call(&opened, &mut inbound).await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let again = within(opened.outbound.listen()).await.err().unwrap();
    assert_eq!(again.phase, SendPhase::NotSent);
}

#[tokio::test]
async fn a_process_inherits_no_secrets_and_gets_its_own_variables_and_folder() {
    let folder = Scratch::new("env");
    // Cargo sets this for tests; a shell sets PWD and a few others itself.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok());
    let script = format!(
        "printf '{{\"env\":\"%s|%s|%s|%s\"}}\\n' \"$CARGO_MANIFEST_DIR\" \"$TOKEN\" \"$PATH\" \"$PWD\"\n{SERVE}"
    );
    let mut endpoint = shell(&script);
    endpoint.env.insert("TOKEN".to_owned(), "hunter2".to_owned());
    endpoint.cwd = Some(folder.0.clone());
    assert!(!format!("{endpoint:?}").contains("hunter2"));
    let opened = within(stdio(endpoint).connect(initialize(INITIALIZE))).await.unwrap();
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let seen = hear(&mut inbound).await.unwrap().unwrap();
    let path = std::env::var("PATH").unwrap();
    let expect = format!("{{\"env\":\"|hunter2|{path}|{}\"}}", folder.0.display());
    assert_eq!(seen, expect);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failed_connection_that_names_no_path() {
    let endpoint = StdioEndpoint { command: "/no/such/program".into(), ..shell("") };
    let error = failed(within(stdio(endpoint).connect(initialize(INITIALIZE))).await);
    assert_eq!(error.phase, SendPhase::NotSent);
    assert!(matches!(error.cause, Cause::Connect(_)), "{error:?}");
    assert!(!error.to_string().contains("/no/such"), "{error}");
    assert!(
        error.to_string().contains("its program \"program\" does not start: there is no such file"),
        "{error}"
    );
    let endpoint = StdioEndpoint { command: "no-such-program".into(), ..shell("") };
    let error = failed(within(stdio(endpoint).connect(initialize(INITIALIZE))).await);
    assert!(
        error.to_string().contains("\"no-such-program\" does not start: it is in no folder of PATH"),
        "{error}"
    );
}

#[tokio::test]
async fn the_exit_status_is_the_reason_in_the_handshake_and_after_it() {
    let error = failed(within(stdio(shell("exit 3")).connect(initialize(INITIALIZE))).await);
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    // Half an answer, and then nothing: that is no message.
    let half = SERVE.replace(
        "case $line in",
        "case $line in *tools/call*) printf '{\"jsonrpc\":\"2.0\",\"id\":1,'; exit 7;;",
    );
    let (opened, mut inbound) = open(&half).await;
    assert!(messages(opened.outbound.send(CALL.into())).await.is_empty());
    let error = hear(&mut inbound).await.unwrap().unwrap_err();
    assert_eq!(error.phase, SendPhase::MaybeSent);
    assert!(error.to_string().contains("exit status: 7"), "{error}");
    assert!(next(&mut inbound).await.is_none());
    let late = all(opened.outbound.send(CALL.into())).await;
    assert_eq!(late[0].as_ref().unwrap_err().phase, SendPhase::NotSent);
}

#[tokio::test]
async fn a_flood_on_stderr_stops_nothing() {
    let flood = "head -c 104857600 /dev/zero | tr '\\0' 'e' | fold -w 100 >&2";
    let (opened, mut inbound) = open(&format!("{flood}\n{SERVE}")).await;
    assert_eq!(call(&opened, &mut inbound).await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
}

#[tokio::test]
async fn output_that_is_no_message_ends_no_session() {
    let lines = "i=0; while [ $i -lt 300 ]; do echo 'Server running on stdio'; i=$((i+1)); done";
    // A logger that writes JSON, too.
    let json = "i=0; while [ $i -lt 300 ]; do echo '{\"level\":\"info\",\"n\":1}'; i=$((i+1)); done";
    let serve = SERVE.replace(
        "case $line in",
        &format!("case $line in *tools/call*) {lines}; {json};; esac; case $line in"),
    );
    let (opened, mut inbound) = open(&format!("{lines}\n{json}\n{serve}")).await;
    assert!(messages(opened.outbound.send(CALL.into())).await.is_empty());
    loop {
        let heard = hear(&mut inbound).await.unwrap().unwrap();
        if heard == r#"{"jsonrpc":"2.0","id":1,"result":{}}"# {
            break;
        }
        assert_eq!(heard, r#"{"level":"info","n":1}"#);
    }
}

#[tokio::test]
async fn a_process_that_never_speaks_mcp_is_given_up_with_the_handshake() {
    let connecting = stdio(shell("yes 'I am a web server'")).connect(initialize(INITIALIZE));
    assert!(tokio::time::timeout(Duration::from_millis(300), connecting).await.is_err());
}

#[tokio::test]
async fn an_answer_above_the_limit_is_named_and_the_session_lives() {
    let large = SERVE.replace(
        "case $line in",
        "case $line in *tools/call*) printf '{\"id\":1,\"result\":\"'; head -c 3000000 /dev/zero | tr '\\0' x; \
         printf '\"}\\n'; continue;;",
    );
    let (opened, mut inbound) = open(&large).await;
    assert!(messages(opened.outbound.send(CALL.into())).await.is_empty());
    let heard = within(said(&mut inbound)).await;
    assert_eq!(heard, Heard::TooLarge { answers: vec![1], limit: LIMIT });
    assert!(messages(opened.outbound.send(INITIALIZE.into())).await.is_empty());
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
}

#[tokio::test]
async fn a_gigabyte_without_a_line_break_costs_no_memory() {
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
    let endless = SERVE.replace(
        "case $line in",
        "case $line in *tools/call*) head -c 1073741824 /dev/zero | tr '\\0' x; echo; exit 9;;",
    );
    let (opened, mut inbound) = open(&endless).await;
    let before = resident();
    assert!(messages(opened.outbound.send(CALL.into())).await.is_empty());
    let read = tokio::time::timeout(Duration::from_secs(240), said(&mut inbound));
    let heard = read.await.unwrap();
    assert_eq!(heard, Heard::TooLarge { answers: Vec::new(), limit: LIMIT }, "and whoever spoke MCP goes on");
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown} bytes");
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_ends_by_the_end_of_its_input() {
    let (opened, inbound) = open(SERVE).await;
    let began = Instant::now();
    tokio::time::timeout(FAREWELL, opened.outbound.close()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "it needed no signal: {:?}", began.elapsed());
    drop(inbound);
}

/// A server whose children stay, deaf to every polite word, and so does it itself.
fn stubborn(scratch: &Scratch) -> String {
    let file = scratch.file();
    let child = format!("sh -c 'trap \"\" TERM HUP; echo $$ >>{file}; while :; do sleep 0.1; done'");
    format!(
        "trap '' TERM HUP; echo $$ >>{file}\n{child} & {child} & {child} &\n{SERVE}\nwhile :; do sleep 0.1; done"
    )
}

#[tokio::test]
async fn the_whole_group_is_gone_after_close_whatever_it_ignores() {
    let scratch = Scratch::new("close");
    let (opened, inbound) = open(&stubborn(&scratch)).await;
    let pids = scratch.pids(4).await;
    assert!(pids.iter().all(|pid| runs(*pid)));
    tokio::time::timeout(FAREWELL * 2, opened.outbound.close()).await.unwrap();
    all_gone(&pids).await;
    drop(inbound);
}

#[tokio::test]
async fn the_group_goes_with_its_leader() {
    let scratch = Scratch::new("leader");
    let (_opened, mut inbound) = open(&stubborn(&scratch)).await;
    let pids = scratch.pids(4).await;
    assert!(Command::new("kill").args(["-9", &pids[0].to_string()]).status().unwrap().success());
    // Its children hold its output open; the session ends all the same.
    let error = hear(&mut inbound).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("signal: 9"), "{error}");
    all_gone(&pids).await;
}

#[tokio::test]
async fn a_session_nobody_holds_any_more_ends_its_process() {
    let scratch = Scratch::new("dropped");
    let (opened, inbound) = open(&format!("echo $$ >>{}\n{SERVE}", scratch.file())).await;
    let pids = scratch.pids(1).await;
    drop(inbound);
    all_gone(&pids).await;
    drop(opened);
    // So does a handshake that is given up.
    let scratch = Scratch::new("given-up");
    let script = format!("echo $$ >>{}\nwhile :; do sleep 0.1; done", scratch.file());
    let transport = stdio(shell(&script));
    let connecting = transport.connect(initialize(INITIALIZE));
    let pids = tokio::select! {
        _ = connecting => panic!("it never answers"),
        pids = scratch.pids(1) => pids,
    };
    all_gone(&pids).await;
}

#[test]
fn a_gateway_that_is_dropped_leaves_no_process_behind() {
    let scratch = Scratch::new("runtime");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (held, pids) = runtime.block_on(async {
        let held = open(&stubborn(&scratch)).await;
        (held, scratch.pids(4).await)
    });
    runtime.shutdown_background();
    let looking = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    looking.block_on(all_gone(&pids));
    drop(held);
}

#[tokio::test]
async fn a_process_that_was_kept_started_is_the_next_session_and_ends_when_it_is_not_wanted() {
    let scratch = Scratch::new("standby");
    let transport = stdio(shell(&format!("echo $$ >>{}\n{SERVE}", scratch.file())));
    transport.keep_started(true);
    transport.keep_started(true);
    let first = scratch.pids(1).await;
    let opened = within(transport.connect(initialize(INITIALIZE))).await.unwrap();
    assert_eq!(scratch.pids(1).await, first, "it was taken");
    for unwanted in [|of: &Stdio| of.keep_started(false), |of: &Stdio| of.renew()] {
        let before = scratch.pids(1).await.len();
        transport.keep_started(true);
        let next = scratch.pids(before + 1).await[before];
        unwanted(&transport);
        all_gone(&[next]).await;
    }
    transport.keep_started(true);
    let last = scratch.pids(4).await[3];
    assert!(runs(first[0]), "the session has its own");
    drop((transport, opened));
    all_gone(&[first[0], last]).await;
}

#[tokio::test]
async fn a_program_that_ends_while_it_waits_is_not_started_for_nobody_again() {
    let scratch = Scratch::new("impatient");
    let script = format!(
        "echo $$ >>{}\n[ -e {1} ] || {{ : >{1}; exit 1; }}\n{SERVE}",
        scratch.file(),
        scratch.file() + ".once"
    );
    let transport = stdio(shell(&script));
    transport.keep_started(true);
    all_gone(&scratch.pids(1).await).await;
    for _ in 0..20 {
        transport.keep_started(true);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(scratch.pids(1).await.len(), 1);
    within(transport.connect(initialize(INITIALIZE))).await.expect("a session is not put off for it");
}
