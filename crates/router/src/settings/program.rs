//! The rules of a backend that is a program: `command`, `args`, `env`, `cwd`. Only a file of this machine can configure
//! one, because it runs arbitrary code.

use std::{
    collections::BTreeMap,
    path::{Path, absolute},
};

use mcpool_upstream::StdioEndpoint;

use super::{
    check::Check,
    input::{BackendInput, LocalInput},
    rules::one_program,
};

/// Reports keys that exclude each other.
pub(super) fn keep_apart(check: &mut Check, input: &BackendInput) {
    let local = &input.local;
    if local.command.is_some() && input.url.is_some() {
        check.plain("url", "a backend has a URL or a command, not both");
    }
    let of_urls = [
        ("headers", !input.headers.is_empty()),
        ("forward_headers", !input.forward_headers.is_empty()),
        ("tls.ca_file", local.ca_file.is_some()),
        ("era", input.era.is_some()),
    ];
    let of_commands =
        [("args", !local.args.is_empty()), ("env", !local.env.is_empty()), ("cwd", local.cwd.is_some())];
    let (strays, reason) = match local.command {
        Some(_) => (&of_urls[..], "belongs to a URL, not to a command"),
        None => (&of_commands[..], "belongs to a command"),
    };
    for (key, _) in strays.iter().filter(|(_, is_there)| *is_there) {
        check.plain(*key, reason);
    }
}

/// Reports keys that name programs or files, for an input that is not from this machine's configuration.
pub(super) fn keep_out(check: &mut Check, local: &LocalInput) {
    for (key, is_there) in [
        ("command", local.command.is_some()),
        ("args", !local.args.is_empty()),
        ("env", !local.env.is_empty()),
        ("cwd", local.cwd.is_some()),
        ("tls.ca_file", local.ca_file.is_some()),
    ] {
        if is_there {
            check.plain(key, "only the configuration file can set it");
        }
    }
}

/// Checks the program. Paths are relative to `folder`; a plain name is looked up in `PATH`.
pub(super) fn check(
    check: &mut Check,
    command: &str,
    local: &LocalInput,
    folder: &Path,
) -> Option<StdioEndpoint> {
    let env = variables(check, &local.env);
    let cwd = check.parsed("cwd", local.cwd.as_ref(), |path| {
        let path = absolute(folder.join(path)).map_err(|why| format!("{path:?} is not a path: {why}"))?;
        if path.is_dir() { Ok(path) } else { Err(format!("{:?} is not a folder", path.display())) }
    });
    if command.trim().is_empty() || command.contains('\0') {
        check.plain("command", "not a program");
        return None;
    }
    // The most likely mistake is a shell command, because other configurations take one.
    if command.trim().contains(char::is_whitespace) && !folder.join(command).is_file() {
        check.quoting("command", one_program(command, &local.args));
        return None;
    }
    // Absolute, because the program may start in another folder.
    let command = match command.contains('/') {
        true => absolute(folder.join(command)).ok()?.into_os_string(),
        false => command.into(),
    };
    Some(StdioEndpoint { command, args: local.args.clone(), env, cwd })
}

fn variables(check: &mut Check, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut variables = env.clone();
    variables.retain(|name, _| {
        let is_name = !name.is_empty() && !name.contains(['=', '\0']);
        if !is_name {
            check.plain(format!("env.{name}"), "not the name of an environment variable");
        }
        is_name
    });
    variables
}
