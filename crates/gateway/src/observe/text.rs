//! Merges several renderings in Prometheus' text format: each family must be in one place.

use std::collections::BTreeMap;

/// A family: help and type lines, and series.
#[derive(Default)]
struct Family<'a> {
    head: Vec<&'a str>,
    series: Vec<&'a str>,
}

/// Merges the families of all texts, sorted by name.
pub(super) fn by_family(texts: &[String]) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for text in texts {
        let (mut name, mut is_known) = ("", false);
        for line in text.lines().filter(|line| !line.is_empty()) {
            let Some(head) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")) else {
                families.entry(name).or_default().series.push(line);
                continue;
            };
            let of = head.split(' ').next().unwrap_or_default();
            if of != name {
                (name, is_known) = (of, families.contains_key(of));
            }
            if !is_known {
                families.entry(name).or_default().head.push(line);
            }
        }
    }
    let mut all = String::with_capacity(texts.iter().map(String::len).sum());
    for line in families.values().flat_map(|family| family.head.iter().chain(&family.series)) {
        all.push_str(line);
        all.push('\n');
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_stands_in_one_place_under_one_head() {
        let of = |backend: &str| {
            format!(
                "# HELP up Whether it is\n# TYPE up gauge\nup{{b=\"{backend}\"}} 1\n\n\
                 # HELP sum All\n# TYPE sum counter\nsum{{b=\"{backend}\"}} 2\nsum{{b=\"{backend}\",c=\"d\"}} 3\n\n"
            )
        };
        let expect = "# HELP sum All\n# TYPE sum counter\nsum{b=\"x\"} 2\nsum{b=\"x\",c=\"d\"} 3\n\
                      sum{b=\"y\"} 2\nsum{b=\"y\",c=\"d\"} 3\n\
                      # HELP up Whether it is\n# TYPE up gauge\nup{b=\"x\"} 1\nup{b=\"y\"} 1\n";
        assert_eq!(by_family(&[of("x"), of("y")]), expect);
        assert_eq!(by_family(&[]), "");
    }
}
