//! Lists as servers write them: what cannot be read is left out, and nothing is taken for better than it is.

use super::*;

/// Items that no list should have.
const ODD: [&str; 6] =
    ["null", "7", r#"{"name":7}"#, r#"{"name":"x\ud83d"}"#, "[]", r#"{"name":null,"annotations":3}"#];

fn page(items: &[&str], beside: &str) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{}]{beside}}}}}"#, items.join(",")).into_bytes()
}

#[test]
fn the_names_of_a_list_are_those_that_can_be_read() {
    let good = r#"{"name":"browser_open"}"#;
    for odd in ODD {
        for items in [[odd, good], [good, odd]] {
            let names = item_names(&Method::ToolsList, &page(&items, ""));
            let names = names.unwrap_or_else(|| panic!("{odd} spoils the list"));
            assert!(names.contains("browser_open"), "{odd}");
        }
    }
    for beside in [r#","prompts":[]"#, r#","resources":7"#, r#","nextCursor":7"#, r#","_meta":{"x":1e400}"#] {
        let names = item_names(&Method::ToolsList, &page(&[good], beside));
        assert_eq!(names, Some(BTreeSet::from(["browser_open".to_owned()])), "{beside}");
    }
    for unreadable in ["{}", r#"{"result":{"tools":null}}"#, r#"{"result":{"tools":{}}}"#, "not JSON"] {
        assert_eq!(item_names(&Method::ToolsList, unreadable.as_bytes()), None, "{unreadable}");
    }
}

#[test]
fn a_tool_that_cannot_be_read_does_not_only_read_and_says_nothing_of_the_others() {
    let catalog = Catalog::default();
    let safe = |name: &str| catalog.is_safe(&Method::ToolsCall, Some(name));
    let marked = |name: &str| format!(r#"{{"name":"{name}","annotations":{{"readOnlyHint":true}}}}"#);
    let (a, b) = (marked("a"), marked("b"));
    for odd in ODD {
        catalog.learn_tools(&page(&[&a, odd, &b], ""), true);
        assert!(safe("a") && safe("b"), "{odd}");
    }
    // Marks that are no longer what they were.
    catalog.learn_tools(&page(&[r#"{"name":"a","annotations":"readOnly"}"#, &b], ""), false);
    assert!(!safe("a") && safe("b"));
    catalog.learn_tools(b"{}", true);
    assert!(!safe("b"), "nothing is known any more");
}
