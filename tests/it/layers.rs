//! Layers inside a crate: a module imports what stands below it, and nothing that stands above or beside it.
//!
//! A new crate is a row of [`LAYERS`]. What does not fit yet is listed in [`KNOWN`], which may only shrink.

use std::{collections::BTreeSet, iter::Peekable, str::Chars};

use crate::tidy::{code, product_sources};

/// Crate -> its modules from top to bottom; those of one row do not import each other. The files of one folder may. A
/// module in a folder is named only where it has another place than its folder.
const LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "front",
        &[
            &["fuzzing"],
            &["server"],
            &["endpoint"],
            &["streamable", "sse", "stateless"],
            &["call"],
            &["session"],
            &["http"],
            &["panics"],
            &["shared"],
            &["message"],
            &["stream"],
            &["limits"],
            &["guard", "host_policy"],
            &["config"],
            &["session_id"],
            &["forwarded_headers"],
            &["observe"],
            // A word of events and limits that needs neither.
            &["limits/pressure"],
        ],
    ),
    (
        "router",
        &[
            &["gateway"],
            &["route", "retire"],
            &["link", "verbs"],
            &["registry"],
            &["breaker_feed", "state"],
            &["stack", "sources"],
            &["settings", "events", "text"],
        ],
    ),
    (
        "upstream",
        &[
            // Tests that need the whole crate.
            &["fuzzing", "session/interleave"],
            &["connector"],
            &["backend"],
            &["pool"],
            &["session"],
            &["shared"],
            // What sessions hold of their pool and a lease of its backend; none of them needs a session.
            &["catalog", "pool/budget", "pool/sharing", "backend/traffic"],
            &["queue"],
            &["transport"],
            &["tasks"],
            &["observe"],
            &["credential"],
            &["config"],
            &["error"],
            &["kinds"],
            &["clock", "descriptors", "early_ends", "mutants", "offload", "quirks", "sync"],
        ],
    ),
];

/// Imports that point up today: file and module. One that is gone must be taken out here.
const KNOWN: &[(&str, &str)] = &[];

type Path = Vec<String>;

/// The path that begins here: one for each leaf of its braces.
fn read(text: &mut Peekable<Chars<'_>>, mut path: Path, found: &mut BTreeSet<Path>) {
    let skip = |text: &mut Peekable<Chars<'_>>| while text.next_if(|c| c.is_whitespace()).is_some() {};
    loop {
        skip(text);
        if text.next_if_eq(&'{').is_some() {
            while text.peek().is_some_and(|c| *c != '}') {
                read(text, path.clone(), found);
                // The comma, or `as` and a name.
                while text.next_if(|c| !matches!(c, ',' | '}')).is_some() {}
                text.next_if_eq(&',');
                skip(text);
            }
            text.next();
            return;
        }
        let mut word = String::new();
        while let Some(c) = text.next_if(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
        }
        match word.as_str() {
            "" | "self" => {}
            "super" => {
                path.pop();
            }
            _ => path.push(word),
        }
        skip(text);
        if !(text.next_if_eq(&':').is_some() && text.next_if_eq(&':').is_some()) {
            found.insert(path);
            return;
        }
    }
}

/// What a file names of its crate: all paths that begin with `crate` or `super`, but those of its tests.
fn imports(module: &[String], text: &str) -> BTreeSet<Path> {
    let text = code(text);
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    for (root, start) in [("crate::", &[][..]), ("super::", module)] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            // In the middle of a path `super` is read with its beginning.
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            let rest = if root == "crate::" { &text[at + root.len()..] } else { &text[at..] };
            read(&mut rest.chars().peekable(), start.to_vec(), &mut found);
        }
    }
    found
}

/// The module a file is, from the root of its crate.
fn module_of(file: &str) -> Path {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// The row of a path and its name there: the longest that fits.
fn place<'l>(layers: &[&[&'l str]], path: &[String]) -> Option<(usize, &'l str)> {
    let path = path.join("/") + "/";
    let all = layers.iter().enumerate().flat_map(|(row, names)| names.iter().map(move |name| (row, *name)));
    all.filter(|(_, name)| path.starts_with(&format!("{name}/"))).max_by_key(|(_, name)| name.len())
}

/// What a file imports that does not stand below it; `file` is its path in `src`.
fn wrong(layers: &[&[&str]], file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    let Some((own, name)) = place(layers, &module) else { return vec!["has no row".to_owned()] };
    let points_up = |path: &Path| match place(layers, path) {
        Some((row, other)) => row < own || (row == own && other != name),
        None => true,
    };
    imports(&module, text).iter().filter(|path| points_up(path)).map(|path| path.join("::")).collect()
}

#[test]
fn arrows_inside_a_crate_point_down() {
    let mut all = BTreeSet::new();
    for (name, layers) in LAYERS {
        let src = format!("crates/{name}/src/");
        for (file, text) in product_sources(&src) {
            let inside = &file[src.len()..];
            if inside != "lib.rs" {
                all.extend(wrong(layers, inside, &text).into_iter().map(|path| (file.clone(), path)));
            }
        }
    }
    let known: BTreeSet<_> =
        KNOWN.iter().map(|(file, path)| ((*file).to_owned(), (*path).to_owned())).collect();
    let new: Vec<_> = all.difference(&known).collect();
    assert!(new.is_empty(), "imports of what stands above or beside: {new:?}");
    let gone: Vec<_> = known.difference(&all).collect();
    assert!(gone.is_empty(), "take these out of KNOWN, they are no more: {gone:?}");
}

#[test]
fn a_wrong_arrow_is_refused_however_it_is_written() {
    let layers: &[&[&str]] = &[&["top"], &["left", "right"], &["low"], &["top/leaf"]];
    for (file, text, expected) in [
        ("low.rs", "use crate::top::A;", &["top::A"][..]),
        (
            "low.rs",
            "use crate::{\n    low::x,\n    top::{self, B as C, d::{E, F}},\n};",
            &["top", "top::B", "top::d::E", "top::d::F"],
        ),
        ("low.rs", "pub(crate) use crate::left::*;", &["left"]),
        ("low.rs", "fn f() -> crate::right::G<u8> { crate::top::h::<u8>() }", &["right::G", "top::h"]),
        ("low/inner.rs", "use super::{super::top::A, twin::B};", &["top::A"]),
        ("low/mod.rs", "use super::left::A;", &["left::A"]),
        ("left/mod.rs", "use crate::{right::A, low::B};", &["right::A"]),
        ("low.rs", "use crate::{Item, top::leaf::A};", &["Item"]),
        ("top/leaf.rs", "use crate::low::A;", &["low::A"]),
        ("unknown.rs", "", &["has no row"]),
        // What is right.
        ("top.rs", "use crate::{left::A, right::B, low::C, top::leaf::D};", &[]),
        ("left/a.rs", "use super::b::C;\nuse crate::left::d;", &[]),
        ("low.rs", "//! As [`crate::top`].\nuse other_crate::top::A;", &[]),
        ("low.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::top::A;\n}", &[]),
    ] {
        assert_eq!(wrong(layers, file, text), expected, "{file}: {text}");
    }
}
