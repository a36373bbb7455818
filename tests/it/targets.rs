//! The targets that URLs resolve to.

use std::sync::Arc;

use mcpool_router::gateway::Gateway;
use mcpool_upstream::Origin;
use mcpool_wire::{Backends as _, Identity, Target};

use crate::rig::{Eyes, Wanted};

#[tokio::test]
async fn a_target_says_which_record_its_backend_comes_from() {
    let settings = |name: &str, durable_id: Option<&str>| {
        let mut settings = Wanted::shared("http://127.0.0.1:1/mcp".to_owned()).settings(0, name);
        settings.spec.durable_id = durable_id.map(Into::into);
        settings
    };
    let nobody = Identity::anonymous();
    let observe = Arc::new(Eyes::default());
    let all = vec![settings("a", Some("r1")), settings("b", None)];
    let gateway = Gateway::start(all, Some("a"), &observe).expect("a gateway");
    let router = gateway.router();
    let of_record = |id: &str| Target { durable_id: Some(id.into()), ..Target::named("a") };
    assert_eq!(router.target(None, &nobody), Ok(of_record("r1")));
    assert_eq!(router.target(Some("a"), &nobody), Ok(of_record("r1")));
    assert_eq!(router.target(Some("b"), &nobody), Ok(Target::named("b")));
    // Another record under the same name is another backend.
    let changes = gateway.apply(vec![settings("a", Some("r2"))], None).await.expect("applied");
    assert_eq!(changes.changed, ["a".into()]);
    assert_eq!(router.target(None, &nobody), Ok(of_record("r2")));
}

#[tokio::test]
async fn each_source_changes_its_own_backends_and_the_first_one_has_the_name() {
    let settings = |name: &str, origin, port: u16| {
        let mut settings = Wanted::shared(format!("http://127.0.0.1:{port}/mcp")).settings(0, name);
        settings.spec.origin = origin;
        settings
    };
    let observe = Arc::new(Eyes::default());
    let file = vec![settings("a", Origin::File, 1)];
    let gateway = Gateway::start(file.clone(), Some("a"), &observe).expect("a gateway");
    let cli = vec![settings("a", Origin::Cli, 2), settings("b", Origin::Cli, 2)];
    let changes = gateway.apply_of(Origin::Cli, cli).await.expect("applied");
    assert_eq!((changes.added, changes.kept), (vec!["b".into()], 1), "the file has the name a");
    let changes =
        gateway.apply_of(Origin::File, vec![settings("c", Origin::File, 1)]).await.expect("applied");
    assert_eq!(
        (changes.added, changes.changed, changes.kept),
        (vec!["c".into()], vec!["a".into()], 1),
        "what was hidden runs now"
    );
    assert_eq!(gateway.default_backend().as_deref(), Some("a"), "the default stays");
    let changes = gateway.apply(file, None).await.expect("applied");
    assert_eq!((changes.changed, changes.removed), (vec!["a".into()], vec!["b".into(), "c".into()]));
}
