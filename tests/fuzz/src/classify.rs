//! Whatever a backend refuses with, the verdict never says more than is known: a message that may have run is never
//! called unsent or refused.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use mcpool_upstream::{
    Cause, Refusal, SendPhase,
    fuzzing::{Question, classify as verdict, is_answer, says_before_initialized},
};
use mcpool_wire::{Envelope, IdValue, Kind};

#[derive(Arbitrary)]
struct Head {
    question: u8,
    status: u16,
    retry_after: Option<u64>,
}

/// What was asked, status, `Retry-After`, then the body.
pub fn classify(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(Head { question, status, retry_after }) = input.arbitrary() else { return };
    let body = input.take_rest();
    // Every status that is no success: 300 to 999.
    let status = 300 + status % 700;
    let question = Question::ALL[usize::from(question % 4)];
    let retry_after = retry_after.map(Duration::from_secs);
    let error = verdict(question, status, body, retry_after);
    let again = verdict(question, status, body, retry_after);
    assert_eq!((error.phase, &error.cause), (again.phase, &again.cause));

    let refusal = refusal(&error.cause);
    assert_eq!((refusal.status, refusal.retry_after), (status, retry_after));
    let one_line = !refusal.message.contains(['\n', '\r', '\t']);
    assert!(refusal.message.len() <= 200 && one_line, "{:?}", refusal.message);
    assert_ne!(error.phase, SendPhase::NotSent, "it was answered, so it was sent");
    phase(question, status, retry_after.is_some(), error.phase, &error.cause);
    let failed =
        matches!(error.cause, Cause::Gateway(_)) || status >= 500 && matches!(error.cause, Cause::Status(_));
    assert_eq!(error.cause.incident().is_some(), failed);
    answers(status, body);
}

/// Above 500 the message may have run, but where the words or the status say that it cannot have.
fn phase(question: Question, status: u16, waits: bool, phase: SendPhase, cause: &Cause) {
    let known = match (status, cause) {
        (..=499, _) => true,
        (501, Cause::WrongTransport(_)) => question == Question::Open,
        _ => false,
    };
    assert!(known || phase == SendPhase::MaybeSent, "{status} is {phase:?}: {cause:?}");
    assert!(status != 503 || !waits || matches!(cause, Cause::Pressure(_)));
    match cause {
        Cause::Credential(_) => assert!(matches!(status, 401 | 403)),
        Cause::Pressure(_) => assert!(matches!(status, 429 | 503)),
        Cause::Gateway(_) => assert!(matches!(status, 502..=504) && phase == SendPhase::MaybeSent),
        Cause::WrongVersion(_) => assert!(status == 400 && question != Question::Open),
        _ => {}
    }
}

fn refusal(cause: &Cause) -> &Refusal {
    match cause {
        Cause::SessionLost(refusal)
        | Cause::Pressure(refusal)
        | Cause::Gateway(refusal)
        | Cause::Credential(refusal)
        | Cause::NotInitialized(refusal)
        | Cause::WrongVersion(refusal)
        | Cause::WrongTransport(refusal)
        | Cause::Status(refusal) => refusal,
        other => panic!("no refusal: {other:?}"),
    }
}

fn answers(status: u16, body: &[u8]) {
    let envelope = Envelope::parse(body).ok();
    let id = envelope.as_ref().and_then(Envelope::id_value);
    let answers = envelope.as_ref().is_some_and(|e| matches!(e.kind, Kind::Success | Kind::Failure));
    let is_answer = is_answer(status, body);
    assert!(answers || !is_answer || envelope.is_none());
    // Under our own kind of id nothing but the two statuses of a lost session is looked at twice.
    let is_ours = matches!(id, Some(IdValue::Num(_)));
    assert!(is_answer || !answers || !is_ours || matches!(status, 400 | 404));
    // What is not read may be spelt in ways that a tree has no value for.
    let tree = serde_json::from_slice::<serde_json::Value>(body);
    if let (true, Ok(tree)) = (says_before_initialized(body), tree) {
        let code = tree["error"]["code"].as_i64().expect("an error has a code");
        assert!([-32602, -32600, -32000, -32002].contains(&code));
    }
}
