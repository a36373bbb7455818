//! Exact messages for invalid files, and agreement of `config/mcpool.toml` with the code.

mod deploy;
mod file;
mod page;
mod process;

use mcpool_upstream::{Endpoint, HttpEndpoint};

use super::*;

fn parse_with(text: &str, environment: Environment<'_>) -> Result<Config, Problems> {
    Config::parse("file.toml", text, Path::new("."), environment)
}

fn parse(text: &str) -> Result<Config, Problems> {
    parse_with(text, &|_| None)
}

fn check(text: &str, expect: &str) {
    assert_eq!(parse(text).expect_err(text).to_string(), expect, "{text}");
}

const URL: &str = "[backends.a]\nurl = \"http://h/mcp\"\n";

/// Checks a problem on the third line, in a backend's table that is otherwise valid.
fn check_backend(line: &str, expect: &str) {
    check(&format!("{URL}{line}\n"), &format!("file.toml:3: {expect}"));
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(format!("{:?}", parse("").unwrap()), format!("{:?}", Config::default()));
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    let error = parse("listen = \"127.0.0.1:1\"\n\nlissen = 1\n").unwrap_err().to_string();
    assert_eq!(error, "file.toml:3: unknown key `lissen`; did you mean `listen`?");
    for (text, line, key) in [
        ("[limits]\nbodies = 1", 2, "bodies"),
        ("[times]\nx = 1", 2, "x"),
        ("[log]\ncolour = 1", 2, "colour"),
        ("[shutdown]\ngrace = \"1s\"\nnow = 1", 3, "now"),
        (&format!("{URL}time = 1"), 3, "time"),
        (&format!("{URL}breaker.threshold = 1"), 3, "threshold"),
        (&format!("{URL}[backends.a.retry]\ntries = 1"), 4, "tries"),
        (&format!("{URL}tls = {{ insecure = true }}"), 3, "insecure"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("file.toml:{line}: unknown key `{key}`")), "{error}");
    }
}

#[test]
fn every_mistake_is_named_in_one_run() {
    let text = "lissen = 1\nallowed_host = []\n[limits]\nbodies = 1\nconnections = true\n[backends.a]\nurl = \"ftp://h\"\n\
                call_timout = \"1s\"\nshare_across = \"everyone\"\n[times]\nsession_lifetime = \"soon\"\n\
                [[profiles]]\nmode = \"pinned\"\nserver = \"x\"\nmodes = 1\n[nonsense]\nx = 1\n";
    let error = parse(text).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    let expect = [
        "file.toml:1: unknown key `lissen`; did you mean `listen`?",
        "file.toml:2: unknown key `allowed_host`; did you mean `allowed_hosts`?",
        "file.toml:4: unknown key `bodies`; config/mcpool.toml names every key",
        "file.toml:5: invalid type: boolean `true`",
        "file.toml:7: backends.a.url: not an http:// or https:// URL",
        "file.toml:8: unknown key `call_timout`; did you mean `call_timeout`?",
        "file.toml:9: backends.a.share_across: not supported",
        "file.toml:11: times.session_lifetime: ",
        "file.toml:15: unknown key `modes`; did you mean `mode`?",
        "file.toml:16: unknown key `nonsense`; config/mcpool.toml names every key",
    ];
    for (line, expect) in lines.iter().zip(expect) {
        assert!(line.starts_with(expect), "{expect}\n{error}");
    }
    assert_eq!(lines.len(), expect.len(), "{error}");
    let error = parse("a = \n[b\nc = 1\nd d = 2\n").unwrap_err().to_string();
    assert!(error.lines().count() >= 2, "every error of syntax: {error}");
}

#[test]
fn a_file_that_names_no_backend_is_refused_where_it_was_named() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(DEFAULT_FILE);
    let why = Config::load(Some(&shipped), Overrides::default()).unwrap_err().to_string();
    assert!(why.contains("no backend is configured") && why.contains("[backends.NAME]"), "{why}");
    let backend = BackendFlag { name: "a".into(), url: "http://h/mcp".parse().unwrap() };
    let overrides = Overrides { backends: vec![backend], ..Overrides::default() };
    assert_eq!(Config::load(Some(&shipped), overrides).unwrap().backends.len(), 1);
}

#[test]
fn keys_and_words_of_later_versions_are_refused_as_such() {
    for key in ["share_across = \"everyone\"", "on_state_loss = \"error\""] {
        let name = key.split(' ').next().unwrap();
        check_backend(key, &format!("backends.a.{name}: not supported by this version"));
    }
    // Reported together with other mistakes in the table.
    check(
        "[backends.a]\nshare_across = \"everyone\"",
        "file.toml:1: backends.a.url: missing; a backend needs the URL of its MCP server, or the command that starts it\n\
         file.toml:2: backends.a.share_across: not supported by this version",
    );
}

#[test]
fn syntax_is_refused_with_its_line() {
    let starts = |text: &str, expect: &str| {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expect), "{error}");
    };
    starts("listen = \"127.0.0.1:1\"\nbroken", "file.toml:2: ");
    starts(&format!("{URL}\n{URL}"), "file.toml:4: duplicate key");
    starts("a = 1\na = 2", "file.toml:2: duplicate key");
    starts("listen = 8800", "file.toml:1: invalid type: integer `8800`, expected a string");
}

#[test]
fn what_decides_on_sharing_is_checked() {
    check_backend(
        "state = \"some\"",
        "backends.a.state: \"some\" is unknown; write one of \"unknown\", \"none\"",
    );
    check_backend(
        "tools = { \"x_*\" = \"shared\" }",
        "backends.a.tools.x_*: \"shared\" is unknown; a tool can only be \"pinned\"",
    );
    for name in ["Host", "Mcp-Session-Id", "mcp-anything", "Cookie", "X-Forwarded-For", "Forwarded", "Origin"]
    {
        check_backend(
            &format!("forward_headers = [\"{name}\"]"),
            &format!(
                "backends.a.forward_headers: {name:?} is written by the gateway itself and never taken from an agent"
            ),
        );
    }
    check_backend(
        "forward_headers = [\"x y\"]",
        "backends.a.forward_headers: \"x y\" is not a name of a header",
    );
    check(
        &format!("{URL}headers = {{ X-Tenant = \"a\" }}\nforward_headers = [\"x-tenant\"]"),
        "file.toml:4: backends.a.forward_headers: \"x-tenant\" is also set by headers; it can only come from one of the two",
    );
    check(
        "profiles = [{ mode = \"shared\" }]",
        "file.toml:1: profiles.server: missing; a profile says the mode of a server of this name",
    );
    check(
        "profiles = [{ server = \"x\", mode = \"auto\" }]",
        "file.toml:1: profiles.mode: \"auto\" is unknown; write one of \"shared\", \"exclusive\", \"pinned\"",
    );
}

#[test]
fn headers_that_are_passed_on_are_known_to_the_front() {
    let text = "[backends.a]\nurl = \"http://h/\"\nforward_headers = [\"X-Tenant\", \"Authorization\"]";
    let config = parse(text).unwrap();
    let names: Vec<_> = config.front.forward_headers.iter().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-tenant", "authorization"]);
}

#[test]
fn durations_need_a_unit() {
    check_backend(
        "call_timeout = \"10\"",
        "backends.a.call_timeout: \"10\" has no unit; write a duration such as \"500ms\", \"10s\", \"2m\" or \"1h\"",
    );
    check_backend(
        "call_timeout = 10",
        "invalid type: integer `10`, expected a duration in quotes with a unit, such as \"30s\"",
    );
    check_backend("idle_timeout = \"0s\"", "backends.a.idle_timeout: 0s is too short; the least is 1ms");
    check(
        "[times]\nheader = \"1 fortnight\"",
        "file.toml:2: times.header: \"1 fortnight\" is not a duration; write a whole number and one of ms, s, m, h, d, \
         such as \"500ms\"",
    );
    assert_eq!(
        parse(&format!("{URL}breaker.hold = \"0s\"")).unwrap().backends[0].breaker.hold,
        Duration::ZERO
    );
}

#[test]
fn counts_and_sizes_have_a_range() {
    check_backend("max_sessions = 0", "backends.a.max_sessions: 0 is out of range; it must be 1 to 1000000");
    check_backend("queue = -1", "backends.a.queue: -1 is negative");
    check_backend("queue = \"many\"", "backends.a.queue: \"many\" is not a whole number");
}

#[test]
fn sizes_and_counts_that_contradict_each_other_are_refused() {
    check(
        &format!("{URL}max_sessions = 4\nshared_sessions = 5"),
        "file.toml:4: backends.a.shared_sessions: 5 is more than max_sessions, 4",
    );
    check_backend("min_idle = 9", "backends.a.min_idle: 9 is more than shared_sessions, 8");
    check_backend("retry = { base = \"2s\", cap = \"1s\" }", "backends.a.retry.cap: shorter than base");
    // A small `max_sessions` alone is valid: `shared_sessions` shrinks with it.
    let config = parse(&format!("{URL}max_sessions = 2")).unwrap();
    assert_eq!(config.backends[0].spec.limits.shared_sessions, 2);
}

#[test]
fn urls_are_checked() {
    let check = |url: &str, expect: &str| {
        let text = format!("[backends.a]\nurl = \"{url}\"");
        self::check(&text, &format!("file.toml:2: backends.a.url: {expect}"));
    };
    check("127.0.0.1:9000/mcp", "not a URL (relative URL without a base); write it with http:// or https://");
    check("ftp://h/", "not an http:// or https:// URL: its scheme is \"ftp\"");
    check("http://me:secret@h/", "a URL must not hold credentials; write them into headers");
    check("http://h/#x", "a URL must not end in a \"#\" part; it is never sent");
    self::check(
        "[backends.a]\nmode = \"shared\"",
        "file.toml:1: backends.a.url: missing; a backend needs the URL of its MCP server, or the command that starts \
         it",
    );
    let config = parse("[backends.a]\nurl = \"http://h/sse/\"").unwrap();
    assert_eq!(http(&config).url.as_str(), "http://h/sse/");
}

fn http(config: &Config) -> &HttpEndpoint {
    match &config.backends[0].spec.endpoint {
        Endpoint::Http(http) => http,
        Endpoint::Stdio(program) => panic!("a program: {program:?}"),
    }
}

#[test]
fn names_are_checked() {
    let check = |name: &str, expect: &str| {
        let text = format!("\n[backends.{name}]\nurl = \"http://h/\"");
        self::check(&text, &format!("file.toml:2: {expect}"));
    };
    check(
        "Search",
        "backends.Search: \"Search\" is not a name; write 1 to 63 of a-z, 0-9 and \"-\", beginning with a letter or \
         digit",
    );
    for reserved in mcpool_front::RESERVED.iter().filter(|name| !name.starts_with('.')) {
        check(
            reserved,
            &format!("backends.{reserved}: {reserved:?} is reserved; it has a meaning of its own in URLs"),
        );
    }
    for bad in ["-a", "", "a_b", &"a".repeat(64)] {
        let text = format!("[backends.\"{bad}\"]\nurl = \"http://h/\"");
        assert!(parse(&text).unwrap_err().to_string().contains("is not a name"), "{bad}");
    }
    assert!(parse(&format!("[backends.{}]\nurl = \"http://h/\"", "9".repeat(63))).is_ok());
}

#[test]
fn words_and_addresses_are_checked() {
    check(
        "listen = \"localhost:8800\"",
        "file.toml:1: listen: \"localhost:8800\" is not an address; write IP:PORT, such as \"127.0.0.1:8800\"",
    );
    check(
        "unauthenticated = \"yes\"",
        "file.toml:1: unauthenticated: \"yes\" is unknown; write one of \"loopback\", \"allow\"",
    );
    check(
        "default_mode = \"solo\"",
        "file.toml:1: default_mode: \"solo\" is unknown; write one of \"auto\", \"shared\", \"exclusive\", \"pinned\"",
    );
    check_backend(
        "transport = \"ws\"",
        "backends.a.transport: \"ws\" is unknown; write one of \"auto\", \"sse\", \"http\", \"stdio\"",
    );
    check_backend(
        "era = \"new\"",
        "backends.a.era: \"new\" is unknown; write one of \"auto\", \"legacy\", \"modern\"",
    );
    check(
        "[backends.a]\nurl = \"http://h/\"\ntransport = \"sse\"\nera = \"modern\"",
        "file.toml:4: backends.a.era: HTTP+SSE is spoken in the legacy era only",
    );
    let config = parse("[backends.a]\nurl = \"http://h/\"\nera = \"modern\"").unwrap();
    assert_eq!(http(&config).era, mcpool_upstream::EraChoice::Modern);
    assert!(config.shown().to_string().contains("era = \"modern\""));
    check(
        "[log]\nformat = \"xml\"",
        "file.toml:2: log.format: \"xml\" is unknown; write one of \"text\", \"json\"",
    );
    check(
        "default_backend = \"b\"\n[backends.a]\nurl = \"http://h/\"",
        "file.toml:1: default_backend: no backend is named \"b\"; there are: a",
    );
    let error = parse("[log]\nlevel = \"loud\"").unwrap_err().to_string();
    assert_eq!(
        error,
        "file.toml:2: log.level: \"loud\" is not a log level (\"loud\" is no level); write error, warn, info, debug or \
         trace"
    );
}

#[test]
fn every_problem_is_shown_at_once() {
    check(
        "listen = \"x\"\n[backends.a]\nurl = \"h\"\nqueue = 0\n",
        "file.toml:1: listen: \"x\" is not an address; write IP:PORT, such as \"127.0.0.1:8800\"\n\
         file.toml:3: backends.a.url: not a URL (relative URL without a base); write it with http:// or https://\n\
         file.toml:4: backends.a.queue: 0 is out of range; it must be 1 to 1000000",
    );
}

#[test]
fn headers_are_checked_and_never_shown() {
    check_backend("headers = { \"a b\" = \"x\" }", "backends.a.headers.a b: not a name of a header");
    check_backend(
        "headers = { Accept = \"x\" }",
        "backends.a.headers.Accept: the gateway sets this header itself",
    );
    check_backend(
        "headers = { X = \"a\\nb\" }",
        "backends.a.headers.X: the value holds characters a header cannot carry (a line break?)",
    );
    let text =
        "[backends.a]\nurl = \"http://h/?key=${TOKEN}\"\nheaders = { Authorization = \"Bearer ${TOKEN}\" }";
    let config = parse_with(text, &|_| Some("hunter2".to_owned())).unwrap();
    assert_eq!(http(&config).headers[0].1, "Bearer hunter2");
    for shown in [config.shown().to_string(), format!("{:?}", http(&config).headers)] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert!(config.shown().to_string().contains("authorization = \"***\""));
    assert!(config.shown().to_string().contains("url = \"http://h/?***\""));
}

#[test]
fn variables_come_from_the_environment_and_a_missing_one_is_named() {
    check_backend(
        "headers = { X = \"${NOPE}\" }",
        "backends.a.headers.X: environment variable NOPE is not set; set it, or write \"${NOPE:-default}\"",
    );
    let text = "listen = \"127.0.0.1:${PORT}\"\nallowed_hosts = [\"${NAME:-gw}\"]\n\
                [backends.a]\nurl = \"http://h/\"\nqueue = \"${QUEUE:-7}\"\ncall_timeout = \"${T}\"";
    let environment = |name: &str| match name {
        "PORT" => Some("77".to_owned()),
        "T" => Some("3s".to_owned()),
        _ => None,
    };
    let config = parse_with(text, &environment).unwrap();
    assert_eq!(config.listen.port(), 77);
    assert_eq!(config.front.allowed_hosts, ["gw"]);
    assert_eq!(config.backends[0].spec.limits.queue, 7);
    assert_eq!(config.backends[0].spec.times.call_idle, Duration::from_secs(3));
    let seen: Vec<_> = config.variables.iter().map(|(name, set)| (name.as_str(), *set)).collect();
    assert_eq!(seen, [("NAME", false), ("PORT", true), ("QUEUE", false), ("T", true)]);
}

#[test]
fn no_problem_repeats_what_came_from_the_environment() {
    for secret in ["hunter2", "12345678901"] {
        for line in [
            "listen = \"${V}\"",
            "default_mode = \"${V}\"",
            "default_backend = \"${V}\"",
            "log.level = \"info,${V},x=\"",
            "log.format = \"${V}\"",
            "times.call = \"${V}h\"",
            "limits.body = \"${V}TiB\"",
            "limits.body = \"${V}\"",
            "limits.connections = \"${V}\"",
            "shutdown.grace = \"${V}\"",
            "[backends.a]\nurl = \"${V}\"",
            "[backends.a]\nurl = \"http://h/\"\nmode = \"${V}\"",
            "[backends.a]\nurl = \"http://h/\"\nqueue = \"${V}\"",
            "[backends.a]\nurl = \"http://h/\"\ntools = { x = \"${V}\" }",
            "[backends.a]\nurl = \"http://h/\"\nforward_headers = [\"${V} \"]",
        ] {
            let error = parse_with(line, &|_| Some(secret.to_owned())).expect_err(line).to_string();
            assert!(!error.contains(secret) && error.starts_with("file.toml:"), "{line}: {error}");
        }
    }
    let error = parse_with("log.format = \"${V}\"", &|_| Some("hunter2".to_owned())).unwrap_err();
    let expect = "file.toml:1: log.format: \"${V}\" is unknown; write one of \"text\", \"json\"";
    assert_eq!(error.to_string(), expect);
}

#[test]
fn a_variable_cannot_become_syntax() {
    let text = "[backends.a]\nurl = \"http://h/\"\nheaders = { X = \"${EVIL}\" }";
    let evil = "a\" }\nmode = \"pinned";
    let error = parse_with(text, &|_| Some(evil.to_owned())).unwrap_err().to_string();
    assert!(error.contains("characters a header cannot carry") && !error.contains("pinned"), "{error}");
}

#[test]
fn roots_that_cannot_be_read_or_understood_are_refused() {
    let error = parse(&format!("{URL}tls.ca_file = \"no-such.pem\"")).unwrap_err().to_string();
    assert!(error.starts_with("file.toml:3: backends.a.tls.ca_file: cannot read \"no-such.pem\""), "{error}");
    // Any file without a certificate.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!("{URL}tls.ca_file = \"Cargo.toml\"");
    let error = Config::parse("file.toml", &text, folder, &|_| None).unwrap_err().to_string();
    assert_eq!(error, "file.toml:3: backends.a.tls.ca_file: \"Cargo.toml\" holds no PEM certificate");
}

#[test]
fn a_slow_handshake_has_a_probe_as_patient() {
    let config = parse(&format!("{URL}handshake_timeout = \"25s\"")).unwrap();
    assert_eq!(config.backends[0].breaker.probe_deadline, Duration::from_secs(25));
}

#[test]
fn the_command_line_wins_and_adds() {
    let mut config = parse(&format!("listen = \"127.0.0.1:1\"\ndefault_mode = \"pinned\"\n{URL}")).unwrap();
    let flag = |name: &str| BackendFlag { name: name.into(), url: "http://b/".parse().unwrap() };
    let overrides = Overrides {
        listen: Some("127.0.0.1:2".parse().unwrap()),
        backends: vec![flag("b")],
        log_format: Some(LogFormat::Json),
        ..Overrides::default()
    };
    config.apply(overrides).unwrap();
    assert_eq!((config.listen.port(), config.admin_listen.port()), (2, 8801));
    assert_eq!(config.log.format, LogFormat::Json);
    let ids: Vec<_> = config.backends.iter().map(|b| (b.spec.id.0, b.spec.origin, b.spec.mode)).collect();
    assert_eq!(ids, [(0, Origin::File, ModeChoice::Pinned), (1, Origin::Cli, ModeChoice::Pinned)]);
    let again = config.apply(Overrides { backends: vec![flag("a")], ..Overrides::default() });
    assert_eq!(again.unwrap_err().to_string(), "--backend: there is already a backend named \"a\"");
    let level = config.apply(Overrides { log_level: Some("x=y=z".to_owned()), ..Overrides::default() });
    assert!(level.unwrap_err().to_string().starts_with("MCPOOL_LOG: \"x=y=z\" is not a log level"));
}

#[test]
fn session_keys_are_checked_and_never_shown() {
    let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let text = "[sessions]\nkeys = [\"${NEW}\", \"${OLD:-short}\"]";
    let environment = |name: &str| (name == "NEW").then(|| secret.to_owned());
    let error = parse_with(text, &environment).unwrap_err().to_string();
    let expect = "file.toml:2: sessions.keys: not a key; write 32 random bytes in base64, such as `openssl rand -base64 \
                  32` prints";
    assert_eq!(error, expect);
    let config = parse_with(text, &|_| Some(secret.to_owned())).unwrap();
    assert_eq!(config.sessions.configured().len(), 2);
    assert!(config.shown()["sessions"].to_string().contains("keys = [\"***\", \"***\"]"));
    assert!(!format!("{} {config:?}", config.shown()).contains(secret));
    check(
        "[sessions]\nkey_file = \"no-such.keys\"",
        "file.toml:2: sessions.key_file: cannot read \"no-such.keys\": No such file or directory (os error 2)",
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let error = Config::parse("file.toml", "[sessions]\nkey_file = \"Cargo.toml\"", folder, &|_| None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("file.toml:2: sessions.key_file: \"Cargo.toml\": line 1 is not a key"),
        "{error}"
    );
    let state = parse("[sessions]\nstate_dir = \"here\"").unwrap().state_dir().unwrap();
    assert!(state.is_absolute() && state.ends_with("here"), "{state:?}");
}

#[test]
fn keys_of_a_file_come_in_their_order() {
    let (new, old) =
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let keys = keys_of(&format!("# since spring\n{new}\n\n{old}\n")).unwrap();
    assert_eq!(keys.iter().map(mcpool_front::SessionKey::to_secret_text).collect::<Vec<_>>(), [new, old]);
    assert_eq!(keys_of("# none\n").unwrap_err(), "there is no key in it");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Some(Path::new("no-such.toml")), Overrides::default()).unwrap_err().to_string();
    assert!(error.starts_with("no-such.toml: cannot read the configuration: "), "{error}");
}

#[test]
fn a_token_is_never_shown_and_a_listener_for_others_needs_one() {
    let environment = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
    let config = parse_with("admin_token = \"${TOKEN}\"", &environment).unwrap();
    let token = config.admin_token.as_ref().unwrap();
    assert!(token.is("hunter2") && !token.is("hunter") && !token.is("hunter22") && !token.is(""));
    assert!(!format!("{config:?}{}", config.shown()).contains("hunter2"));
    for short in ["", "12345", "with space"] {
        check(
            &format!("admin_token = {short:?}"),
            "file.toml:1: admin_token: must be at least 6 printable ASCII characters without spaces",
        );
    }
    let far = |lines: &str| {
        let mut config = parse(lines).unwrap();
        config.admin_listen = "10.0.0.1:8801".parse().unwrap();
        config.guard_admin()
    };
    let refused = far("").unwrap_err().to_string();
    assert!(refused.contains("admin_listen") && refused.contains("set admin_token"), "{refused}");
    assert!(far("unauthenticated = \"allow\"").is_ok() && far("admin_token = \"secret\"").is_ok());
    assert!(parse("").unwrap().guard_admin().is_ok());
}

#[test]
fn hosts_and_origins_that_would_let_everybody_in_are_refused_with_their_line() {
    let text = "allowed_hosts = [\"gateway\", \"*\"]\nallowed_origins = [\"null\",\n \"*\", \"https://ok.example\"]\n";
    let problems = Config::parse("file.toml", text, Path::new(""), &|_| None).unwrap_err().to_string();
    for words in
        ["file.toml:1", "file.toml:2", "file.toml:3", "\"null\" cannot be allowed", "\"*\" cannot be allowed"]
    {
        assert!(problems.contains(words), "{words}: {problems}");
    }
    assert!(!problems.contains("ok.example"), "{problems}");
}
