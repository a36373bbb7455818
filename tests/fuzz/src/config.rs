//! A configuration file is a configuration or a list of problems with their lines; neither tells a secret, and what is
//! printed as in force is read as the same again.

use std::path::Path;

use mcpool::config::{Config, Place};

/// The value of every environment variable.
const SECRET: &str = "s3cr3t-0f-the-envir0nment";

/// The text of a file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The one key that opens a file: not everything on a machine can be read to its end. And what stands in the file
    // is no secret of the environment.
    if text.contains("ca_file") || text.to_ascii_lowercase().contains(SECRET) {
        return;
    }
    match parse(text) {
        Ok(config) => shown(text, &config),
        Err(problems) => assert!(!problems.contains(SECRET), "{problems}"),
    }
}

fn parse(text: &str) -> Result<Config, String> {
    let environment = |_: &str| Some(SECRET.to_owned());
    Config::parse("fuzz.toml", text, Path::new("no-such-folder"), &environment).map_err(|problems| {
        assert!(!problems.0.is_empty());
        for problem in &problems.0 {
            let Place::File { file, line } = &problem.place else { panic!("{problem} is of no file") };
            assert_eq!(file, "fuzz.toml");
            assert!(line.is_none_or(|line| (1..=text.split('\n').count()).contains(&line)), "{problem}");
            assert!(!problem.reason.is_empty());
        }
        problems.to_string()
    })
}

/// What is in force can be read again, but for what is masked or came from the environment.
fn shown(text: &str, config: &Config) {
    let shown = config.shown();
    let printed = toml::to_string(&shown).expect("TOML");
    let has_variables = text.contains("${") || text.contains("\\u") || text.contains("\\U");
    if has_variables || printed.contains("***") {
        return;
    }
    let again = parse(&printed).unwrap_or_else(|why| panic!("{why}\n{printed}"));
    assert_eq!(again.shown(), shown, "{printed}");
}
