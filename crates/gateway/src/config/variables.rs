//! Variables of the environment in the configuration file. `${ENV}` is expanded in parsed strings, never in the text of
//! the file, so that a value cannot become syntax.

/// Expands `${NAME}` and `${NAME:-default}` (also for an empty variable); `$${` is a plain `${`. `lookup` receives
/// every name, so that the caller can record it.
pub(crate) fn interpolate(
    text: &str,
    mut lookup: impl FnMut(&str) -> Option<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(length) = rest[at + 2..].find('}') else {
            return Err("\"${\" without \"}\"; write \"$${\" for a plain \"${\"".to_owned());
        };
        let inside = &rest[at + 2..at + 2 + length];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable_name(name) {
            return Err(format!("{name:?} is not the name of an environment variable"));
        }
        match (lookup(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "environment variable {name} is not set; set it, or write \"${{{name}:-default}}\""
                ));
            }
        }
        rest = &rest[at + 2 + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in() {
        let lookup = |name: &str| match name {
            "TOKEN" => Some("se${X}cret".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expect) in [
            ("plain $ {} }", "plain $ {} }"),
            ("Bearer ${TOKEN}", "Bearer se${X}cret"),
            ("${NO:-fallback}/${EMPTY:-none}/${EMPTY}", "fallback/none/"),
            ("${NO:-}", ""),
            ("$${TOKEN} ${TOKEN}", "${TOKEN} se${X}cret"),
        ] {
            assert_eq!(interpolate(text, lookup).unwrap(), expect, "{text}");
        }
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = |text| interpolate(text, |_| None).unwrap_err();
        assert_eq!(
            error("x${TOKEN}"),
            "environment variable TOKEN is not set; set it, or write \"${TOKEN:-default}\""
        );
        assert_eq!(error("${TOKEN"), "\"${\" without \"}\"; write \"$${\" for a plain \"${\"");
        assert_eq!(error("${1x}"), "\"1x\" is not the name of an environment variable");
    }
}
