//! `${VAR}` and `${VAR:-fallback}` in values.

use super::located::{Kind, Node};

/// A value that names a variable that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnsetAt {
    /// The key, as a dotted path.
    pub(super) path: String,
    /// Its line.
    pub(super) line: u64,
    /// The variable.
    pub(super) variable: String,
}

/// A value that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// The key, as a dotted path.
    pub(super) path: String,
    /// Its line.
    pub(super) line: u64,
    /// What is wrong.
    pub(super) why: String,
}

/// Why one text cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Unset(String),
    Malformed(String),
}

/// Where variables come from.
type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Expands all values in `node`. Those that name a variable that is not set are taken out and
/// returned: whoever needs one of them fails then, and nobody else.
pub(super) fn expand(node: &mut Node, lookup: &Lookup<'_>) -> Result<Vec<UnsetAt>, Malformed> {
    let mut unset = Vec::new();
    expand_at(node, String::new(), lookup, &mut unset)?;
    Ok(unset)
}

/// Expands `node` at `path`; false if it must be taken out.
fn expand_at(
    node: &mut Node,
    path: String,
    lookup: &Lookup<'_>,
    unset: &mut Vec<UnsetAt>,
) -> Result<bool, Malformed> {
    let line = node.line;
    match &mut node.kind {
        Kind::Null => Ok(true),
        Kind::Scalar(text) => match expand_text(text, lookup) {
            Ok(expanded) => {
                *text = expanded;
                Ok(true)
            }
            Err(Problem::Unset(variable)) => {
                unset.push(UnsetAt { path, line, variable });
                Ok(false)
            }
            Err(Problem::Malformed(why)) => Err(Malformed { path, line, why }),
        },
        Kind::List(list) => {
            let mut kept = Vec::with_capacity(list.len());
            for (index, mut item) in std::mem::take(list).into_iter().enumerate() {
                if expand_at(&mut item, format!("{path}[{index}]"), lookup, unset)? {
                    kept.push(item);
                }
            }
            *list = kept;
            Ok(true)
        }
        Kind::Map(entries) => {
            let mut kept = Vec::with_capacity(entries.len());
            for (key, key_line, mut value) in std::mem::take(entries) {
                if expand_at(&mut value, join(&path, &key), lookup, unset)? {
                    kept.push((key, key_line, value));
                }
            }
            *entries = kept;
            Ok(true)
        }
    }
}

/// `path.key`, or `key` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Expands one text. `$${` stands for `${`. What a variable holds is not expanded again.
fn expand_text(text: &str, lookup: &Lookup<'_>) -> Result<String, Problem> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            return Err(Problem::Malformed(format!(
                "`{text}` has a `${{` without its `}}`; write `$${{` for the characters themselves"
            )));
        };
        let (name, fallback) = match inside.split_once(":-") {
            Some((name, fallback)) => (name, Some(fallback)),
            None => (inside, None),
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(Problem::Malformed(format!("`{name}` is not the name of a variable")));
        }
        // As in a shell, the fallback also replaces an empty value.
        match (lookup(name), fallback) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(fallback)) => out.push_str(fallback),
            (None, None) => return Err(Problem::Unset(name.to_owned())),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_and_fallbacks() {
        for (text, expected) in [
            ("x${A}y", "x1y"),
            ("${A}${A}", "11"),
            ("${B:-two}", "two"),
            ("${B:-}", ""),
            ("${EMPTY:-three}", "three"),
            ("${EMPTY}", ""),
            ("${NESTED}", "${A}"),
            ("$${A}", "${A}"),
            ("$A $", "$A $"),
        ] {
            assert_eq!(expand_text(text, &lookup), Ok(expected.to_owned()), "{text}");
        }
        assert_eq!(expand_text("${B}", &lookup), Err(Problem::Unset("B".into())));
        for bad in ["${A", "${}", "${a b}", "${:-x}"] {
            assert!(matches!(expand_text(bad, &lookup), Err(Problem::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn a_value_that_is_not_set_is_taken_out_with_its_place() {
        let mut node = Node::parse("a:\n  b: ${X}\n  c: 1\nd: [\"${Y}\", 2]\n").unwrap();
        let unset = expand(&mut node, &lookup).unwrap();
        let at = |path: &str, line, variable: &str| UnsetAt {
            path: path.into(),
            line,
            variable: variable.into(),
        };
        assert_eq!(unset, [at("a.b", 2, "X"), at("d[0]", 4, "Y")]);
        assert!(node.get("a").unwrap().get("b").is_none());
        assert!(node.get("a").unwrap().get("c").is_some());
    }
}
