//! A backend that is a program: `command`, `args`, `env`, `cwd`. Only the file can configure one, because it runs
//! arbitrary code.

use std::{
    collections::BTreeMap,
    path::{Path, absolute},
};

use mcpool_upstream::StdioEndpoint;
use toml::Spanned;

use super::{check::Checker, raw::RawBackend};

/// Reports keys that exclude each other.
pub(super) fn keep_apart(checker: &mut Checker<'_>, raw: &RawBackend) {
    if let (Some(_), Some(url)) = (&raw.command, &raw.url) {
        checker.problem("url", Some(&url.span()), "a backend has a URL or a command, not both");
    }
    let first = |table: &BTreeMap<Spanned<String>, _>| table.keys().next().map(Spanned::span);
    let ca_file = raw.tls.ca_file.as_ref().map(Spanned::span);
    let passed_on = raw.forward_headers.first().map(Spanned::span);
    let of_urls = [
        ("headers", first(&raw.headers)),
        ("forward_headers", passed_on),
        ("tls.ca_file", ca_file),
        ("era", raw.era.as_ref().map(Spanned::span)),
    ];
    let args = raw.args.first().map(Spanned::span);
    let of_commands =
        [("args", args), ("env", first(&raw.env)), ("cwd", raw.cwd.as_ref().map(Spanned::span))];
    let (strays, reason) = match raw.command {
        Some(_) => (of_urls.to_vec(), "belongs to a URL, not to a command"),
        None => (of_commands.to_vec(), "belongs to a command"),
    };
    for (key, span) in strays {
        if span.is_some() {
            checker.problem(key, span.as_ref(), reason);
        }
    }
}

/// Reads the program. Paths are relative to `folder`; a plain name is looked up in `PATH`.
pub(super) fn read(
    checker: &mut Checker<'_>,
    command: &Spanned<String>,
    raw: &RawBackend,
    folder: &Path,
) -> Option<StdioEndpoint> {
    let args = checker.strings("args", &raw.args);
    let env = variables(checker, raw);
    let cwd = checker.parsed("cwd", &raw.cwd, |path| {
        let path = absolute(folder.join(path)).map_err(|why| format!("{path:?} is not a path: {why}"))?;
        if path.is_dir() { Ok(path) } else { Err(format!("{:?} is not a folder", path.display())) }
    });
    let text = checker.string("command", command)?;
    if text.trim().is_empty() || text.contains('\0') {
        checker.problem("command", Some(&command.span()), "not a program");
        return None;
    }
    let is_path = text.contains('/');
    // The most likely mistake is a shell command, because other configurations take one.
    if text.trim().contains(char::is_whitespace) && !folder.join(&text).is_file() {
        // Quotes the file, because variables may be secret.
        let mut words =
            command.get_ref().split_whitespace().map(str::to_owned).map(|word| format!("{word:?}"));
        let program = words.next().unwrap_or_default();
        let written = raw.args.iter().map(|arg| format!("{:?}", arg.get_ref()));
        let args = words.chain(written).collect::<Vec<_>>().join(", ");
        let reason = format!(
            "a command is one program, without its arguments; write command = {program}, args = [{args}]"
        );
        checker.problem("command", Some(&command.span()), reason);
        return None;
    }
    // Absolute, because the program may start in another folder.
    let command = if is_path { absolute(folder.join(&text)).ok()?.into_os_string() } else { text.into() };
    Some(StdioEndpoint { command, args, env, cwd })
}

fn variables(checker: &mut Checker<'_>, raw: &RawBackend) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in &raw.env {
        let key = format!("env.{}", name.get_ref());
        if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) {
            checker.problem(&key, Some(&name.span()), "not the name of an environment variable");
        } else if let Some(text) = checker.string(&key, value) {
            variables.insert(name.get_ref().clone(), text);
        }
    }
    variables
}
