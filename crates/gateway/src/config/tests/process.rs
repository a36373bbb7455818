//! Backends that are programs.

use mcpool_upstream::{Endpoint, SerialWrites, StdioEndpoint, TransportChoice};

use super::*;

const PROGRAM: &str = "[backends.a]\ncommand = \"npx\"\n";

fn program(config: &Config) -> &StdioEndpoint {
    match &config.backends[0].spec.endpoint {
        Endpoint::Stdio(program) => program,
        Endpoint::Http(http) => panic!("a URL: {http:?}"),
    }
}

#[test]
fn a_command_is_a_backend_with_defaults_of_its_own() {
    let config = parse(PROGRAM).unwrap();
    let spec = &config.backends[0].spec;
    assert_eq!((program(&config).command.to_str(), spec.transport), (Some("npx"), TransportChoice::Stdio));
    assert_eq!((spec.limits.shared_sessions, spec.limits.calls_per_session), (1, 8));
    assert_eq!(spec.times.handshake, Duration::from_secs(60));
    assert_eq!(spec.limits.serial_writes, SerialWrites::Auto);
    for (word, expect) in [("auto", SerialWrites::Auto), ("on", SerialWrites::On), ("off", SerialWrites::Off)]
    {
        let config = parse(&format!("{PROGRAM}serialize_writes = \"{word}\"")).unwrap();
        assert_eq!(config.backends[0].spec.limits.serial_writes, expect, "{word}");
    }
}

#[test]
fn arguments_and_variables_are_put_together_and_secrets_are_never_shown() {
    let text = "[backends.a]\ncommand = \"bin/serve\"\ntransport = \"stdio\"\n\
                args = [\"--key\", \"${TOKEN}\"]\nenv = { KEY = \"${TOKEN}\", PLAIN = \"swordfish\" }\ncwd = \".\"";
    let config = parse_with(text, &|_| Some("hunter2".to_owned())).unwrap();
    let program = program(&config);
    assert_eq!(program.args, ["--key", "hunter2"]);
    assert_eq!(program.env["KEY"], "hunter2");
    assert!(Path::new(&program.command).is_absolute() && program.cwd.as_ref().unwrap().is_absolute());
    let shown = config.shown().to_string();
    for secret in ["hunter2", "swordfish"] {
        assert!(!shown.contains(secret) && !format!("{program:?}").contains(secret), "{shown}");
    }
    assert!(shown.contains("args = [\"--key\", \"${TOKEN}\"]") && shown.contains("KEY = \"***\""), "{shown}");
}

#[test]
fn a_shell_command_is_refused_with_what_to_write() {
    let text = "[backends.a]\ncommand = \"npx -y foo\"\nargs = [\"--key\", \"${TOKEN}\"]\n";
    let error = parse_with(text, &|_| Some("hunter2".to_owned())).unwrap_err().to_string();
    assert_eq!(
        error,
        "file.toml:2: backends.a.command: a command is one program, without its arguments; write command = \"npx\", \
         args = [\"-y\", \"foo\", \"--key\", \"${TOKEN}\"]"
    );
}

#[test]
fn what_does_not_go_together_is_refused_with_its_line() {
    for (more, expect) in [
        ("url = \"http://h/\"", "url: a backend has a URL or a command, not both"),
        ("headers = { X = \"1\" }", "headers: belongs to a URL, not to a command"),
        ("forward_headers = [\"x-user\"]", "forward_headers: belongs to a URL, not to a command"),
        ("tls.ca_file = \"x\"", "tls.ca_file: belongs to a URL, not to a command"),
        ("era = \"modern\"", "era: belongs to a URL, not to a command"),
        ("transport = \"sse\"", "transport: a command is spoken to over stdio"),
        ("cwd = \"no/such/folder\"", "cwd: \"/"),
        ("env = { \"A=B\" = \"1\" }", "env.A=B: not the name of an environment variable"),
    ] {
        let error = parse(&format!("{PROGRAM}{more}")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("file.toml:3: backends.a.{expect}")), "{error}");
    }
    for (more, expect) in [
        ("args = [\"x\"]", "args: belongs to a command"),
        ("env = { A = \"1\" }", "env: belongs to a command"),
        ("cwd = \".\"", "cwd: belongs to a command"),
        ("transport = \"stdio\"", "transport: \"stdio\" needs a command, not a URL"),
    ] {
        check_backend(more, &format!("backends.a.{expect}"));
    }
    check("[backends.a]\ncommand = \" \"", "file.toml:2: backends.a.command: not a program");
}
