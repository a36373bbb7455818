//! Text helpers.

/// A count with its noun: `1 session`, `2 sessions`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_plural() {
        assert_eq!([count(1, "session"), count(0, "session")], ["1 session", "0 sessions"]);
    }
}
