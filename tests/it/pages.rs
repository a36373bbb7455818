//! House rules for what people read, pages and the texts of the program: plain words, a short README, and links that
//! lead somewhere.
//!
//! A word stands here because a reader stumbled over it. Code and quoted output are left out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::tidy::{code, product_crates, product_sources};

/// Words that no page for users, log line, error or help text says, and what it says instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("who", "name the agent, the operator or the caller"),
    ("whoever", "name the agent, the operator or the caller"),
    ("is told", "gets, or receives"),
    ("are told", "get, or receive"),
    ("the room", "the queue"),
    ("waiting room", "the queue"),
    ("the door", "the listener"),
    ("put away", "dropped from memory"),
    ("lent", "in use"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("is through", "is finished"),
    ("the operator's word", "an admin action"),
    ("turned away", "rejected"),
    ("given back", "released"),
    ("waited out", "held"),
];

/// The most words of the README, as `wc -w` counts them.
const README_WORDS: usize = 1_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// What users read: the README, and every page and the commented configuration in `config`.
fn pages() -> Vec<PathBuf> {
    let listed = fs::read_dir(root().join("config")).expect("a folder of the workspace").flatten();
    let is_page = |path: &PathBuf| path.extension().is_some_and(|e| e == "md" || e == "toml");
    let mut pages: Vec<_> = listed.map(|entry| entry.path()).filter(is_page).collect();
    pages.extend(["README.md", "benches/README.md", "tests/README.md"].map(|page| root().join(page)));
    pages.push(root().join("config/prometheus/rules.yml"));
    pages.sort();
    pages
}

/// A page without its blocks of code.
fn without_blocks(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The words of a page in lower case, one blank between them: prose without code and addresses.
fn prose(text: &str) -> String {
    let outside = without_blocks(text);
    let spoken: String = outside.split('`').step_by(2).collect::<Vec<_>>().join(" x ");
    let words = spoken.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
    format!(" {} ", words.map(str::to_lowercase).collect::<Vec<_>>().join(" "))
}

/// The forbidden words of a page, each with what to write instead.
fn faults(text: &str) -> Vec<String> {
    let prose = prose(text);
    let found = FORBIDDEN.iter().filter(|(word, _)| prose.contains(&format!(" {word} ")));
    found
        .map(|(word, instead)| {
            let at = prose.find(&format!(" {word} ")).unwrap_or_default();
            let near: String = prose[..at].chars().rev().take(40).collect::<Vec<_>>().iter().rev().collect();
            format!("\"...{near} {word}\": write {instead}")
        })
        .collect()
}

#[test]
fn pages_use_plain_words() {
    let mut all = Vec::new();
    for page in pages() {
        let found = faults(&read(&page));
        all.extend(found.into_iter().map(|fault| format!("{}: {fault}", page.display())));
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn a_forbidden_word_is_found_wherever_a_line_breaks() {
    assert_eq!(faults("An agent is\ntold so."), ["\"... an agent is told\": write gets, or receives"]);
    assert_eq!(faults("Who waits, waits.").len(), 1);
    for fine in ["```\nwho goes on\n```", "the metric `who`", "whole, lenten, a mushroom"] {
        assert_eq!(faults(fine), Vec::<String>::new(), "{fine}");
    }
}

/// The string literals of more than one word in a source file, without comments, attributes and inline tests; values
/// that are put in are left out. Of the command line also its comments, which are the help.
fn texts(file: &str, source: &str) -> Vec<String> {
    let product = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut texts = Vec::new();
    if file.contains("/cli") {
        let help = product.lines().filter_map(|line| line.trim_start().strip_prefix("///"));
        texts.extend(help.map(str::to_owned));
    }
    let product = code(product);
    let lines: Vec<_> = product.lines().filter(|line| !line.contains("reason = \"")).collect();
    // Without what is a quote and ends no literal.
    let lines = lines.join("\n").replace("\\\\", "").replace("\\\"", "").replace("'\"'", "");
    let literals = lines.split('"').skip(1).step_by(2).filter(|text| text.contains(' '));
    texts.extend(literals.map(|text| text.split(['{', '}']).step_by(2).collect::<Vec<_>>().join(" x ")));
    texts
}

#[test]
fn logs_errors_and_help_use_plain_words() {
    let mut all = Vec::new();
    for part in product_crates() {
        // What the test of all orders says to itself.
        for (file, source) in
            product_sources(&part).into_iter().filter(|(file, _)| !file.contains("/interleave/"))
        {
            let found = texts(&file, &source).into_iter().flat_map(|text| faults(&text));
            all.extend(found.map(|fault| format!("{file}: {fault}")));
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn a_forbidden_word_in_a_text_is_noticed() {
    let source = "// \"who waits\"\nlet a = \"a {b}\\\" \\\n  is told\"; let c = \"who\"; d(\"who {e}\");";
    assert_eq!(texts("a.rs", source).iter().flat_map(|text| faults(text)).count(), 2);
    assert_eq!(texts("gateway/src/cli.rs", "/// Who calls").len(), 1);
}

#[test]
fn the_readme_is_two_screens() {
    let words = read(&root().join("README.md")).split_whitespace().count();
    assert!(words <= README_WORDS, "README.md has {words} words; move something to config/");
}

/// The anchor that a heading has where Markdown is shown.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim();
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// The targets of all links of a page.
fn links(text: &str) -> Vec<String> {
    let outside = without_blocks(text);
    let rest = outside.split("](").skip(1);
    rest.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// What is wrong with the links of a page.
fn broken(page: &Path) -> Vec<String> {
    let text = read(page);
    let mut broken = Vec::new();
    for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
        let (file, wanted) = link.split_once('#').unwrap_or((&link, ""));
        let target = if file.is_empty() {
            page.to_owned()
        } else {
            page.parent().expect("a page lies in a folder").join(file)
        };
        if !target.exists() {
            broken.push(format!("{}: {link} leads nowhere", page.display()));
        } else if !wanted.is_empty() {
            let headings = without_blocks(&read(&target));
            let is_there = headings.lines().any(|line| line.starts_with('#') && anchor(line) == wanted);
            if !is_there {
                broken.push(format!("{}: {link} names no heading", page.display()));
            }
        }
    }
    broken
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let mut pages: Vec<_> =
        pages().into_iter().filter(|page| page.extension().is_some_and(|e| e == "md")).collect();
    for page in
        ["crates/README.md", "crates/CONTRIBUTING.md", "tests/field/README.md", "tests/fuzz/README.md"]
    {
        pages.push(root().join(page));
    }
    let links: usize = pages.iter().map(|page| links(&read(page)).len()).sum();
    assert!(links > 80, "{links}");
    let broken: Vec<_> = pages.iter().flat_map(|page| broken(page)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The steps of the map's walk along one call: the files each row names, with the function in each.
fn steps(map: &str) -> Vec<(String, String)> {
    let walk = map.split("\n## ").find(|part| part.starts_with("One `tools/call`")).expect("the walk");
    let rows = walk.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    rows.skip(1)
        .flat_map(|row| {
            let place = row.split(" | ").nth(1).unwrap_or_default();
            let named = place.split("](").skip(1).filter_map(|rest| {
                let (file, rest) = rest.split_once(") `")?;
                Some((file.to_owned(), rest.split_once('`')?.0.to_owned()))
            });
            let named: Vec<_> = named.collect();
            assert_eq!(
                named.len(),
                place.matches("](").count(),
                "a step names a file without its function: {row}"
            );
            assert!(!named.is_empty(), "a step names no file: {row}");
            named
        })
        .collect()
}

#[test]
fn each_step_of_the_walk_names_a_file_and_a_function_that_exist() {
    let crates = root().join("crates");
    let steps = steps(&read(&crates.join("README.md")));
    assert!(steps.len() >= 15, "{steps:?}");
    for (file, function) in steps {
        let source = read(&crates.join(&file));
        let is_there =
            [format!("fn {function}("), format!("fn {function}<")].iter().any(|f| source.contains(f));
        assert!(is_there, "{file} has no function {function}");
    }
}

#[test]
fn every_file_that_the_map_names_exists() {
    let crates = root().join("crates");
    let map = without_blocks(&read(&crates.join("README.md")));
    let named =
        map.split('`').skip(1).step_by(2).filter(|name| name.contains("/src/") && !name.contains(' '));
    let gone: Vec<_> = named.filter(|name| !crates.join(name).exists()).collect();
    assert!(gone.is_empty(), "{gone:?}");
}

#[test]
#[should_panic(expected = "a step names a file without its function")]
fn a_step_without_a_function_is_noticed() {
    let row = "| 1 | [`a.rs`](a.rs) | x | y |";
    drop(steps(&format!("\n## One `tools/call`\n\n| # | f | w | c |\n| --- | --- | --- | --- |\n{row}\n")));
}
